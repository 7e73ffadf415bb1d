"""Photos, dataset readers, the check, the catalog, the embedded dataset, downloads."""

"""What runs and where it lives: config, recipes, keys, views. Imported by no stage."""

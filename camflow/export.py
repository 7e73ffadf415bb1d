"""``camflow export``: results as files for other programs."""

from __future__ import annotations

import argparse

from camflow.data.catalog import Catalog
from camflow.errors import ConfigError
from camflow.segment.export import export_masks, export_voc
from camflow.segment.export_maps import export_maps
from camflow.show import find_catalog
from camflow.store import Store


def run(options: argparse.Namespace) -> None:
    """Write the label maps or seed maps of a store in the form asked for; print where they are."""
    store = Store(options.file)
    form = options.form or ("npy" if store.stage == "maps" else "labels")
    if form != "labels":
        if options.layout != "masks":
            raise ConfigError(f"--layout {options.layout} is of label maps; leave it out with --as {form}")
        export_maps(store, options.folder, form, classes=options.classes, bits=options.bits)
        print(options.folder)
        return
    store = Store(options.file, stage="masks")
    catalog = Catalog(options.catalog or find_catalog(store))
    if options.layout == "voc":
        print(export_voc(store, options.folder, split=catalog.split))
    else:
        export_masks(store, catalog, options.folder)
        print(options.folder)

"""Wrong pixels of the seed and of every refiner's masks, by kind and by distance to the true boundaries."""

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.plan import job
from camflow.store import Store, atomic_path, read_json
from camflow.studies.errors import error_rows, seed_labels

with job.start(snakemake) as task:
    given = dict(task.input.items())
    catalog, threshold = Catalog(given["catalog"]), read_json(given["threshold"])["threshold"]
    labels = {"seed": seed_labels(Store(given["maps"], stage="maps"), threshold)}
    for name, path in given.items():
        if name.startswith("masks_"):
            labels[name.removeprefix("masks_")] = Store(path, stage="masks")
    with tqdm(total=len(catalog.ids), desc=task.target, unit="image") as bar:
        rows = error_rows(catalog, labels, progress=bar.update)
    with atomic_path(task.output.table) as temporary:
        rows.to_csv(temporary, index=False)

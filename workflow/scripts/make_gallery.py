"""The gallery of a split: the page, its index, and the pictures of every image."""

from pathlib import Path

from tqdm import tqdm

from camflow.data.catalog import Catalog
from camflow.gallery.build import GalleryParams, write_gallery
from camflow.gallery.recipes import open_recipe
from camflow.params import from_config
from camflow.plan import job


def main(snakemake):
    with job.start(snakemake) as task:
        given = dict(task.input.items())
        recipes = [open_recipe(item["name"], item["shows"], given, number) for number, item in enumerate(task.shown)]
        catalog, params = Catalog(given["catalog"]), from_config(GalleryParams, task.settings)
        total = min(len(catalog.ids), params.images or len(catalog.ids))
        with tqdm(total=total, desc=task.target, unit="image") as bar:
            folder = Path(task.output.page).parent
            write_gallery(folder, catalog, recipes, params, jobs=task.threads, progress=bar.update)


if __name__ == "__main__":
    main(snakemake)

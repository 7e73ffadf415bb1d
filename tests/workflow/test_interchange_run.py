"""Exported maps come back through the real workflow as a localizer, with the same scores; a dangerous file is refused."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from project import TINY

from camflow.localize.maps import full_size_maps, read_seed
from camflow.store import Store

CAM, IMPORTED = "parts/plain/cam", "parts/none/imported"


class Runs:
    """Makes a pickle that calls a function."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def configure(copy, **imported):
    localizers = {"imported": {"method": "import", "folder": "given", **imported}}
    copy.configure(
        classifiers={**TINY["classifiers"], "none": {"method": "none"}},
        localizers={**TINY["localizers"], **localizers},
        refiners={"half": {"method": "crf", "iterations": 2, "threshold": 0.5}},
        recipes=["parts/none/imported/half"],
        runtime={"shards": 1},
    )


def export(copy, *options):
    """The maps of both splits, made with the workflow's own network, in one folder."""
    shutil.rmtree(copy.folder / "given", ignore_errors=True)
    for split in ("train", "val"):
        line = ["export", f"results/{CAM}/maps.{split}.h5", f"out_{split}", *options]
        copy.python(f"from camflow.cli import main; raise SystemExit(main({line!r}))")
        shutil.copytree(copy.folder / f"out_{split}", copy.folder / "given", dirs_exist_ok=True)


@pytest.mark.long
def test_the_round_trip_ends_in_the_same_scores(copy):
    export(copy)
    configure(copy)
    files = [name for split in ("train", "val") for name in (f"maps.{split}.h5", f"score.{split}.json")]
    wanted = [f"results/{IMPORTED}/{name}" for name in (*files, "half/masks.val.h5")]
    wanted.append(f"results/{CAM}/half/masks.val.h5")
    copy.snakemake(*wanted)
    for split in ("train", "val"):
        maps, back = (Store(copy.results / f"{recipe}/maps.{split}.h5", stage="maps") for recipe in (CAM, IMPORTED))
        assert back.ids == maps.ids and back.meta["recipe"] == IMPORTED
        for image_id in maps.ids:
            old, new = read_seed(maps, image_id), read_seed(back, image_id)
            assert new.classes.tolist() == old.classes.tolist()
            assert np.abs(full_size_maps(new) - full_size_maps(old)).max(initial=0) < 5e-4
        old, new = (
            json.loads((copy.results / f"{recipe}/score.{split}.json").read_text()) for recipe in (CAM, IMPORTED)
        )
        assert new["curve"]["miou"] == pytest.approx(old["curve"]["miou"], abs=2e-3)
    masks = [Store(copy.results / f"{recipe}/half/masks.val.h5", stage="masks") for recipe in (CAM, IMPORTED)]
    same = [np.mean(masks[0].read(image_id) == masks[1].read(image_id)) for image_id in maps.ids]
    assert np.mean(same) > 0.99

    # As 16-bit pictures by name, and IRN's quarter-size dictionaries.
    assert copy.planned(*wanted) == {}
    export(copy, "--as", "png", "--bits", "16", "--classes", "name")
    configure(copy, format="png", classes="name")
    assert copy.planned(f"results/{IMPORTED}/score.val.json") == {"localize_import": 2, "join_maps": 2, "score_maps": 2}
    copy.snakemake(f"results/{IMPORTED}/score.val.json")
    again = json.loads((copy.results / IMPORTED / "score.val.json").read_text())
    assert again["curve"]["miou"] == pytest.approx(old["curve"]["miou"], abs=2e-3)
    export(copy, "--as", "irn")
    configure(copy, array="cam")
    copy.snakemake(f"results/{IMPORTED}/maps.val.h5")
    seed = read_seed(Store(copy.results / IMPORTED / "maps.val.h5"), maps.ids[0])
    assert seed.stride == 4 and seed.maps[0].shape[1:] == (12, 12)


@pytest.mark.long
def test_a_dangerous_file_and_a_missing_one_are_named_and_nothing_runs(copy):
    export(copy)
    configure(copy)
    names = sorted(path.name for path in (copy.folder / "out_val").glob("*.npy"))
    np.save(copy.folder / "given" / names[0], {0: Runs()})
    (copy.folder / "given" / names[1]).unlink()
    run = copy.snakemake("--keep-going", f"results/{IMPORTED}/half/score.val.json", check=False)
    text = run.stdout + run.stderr
    assert run.returncode and f"given/{names[0]}: asks to call posix.system" in text
    assert f"has no file given/{names[1]}" in text and "missing: zeros" in text
    assert not list(copy.folder.rglob("ran")) and "Traceback" not in text
    assert not list((copy.results / "store").rglob("imported-*/maps.val-*.h5"))

"""The climb study against the plain path: extract the maps of every setting and number of steps, then score them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from camflow.evaluate.scores import ScoreParams, score_seed
from camflow.localize.advcam import AdvCamParams, extract_advcams
from camflow.models.classifier import build_classifier
from camflow.store import Store, StoreWriter
from camflow.studies.climb import climb_study, settings_of
from camflow.studies.scored import Scored
from tests.localize.photos import CLASSES, Photos

OWN = AdvCamParams(scales=(1.0, 0.5), steps=6, step_size=0.2)
VALUES = {"images": 9, "lambda": [0, 3, 7], "tau": [0.3], "step_size": [0.05, 0.2]}  # the others' keys do no harm
THRESHOLDS = ScoreParams(thresholds={"start": 0.1, "stop": 0.9, "step": 0.1}).thresholds
# Stores round maps to float16; pixels on the edge of a threshold change sides.
ROUNDING = 1e-3


class Blocks(Photos):
    """Masks of 8 px blocks, so that a map can be right in a place and wrong in another."""

    def mask(self, image_id):
        mask = super().mask(image_id)
        return mask if mask is None else np.kron(mask[::8, ::8], np.ones((8, 8), np.uint8))[: len(mask), : len(mask[0])]


CATALOG = Blocks(5)  # i00 has no class, i04 no mask
USED = ["i01", "i02", "i03"]


@pytest.fixture(scope="module")
def model():
    return build_classifier("tiny", len(CLASSES), width=4, seed=3).eval()


def study(model, params=OWN, catalog=CATALOG, **changes):
    options = {"images": None, "steps": 7, "values": VALUES, "thresholds": THRESHOLDS, **changes}
    scored = Scored(
        **{name: options.pop(name) for name in ("images", "values", "thresholds", "rule") if name in options}
    )
    return climb_study(model, catalog, params, scored, **options)


@pytest.fixture(scope="module")
def table(model):
    return study(model)


def plain_path(folder, model, ids, setting, rule="present"):
    """The best score of the seed, by way of a store."""
    part = Blocks(0, list(ids))
    path = folder / "maps.h5"
    with StoreWriter(path, stage="maps", class_names=CLASSES) as writer:
        extract_advcams(model, part, setting, writer)
    found = score_seed(Store(path, stage="maps"), part, ScoreParams(thresholds=THRESHOLDS, miou=rule))
    assert found["conditions"]["n_images"] == len(ids)
    return found


def check(row, score):
    curve = score["curve"]
    assert row["miou"] == pytest.approx(score["best"]["miou"], abs=ROUNDING)
    there = THRESHOLDS.index(row["threshold"])
    assert curve["miou"][there] == pytest.approx(score["best"]["miou"], abs=ROUNDING)
    for column, key in (("noise", "noise_ratio"), ("precision", "object_precision"), ("recall", "object_recall")):
        assert row[column] == pytest.approx(curve[key][there], abs=5 * ROUNDING)


def test_every_row_is_the_best_score_of_a_plain_run(tmp_path, model, table):
    known = {}
    for _, row in table.iterrows():
        key = row["lambda"], row["tau"], row["step_size"], int(row["steps"])
        if key not in known:
            setting = dataclasses.replace(
                OWN, lambda_=row["lambda"], tau=row["tau"], step_size=row["step_size"], steps=key[-1]
            )
            known[key] = plain_path(tmp_path, model, USED, setting)
        check(row, known[key])
    assert len(known) == 2 * 7 + 3
    # The comparison can tell settings apart.
    assert len({round(score["best"]["miou"] / ROUNDING) for score in known.values()}) > 6


def test_many_steps_where_the_half_scale_climbs_fewer(tmp_path, model):
    """Above ten steps the small scale takes half of them, and the released code doubles the maps."""
    own = dataclasses.replace(OWN, scales=(0.5, 1.0), steps=11)
    assert [dataclasses.replace(own, steps=t).terms(0.5) for t in (5, 6, 10, 11, 12)] == [5, 5, 5, 5, 6]
    found = study(model, own, Blocks(0, ["i02"]), steps=3, values={})
    found = found.set_index(["panel", "lambda", "steps"]).sort_index()
    assert [t for panel, value, t in found.index if (panel, value) == ("steps", 7)] == list(range(1, 12))
    for t in (6, 11):
        setting = dataclasses.replace(own, steps=t)
        check(found.loc[("steps", 7.0, t)], plain_path(tmp_path, model, ["i02"], setting))


def test_the_printed_number_of_maps(tmp_path, model):
    own = dataclasses.replace(OWN, steps=2, last_map=True, half_scale="same", flip=False)
    found = study(model, own, Blocks(0, ["i01"]), steps=2, values={}, rule="seam")
    row = found[(found["panel"] == "tau")].iloc[0]
    check(row, plain_path(tmp_path, model, ["i01"], own, rule="seam"))


def test_the_panels_hold_the_wanted_values_and_the_own(table):
    assert list(table.columns) == [
        "panel", "lambda", "tau", "step_size", "steps", "threshold", "miou", "noise", "precision", "recall", "images",
    ]  # fmt: skip
    assert list(dict.fromkeys(table["panel"])) == ["steps", "lambda", "tau", "step_size"]
    panels = dict(iter(table.groupby("panel")))
    steps = panels.pop("steps")
    expected = [(value, t) for value in (0.0, 7.0) for t in range(1, 8)]
    assert list(zip(steps["lambda"], steps["steps"], strict=True)) == expected
    wanted = {"lambda": [0.0, 3.0, 7.0], "tau": [0.3, 0.5], "step_size": [0.05, 0.2]}
    own = {"lambda": 7.0, "tau": 0.5, "step_size": 0.2}
    for name, part in panels.items():
        assert part[name].tolist() == wanted[name]
        assert (part["steps"] == OWN.steps).all()
        assert all((part[other] == own[other]).all() for other in own if other != name)
        pd.testing.assert_series_equal(
            part[part[name] == own[name]].iloc[0][4:],
            steps[(steps["lambda"] == 7) & (steps["steps"] == OWN.steps)].iloc[0][4:],
            check_names=False,
        )


def test_images_without_a_class_or_a_mask_do_not_count(model, table):
    assert set(table["images"]) == {len(USED)}
    few = study(model, catalog=Blocks(0, USED), steps=1, values={})
    wider = study(model, catalog=CATALOG, steps=1, values={})
    pd.testing.assert_frame_equal(few, wider)
    assert set(study(model, images=2, steps=1, values={})["images"]) == {2}


def test_workers_do_not_change_a_byte(model):
    settings = {"steps": 2, "values": {"tau": [0.3]}, "params": dataclasses.replace(OWN, steps=2)}
    one, other = (study(model, workers=n, **settings).to_csv(index=False) for n in (1, 3))
    assert one.encode() == other.encode()


def test_a_method_without_regularisation_has_each_row_once():
    plain = dataclasses.replace(OWN, lambda_=0.0)
    assert settings_of(plain, {"lambda": [0.0]}) == [(["steps", "lambda", "tau", "step_size"], plain)]


def test_no_row_is_there_twice(model):
    plain = dataclasses.replace(OWN, lambda_=0.0, steps=1)
    found = study(model, plain, Blocks(0, ["i03"]), steps=2, values={"tau": [0.5, 0.5, 0.4]})
    assert not found.duplicated(["panel", "lambda", "tau", "step_size", "steps"]).any()
    assert found["panel"].tolist() == ["steps", "steps", "lambda", "tau", "tau", "step_size"]

"""Recipes of feature sequences: what each file is made from, which setting makes it anew, and what is refused.

The tables are written by hand; what changed is read off the paths.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from camflow.data.readers.base import make_reader
from camflow.data.readers.videos import SUBSETS, VideosReader
from camflow.errors import ConfigError, DataError, RecipeError
from camflow.params import from_config
from camflow.plan.config import fill_defaults, methods, schema
from camflow.plan.plan import Plan, parse_target
from camflow.store import Store, StoreWriter
from camflow.temporal import cam, data, evaluate, network
from camflow.temporal.check import write_split
from camflow.temporal.made import MadeParams, write_made
from camflow.temporal.made_files import made_ids, write_made_files
from camflow.train import settings
from tests.places import with_places

CONFIG = {
    "recipes": ["sequences/{temporal,has}/proposals"],
    "datasets": {
        "sequences": {"format": "sequences", "train": 8, "val": 6},
        "parts": {"format": "parts"},
    },
    "classifiers": {
        "temporal": {"method": "temporal", "hide_segments": 0},
        "has": {"method": "temporal"},
        "plain": {"method": "plain", "backbone": "tiny", "weights": "none"},
        "none": {"method": "none"},
    },
    "localizers": {
        "proposals": {"method": "temporal_cam"},
        "strict": {"method": "temporal_cam", "threshold": 0.9},
        "cam": {"method": "cam"},
        "none": {"method": "none"},
    },
    "refiners": {"none": {"method": "none"}, "gt": {"method": "gt"}},
}
HAS = "sequences/has"
FILES = {
    "data": "sequences/catalog.train.h5",
    "val data": "sequences/catalog.val.h5",
    "check": "sequences/check.val.json",
    "plain network": "sequences/temporal/classifier.pt",
    "network": f"{HAS}/classifier.pt",
    "metrics": f"{HAS}/training.csv",
    "figure": f"{HAS}/training.png",
    "proposals": f"{HAS}/proposals/maps.val.h5",
    "score": f"{HAS}/proposals/detections.val.json",
    "strict score": f"{HAS}/strict/detections.val.json",
    "photos": "parts/plain/cam/score.val.json",
    "table": "tables/temporal.csv",
}
SCORES = {"score", "strict score", "table"}
LOCALISED = {"proposals", *SCORES}
TRAINED = {"network", "metrics", "figure", *LOCALISED}
ALL = {"data", "val data", "check", "plain network", *TRAINED}
CHANGES = [
    *((f"datasets.sequences.{key}", value, ALL) for key, value in {
        "seed": 1, "classes": 4, "steps": 50, "noise": 0.1,
    }.items()),
    *((f"classifiers.has.{key}", value, TRAINED) for key, value in {
        "hide_p": 0.3, "hide_segments": 10, "pooling": "gap", "seed": 4,
    }.items()),
    ("classifiers.temporal.hide_p", 0.3, {"plain network", "table"}),
    ("localizers.proposals.threshold", 0.2, {"proposals", "score", "table"}),
    ("localizers.proposals.classes", "all", {"proposals", "score", "table"}),
    ("localizers.strict.threshold", 0.8, {"strict score"}),
    ("evaluation.temporal.tiou", [0.5], SCORES),
    ("evaluation.temporal.protocol", "thumos14", SCORES),
    ("evaluation.temporal.classes", ["bow"], SCORES),
    ("evaluation.thresholds.step", 0.02, {"photos"}),
    ("evaluation.splits", ["val"], {"table"}),
    ("runtime.shards", 7, set()),
]  # fmt: skip
EDITS = {
    "camflow.temporal.evaluate": SCORES,
    "camflow.temporal.cam": LOCALISED,
    "camflow.temporal.hiding": {"plain network", *TRAINED},
    "camflow.temporal.made": ALL,
    "camflow.temporal.check": ALL,
    "camflow.data.readers.videos": ALL,
    "camflow.data.check": {"photos"},
    "camflow.tables.temporal": {"table"},
}


def test_exactly_what_a_setting_decides_is_made_anew(made_anew):
    for place, value, expected in CHANGES:
        assert made_anew(**{place: value}) == expected, place


def test_exactly_what_a_module_decides_is_made_anew(made_anew, edit):
    for module, expected in EDITS.items():
        edit(module)
        assert made_anew() == expected, module


def test_the_default_has_what_sequences_have_and_no_more(plan):
    made = plan(**{"evaluation.splits": ["val"], "recipes": ["sequences/has/*", "parts/plain/cam"]})
    found = [path.removeprefix("results/") for path in made.readable()]
    assert sorted(path for path in found if path.startswith("sequences")) == [
        "sequences/catalog.val.h5",
        "sequences/check.val.json",
        "sequences/has/classifier.pt",
        "sequences/has/proposals/detections.val.json",
        "sequences/has/proposals/maps.val.h5",
        "sequences/has/strict/detections.val.json",
        "sequences/has/strict/maps.val.h5",
        "sequences/has/training.png",
    ]
    assert "parts/plain/cam/overlays.val.png" in found and "parts/pictures.val.png" in found
    assert made.tables == ["scores", "temporal"]
    assert [goal.steps[0] for goal in made.scores_of("scores")] == ["parts", "parts"]
    assert plan().tables == ["temporal"]
    assert plan(recipes=["parts/plain/cam"]).tables == ["scores"]


def test_what_needs_photos_is_refused(plan):
    made = plan()
    for path in (
        "sequences/pictures.val.png", f"{HAS}/score.val.json", f"{HAS}/comparison.val.png", f"{HAS}/confidence.val.h5",
        f"{HAS}/proposals/overlays.val.png", f"{HAS}/proposals/score.val.json",
        f"{HAS}/proposals/localization.val.json", f"{HAS}/proposals/curve.val.png",
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=f"{path}: 'sequences' holds feature sequences, not photos, so this"):
            made.path_of(path)
    with pytest.raises(RecipeError, match=r"has no score\.val\.json; it has maps\.\{split\}\.h5, detections"):
        made.path_of(f"{HAS}/proposals/score.val.json")
    with pytest.raises(RecipeError, match=r"'plain' \(method plain\) needs images, labels, which sequences does not"):
        made.path_of("sequences/plain/classifier.pt")
    with pytest.raises(RecipeError, match=r"'has' \(method temporal\) needs sequences, which parts does not provide"):
        made.path_of("parts/has/classifier.pt")
    with pytest.raises(RecipeError, match=r"needs class maps, .* What fits here: proposals, strict"):
        made.path_of(f"{HAS}/cam/maps.val.h5")
    with pytest.raises(RecipeError, match="needs temporal maps"):
        made.path_of("parts/plain/proposals/maps.val.h5")
    with pytest.raises(RecipeError, match="only temporal_cam has detections"):
        made.path_of("parts/plain/cam/detections.val.json")
    with pytest.raises(RecipeError, match="needs masks"):
        made.path_of("sequences/none/none/gt/masks.val.h5")
    with pytest.raises(RecipeError, match="needs seed maps"):
        made.path_of(f"{HAS}/proposals/none/masks.val.h5")


def test_seeds_are_grouped(plan):
    sweep = {"method": "temporal", "sweep": {"seed": [0, 1]}}
    made = plan(**{"classifiers.t": sweep, "recipes": ["sequences/t_*/proposals"], "evaluation.splits": ["val"]})
    paths = [f"sequences/t_seed_{k}/proposals/detections.val.json" for k in (0, 1)]
    assert made.seed_groups() == {"sequences/t_seed_{0,1}/proposals/detections.val.json": paths}
    assert made.tables == ["temporal", "seeds"]


def test_shards_read_what_they_are_for(plan):
    made = plan()
    goal = parse_target(f"{HAS}/proposals/maps.val.h5")
    assert set(made.inputs(goal)) == {"catalog", "classifier", "data"}
    assert made.path(goal, (0, 2)) != made.path(goal, (1, 2))
    wildcards = dict(zip(("dataset", "classifier", "localizer"), made.segments(goal.steps), strict=True))
    wildcards |= {"split": "val", "shard": "1", "shards": "2", "token": made.token(goal, (1, 2))}
    assert made.asked(wildcards, "maps", None) == (goal, (1, 2))


# --- the schemas say what the code does ------------------------------------------------------------------------------


def defaults(rules):
    return {key: rule["default"] for key, rule in rules.items()}


def fields(kind):
    return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(kind()).items()}


def test_schemas_have_the_parameters_of_the_code():
    made = methods("datasets")["sequences"]
    assert defaults(made["properties"]) == fields(MadeParams)
    assert set(made["x-made-by"]) == set(fields(MadeParams)) - {"steps"}  # which the check resamples to
    rules = methods("datasets")["videos"]["properties"]
    assert defaults(rules) == {**VideosReader.DEFAULTS, "root": None}
    assert set(rules["source"]["enum"]) == set(SUBSETS) == set(data.FORMATS)
    rules = methods("classifiers")["temporal"]["properties"]
    # Neither has a meaning for sequences on one device.
    training = {key: v for key, v in fields(network.TemporalParams).items() if key not in ("channels_last", "sync_bn")}
    assert defaults(rules) == {**training, "monitor": "none"}
    enums = {"pooling": network.POOLINGS, "loss": network.LOSSES, **settings.CHOICES}
    for name, values in enums.items():
        assert set(rules[name]["enum"]) == set(values), name
    rules = methods("localizers")["temporal_cam"]["properties"]
    assert defaults(rules) == fields(cam.ProposalParams)
    assert set(rules["score"]["enum"]) == set(cam.SCORES) and set(rules["classes"]["enum"]) == set(cam.CLASSES)
    rules = schema()["properties"]["evaluation"]["properties"]["temporal"]
    assert fill_defaults({}, rules) == fields(evaluate.TemporalScoreParams)
    assert set(rules["properties"]["protocol"]["enum"]) == set(evaluate.PROTOCOLS)


# --- what is read ----------------------------------------------------------------------------------------------------


def test_the_made_set_as_files_gives_the_made_sequences(tmp_path):
    params = MadeParams(train=7, val=9, classes=4, features=14, steps=30)
    write_made_files(tmp_path / "made", params)
    given = {**defaults(methods("datasets")["sequences"]["properties"]), **fields(MadeParams)}
    given |= dataclasses.asdict(params) | {"format": "sequences", "root": str(tmp_path / "made")}
    reader = make_reader(given, "sequences")
    for split, count in (("train", 7), ("val", 9)):
        found = write_split(reader, split, tmp_path / f"{split}.h5", meta={"key": "k"})
        assert made_ids(tmp_path / "made", split) == reader.ids(split)
        with StoreWriter(tmp_path / "direct.h5", stage="sequences", class_names=params.class_names) as writer:
            write_made(params, split, writer)
        store, direct = Store(tmp_path / f"{split}.h5", stage="sequences"), Store(tmp_path / "direct.h5")
        assert (store.class_names, store.ids) == (direct.class_names, direct.ids)
        np.testing.assert_array_equal(store.table("mean"), direct.table("mean"))
        for video in store.ids:
            np.testing.assert_array_equal(store.read(video), direct.read(video))
            one, two = store.attrs(video), direct.attrs(video)
            for key in ("classes", "ambiguous", "duration"):
                np.testing.assert_array_equal(one[key], two[key])
            # Files come class by class; within a class the order is the same, and no score asks for more.
            assert one["segments"].tolist() == sorted(two["segments"].tolist(), key=lambda row: row[0])
        segments = sum(len(direct.attrs(video)["segments"]) for video in direct.ids)
        assert (found["videos"], found["segments"], found["steps"], found["channels"]) == (count, segments, 30, 14)
        assert sum(row["segments"] for row in found["by_class"].values()) == segments and found["excluded"] == []
        json.dumps(found)


@pytest.fixture
def thumos(tmp_path):
    """A folder of three training and two test videos; one test video has an action that training does not know."""
    root = tmp_path / "thumos"
    (root / "annotations").mkdir(parents=True)
    (root / "features").mkdir()
    texts = {
        "Diving_val": "v1 1.0 4.0\nv2 2.0 3.5\n", "Jump_val": "v3 0.5 2.0\n", "Ambiguous_val": "v1 6.0 7.0\n",
        "Jump_test": "t1 1.0 3.0\n", "Diving_test": "t2 1.0 2.0\n",
    }  # fmt: skip
    for name, text in texts.items():
        (root / f"annotations/{name}.txt").write_text(text)
    for number, video in enumerate(("v1", "v2", "v3", "t1", "t2")):
        np.save(root / f"features/{video}.npy", np.full((80, 4), number, np.float32))
    return root


def reader_of(root, **changes):
    return make_reader({"format": "videos", "root": str(root), "steps": 10, **changes}, "thumos")


def test_every_split_has_the_classes_of_training(thumos, tmp_path):
    (thumos / "annotations/Ape_test.txt").write_text("t2 5.0 6.0\n")
    with pytest.raises(DataError, match="split 'test': video 't2': class 'Ape' is not among the classes"):
        reader_of(thumos).ids("test")
    reader = reader_of(thumos, classes=["Jump", "Diving"])
    assert reader.class_names == ("Jump", "Diving")
    found = {video.id: (video.classes, video.segments.tolist()) for video in reader.listing("test").videos}
    assert found == {"t1": ((0,), [[0, 1, 3]]), "t2": ((1,), [[1, 1, 2]])}
    assert reader_of(thumos, classes=["Jump"]).ids("test") == ["t1"]
    (thumos / "labels.csv").write_text("video,class\nv3,Sail\nv9,Ape\n")
    reader = reader_of(thumos, labels={"train": "labels.csv"})
    assert reader.class_names == ("Diving", "Jump", "Ape", "Sail")
    assert [video.classes for video in reader.listing("test").videos] == [(1,), (0, 2)]
    with pytest.raises(DataError, match=r"has no features .* of 1 videos: v9; add them"):
        write_split(reader, "train", tmp_path / "s.h5")
    found = write_split(reader, "test", tmp_path / "s.h5")
    assert found["notes"] == ["class 'Sail' has no video in this split"] and found["by_class"]["Ape"]["videos"] == 1


def test_a_video_of_two_splits_is_refused(thumos, tmp_path):
    (thumos / "annotations/Jump_test.txt").write_text("v3 1.0 3.0\n")
    with pytest.raises(DataError, match="video 'v3' is in the splits 'train' and 'test'"):
        write_split(reader_of(thumos), "train", tmp_path / "s.h5")
    found = write_split(reader_of(thumos, exclude={"test": ["v3"]}), "train", tmp_path / "s.h5")
    assert found["videos"] == 3 and found["ambiguous"] == 1
    found = write_split(reader_of(thumos, exclude={"test": ["v3"]}), "test", tmp_path / "s.h5")
    assert found["excluded"] == ["v3"]


def test_splits_have_their_own_names(thumos):
    with pytest.raises(DataError, match=r"there is no split 'val'.*Name it under `subsets`"):
        reader_of(thumos).ids("val")
    assert reader_of(thumos, subsets={"train": "val", "val": "test"}).ids("val") == ["t1", "t2"]
    with pytest.raises(DataError, match="does not exist; correct `root`"):
        reader_of(thumos / "none")


GIVEN = {
    "train data": "thumos/catalog.train.h5",
    "test data": "thumos/catalog.test.h5",
    "network": "thumos/has/classifier.pt",
    "proposals": "thumos/has/proposals/maps.test.h5",
    "score": "thumos/has/proposals/detections.test.json",
}
TESTED = {"test data", "proposals", "score"}


def test_what_a_file_of_the_user_decides(thumos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def paths(**changes):
        import yaml

        dataset = {"format": "videos", "root": str(thumos), "steps": 10}
        Path("c.yaml").write_text(yaml.safe_dump(with_places(CONFIG, {"datasets.thumos": dataset, **changes})))
        made = Plan.load(["c.yaml"])
        return {name: made.path_of(path) for name, path in GIVEN.items()}

    def changed(**changes):
        return {name for name, path in paths(**changes).items() if path != before[name]}

    before = paths()
    moved = tmp_path / "moved"
    shutil.copytree(thumos, moved)
    assert changed(**{"datasets.thumos.root": str(moved)}) == {"train data", "test data"}  # where it lies, no more
    place = {"datasets.thumos.features": str(moved / "features")}
    assert changed(**place) == {"train data", "test data"}
    np.save(thumos / "features/t1.npy", np.ones((80, 4), np.float32))
    assert changed() == TESTED
    before = paths()
    (thumos / "annotations/Jump_test.txt").write_text("t1 1.0 3.5\n")
    assert changed() == TESTED
    before = paths()
    np.save(thumos / "features/v1.npy", np.full((80, 4), 9, np.float32))
    assert changed() == {"train data", "network", "proposals", "score"}
    before = paths()
    # THUMOS14 names a class by its file.
    (thumos / "annotations/Jump_val.txt").rename(thumos / "annotations/Leap_val.txt")
    (thumos / "annotations/Jump_test.txt").rename(thumos / "annotations/Leap_test.txt")
    assert changed() == set(GIVEN)
    before = paths()
    assert changed(**{"datasets.thumos.exclude": {"test": ["t1"]}}) == TESTED
    assert changed(**{"datasets.thumos.exclude": {"train": ["v2"]}}) == {*GIVEN} - {"test data"}
    (thumos / "labels.csv").write_text("video,class\nv2,Leap\n")
    assert changed(**{"datasets.thumos.labels": {"train": "labels.csv"}}) == set(GIVEN)


def test_a_folder_is_asked_for(plan):
    made = plan(**{"datasets.thumos": {"format": "videos"}})
    with pytest.raises(ConfigError, match=r"datasets\.thumos\.root: give the folder .* --config videos_root=FOLDER"):
        made.path_of(GIVEN["network"])


def test_settings_reach_the_code(plan):
    made = plan(**{"evaluation.temporal": {"protocol": "thumos14", "classes": ["bow"]}})
    told = json.loads(made.job(parse_target(f"{HAS}/proposals/detections.val.json")))
    params = from_config(evaluate.TemporalScoreParams, told["sections"]["evaluation"]["temporal"])
    assert (params.protocol, params.classes) == ("thumos14", ("bow",))


def test_activitynet_from_one_file_of_features(tmp_path):
    videos = {
        f"v{n}": {
            "subset": "training" if n < 3 else "validation",
            "duration": 8.0,
            "annotations": [{"label": "Run" if n % 2 else "Ant", "segment": [n, n + 1.5]}],
        }
        for n in range(5)
    }
    (tmp_path / "a.json").write_text(json.dumps({"database": videos}))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for video in videos:
            file[f"{video}/c3d"] = np.ones((16, 3), np.float32)
    reader = reader_of(tmp_path, source="activitynet", annotations="a.json", features="f.h5", rate=None)
    assert reader.class_names == ("Ant", "Run") and reader.splits == ("train", "val")
    found = write_split(reader, "val", tmp_path / "s.h5")
    assert found["by_class"] == {"Ant": {"videos": 1, "segments": 1}, "Run": {"videos": 1, "segments": 1}}
    assert (found["seconds"], found["channels"]) == (16.0, 3)
    sources = reader.sources("val")
    assert sources.images == {} and sources.shared["images"] == (tmp_path / "f.h5",)
    assert sources.shared["labels"] == sources.shared["boxes"] == (tmp_path / "a.json",)

"""Readers of annotations and features, resampling, the store, and the embedded set."""

import json

import h5py
import numpy as np
import pytest

from camflow.errors import ConfigError, DataError
from camflow.store import Store, StoreWriter
from camflow.temporal.data import (
    SequenceParams,
    Video,
    prepare_sequences,
    read_features,
    read_videos,
    resample,
    write_sequences,
)
from camflow.temporal.made import BACKGROUNDS, MadeParams, draw_video, made_videos, write_made


@pytest.fixture
def thumos(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "Diving_val.txt").write_text("v_2  1.5 4.0\nv_1 10.0  12.5\n v_2 0.5 1.0 \n")
    (folder / "CliffDiving_val.txt").write_text("v_2  1.5 4.0\n")
    (folder / "Ambiguous_val.txt").write_text("v_1 3.0 4.0\nv_9 1.0 2.0\n")
    (folder / "Diving_test.txt").write_text("t_1 1.0 2.0\n")
    features = tmp_path / "features"
    features.mkdir()
    for n, video in enumerate(("v_1", "v_2", "t_1")):
        np.save(features / f"{video}.npy", np.arange(140 * 3, dtype=np.float64).reshape(140, 3) + n)
    return tmp_path


def params(folder, **changes):
    return SequenceParams(
        **{
            "annotations": str(folder / "annotations"),
            "features": str(folder / "features"),
            "subset": "val",
            "steps": 20,
            **changes,
        }
    )


def prepare(folder, given):
    listing = read_videos(given)
    with StoreWriter(folder / "s.h5", stage="sequences", class_names=listing.class_names) as writer:
        prepare_sequences(listing, given, writer)
    return Store(folder / "s.h5", stage="sequences")


# --- annotations -----------------------------------------------------------------------------------------------------


def test_thumos14(thumos):
    listing = read_videos(params(thumos))
    assert listing.class_names == ("CliffDiving", "Diving")
    one, two = listing.videos
    assert (one.id, two.id) == ("v_1", "v_2")  # v_9 has nothing but an ambiguous segment
    assert (one.classes, two.classes) == ((1,), (0, 1))
    np.testing.assert_array_equal(one.segments, [[1, 10, 12.5]])
    np.testing.assert_array_equal(one.ambiguous, [[3, 4]])
    np.testing.assert_array_equal(two.segments, [[0, 1.5, 4], [1, 1.5, 4], [1, 0.5, 1]])  # in the order of the files
    assert two.ambiguous.shape == (0, 2)
    assert read_videos(params(thumos, subset="test")).class_names == ("Diving",)


def test_thumos14_class_list_labels_and_exclusion(thumos):
    (thumos / "annotations" / "detclasslist.txt").write_text("9 Diving\n7 CliffDiving\n")
    assert read_videos(params(thumos)).class_names == ("Diving", "CliffDiving")
    (thumos / "labels.csv").write_text("video,class\nv_7,Yo Yo\nv_1,CliffDiving\n")
    listing = read_videos(params(thumos, labels=str(thumos / "labels.csv"), exclude=("v_2",)))
    assert listing.class_names == ("Diving", "CliffDiving", "Yo Yo")
    assert [(video.id, video.classes, len(video.segments)) for video in listing.videos] == [
        ("v_1", (0, 1), 1),
        ("v_7", (2,), 0),
    ]
    assert listing.excluded == ("v_2",)
    chosen = read_videos(params(thumos, classes=("CliffDiving",)))
    assert [video.id for video in chosen.videos] == ["v_2"]
    assert chosen.videos[0].segments.tolist() == [[0, 1.5, 4]]


def test_activitynet(tmp_path):
    entry = {"subset": "validation", "duration": 50.5, "annotations": [{"label": "Run", "segment": [2.5, 9]}]}
    other = {**entry, "subset": "training", "annotations": [{"label": "Ant", "segment": [0, 1]}]}
    hidden = {"subset": "testing", "duration": 3, "annotations": []}
    (tmp_path / "a.json").write_text(json.dumps({"database": {"u": entry, "v": other, "w": hidden}}))
    listing = read_videos(
        params(tmp_path, annotations=str(tmp_path / "a.json"), format="activitynet", subset="validation", rate=None)
    )
    assert listing.class_names == ("Ant", "Run")  # those of all subsets, so that every split has the same
    assert [(v.id, v.classes, v.duration, v.segments.tolist()) for v in listing.videos] == [
        ("u", (1,), 50.5, [[1, 2.5, 9]])
    ]


def test_annotations_that_are_wrong_are_named(thumos, tmp_path):
    cases = [
        ({"subset": "train"}, DataError, "no file CLASS_train.txt"),
        ({"classes": ("Driving",)}, ConfigError, "did you mean 'Diving'"),
        ({"exclude": ("v_3",)}, ConfigError, "no video 'v_3'"),
        ({"exclude": ("v_1", "v_2")}, DataError, "no video of subset"),
        ({"labels": str(thumos / "none.csv")}, DataError, "none.csv"),
    ]
    for changes, kind, words in cases:
        with pytest.raises(kind, match=words):
            read_videos(params(thumos, **changes))
    for line in ("v_1 2.0", "v_1 5.0 2.0", "v_1 nan 2.0", "v_1 a b"):
        (thumos / "annotations" / "Diving_val.txt").write_text(line)
        with pytest.raises(DataError, match=r"Diving_val\.txt"):
            read_videos(params(thumos))
    (tmp_path / "bad.json").write_text('{"database": {"u": {"subset": "val"}}}')
    for name, words in (("bad.json", "KeyError"), ("none.json", "does not exist")):
        with pytest.raises(DataError, match=words):
            read_videos(params(thumos, annotations=str(tmp_path / name), format="activitynet"))
    with pytest.raises(ConfigError, match="did you mean 'thumos14'"):
        params(thumos, format="thumos15")


# --- features --------------------------------------------------------------------------------------------------------


def test_resampling_takes_the_feature_at_the_middle_of_a_step():
    for count, steps in ((10, 10), (7, 20), (20, 7), (1, 5), (2001, 2000)):
        found = resample(np.arange(count)[:, None], steps)[:, 0]
        expected = [int((t + 0.5) * count / steps) for t in range(steps)]
        np.testing.assert_array_equal(found, expected)


def test_store_of_sequences(thumos):
    store = prepare(thumos, params(thumos, exclude=("v_1",)))
    assert store.ids == ["v_2"] and store.class_names == ["CliffDiving", "Diving"]
    assert store.meta["excluded"] == ["v_1"]
    array, attrs = store.read("v_2"), store.attrs("v_2")
    assert array.shape == (20, 3) and array.dtype == np.float32
    np.testing.assert_array_equal(array[:, 0], 3 * (np.arange(20) * 7 + 3) + 1)
    assert attrs["duration"] == 14.0  # 140 features at 10 a second
    np.testing.assert_array_equal(attrs["classes"], [0, 1])
    assert attrs["segments"].shape == (3, 3) and attrs["ambiguous"].shape == (0, 2)
    np.testing.assert_allclose(store.table("mean"), array.mean(axis=0, dtype=np.float64))


def test_features_from_hdf5(tmp_path):
    arrays = {"a": np.ones((3, 2)), "b": np.zeros((4, 2), np.float16)}
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a"] = arrays["a"]
        file["b/c3d"] = arrays["b"]
        file.create_group("empty")
    found = dict(read_features(tmp_path / "f.h5", ["b", "a"]))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.float32
    for name in ("c", "empty"):
        with pytest.raises(DataError, match=f"no features of video '{name}'"):
            list(read_features(tmp_path / "f.h5", [name]))
    with pytest.raises(DataError, match="neither a folder"):
        list(read_features(tmp_path / "none.h5", ["a"]))


def test_features_that_cannot_be_right_are_named(thumos):
    def save(array):
        np.save(thumos / "features" / "v_1.npy", array)

    for array, words in ((np.zeros(5), "must be numbers"), (np.full((2, 2), np.nan), "not finite")):
        save(array)
        with pytest.raises(DataError, match=words):
            prepare(thumos, params(thumos))
    save(np.zeros((140, 2)))
    with pytest.raises(DataError, match=r"'v_2': its features have 3 channels, those before it 2"):
        prepare(thumos, params(thumos))
    save(np.zeros((80, 3)))
    with pytest.raises(DataError, match=r"'v_1': a segment starts at 10 s, but its features end at 8 s"):
        prepare(thumos, params(thumos))
    with pytest.raises(DataError, match="give `rate`"):
        prepare(thumos, params(thumos, rate=None))
    (thumos / "features" / "v_1.npy").unlink()
    with pytest.raises(DataError, match="no features of video 'v_1'"):
        prepare(thumos, params(thumos))
    assert not (thumos / "s.h5").exists()


def test_mean_feature_weighs_every_video_alike(tmp_path):
    videos = [
        (Video(n, (0,), np.zeros((0, 3)), np.zeros((0, 2)), 1.0), np.full((k, 2), k)) for n, k in (("a", 2), ("b", 6))
    ]
    with StoreWriter(tmp_path / "s.h5", stage="sequences", class_names=["x"]) as writer:
        write_sequences(videos, writer, steps=4)
    np.testing.assert_array_equal(Store(tmp_path / "s.h5").table("mean"), [4, 4])


# --- the embedded set ------------------------------------------------------------------------------------------------


def test_a_made_video_depends_on_nothing_but_its_place():
    few, many = MadeParams(train=3), MadeParams(train=30, val=2)
    for (a, x), (b, y) in zip(made_videos(few, "train"), made_videos(many, "train"), strict=False):
        assert a.id == b.id and a.segments.tolist() == b.segments.tolist()
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(draw_video(few, "train", 0)[1], draw_video(MadeParams(seed=1), "train", 0)[1])
    assert not np.array_equal(draw_video(few, "train", 0)[1][:50], draw_video(few, "val", 0)[1][:50])


def test_made_videos_are_what_they_say():
    given = MadeParams(train=60, noise=0.0)
    core = np.empty((given.classes, given.features))
    several = unfinished = 0
    for video, features in made_videos(given, "train"):
        times = (np.arange(len(features)) + 0.5) / given.rate
        assert len(features) == round(video.duration * given.rate)
        everything = np.concatenate([video.segments[:, 1:], video.ambiguous])
        ordered = everything[everything[:, 0].argsort()]
        assert (ordered[1:, 0] > ordered[:-1, 1]).all() and ordered[0, 0] > 0 and ordered[-1, 1] < video.duration
        assert set(video.segments[:, 0].astype(int)) == set(video.classes)
        several, unfinished = several + (len(video.classes) > 1), unfinished + len(video.ambiguous)
        strength = np.linalg.norm(features, axis=1)
        for c, start, end in video.segments:
            inside = (times >= start) & (times < end)
            strong = inside & np.isclose(strength, given.core)
            assert 0.2 < strong.sum() / inside.sum() < 0.45
            np.testing.assert_allclose(strength[inside & ~strong], given.limb, rtol=1e-5)
            assert (features[strong] == features[strong][0]).all()
            core[int(c)] = features[strong][0] / given.core
        for start, end in video.ambiguous:
            np.testing.assert_allclose(strength[(times >= start) & (times < end)], given.limb, rtol=1e-5)
    assert several > 0 and unfinished > 5
    np.testing.assert_allclose(core @ core.T, np.eye(given.classes), atol=1e-5)


def test_made_store_and_limits(tmp_path):
    given = MadeParams(train=4, val=2, steps=50)
    with StoreWriter(tmp_path / "s.h5", stage="sequences", class_names=given.class_names) as writer:
        write_made(given, "val", writer)
    store = Store(tmp_path / "s.h5", stage="sequences")
    assert store.ids == ["val_00000", "val_00001"] and store.read("val_00001").shape == (50, 32)
    for changes, words in (
        ({"classes": 2}, "from 3"),
        ({"features": 12 + BACKGROUNDS - 1}, "at least 18"),
        ({"val": 0}, "made.val"),
    ):
        with pytest.raises(ConfigError, match=words):
            MadeParams(**changes)
    with pytest.raises(ConfigError, match="not 'test'"):
        made_videos(given, "test")

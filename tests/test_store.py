"""The store against h5py itself, against bytes, and against what goes wrong on real machines."""

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from camflow.errors import StoreError
from camflow.store import Store, StoreWriter, atomic_path, join_shards, read_json, shard_of, write_json

IDS = [f"img_{number:03d}" for number in range(30)] + ["n01440764/a.b", ".hidden", "50%", "é ü"]


def array_of(image_id):
    rng = np.random.default_rng(sum(map(ord, image_id)))
    return rng.random((int(rng.integers(0, 4)), 17)).astype(np.float16)


def write(path, ids=IDS, stage="maps", **options):
    with StoreWriter(path, stage=stage, class_names=["a", "b"], meta={"key": "k"}, **options) as writer:
        for image_id in sorted(ids):
            writer.write(image_id, array_of(image_id), classes=np.arange(2))
        writer.table("names", ["x", "ünï"])
    return path


def test_round_trip_and_plain_h5py_reads_it(tmp_path):
    store = Store(write(tmp_path / "a.h5"), stage="maps")
    assert store.ids == sorted(IDS) and len(store) == len(IDS)
    assert store.class_names == ["a", "b"] and store.meta == {"key": "k"}
    for image_id in IDS:
        assert image_id in store
        np.testing.assert_array_equal(store.read(image_id), array_of(image_id))
    assert store.table("names").tolist() == ["x", "ünï"]
    assert "nobody" not in store
    store.close()
    with h5py.File(tmp_path / "a.h5") as file:
        dataset = next(file["data"][name] for name in file["data"] if file["data"][name].size)
        assert dataset.shuffle and dataset.fletcher32 and dataset.compression == "gzip" and dataset.chunks[0] == 1
        assert file.attrs["format"] == "camflow/1" and file.attrs["complete"] == 1


def test_same_writes_same_bytes(tmp_path):
    assert write(tmp_path / "a.h5").read_bytes() == write(tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("count", [1, 3, 7])
def test_any_number_of_shards_reads_the_same(tmp_path, count):
    shards = [
        write(tmp_path / f"x.shards/{number}.h5", [i for i in IDS if shard_of(i, count) == number])
        for number in range(count)
    ]
    join_shards(tmp_path / "x.h5", shards)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for item in ("x.h5", "x.shards"):
        shutil.move(tmp_path / item, moved / item)  # links are relative
    store = Store(moved / "x.h5")
    assert store.ids == sorted(IDS) and len(store) == len(IDS)
    for image_id in IDS:
        np.testing.assert_array_equal(store.read(image_id), array_of(image_id))


def test_a_missing_shard_is_an_error_not_zeros(tmp_path):
    shards = [write(tmp_path / f"{n}.h5", [i for i in IDS if shard_of(i, 2) == n]) for n in range(2)]
    join_shards(tmp_path / "x.h5", shards)
    shards[1].unlink()
    lost = next(i for i in IDS if shard_of(i, 2) == 1)
    with pytest.raises(StoreError, match="missing"):
        Store(tmp_path / "x.h5").read(lost)
    with pytest.raises(StoreError, match="missing"):
        join_shards(tmp_path / "y.h5", shards)
    assert not (tmp_path / "y.h5").exists()


def test_shard_of_does_not_move_when_images_are_added():
    assert [shard_of(f"i{n}", 4) for n in range(6)] == [shard_of(f"i{n}", 4) for n in range(9)][:6]
    counts = np.bincount([shard_of(f"img{n}", 8) for n in range(4000)], minlength=8)
    assert counts.min() > 400


def _read(store, ids):
    return [store.read(image_id).sum().item() for image_id in ids]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_readers_in_other_processes(tmp_path, method):
    store = Store(write(tmp_path / "a.h5"))
    expected = _read(store, IDS)  # the handle is open here and must not travel
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(_read, [(store, IDS), (store, IDS)]) == [expected, expected]


def test_pickle_drops_the_handle(tmp_path):
    store = Store(write(tmp_path / "a.h5"))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read(IDS[0]), store.read(IDS[0]))


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), StoreWriter(tmp_path / "a.h5", stage="maps") as writer:
        writer.write("x", np.ones((1, 4), np.float32))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_id_twice_is_refused(tmp_path):
    with pytest.raises(StoreError, match="written twice"), StoreWriter(tmp_path / "a.h5", stage="maps") as writer:
        writer.write("x", np.ones((1, 4), np.float32))
        writer.write("x", np.ones((1, 4), np.float32))


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1


def unfinished(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["complete"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_text("no HDF5"), "cannot be read"),
        (foreign, "not a camflow/1 file"),
        (unfinished, "never finished"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, damage, message):
    path = write(tmp_path / "a.h5")
    damage(path)
    with pytest.raises(StoreError, match=message) as caught:
        Store(path)
    assert "a.h5" in str(caught.value) and caught.value.path == path


def test_a_flipped_byte_is_found(tmp_path):
    with StoreWriter(tmp_path / "a.h5", stage="maps") as writer:
        writer.write("x", np.random.default_rng(0).random((1, 4000)).astype(np.float32))
    data = bytearray((tmp_path / "a.h5").read_bytes())
    with h5py.File(tmp_path / "a.h5") as file:
        place = file["data/x"].id.get_chunk_info(0)
    data[place.byte_offset + place.size // 2] ^= 0x10
    (tmp_path / "a.h5").write_bytes(data)
    with pytest.raises(StoreError, match="cannot be read"):
        Store(tmp_path / "a.h5").read("x")


def test_the_wrong_stage_is_refused(tmp_path):
    with pytest.raises(StoreError, match="holds 'maps', not 'masks'"):
        Store(write(tmp_path / "a.h5"), stage="masks")


def test_an_unknown_image_is_named(tmp_path):
    with pytest.raises(StoreError, match="'img_999'"):
        Store(write(tmp_path / "a.h5")).read("img_999")


def test_a_reader_during_a_rewrite_sees_the_old_file_whole(tmp_path):
    path = write(tmp_path / "a.h5", IDS[:3])
    store = Store(path)
    with StoreWriter(path, stage="maps") as writer:
        writer.write("new", np.ones((1, 3), np.float16))
        assert Store(path).ids == sorted(IDS[:3])
    np.testing.assert_array_equal(store.read(IDS[0]), array_of(IDS[0]))
    assert Store(path).ids == ["new"]


KILLED = """
import sys, numpy as np
from camflow.store import StoreWriter
with StoreWriter(sys.argv[1], stage="maps") as writer:
    print("go", flush=True)
    for number in range(10**6):
        writer.write(str(number), np.random.default_rng(number).random((2, 500)))
"""


def test_a_killed_writer_leaves_no_target(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "a.h5")], stdout=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a.h5").exists()
    assert all(item.name.endswith(".tmp") for item in tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # HDF5 cannot close what it cannot write
def test_a_full_disk_says_so_and_leaves_nothing(small_disk):
    rng = np.random.default_rng(0)
    with pytest.raises(StoreError, match="no space left"), StoreWriter(small_disk / "a.h5", stage="maps") as writer:
        for number in range(100):
            writer.write(str(number), rng.random((4, 20000)))
    assert list(small_disk.iterdir()) == []
    with pytest.raises(StoreError, match="no space left"):
        write_json(small_disk / "a.json", list(range(10**6)))
    assert list(small_disk.iterdir()) == []


def test_json_is_canonical_and_torn_json_is_named(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"a": [1.5, None], "b": 1}
    (tmp_path / "a.json").write_text('{"a": [1.')
    with pytest.raises(StoreError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_atomic_path_keeps_the_old_file_on_failure(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]

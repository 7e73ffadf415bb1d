"""Pickled arrays of other codes are read; whatever asks for more than arrays is refused, and nothing of it runs."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from camflow.data.pickles import read_arrays
from camflow.errors import DataError

RNG = np.random.default_rng(0)
MAP = RNG.random((5, 7)).astype(np.float32)
# name -> what numpy.save may have been given
CONTENTS = {
    "maps by class": {3: MAP, 11: MAP * 2},
    "keys of numpy's own": {np.int64(3): MAP},
    "an array that is not contiguous": {0: MAP.T[::2]},
    "float64 and float16": {0: MAP.astype(np.float64), 1: MAP.astype(np.float16)},
    "scalars and text": {"keys": np.array([1, 2]), "size": (5, 7), "name": "a", "peak": np.float32(2), "none": None},
    "an ordered dictionary": OrderedDict(b=MAP, a=MAP),
    "lists": {"keys": [1, 2], "maps": [MAP, MAP]},
}


def same(left, right):
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return left == right


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_numpy_saves_is_read_as_numpy_loads_it(tmp_path, content):
    np.save(tmp_path / "a.npy", content)
    assert same(read_arrays(tmp_path / "a.npy"), np.load(tmp_path / "a.npy", allow_pickle=True).item())


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol_of_pickles(tmp_path, protocol):
    """numpy.save itself has used 2 (Python 2), 3 and 4."""
    array = np.empty((), object)
    array[()] = {1: MAP, "score": np.float64(0.5)}
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(array, file, protocol=protocol)
    assert same(read_arrays(tmp_path / "a.npy"), {1: MAP, "score": np.float64(0.5)})


def test_names_of_older_numpy(tmp_path):
    np.save(tmp_path / "a.npy", {1: MAP})
    data = (tmp_path / "a.npy").read_bytes()
    # The name before numpy 2 is one byte shorter, which its length says.
    older = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert older != data
    frame = older.index(b"\x95")  # the pickle's frame is one byte shorter, too
    length = int.from_bytes(older[frame + 1 : frame + 9], "little") - 1
    (tmp_path / "a.npy").write_bytes(older[: frame + 1] + length.to_bytes(8, "little") + older[frame + 9 :])
    assert same(read_arrays(tmp_path / "a.npy"), {1: MAP})


def test_tensors_become_arrays(tmp_path):
    """IRN saves keys and cam as tensors; the slices share the storage of a larger one."""
    large = torch.from_numpy(RNG.random((4, 6, 8)).astype(np.float32))
    np.save(tmp_path / "a.npy", {"keys": torch.tensor([2, 5]), "cam": large[1:3, ::2], "high_res": MAP})
    found = read_arrays(tmp_path / "a.npy")
    assert found["keys"].tolist() == [2, 5] and np.array_equal(found["cam"], large[1:3, ::2].numpy())


def test_plain_arrays_and_archives(tmp_path):
    np.save(tmp_path / "a.npy", MAP)
    assert np.array_equal(read_arrays(tmp_path / "a.npy"), MAP)
    np.savez_compressed(tmp_path / "a.npz", cat=MAP, dog=MAP * 2)
    assert same(read_arrays(tmp_path / "a.npz"), {"cat": MAP, "dog": MAP * 2})


# --- refused ---------------------------------------------------------------------------------------------------------


class Runs:
    """Makes a pickle that calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def saved(folder, content):
    np.save(folder / "evil.npy", content)
    return folder / "evil.npy"


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "system"),
        (eval, "eval"),
        (print, "print"),
        (np.load, "load"),
        (torch.load, "load"),
        (getattr, "getattr"),
    ],
)
def test_a_file_that_calls_something_is_refused_and_named(tmp_path, function, name):
    path = saved(tmp_path, {0: MAP, 1: Runs(function, f"touch {tmp_path}/ran")})
    with pytest.raises(DataError, match=rf"evil.npy: asks to call \w[\w.]*\.{name}, which"):
        read_arrays(path)


def test_nothing_ran(tmp_path):
    path = saved(tmp_path, {0: Runs(os.system, f"touch {tmp_path}/ran")})
    with pytest.raises(DataError, match="system"):
        read_arrays(path)
    assert not (tmp_path / "ran").exists()
    np.load(path, allow_pickle=True)  # which is what it would have done
    assert (tmp_path / "ran").exists()


def test_a_call_within_the_bytes_of_a_tensor_is_refused(tmp_path):
    """The storage of a tensor is a pickle within the pickle."""
    inner = io.BytesIO()
    torch.save(Runs(os.system, f"touch {tmp_path}/ran"), inner, _use_new_zipfile_serialization=False)
    path = saved(tmp_path, {0: Runs(torch.storage._load_from_bytes, inner.getvalue())})
    with pytest.raises(DataError, match=r"evil\.npy"):
        read_arrays(path)
    assert not (tmp_path / "ran").exists()


def test_dotted_names_do_not_reach_through_what_is_allowed(tmp_path):
    data = pickle.dumps(Runs(os.system, "true"), protocol=4)
    reach = data.replace(b"\x8c\x05posix", b"\x8c\x05numpy").replace(b"\x8c\x06system", b"\x8c\x06dtype.")
    with open(tmp_path / "evil.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(reach)
    with pytest.raises(DataError, match=r"numpy\.dtype\."):
        read_arrays(tmp_path / "evil.npy")


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    content = {}
    content[0] = content
    with pytest.raises(DataError, match=r"evil\.npy"):
        read_arrays(saved(tmp_path, content))


def test_an_archive_is_read_with_the_same_care(tmp_path):
    path = saved(tmp_path, {0: Runs(os.system, "true")})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(path, "maps.npy")
    with pytest.raises(DataError, match=r"a\.npz: asks to call \w+\.system"):
        read_arrays(tmp_path / "a.npz")


def numbers(count):
    """A file that promises some numbers and holds none."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (count,)})
    return file.getvalue()


DAMAGED = {
    "an empty file": b"",
    "no file of numpy": b"PK not",
    "half a file": None,
    "another pickle": pickle.dumps({0: 1}),
    "more values than any memory holds": numbers(2**50),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_told_by_name(tmp_path, data):
    np.save(tmp_path / "a.npy", {0: MAP})
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[: len(whole) // 2] if data is None else data)
    with pytest.raises(DataError, match=r"a\.npy: .*make the file again"):
        read_arrays(tmp_path / "a.npy")


def test_arrays_of_objects_and_missing_files(tmp_path):
    ragged = np.empty(2, object)
    ragged[:] = [MAP, MAP[:2]]
    np.save(tmp_path / "a.npy", ragged)
    with pytest.raises(DataError, match=r"array of objects \(2,\)"):
        read_arrays(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"b\.npy: does not exist"):
        read_arrays(tmp_path / "b.npy")

"""Array files whose content is pickled, read without running anything that is in them.

``numpy.save`` of a dictionary makes a pickle, and a pickle may name any function of the machine for its reader to call.
Here only what puts arrays together is called (numpy's, and that of torch tensors); every other name refuses the file.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from camflow.errors import DataError

REMEDY = "make the file again with numpy.save"


def read_arrays(path: str | Path) -> Any:
    """What ``numpy.save`` or ``numpy.savez`` wrote: an array, a dictionary, or of an ``.npz`` the dictionary of its arrays.

    Torch tensors become arrays.

    Raises:
        DataError: the file is missing or damaged, or holds anything but numbers, text and arrays; names it.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return {name.removesuffix(".npy"): _read(archive.open(name), path) for name in archive.namelist()}
        with open(path, "rb") as file:
            return _read(file, path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}); {REMEDY}") from error


def _read(file: IO[bytes], path: Path) -> Any:
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = header(file)
        if not dtype.hasobject:
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
        return _plain(_Unpickler(file, path).load(), path)
    except DataError:
        raise
    except Exception as error:  # on damaged bytes an unpickler raises anything, MemoryError included
        raise DataError(f"{path}: is no whole file of numpy.save ({error}); {REMEDY}") from error


def _plain(value: Any, path: Path) -> Any:
    """Tensors as arrays; refuses what an array of arrays may still hide."""
    if isinstance(value, np.ndarray):
        return _plain(value.item(), path) if value.dtype.hasobject and value.ndim == 0 else _numbers(value, path)
    if isinstance(value, dict):
        return {_plain(key, path): _plain(item, path) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, path) for item in value)
    if isinstance(value, str | int | float | bool | np.generic | None):
        return value
    if type(value).__module__ == "torch":
        return value.detach().numpy()
    raise DataError(f"{path}: holds a {type(value).__name__}, where only numbers, text and arrays are read; {REMEDY}")


def _numbers(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.hasobject:
        raise DataError(f"{path}: holds an array of objects {array.shape}, not of numbers; {REMEDY}")
    return array


# --- what may be called ----------------------------------------------------------------------------------------------


def _latin(text: str, encoding: str) -> bytes:
    """How old pickles spell bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes in {encoding}")
    return text.encode(encoding)


def _tensor_storage(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(*arguments: Any) -> Any:
    import torch

    return torch._utils._rebuild_tensor_v2(*arguments)


def _allowed() -> dict[tuple[str, str], Callable[..., Any]]:
    # Asked of numpy itself, as the modules they live in are private.
    array, scalar, buffer = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0], np.empty(1).__reduce_ex__(5)[0]
    found: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin,
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch.storage", "_load_from_bytes"): _tensor_storage,
    }
    for core in ("numpy.core", "numpy._core"):  # its name before and since numpy 2
        found |= {
            (f"{core}.multiarray", "_reconstruct"): array,
            (f"{core}.multiarray", "scalar"): scalar,
            (f"{core}.numeric", "_frombuffer"): buffer,
        }
    return found


ALLOWED = _allowed()


class _Unpickler(pickle.Unpickler):
    """Finds only the names of ``ALLOWED``."""

    def __init__(self, file: IO[bytes], path: Path):
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise DataError(
                f"{self._path}: asks to call {module}.{name}, which reading arrays does not need; the file may be "
                "malicious and was not read. If you trust it, load it yourself and save plain arrays"
            ) from None

"""The HDF5 container that every stage reads and writes, and files that are either whole or absent.

Layout of one file (any HDF5 reader opens it)::

    /            attrs: format, stage, class_names (JSON), meta (JSON: recipe, parameters, key, software ...),
                        n_images, complete = 1 (written last; a file without it is refused)
    /data/<id>   one dataset per image, chunk = one class map, shuffle + gzip-4 + fletcher32; attrs per image
    /table/<x>   whole-file arrays; /table/id lists the image ids, sorted

Shards of one target are joined by an index whose ``/shard/<k>`` are relative external links. An image belongs to the
shard named by the hash of its id, so an index never lists images and a missing shard is an error, never zeros.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from camflow.errors import CamflowError, StoreError

with contextlib.suppress(ImportError):
    import hdf5plugin  # noqa: F401  (lets HDF5 read zstd where the package is there)

FORMAT = "camflow/1"


def shard_of(image_id: str, count: int) -> int:
    """Shard index in ``[0, count)`` of an image: a hash of its id, so that adding images moves none of the others."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big") % count


# --- whole or absent -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a private path in the folder of ``path``; on success flush it to disk and rename it into place.

    Readers see the old file or the new one, never a part. On any exception nothing is left behind. A full disk becomes
    a ``StoreError`` that says so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with naming_a_full_disk(path):
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming_a_full_disk(path: str | Path) -> Iterator[None]:
    """Turn the errors of a full disk into a ``StoreError`` that says so; ``path`` is what could not be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if is_full(error):
            raise StoreError(
                path, "no space left on the device; free some and run again (nothing was written)"
            ) from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error means a full disk. HDF5 reports it as text in its own error stack, as OSError or RuntimeError."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, with a newline at the end."""
    with atomic_path(path) as temporary:
        temporary.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically in one canonical form: sorted keys, no NaN, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False))


def read_json(path: str | Path) -> Any:
    """Read JSON; raises ``StoreError`` naming the file when it is missing or torn."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(path, "is missing; ask Snakemake for it again") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(path, f"is not valid JSON ({error}); delete it and run again") from error


# --- ids as HDF5 names -----------------------------------------------------------------------------------------------


def _name(image_id: str) -> str:
    # HDF5 reads "/" as nesting and "." as "here", so both are escaped; "%" keeps the mapping one to one.
    escaped = image_id.replace("%", "%25").replace("/", "%2F")
    return "%2E" + escaped[1:] if escaped.startswith(".") else escaped


# --- writing ---------------------------------------------------------------------------------------------------------


class StoreWriter:
    """Write one store; use as a context manager.

    The file appears under ``path`` only when the block ends without an exception. The same writes in the same order
    give the same bytes.

    Args:
        path: the target.
        stage: what the store holds, e.g. ``"maps"`` or ``"masks"``; readers ask for it by name.
        class_names: foreground classes in order.
        meta: JSON-able facts for the envelope (recipe, parameters, key, software ...); ``writer.meta`` may be extended
            until the block ends.
        compression: ``"gzip"`` (any reader), or ``"zstd"`` (three times faster, needs the hdf5plugin package).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        stage: str,
        class_names: Sequence[str] = (),
        meta: dict[str, Any] | None = None,
        compression: str = "gzip",
    ):
        self.path = Path(path)
        self.stage = stage
        self.class_names = list(class_names)
        self.meta = dict(meta or {})
        self._filter = _compression(compression)
        self._ids: list[str] = []
        self._stack = contextlib.ExitStack()
        self._file: h5py.File | None = None

    def __enter__(self) -> StoreWriter:
        temporary = self._stack.enter_context(atomic_path(self.path))
        self._file = h5py.File(temporary, "w", locking=False)
        self._file.create_group("data")
        self._file.create_group("table")
        return self

    def write(self, image_id: str, array: np.ndarray, **attrs: Any) -> None:
        """Add one image. Raises ``StoreError`` when the id is there already."""
        name = _name(image_id)
        group = self._open()["data"]
        if name in group:
            raise StoreError(self.path, f"image '{image_id}' is written twice; ids must be unique")
        dataset = group.create_dataset(name, data=array, **self._layout(array))
        for key, value in attrs.items():
            dataset.attrs[key] = value
        self._ids.append(image_id)

    def table(self, name: str, array: Any) -> None:
        """Add a whole-file array; lists of strings become UTF-8 strings."""
        array = np.asarray(array)
        if array.dtype.kind in "UO":
            # Fixed length, not variable: HDF5 neither compresses nor checksums variable-length strings.
            encoded = np.char.encode(array.astype(str), "utf-8")
            array = encoded.astype(h5py.string_dtype("utf-8", max(1, encoded.dtype.itemsize)))
        self._open()["table"].create_dataset(name, data=array, **self._layout(array, rows=4096))

    def _layout(self, array: np.ndarray, rows: int | None = None) -> dict[str, Any]:
        if array.size == 0 or array.ndim == 0:
            return {}
        if rows is not None:
            chunks = (min(rows, array.shape[0]), *array.shape[1:])
        elif array.dtype.kind == "f" and array.ndim >= 2:
            chunks = (1, *array.shape[1:])  # one class map: a reader of one class reads one chunk
        else:
            chunks = array.shape
        return {"chunks": chunks, "shuffle": True, "fletcher32": True, **self._filter}

    def _open(self) -> h5py.File:
        if self._file is None:
            raise RuntimeError("a StoreWriter is used as a context manager")
        return self._file

    def __exit__(self, kind, error, trace) -> None:
        try:
            if error is None:
                self._finish()
            self._close()
        except BaseException as late:
            self._close(quiet=True)
            if not self._stack.__exit__(type(late), late, late.__traceback__):
                raise
        else:
            self._stack.__exit__(kind, error, trace)

    def _finish(self) -> None:
        file = self._open()
        self.table("id", np.array(sorted(self._ids), dtype=str))
        file.attrs["format"] = FORMAT
        file.attrs["stage"] = self.stage
        file.attrs["class_names"] = json.dumps(self.class_names, ensure_ascii=False)
        file.attrs["meta"] = json.dumps(self.meta, sort_keys=True, ensure_ascii=False)
        file.attrs["n_images"] = len(self._ids)
        file.flush()
        file.attrs["complete"] = 1

    def _close(self, quiet: bool = False) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except (OSError, RuntimeError):
            if not quiet:
                raise


def _compression(name: str) -> dict[str, Any]:
    if name == "gzip":
        return {"compression": "gzip", "compression_opts": 4}
    if name == "zstd":
        try:
            import hdf5plugin
        except ImportError as error:
            raise CamflowError(
                "runtime.compression: zstd needs the package hdf5plugin; install it or use gzip"
            ) from error
        return dict(hdf5plugin.Zstd(clevel=3))
    raise CamflowError(f"runtime.compression: '{name}' is neither gzip nor zstd")


def join_shards(path: str | Path, shards: Sequence[str | Path], meta: dict[str, Any] | None = None) -> None:
    """Write the index of a sharded target. ``shards[k]`` holds exactly the images with ``shard_of(id, n) == k``.

    ``meta`` is the index's envelope, that of the first shard by default.

    Raises ``StoreError`` when a shard is missing, unfinished or of another stage than the first.
    """
    path = Path(path)
    parts = [Store(shard) for shard in shards]
    first = parts[0]
    for part in parts:
        if (part.stage, part.class_names) != (first.stage, first.class_names):
            raise StoreError(part.path, f"does not belong with {first.path}: another stage or other classes")
    with atomic_path(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        group = file.create_group("shard")
        for number, shard in enumerate(shards):
            group[f"{number:04d}"] = h5py.ExternalLink(os.path.relpath(shard, path.parent), "/")
        file.attrs["format"] = FORMAT
        file.attrs["stage"] = first.stage
        file.attrs["class_names"] = json.dumps(first.class_names, ensure_ascii=False)
        file.attrs["meta"] = json.dumps(first.meta if meta is None else meta, sort_keys=True, ensure_ascii=False)
        file.attrs["n_images"] = sum(len(part) for part in parts)
        file.attrs["n_shards"] = len(parts)
        file.flush()
        file.attrs["complete"] = 1


# --- reading ---------------------------------------------------------------------------------------------------------


class Store:
    """Read one store. Opened lazily in each process (safe under fork and spawn), never locked, never held open across
    a pickle.

    Raises ``StoreError`` when the file is missing, torn, foreign, unfinished or of another stage than ``stage``.
    """

    def __init__(self, path: str | Path, *, stage: str | None = None):
        self.path = Path(path)
        self._handle: h5py.File | None = None
        self._pid = -1
        self._ids: list[str] | None = None
        attrs = self._read_envelope()
        self.stage: str = str(attrs["stage"])
        self.class_names: list[str] = json.loads(attrs["class_names"])
        self.meta: dict[str, Any] = json.loads(attrs["meta"])
        self._count = int(attrs["n_images"])
        self.shards = int(attrs.get("n_shards", 0))
        if stage is not None and stage != self.stage:
            raise StoreError(self.path, f"holds '{self.stage}', not '{stage}'; give the file of the right stage")

    def _read_envelope(self) -> dict[str, Any]:
        with self._errors():
            attrs = dict(self._file().attrs)
        if attrs.get("format") != FORMAT:
            raise StoreError(self.path, f"is not a {FORMAT} file; delete it and run again")
        if attrs.get("complete") != 1:
            raise StoreError(self.path, "was never finished; delete it and run again")
        return attrs

    @contextlib.contextmanager
    def _errors(self, image_id: str | None = None) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(self.path, "is missing; ask Snakemake for it again") from error
        except (OSError, RuntimeError) as error:
            if "filter" in str(error) and "plugin" in str(error):
                raise CamflowError(f"{self.path}: is compressed with zstd; install the package hdf5plugin") from error
            path = self._holder(image_id)
            raise StoreError(path, f"cannot be read ({_first_line(error)}); delete it and run again") from error

    def _holder(self, image_id: str | None) -> Path:
        """The file that really holds an image: the shard behind an index."""
        if image_id is None or not getattr(self, "shards", 0):
            return self.path
        return self._shard_path(shard_of(image_id, self.shards))

    def _shard_path(self, number: int) -> Path:
        return self.path.parent / self._file().get(f"shard/{number:04d}", getlink=True).filename

    def _file(self) -> h5py.File:
        if self._handle is None or self._pid != os.getpid():
            self._handle = h5py.File(self.path, "r", locking=False)
            self._pid = os.getpid()
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_pid": -1}

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._handle is not None and self._pid == os.getpid():
            self._handle.close()
        self._handle = None

    def _roots(self) -> Iterator[h5py.Group]:
        file = self._file()
        if not self.shards:
            yield file
        for number in range(self.shards):
            yield self._shard(number)

    def _shard(self, number: int) -> h5py.Group:
        path = self._shard_path(number)
        try:
            root = self._file()[f"shard/{number:04d}"]
        except KeyError as error:
            if path.exists():
                raise StoreError(path, f"cannot be read ({_first_line(error)}); delete it and run again") from error
            raise StoreError(
                self.path, f"shard {number} of {self.shards} is missing; delete the index and run again"
            ) from error
        if root.attrs.get("complete") != 1:
            raise StoreError(path, "was never finished; delete it and run again")
        return root

    def shard_paths(self) -> list[Path]:
        """The files behind an index; empty for a store without shards."""
        with self._errors():
            return [self._shard_path(number) for number in range(self.shards)]

    @property
    def ids(self) -> list[str]:
        """Image ids, sorted."""
        if self._ids is None:
            with self._errors():
                found = [value.decode() for root in self._roots() for value in root["table/id"][()]]
            self._ids = sorted(found)
        return self._ids

    def __len__(self) -> int:
        return self._count

    def __contains__(self, image_id: str) -> bool:
        with self._errors():
            return _name(image_id) in self._root_of(image_id)["data"]

    def _root_of(self, image_id: str) -> h5py.Group:
        return self._shard(shard_of(image_id, self.shards)) if self.shards else self._file()

    def _dataset(self, image_id: str) -> h5py.Dataset:
        try:
            return self._root_of(image_id)["data"][_name(image_id)]
        except KeyError as error:
            raise StoreError(self.path, f"has no image '{image_id}'; it was made from another image list") from error

    def read(self, image_id: str) -> np.ndarray:
        """The array of one image. Raises ``StoreError`` when the image is absent or its bytes are damaged."""
        with self._errors(image_id):
            return self._dataset(image_id)[()]

    def attrs(self, image_id: str) -> dict[str, Any]:
        """The attributes of one image."""
        with self._errors(image_id):
            return dict(self._dataset(image_id).attrs)

    def tables(self) -> list[str]:
        """Names of the whole-file arrays."""
        with self._errors():
            return sorted(next(self._roots())["table"])

    def table(self, name: str) -> np.ndarray:
        """A whole-file array (of an unsharded store); strings come as Python strings."""
        with self._errors():
            try:
                value = self._file()["table"][name]
            except KeyError as error:
                raise StoreError(self.path, f"has no table '{name}'") from error
            return value.asstr()[()] if h5py.check_string_dtype(value.dtype) else value[()]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

"""What is in a dataset, as digests: of the photos, labels, masks and boxes of a split, or of one shard of it.

Digests are of file contents. A cache by (size, times, inode) makes planning a matter of ``stat``; it can be deleted.
A dataset that the workflow makes itself (generated or downloaded) has a digest before it exists: that of what makes
it. Once it is there, its files are compared with the list written when it was made, and a changed file counts as
changed content like in any other dataset.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from camflow.plan.keys import digest
from camflow.store import shard_of, write_text

MANIFEST = "manifest.json"
ALL = ("images", "labels", "masks", "boxes")
_MANY = 1000  # files whose digests are written down as soon as they are known, should nobody get to say so later
_SETTLED_NS = 2_000_000_000  # a file changed within this time of its digest may change again unseen


class FileDigests:
    """Content digests of files, remembered between runs in one JSON file."""

    def __init__(self, cache: Path):
        self._cache = cache
        self._known: dict[str, list] = {}
        self._new = False
        self._seen: dict[str, list] = {}
        try:
            self._known = json.loads(cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}  # a lost or torn cache only costs reading the files again

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Digest of each file; ``"missing"`` where there is none (the check stage reports it by name)."""
        result: dict[Path, str] = {}
        unknown: list[tuple[Path, list]] = []
        for path in dict.fromkeys(paths):
            try:
                state = os.stat(path)
            except OSError:
                result[path] = "missing"
                continue
            mark = _mark(state)
            self._seen[str(path)] = mark
            known = self._known.get(str(path))
            if known and known[:4] == mark and max(mark[1], mark[2]) < known[4] - _SETTLED_NS:
                result[path] = known[5]
            else:
                unknown.append((path, mark))
        result.update(self._read(unknown))
        return result

    def _read(self, unknown: list[tuple[Path, list]]) -> dict[Path, str]:
        if not unknown:
            return {}
        bar = None
        if len(unknown) > 5000:
            from tqdm import tqdm

            bar = tqdm(total=len(unknown), desc="reading new or changed files", unit="file")
        found: dict[Path, str] = {}
        with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) * 2)) as pool:
            for (path, mark), value in zip(unknown, pool.map(_digest_file, (path for path, _ in unknown)), strict=True):
                found[path] = value
                if value != "missing":
                    self._known[str(path)] = [*mark, time.time_ns(), value]
                    self._new = True
                if bar is not None:
                    bar.update()
        if bar is not None:
            bar.close()
        if len(unknown) > _MANY:
            self.save()
        return found

    def marks(self) -> dict[str, list]:
        """Path -> (size, times, inode) of every file digested by this object, as it was then."""
        return dict(self._seen)

    def save(self) -> None:
        """Write the cache if anything was learnt; a folder that cannot be written is no error."""
        if not self._new:
            return
        try:
            write_text(self._cache, json.dumps(self._known))
        except Exception:  # planning on a read-only or full disk still works, only slower
            return
        self._new = False


def _mark(state: os.stat_result) -> list[int]:
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def changed_since(marks: dict[str, list]) -> list[str]:
    """Files that were written, replaced or removed since their marks were taken."""
    changed = []
    for path, mark in marks.items():
        try:
            now = _mark(os.stat(path))
        except OSError:
            now = []
        if now != mark:
            changed.append(path)
    return changed


def _digest_file(path: Path) -> str:
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return "missing"


class Content:
    """Digests of one dataset.

    Args:
        reader: a dataset reader (``ids``, ``sources``), or ``None`` while the workflow has yet to make the dataset.
        files: the digest cache.
        provenance: digest of what makes the dataset, when the workflow makes it.
        manifest: the list written when it was made: ``{"files": {relative path: digest}, "ids": {split: [...]}}``.
        root: folder the manifest's paths are relative to.
    """

    def __init__(
        self, reader, files: FileDigests, *, provenance: str = "", manifest: dict | None = None, root: Path = Path()
    ):
        self._reader = reader
        self._files = files
        self._provenance = provenance
        self._manifest = manifest or {}
        self._root = root
        self._known: dict[tuple, str] = {}
        self._sources: dict[str, Any] = {}
        self._digests: dict[tuple[str, str], dict[str, Any]] = {}

    def digest(self, split: str, facets: tuple[str, ...], shard: tuple[int, int] | None = None) -> str:
        """Digest of a split's (or a shard's) facets; equal exactly when ids and file contents are equal."""
        asked = (split, tuple(facets), shard)
        if asked not in self._known:  # several keys ask for the same
            self._known[asked] = self._digest(*asked)
        return self._known[asked]

    def _digest(self, split: str, facets: tuple[str, ...], shard: tuple[int, int] | None) -> str:
        made = digest(["made", self._provenance, split, sorted(facets), shard])
        if self._reader is None:
            return made
        per_facet = {facet: self._facet(split, facet) for facet in facets}
        ids = [item for item in self._reader.ids(split) if shard is None or shard_of(item, shard[1]) == shard[0]]
        if self._provenance and self._untouched(split, per_facet, set(ids)):
            return made
        parts = {
            facet: {
                "shared": value["shared"],
                "files": [[item, value["files"].get(item, [])] for item in sorted(ids)],
                **value["names"],
            }
            for facet, value in per_facet.items()
        }
        return digest(["content", split, parts])

    def checked(self, split: str) -> str:
        """Digest of all that the check of a split looks at: its own files and the photos it must not share."""
        others = self._reader.opponents(split) if self._reader else []
        made = digest(["made", self._provenance, split, "checked"])
        if self._reader is None:
            return made
        if self._provenance and self._is_made(split, ALL) and all(self._is_made(item, ("images",)) for item in others):
            return made
        return digest([self.digest(split, ALL), *(self.digest(item, ("images",)) for item in others)])

    def places(self, split: str) -> str:
        """Digest of where a split's files are. It decides the catalog, which stores paths, and nothing else."""
        if self._provenance or self._reader is None:
            return ""
        files = {facet: sorted(self._facet(split, facet)["paths"].items()) for facet in ("images", "masks")}
        return digest(
            {facet: [[name, [str(path) for path in paths]] for name, paths in found] for facet, found in files.items()}
        )

    def _is_made(self, split: str, facets: tuple[str, ...]) -> bool:
        return self._untouched(
            split, {facet: self._facet(split, facet) for facet in facets}, set(self._reader.ids(split))
        )

    def _facet(self, split: str, facet: str) -> dict[str, Any]:
        if (split, facet) not in self._digests:
            if split not in self._sources:  # one listing for all facets
                self._sources[split] = self._reader.sources(split)
            sources = self._sources[split]
            per_image: dict[str, tuple[Path, ...]] = getattr(sources, facet)
            shared = tuple(sources.shared.get(facet, ()))
            found = self._files.of([*shared, *(path for paths in per_image.values() for path in paths)])
            self._digests[split, facet] = {
                "shared": [found[path] for path in shared],
                "files": {item: [found[path] for path in paths] for item, paths in per_image.items()},
                "paths": dict(per_image),
                "shared_paths": shared,
                "names": {"names": [path.name for path in shared]} if facet in sources.named else {},
            }
        return self._digests[split, facet]

    def _untouched(self, split: str, per_facet: dict[str, dict], ids: set[str]) -> bool:
        known = self._manifest.get("files", {})
        if sorted(self._manifest.get("ids", {}).get(split, [])) != sorted(self._reader.ids(split)):
            return False
        for value in per_facet.values():
            pairs = list(zip(value["shared_paths"], value["shared"], strict=True))
            for item in ids:
                pairs += zip(value["paths"].get(item, ()), value["files"].get(item, ()), strict=True)
            if any(known.get(os.path.relpath(path, self._root)) != found for path, found in pairs):
                return False
        return True


def write_manifest(folder: Path, ids: dict[str, list[str]]) -> None:
    """Record every file of a dataset that the workflow made, as ``manifest.json`` in its folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) * 2)) as pool:
        files = dict(zip((str(path.relative_to(folder)) for path in paths), pool.map(_digest_file, paths), strict=True))
    write_text(folder / MANIFEST, json.dumps({"files": files, "ids": ids}, sort_keys=True))


def read_manifest(folder: Path) -> dict | None:
    """The manifest of a made dataset, or ``None`` while there is none."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

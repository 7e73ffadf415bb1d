"""Keys: a digest of everything that decides a result, so that a path can never name a stale one.

The code part of a key is the syntax trees of the stage's script and of every camflow module it reaches by import,
without comments, docstrings and layout. ``camflow.plan`` is left out: it decides what runs, never what is computed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LENGTH = 8
PACKAGE = Path(__file__).resolve().parent.parent
BOOKKEEPING = "camflow.plan"


def canonical(value: Any) -> str:
    """JSON text in which equal values are equal: sorted keys, and a whole-number float written as an integer."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if type(value) is str:  # nearly all there is in the list of a large dataset
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def digest(value: Any) -> str:
    """Hexadecimal digest of any JSON-able value; ``LENGTH`` characters of it make a key."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def short(value: Any) -> str:
    """The key of a JSON-able value."""
    return digest(value)[:LENGTH]


# --- code ------------------------------------------------------------------------------------------------------------


def code_digests(roots: Iterable[str | Path], package: Path = PACKAGE) -> dict[str, str]:
    """Digest of every file in the import closure of ``roots``.

    Args:
        roots: scripts (paths) or modules (dotted names); a module chosen by name at run time must be named here.
        package: folder of the ``camflow`` package.

    Returns:
        module name (or script file name) -> digest of its syntax tree.
    """
    found: dict[str, str] = {}
    tried: set[str] = set()
    queue = [_locate(root, package) for root in roots]
    while queue:
        name, path = queue.pop()
        if name in found:
            continue
        state = path.stat()
        found[name], imports = _read_module(path, name, state.st_mtime_ns, state.st_ino, state.st_size)
        queue.extend(_modules(imports, package, tried))
    return dict(sorted(found.items()))


def _locate(root: str | Path, package: Path) -> tuple[str, Path]:
    if isinstance(root, Path):
        return root.name, root
    path = _module_path(root, package)
    if path is None:
        raise ModuleNotFoundError(f"no module {root} under {package}")
    return root, path


def _module_path(name: str, package: Path) -> Path | None:
    # Text, since a plan asks this some hundred thousand times.
    base = f"{package.parent}{os.sep}{name.replace('.', os.sep)}"
    for candidate in (f"{base}.py", f"{base}{os.sep}__init__.py"):
        if os.path.isfile(candidate):
            return Path(candidate)
    return None


def _modules(imports: Iterable[str], package: Path, tried: set[str]) -> Iterator[tuple[str, Path]]:
    """The package's own modules among dotted names, each with the packages above it (their ``__init__`` runs too).

    Names in ``tried`` are passed over, and those that are looked up now are added to it.
    """
    for dotted in imports:
        parts = dotted.split(".")
        if parts[0] != package.name or dotted == BOOKKEEPING or dotted.startswith(BOOKKEEPING + "."):
            continue
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            if name in tried:
                continue
            tried.add(name)
            path = _module_path(name, package)
            if path is not None:
                yield name, path


@functools.lru_cache(maxsize=4096)
def _read_module(path: Path, name: str, *_state: int) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    is_package = path.name == "__init__.py"
    imports = tuple(sorted(set(_imports(tree, name, is_package))))
    text = "\n".join(_tokens(_without_docstrings(tree)))
    return hashlib.sha256(text.encode()).hexdigest(), imports


def _imports(tree: ast.AST, name: str, is_package: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join([*parts[:keep], *([node.module] if node.module else [])])
            yield base
            # `from package import name` may name a module; _modules drops what is none.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return tree


def _tokens(node: Any) -> Iterator[str]:
    """A syntax tree as text that is the same on every Python version: empty fields are left out.

    ``ast.dump`` is not used because what it prints for empty fields changed between versions.
    """
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for field, value in ast.iter_fields(node):
            if value is None or value == [] or field in ("kind", "ctx", "type_comment"):
                continue
            yield field
            yield from _tokens(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _tokens(item)
        yield "]"
    else:
        yield f"{type(node).__name__}:{node!r}"

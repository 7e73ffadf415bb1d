"""Networks as files: atomic, checked by digest, equal bytes for equal weights and facts.

Layout: ``torch.save`` of {format, spec (JSON), state_dict}, where
the spec holds the arguments that rebuild the network, the class names, facts and a digest of the weights.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from camflow.errors import ConfigError, StoreError
from camflow.store import atomic_path

Network = TypeVar("Network", bound=nn.Module)
PREFIX = "camflow-"


def save_network(
    path: str | Path,
    model: nn.Module,
    *,
    kind: str,
    class_names: Sequence[str] = (),
    meta: dict[str, Any] | None = None,
) -> None:
    """Write a network atomically.

    Args:
        path: the target.
        model: any device, any memory format; ``model.spec`` are the JSON-able arguments that rebuild it.
        kind: what it is, e.g. ``seam``; part of the format's name, so that no file passes for another kind.
        class_names: classes the network was trained on, empty if it knows none.
        meta: JSON-able facts (parameters, metrics).

    Raises:
        ConfigError: as many names as ``model.n_classes`` do not stand there.
    """
    n_classes = getattr(model, "n_classes", len(class_names))
    if len(class_names) != n_classes:
        raise ConfigError(f"{len(class_names)} class names for a network of {n_classes} classes")
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    spec = {
        "network": model.spec,
        "class_names": list(class_names),
        "meta": meta or {},
        "sha256": state_digest(state),
    }
    buffer = io.BytesIO()  # torch writes the file's own name into an archive, which a temporary name would change
    torch.save({"format": format_of(kind), "spec": json.dumps(spec, sort_keys=True), "state_dict": state}, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


@dataclass(frozen=True)
class Content:
    """What a file holds: the name of its format, the spec and the weights, not yet checked against their digest."""

    path: Path
    format: str
    spec: dict[str, Any]
    state: dict[str, torch.Tensor]

    def rebuild(self, build: Callable[..., Network], device: str | torch.device = "cpu") -> Network:
        """The network in eval mode with its ``class_names`` and ``meta``; ``build`` is called with the spec's arguments.

        Raises ``StoreError`` when the weights were altered.
        """
        if state_digest(self.state) != self.spec["sha256"]:
            raise StoreError(self.path, "is corrupt (its weights do not match their checksum); delete it and run again")
        model = build(**self.spec["network"])
        model.load_state_dict(self.state)
        model.class_names, model.meta = self.spec["class_names"], self.spec["meta"]
        return model.eval().to(device)


def read_content(path: str | Path, what: str) -> Content:
    """Read a file of ``save_network``; ``what`` names it in messages. Raises ``StoreError``: missing or torn."""
    path = Path(path)
    if not path.is_file():
        raise StoreError(path, "is missing; ask Snakemake for it again")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = str(content.get("format"))
        if not found.startswith(PREFIX):  # of another program
            return Content(path, found, {}, {})
        return Content(path, found, json.loads(content["spec"]), content["state_dict"])
    except Exception as error:  # torch raises many types for a bad file
        raise StoreError(
            path, f"is not a whole {what} file ({type(error).__name__}); delete it and run again"
        ) from error


def load_network(
    path: str | Path, build: Callable[..., Network], *, kind: str, device: str | torch.device = "cpu"
) -> Network:
    """Read a network in eval mode, with its ``class_names`` and ``meta``.

    Args:
        path: a file of ``save_network``.
        build: called with the spec's arguments; returns the network with any weights.
        kind: what the file must hold.
        device: where the network goes.

    Raises:
        StoreError: the file is missing, torn, altered or of another kind.
    """
    content = read_content(path, f"{kind} network")
    if content.format != format_of(kind):
        raise StoreError(
            content.path, f"is no {kind} network (its format is '{content.format}', wanted '{format_of(kind)}')"
        )
    return content.rebuild(build, device)


def format_of(kind: str) -> str:
    """The name of the format that files of a kind carry."""
    return f"{PREFIX}{kind}/1"


def state_digest(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state dict of CPU tensors."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()

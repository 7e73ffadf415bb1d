"""Initial weights of a vision transformer with several class tokens, from a network that has one.

The public DeiT checkpoints (and timm's plain vision transformers) name their parameters as ``VisionTransformer`` does.
What differs: one class token and one class position, which every class starts from; a linear head, which is dropped;
and a position embedding for another grid, which is resized as it is for photos of another size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from camflow.errors import ConfigError
from camflow.models.vit import VisionTransformer, resize_positions
from camflow.models.weights import read_weights, require_fit

HEADS = ("head.", "head_dist.")


def load_transformer_weights(model: VisionTransformer, backbone: str, weights: str) -> None:
    """Fill a transformer in place; its head keeps the weights it has.

    Args:
        model: the network; every name outside ``head.`` is trunk.
        backbone: its name, for releases and messages.
        weights: ``none``, the path of a state dict (a DeiT checkpoint, whose weights lie under ``model``, or a bare
            one), or for a network of timm ``pretrained``.

    Raises:
        ConfigError: the file is missing or no state dict, or names and shapes do not fit; the message lists them.
    """
    if weights == "none":
        return
    given = from_one_token(read_weights(backbone, weights), model)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    require_fit(own, given, f"weights '{weights}' for backbone '{backbone}'", whole=True)
    model.load_state_dict({**model.state_dict(), **given})


def from_one_token(state: Mapping[str, torch.Tensor], model: VisionTransformer) -> dict[str, torch.Tensor]:
    """Turn the state dict of a transformer with one class token into one for C of them, without a head.

    A state dict that has C of them already comes back without its head.

    Raises:
        ConfigError: a distilled network, whose second token has no counterpart, or positions that are no square.
    """
    if "dist_token" in state:
        raise ConfigError("the weights are of a distilled transformer, which has a second token; take the plain one")
    given = {name: value for name, value in state.items() if not name.startswith(HEADS)}
    count, shape = model.n_tokens, model.shape
    token, positions = given.get("cls_token"), given.get("pos_embed")
    if token is None or positions is None or token.ndim != 3 or positions.ndim != 3:
        return given  # what is missing is told by name
    have = token.shape[1]
    patches = positions[:, have:]
    side = round(patches.shape[1] ** 0.5)
    if side**2 != patches.shape[1]:
        raise ConfigError(f"the weights have {patches.shape[1]} positions of patches, which form no square")
    patches = resize_positions(patches, (shape.cells, shape.cells))
    own = positions[:, :have]
    if have == 1:
        token, own = token.expand(1, count, -1), own.expand(1, count, -1)
    return {**given, "cls_token": token.clone(), "pos_embed": torch.cat([own, patches], dim=1)}

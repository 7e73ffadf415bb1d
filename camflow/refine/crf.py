"""Fully connected CRF: Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011, through the authors' library (pydensecrf).

Energy of a labelling x of the pixels (eq. 1), i and j over all pairs of pixels:

    E(x) = sum_i psi_u(x_i) + sum_{i<j} mu(x_i, x_j) [ w1 exp(-|p_i-p_j|^2 / 2 sxy_b^2 - |I_i-I_j|^2 / 2 srgb^2)
                                                     + w2 exp(-|p_i-p_j|^2 / 2 sxy_g^2) ]                 (eq. 3)

with p in pixels, I in grey levels, Potts mu, w1 = ``bilateral_compat`` and w2 = ``gaussian_compat``. Mean field is
iterated ``iterations`` times; the result is the marginal distribution Q of every pixel.

Only the present classes and the background enter: K+1 labels instead of C+1 are many times faster, and classes that are
known to be absent cannot win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from pydensecrf.densecrf import DenseCRF2D

from camflow.errors import ConfigError, did_you_mean
from camflow.refine.driver import Refined, class_ids
from camflow.refine.threshold import winners

UNARIES = ("labels", "probabilities")
CLIP = 1e-5  # least probability whose logarithm is taken, as in the library's unary_from_softmax


@dataclass(frozen=True)
class CrfParams:
    """Parameters of the CRF; the defaults are IRN's.

    Attributes:
        unary: ``labels``: the thresholded seed, each pixel's label being right with probability ``gt_prob``;
            ``probabilities``: the scores [background, maps] themselves.
        gt_prob: for ``labels``; the other K labels share the rest.
        alpha: for ``probabilities``: None takes the constant threshold as background score, a number takes
            (1 - max_c map_c)^alpha (PSA; the threshold is then not used). Small alpha means much background.
        gaussian_sxy, gaussian_compat: smoothness kernel, pixels and weight.
        bilateral_sxy, bilateral_srgb, bilateral_compat: appearance kernel, pixels, grey levels and weight.
        iterations: of mean field.
    """

    unary: str = "labels"
    gt_prob: float = 0.7
    alpha: float | None = None
    gaussian_sxy: float = 3
    gaussian_compat: float = 3
    bilateral_sxy: float = 50
    bilateral_srgb: float = 5
    bilateral_compat: float = 10
    iterations: int = 10

    def __post_init__(self):
        if self.unary not in UNARIES:
            raise ConfigError(f"crf: unknown unary '{self.unary}'{did_you_mean(self.unary, UNARIES)}")
        if not 0 < self.gt_prob < 1:
            raise ConfigError(f"crf: gt_prob lies strictly between 0 and 1, not {self.gt_prob}")
        if min(self.gaussian_sxy, self.bilateral_sxy, self.bilateral_srgb) <= 0 or self.iterations < 1:
            raise ConfigError("crf: sxy, srgb and iterations are above 0")
        if self.alpha is not None and self.alpha <= 0:
            raise ConfigError(f"crf: alpha is above 0, not {self.alpha}")
        if self.alpha is not None and self.unary != "probabilities":
            raise ConfigError("crf: alpha needs unary: probabilities (labels are cut at the threshold)")


_SOFT = CrfParams(unary="probabilities")

# Where each set was published. Compare only scores made with the same set: they differ by points.
PUBLISHED: dict[str, CrfParams] = {
    # IRN (CVPR 2019), also AdvCAM's and LPCAM's confident labels: hard labels.
    "irn": CrfParams(),
    # PSA (CVPR 2018) and SEAM: alpha 4 for sure foreground, 24 for sure background (PSA's released code: 32).
    "psa": replace(_SOFT, alpha=24.0, bilateral_sxy=80, bilateral_srgb=13),
    # DeepLab-LargeFOV (ICLR 2015), two published choices; L2G uses the second.
    "deeplab_v1": replace(_SOFT, bilateral_sxy=140, bilateral_compat=5),
    "deeplab_v1_alt": replace(_SOFT, bilateral_sxy=121, bilateral_compat=4),
    # The PyTorch DeepLab-v2 that AdvCAM and LPCAM train; also the "+CRF" column of AdvCAM's table 1.
    "deeplab_v2": replace(_SOFT, gaussian_sxy=1, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4),
    # MCTformer's segmentation network at test time.
    "mctformer": replace(_SOFT, gaussian_sxy=4, bilateral_sxy=83, bilateral_srgb=5, bilateral_compat=3),
}


def crf_params(preset: str = "irn", **overrides: Any) -> CrfParams:
    """A published parameter set, some of it replaced. Raises ``ConfigError`` for a name that is not published."""
    if preset not in PUBLISHED:
        raise ConfigError(f"crf: unknown preset '{preset}'{did_you_mean(preset, PUBLISHED)}")
    if overrides.get("unary") == "labels":
        overrides.setdefault("alpha", None)  # the soft presets' alpha has no meaning there
    return replace(PUBLISHED[preset], **overrides)


def params_from_config(entry: Mapping[str, Any]) -> CrfParams:
    """The parameters of a config entry: its preset, with the keys that the entry gives replaced."""
    names = {field.name for field in fields(CrfParams)}
    return crf_params(entry["preset"], **{key: value for key, value in entry.items() if key in names})


# --- unary energies --------------------------------------------------------------------------------------------------


def unary_from_labels(labels: np.ndarray, n_labels: int, gt_prob: float) -> np.ndarray:
    """Energies (L, N) float32 of a hard label map: -log(gt_prob) for its label, -log((1-gt_prob)/(L-1)) for others.

    Label 0 is the background like any other (the library's zero_unsure=False). L is at least 2.
    """
    flat = np.asarray(labels).reshape(-1)
    energy = np.full((n_labels, flat.size), -np.log((1 - gt_prob) / (n_labels - 1)), np.float32)
    energy[flat, np.arange(flat.size)] = -np.log(gt_prob)
    return energy


def unary_from_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Energies (L, N) float32 = -log(p), p clipped to [1e-5, 1]; the scores need not sum to one."""
    clipped = np.clip(probabilities, CLIP, 1)
    return -np.log(clipped).reshape(len(clipped), -1).astype(np.float32)


def background_score(maps: np.ndarray, alpha: float) -> np.ndarray:
    """PSA's background (H, W): (1 - max_c map_c)^alpha, for maps (K, H, W) in [0, 1]."""
    return (1 - maps.max(axis=0)) ** alpha


def seed_unary(maps: np.ndarray, threshold: float, params: CrfParams) -> np.ndarray:
    """Energies (K+1, N) of max-normalised maps (K, H, W), background first."""
    if params.unary == "labels":
        return unary_from_labels(winners(maps, threshold), len(maps) + 1, params.gt_prob)
    if params.alpha is None:
        background = np.full(maps.shape[1:], threshold, maps.dtype)
    else:
        background = background_score(maps, params.alpha)
    return unary_from_probabilities(np.concatenate([background[None], maps]))


# --- inference -------------------------------------------------------------------------------------------------------


def dense_crf_many(image: np.ndarray, unaries: Sequence[np.ndarray], params: CrfParams) -> list[np.ndarray]:
    """Marginals (L, H, W) float32 for several unaries (L, H*W) of one image, all with the same L.

    The kernels depend on the image only, and building their lattices takes about as long as the inference, so they are
    built once; the results equal separate runs bit for bit.

    Args:
        image: uint8 RGB (H, W, 3).
        unaries: energies of ``unary_from_labels`` or ``unary_from_probabilities``.
        params: kernels and iterations.
    """
    image = np.ascontiguousarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a uint8 (H, W, 3) photo is needed, not {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    count = len(unaries[0])
    crf = DenseCRF2D(width, height, count)
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy, srgb=params.bilateral_srgb, rgbim=image, compat=params.bilateral_compat
    )
    marginals = []
    for unary in unaries:
        crf.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
        marginals.append(np.array(crf.inference(params.iterations), np.float32).reshape(count, height, width))
    return marginals


def dense_crf(image: np.ndarray, unary: np.ndarray, params: CrfParams) -> np.ndarray:
    """Marginals (L, H, W) float32 of one unary (L, H*W); see ``dense_crf_many``."""
    return dense_crf_many(image, [unary], params)[0]


def crf_labels(
    photo: Callable[[], np.ndarray], maps: np.ndarray, classes: np.ndarray, threshold: float, params: CrfParams
) -> Refined:
    """Refiner ``crf``: the arg-max of the marginals as class ids, and that marginal as confidence."""
    marginals = dense_crf(photo(), seed_unary(maps, threshold, params), params)
    return Refined(class_ids(marginals.argmax(axis=0), classes), marginals.max(axis=0))

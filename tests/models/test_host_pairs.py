"""Every host has the one interface, and every pair of classifier and localizer that the plan lets through makes maps.

What goes with what is asked of the plan, which reads it in the schemas; a method that is new there needs a line in
``build`` or ``RUN`` here.
"""

import itertools
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml

from camflow.errors import RecipeError
from camflow.localize.advcam import AdvCamParams, extract_advcams
from camflow.localize.amn import AmnMapParams, extract_amn_maps
from camflow.localize.cam import CamParams, extract_cams
from camflow.localize.ensemble import ensemble_maps
from camflow.localize.erasing import ErasingParams, write_fused
from camflow.localize.extract import normalisation_table, to_views
from camflow.localize.lpcam import LpcamParams, class_vectors, extract_lpcams
from camflow.localize.maps import full_size_maps, read_seed
from camflow.localize.masker import MaskerParams, extract_masker_maps
from camflow.localize.mctformer import MctFormerMapParams, extract_mctformer_maps
from camflow.localize.prototypes import PrototypeParams, cluster_class, collect
from camflow.localize.seam import SeamMapParams, extract_seam_maps
from camflow.models.amn import build_amn, save_amn
from camflow.models.classifier import build_classifier, load_classifier, save_classifier
from camflow.models.host import TAPS, Host, LabelConditioned, given_labels, linear_scorer
from camflow.models.masker import build_masker, save_masker
from camflow.models.mctformer import architecture_of, build_mctformer, save_mctformer
from camflow.models.seam import build_seam, save_seam
from camflow.plan.config import methods
from camflow.plan.plan import Plan
from camflow.store import Store, StoreWriter
from camflow.temporal.cam import ProposalParams, localize_sequences
from camflow.temporal.network import build_temporal
from camflow.train.classify import PlainParams
from camflow.train.hiding import stop_hiding
from tests.localize.photos import CLASSES, Photos

SEQUENCES = "temporal"
TINY = {"width": 4, "seed": 3}
ONE = {"scales": (1.0,)}


class Few(Photos):
    """Three photos of 40x56, 33x47 and 40x56 pixels, with two, one and one of the classes 0 and 2; a fourth has none."""

    LABELS: ClassVar = {"i03": (0, 2), "i01": (2,), "i06": (0,), "i00": ()}

    def __init__(self):
        super().__init__(0, sorted(self.LABELS))

    def label(self, image_id):
        return np.isin(np.arange(len(CLASSES)), self.LABELS[image_id]).astype(np.uint8)


def real(section):
    """Names of the methods of a section that make something."""
    return [name for name, entry in methods(section).items() if not entry.get("x-virtual")]


# `import` reads no network, tests/localize/test_imported.py.
LOCALIZERS = [name for name in real("localizers") if name != "import"]
HOSTS = [*(name for name in real("classifiers") if name != SEQUENCES), "has"]


def build(method):
    """An untrained network of a classifier method, and what writes it."""
    if method in ("plain", "adversarial_erasing"):  # rounds of erasing train plain networks
        return build_classifier("tiny", len(CLASSES), **TINY), save_classifier
    if method == "has":
        params = PlainParams(
            backbone="tiny", weights="none", output_stride=None, freeze_bn=False, freeze_stem=False, detach="none",
            hide_layer={"sizes": [2]}, **TINY,
        )  # fmt: skip
        model = params.build(len(CLASSES))
        stop_hiding(model)
        return model, save_classifier
    if method == "seam":
        return build_seam("tiny", len(CLASSES), **TINY), save_seam
    if method == "casm":
        return build_masker(build_classifier("tiny", len(CLASSES), **TINY), seed=4), save_masker
    if method == "amn":
        return build_amn("tiny", len(CLASSES), rates=(1, 2), freeze_bn=False, **TINY), save_amn
    if method == "mctformer":
        model = build_mctformer(len(CLASSES), architecture_of("small", width=12, depth=3, heads=2))
        with torch.no_grad():
            model.blocks[-1].attn.qkv.weight.mul_(30)  # fresh attention is the same everywhere
        return model, save_mctformer
    pytest.fail(f"classifier method '{method}' is new: say here how its network is built")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A host as recipes read it: from its file."""
    known = {}

    def load(method):
        if method not in known:
            model, save = build(method)
            path = tmp_path_factory.mktemp(method) / "classifier.pt"
            save(path, model.eval(), class_names=CLASSES)
            known[method] = load_classifier(path)
        return known[method]

    return load


# --- the interface ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", HOSTS)
def test_interface(network, method):
    model = network(method)
    host = given_labels(model, [np.array([0, 2])] * 2)
    assert isinstance(host, Host) and list(host.class_names) == CLASSES
    assert isinstance(model, LabelConditioned) == (method == "amn") and (host is model) == (method != "amn")
    x = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0)).requires_grad_()
    features, maps, logits = host.features(x), host.score_maps(x), host(x)
    grid = tuple(-(-n // host.stride) for n in x.shape[2:])
    assert features.shape[2:] == maps.shape[2:] == grid
    assert maps.shape[:2] == (2, len(CLASSES)) and logits.shape == (2, len(CLASSES))
    assert host.pool(features).shape == (*features.shape[:2], 1, 1)
    assert host.head.weight.shape[:2] == (len(CLASSES), features.shape[1])
    for score in (maps[0, 2].sum(), logits[0, 2]):
        (gradient,) = torch.autograd.grad(score, x, retain_graph=True)
        assert gradient[0].abs().max() > 0 and not gradient[1].any()  # each image has its own


@pytest.mark.parametrize("method", HOSTS)
def test_one_vector_scored_by_itself(network, method):
    """The score maps of a grid whose cells are all one vector, away from its border, and of one cell among zeros."""
    model = network(method)
    apply = model.aspp if method == "amn" else model.head
    vector = torch.randn(1, model.head.weight.shape[1], 1, 1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        everywhere = vector.expand(1, -1, 11, 11)
        alone = torch.nn.functional.pad(vector, (5, 5, 5, 5))
        first = apply(alone).shape[1] - len(CLASSES)  # the background, where there is one
        wanted = {"sum": apply(everywhere), "centre": apply(alone)}
        for taps in TAPS:
            weight, bias = linear_scorer(model.head, taps)
            found = weight @ vector.flatten() + (0 if bias is None else bias)
            if taps in wanted:
                torch.testing.assert_close(found, wanted[taps][0, first:, 5, 5])
            else:
                count = model.head.weight[0, 0].numel()
                torch.testing.assert_close(weight * count, linear_scorer(model.head, "sum")[0])


def test_images_of_different_classes_are_not_mixed_up(network):
    with pytest.raises(ValueError, match="one by one"):
        given_labels(network("amn"), [np.array([0]), np.array([1])])
    plain = network("plain")
    assert given_labels(plain, [np.array([0]), np.array([1])]) is plain


# --- pairs -----------------------------------------------------------------------------------------------------------

CONFIG = {
    "recipes": ["parts/plain/cam"],
    "datasets": {"parts": {"format": "parts"}, "sequences": {"format": "sequences"}},
    "classifiers": {name: {"method": name} for name in real("classifiers")}
    | {"amn": {"method": "amn", "labels": "plain/cam/confident"}},
    "localizers": {name: {"method": name} for name in LOCALIZERS}
    | {"ensemble": {"method": "ensemble", "members": ["plain/cam"]}},
    "refiners": {"confident": {"method": "confident"}},
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return Plan.load([path])


def pairs():
    return list(itertools.product(real("classifiers"), LOCALIZERS))


def checked(plan, classifier, localizer):
    """None where the plan lets a pair through, else its objection."""
    try:
        plan.check(("sequences" if classifier == SEQUENCES else "parts", classifier, localizer))
    except RecipeError as error:
        return str(error)
    return None


def run_lpcam(model, catalog, writer, folder):
    masks = write(model, catalog, folder / "masks.h5", run_cam)
    params = PrototypeParams(clusters=2, init="kmeans++", tolerance_rule="unit", tolerance=1e-3)
    found = [cluster_class(model, catalog, masks, index, params) for index in range(len(CLASSES))]
    selection = LpcamParams(**ONE)
    extract_lpcams(model, catalog, selection, writer, class_vectors(found, selection))


def run_cam(model, catalog, writer, folder):
    extract_cams(model, catalog, CamParams(**ONE), writer)


def run_amn(model, catalog, writer, folder):
    with StoreWriter(folder / "labels.h5", stage="masks") as labels:
        for image_id in catalog.ids:
            labels.write(image_id, np.resize(np.array([0, 255, 1], np.uint8), catalog.size(image_id)))
    extract_amn_maps(model, catalog, AmnMapParams(), writer, Store(folder / "labels.h5", stage="masks"))


def run_ensemble(model, catalog, writer, folder):
    ensemble_maps([write(model, catalog, folder / f"{n}.h5", run_cam) for n in range(2)], catalog, writer)


RUN = {
    "cam": run_cam,
    "advcam": lambda m, c, w, _: extract_advcams(m, c, AdvCamParams(steps=2, **ONE), w),
    "lpcam": run_lpcam,
    "seam": lambda m, c, w, _: extract_seam_maps(m, c, SeamMapParams(**ONE), w),
    "amn": run_amn,
    "mctformer": lambda m, c, w, _: extract_mctformer_maps(m, c, MctFormerMapParams(), w),
    "erasing": lambda m, c, w, _: write_fused(m, c, None, None, ErasingParams(**ONE), w),
    "masker": lambda m, c, w, _: extract_masker_maps(m, c, MaskerParams(), w),
    "ensemble": run_ensemble,
}


def write(model, catalog, path, run):
    with StoreWriter(path, stage="maps", class_names=catalog.class_names) as writer:
        run(model, catalog, writer, path.parent)
    return Store(path, stage="maps")


@pytest.mark.parametrize(("classifier", "localizer"), pairs(), ids=["/".join(pair) for pair in pairs()])
def test_pair(plan, network, tmp_path, classifier, localizer):
    objection = checked(plan, classifier, localizer)
    if objection is not None:
        missing = set(methods("localizers")[localizer]["x-needs"]) - set(
            methods("classifiers")[classifier]["x-provides"]
        )
        dataset = "sequences" if classifier == SEQUENCES else "parts"
        assert missing and objection.startswith(
            f"{dataset}/{classifier}/{localizer}: localizer '{localizer}' (method {localizer}) needs "
            f"{', '.join(sorted(missing))}, which {dataset} and {classifier} does not provide. What fits here: "
        )
        fitting = objection.partition("What fits here: ")[2].rstrip(".").split(", ")
        assert fitting == sorted(name for name in LOCALIZERS if checked(plan, classifier, name) is None)
        return
    if classifier == SEQUENCES:
        return localize_a_video(tmp_path)
    assert localizer in RUN, f"localizer method '{localizer}' is new: say in RUN how it is run"
    catalog, model = Few(), network(classifier)
    store = write(model, catalog, tmp_path / "maps.h5", RUN[localizer])
    assert store.ids == catalog.ids
    seen = 0.0
    for image_id in catalog.ids:
        seed, classes = read_seed(store, image_id), np.flatnonzero(catalog.label(image_id))
        assert np.array_equal(seed.classes, classes) and seed.size == catalog.size(image_id)
        maps = full_size_maps(seed)
        assert maps.shape == (len(classes), *catalog.size(image_id))
        assert np.isfinite(maps).all() and (maps >= 0).all() and (maps <= 1).all()
        seen = max(seen, maps.max(initial=0))
    assert seen > 0.4  # one class of one image at least is somewhere; most maps reach 1
    return None


def localize_a_video(folder: Path):
    rng = np.random.default_rng(0)
    with StoreWriter(folder / "videos.h5", stage="sequences", class_names=["run"]) as writer:
        writer.write("v", rng.standard_normal((30, 6)).astype(np.float32), classes=np.array([0]), duration=30.0)
    model = build_temporal(6, 1, width=4).eval()
    with StoreWriter(folder / "found.h5", stage="proposals") as writer:
        localize_sequences(model, Store(folder / "videos.h5"), ProposalParams(threshold=0.0), writer)
    found = Store(folder / "found.h5").read("v")
    assert found.shape[1] == 4 and (found[:, 1] < found[:, 2]).all() and set(found[:, 0]) <= {0.0}


def test_what_a_label_conditioned_network_sees_is_the_photo_and_its_labels(network, tmp_path):
    """CAM on AMN, photo by photo, against the network called by hand."""
    catalog, model = Few(), network("amn")
    store = write(model, catalog, tmp_path / "maps.h5", run_cam)
    table = normalisation_table(model.mean, model.std)
    for image_id, classes in catalog.LABELS.items():
        if not classes:
            continue
        views = to_views(torch.from_numpy(catalog.image(image_id).copy())[None], table, True)[0]
        labels = torch.from_numpy(catalog.label(image_id)).float()[None].expand(2, -1)
        with torch.no_grad():
            maps = model(views, labels)[:, 1:].relu()
        wanted = (maps[0] + maps[1].flip(-1))[list(classes)]
        found = read_seed(store, image_id).maps[0]
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3 * float(wanted.max()))


def test_what_is_clustered_are_features_of_the_photo_and_its_labels(network, tmp_path):
    catalog, model = Few(), network("amn")
    masks = write(model, catalog, tmp_path / "maps.h5", run_cam)
    table = normalisation_table(model.mean, model.std)
    sides = collect(model, catalog, masks, 2, PrototypeParams(tau=0.3))
    assert sum(len(side.rows) for side in sides) > 20
    for side in sides:
        assert {side.ids[n] for n in np.unique(side.where[:, 0])} <= {"i01", "i03"}
        for row, (image, y, x) in zip(side.rows, side.where, strict=True):
            image_id = side.ids[image]
            view = to_views(torch.from_numpy(catalog.image(image_id).copy())[None], table, False)[0]
            labels = torch.from_numpy(catalog.label(image_id)).float()[None]
            with torch.no_grad():
                wanted = model.net.features(view) * model.label_enc(labels)[..., None, None]
            torch.testing.assert_close(row, wanted[0, :, y, x], rtol=1e-4, atol=1e-5)

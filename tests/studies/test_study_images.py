"""What all studies share: which images are drawn, and how they are shown."""

import numpy as np
import pytest
import torch

from camflow.data.sample import sample, sampled
from camflow.errors import DataError
from camflow.localize.extract import Views, rescale
from camflow.models.classifier import build_classifier
from camflow.studies.images import show_images
from tests.localize.photos import CLASSES, Photos

VIEWS = Views(scales=(1.0, 0.5), long_side=48)


@pytest.fixture(scope="module")
def model():
    return build_classifier("tiny", len(CLASSES), width=4, seed=3).eval()


def test_a_sample_is_sorted_and_decided_by_each_id_alone():
    ids = [f"photo {n}" for n in range(60)]
    few = sample(ids, 10)
    assert few == sorted(set(few)) and len(few) == 10 and set(few) <= set(ids)
    assert sample(ids[::-1], 10) == few
    assert set(sample(ids, 9)) < set(few)
    for left_out in ids:  # nobody else leaves when somebody does
        again = set(sample([i for i in ids if i != left_out], 10))
        assert set(few) - {left_out} <= again
    assert sample(ids[:3], 10) == ids[:3]
    assert sample([], 4) == []


def test_only_images_with_a_class_and_if_asked_a_mask_are_drawn():
    catalog = Photos(16)
    present = [i for i in catalog.ids if int(i[1:]) % 7]
    masked = [i for i in present if int(i[1:]) % 5 != 4]
    assert sampled(catalog, None) == present
    assert sampled(catalog, None, masks=True) == masked
    assert sampled(catalog, 4) == sample(present, 4)
    assert sampled(catalog, 4, masks=True) == sample(masked, 4)
    assert sampled(catalog, 99) == present


@pytest.mark.parametrize(("ids", "masks", "said"), [(["i00", "i07"], False, "has a class;"), (["i04"], True, "a mask")])
def test_nothing_to_study_is_said(ids, masks, said):
    with pytest.raises(DataError, match=f"split 'val' of 'toy' {'.*' if masks else ''}{said}"):
        sampled(Photos(0, ids), None, masks=masks)


def test_images_come_in_order_as_the_network_would_see_them(model):
    catalog, done = Photos(9), []
    runs = [
        list(
            show_images(model, catalog, catalog.ids, VIEWS, lambda shown: shown.views, workers=n, progress=done.append)
        )
        for n in (1, 4)
    ]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.mean, model.std))
    for found in runs:
        assert [shown.image_id for shown, _ in found] == [i for i in catalog.ids if i not in ("i00", "i07")]
        for shown, views in found:
            size = catalog.size(shown.image_id)
            assert shown.classes.tolist() == np.flatnonzero(catalog.label(shown.image_id)).tolist()
            assert (shown.size, shown.frame) == (size, tuple(round(n * 48 / max(size)) for n in size))
            for tensor, scale in zip(views, VIEWS.scales, strict=True):
                photo = rescale(catalog.image(shown.image_id), shown.frame, scale).copy()
                expected = (torch.from_numpy(photo).permute(2, 0, 1) / 255 - mean) / std
                torch.testing.assert_close(tensor[0, 0], expected)
                torch.testing.assert_close(tensor[0, 1], expected.flip(-1))
    assert done == [1] * 14


def test_weights_are_frozen_meanwhile_only(model):
    wanted = [p.requires_grad for p in model.parameters()]

    def work(shown):
        return any(p.requires_grad for p in model.parameters())

    assert [found for _, found in show_images(model, Photos(3), ["i01", "i02"], VIEWS, work)] == [False, False]
    assert [p.requires_grad for p in model.parameters()] == wanted and any(wanted)


def test_classes_of_another_dataset_are_refused():
    other = build_classifier("tiny", 3, width=4)
    with pytest.raises(DataError, match="3 classes"):
        list(show_images(other, Photos(3), ["i01"], VIEWS, lambda shown: None))

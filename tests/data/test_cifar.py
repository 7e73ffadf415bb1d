"""CIFAR as folders of classes, from small made archives in its own pickle format."""

import hashlib
import pickle

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from camflow.data.readers.base import make_reader
from camflow.data.readers.cifar import CifarParams, copy_cifar
from camflow.errors import ConfigError, DataError

CLASSES = {"cifar10": ["cat", "dog", "ship"], "cifar100": ["aquarium_fish", "ray"]}


def write_pickle(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=2))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(params=["cifar10", "cifar100"])
def archive(request, tmp_path, monkeypatch):
    """A made archive, whose checksums torchvision is told: (name, root, {split: (photos, labels)})."""
    name, rng = request.param, np.random.default_rng(5)
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder, classes = tmp_path / "root" / kind.base_folder, CLASSES[name]
    parts = {"train": 2 if name == "cifar10" else 1, "test": 1}
    content = {}
    for split, count in parts.items():
        files, photos, labels = [], [], []
        for part in range(count):
            batch = rng.integers(0, 256, (12, 3072), dtype=np.uint8)
            own = rng.permutation(np.arange(12) % len(classes)).tolist()
            key = "labels" if name == "cifar10" else "fine_labels"
            file = f"{split}_{part}"
            files.append([file, write_pickle(folder / file, {"data": batch, key: own})])
            photos.append(batch.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # planes of red, green, blue
            labels += own
        monkeypatch.setattr(kind, f"{split}_list", files)
        content[split] = np.concatenate(photos), labels
    meta = {kind.meta["key"]: classes}
    digest = write_pickle(folder / "meta.pkl", meta)
    monkeypatch.setattr(kind, "meta", {"filename": "meta.pkl", "key": kind.meta["key"], "md5": digest})
    return name, tmp_path / "root", content


def test_every_photo_is_under_its_class(archive, tmp_path):
    name, root, content = archive
    folder = copy_cifar(tmp_path / "copy", CifarParams(name, str(root)), progress=False)
    reader = make_reader({"format": "folder", "root": str(folder)}, name)
    assert reader.class_names == tuple(CLASSES[name])
    assert reader.splits == ("test", "train")
    for split, (photos, labels) in content.items():
        assert len(reader.ids(split)) == len(photos)
        for number, (photo, label) in enumerate(zip(photos, labels, strict=True)):
            record = reader.record(f"{CLASSES[name][label]}/{number:05d}", split)
            np.testing.assert_array_equal(np.asarray(Image.open(record.image)), photo)
            np.testing.assert_array_equal(record.labels, np.arange(len(CLASSES[name])) == label)


def test_held_out_photos_are_the_last_of_each_class(archive, tmp_path):
    name, root, content = archive
    folder = copy_cifar(tmp_path / "copy", CifarParams(name, str(root), val=2), progress=False)
    labels = np.array(content["train"][1])
    for c, kind in enumerate(CLASSES[name]):
        numbers = np.flatnonzero(labels == c)
        found = {s: sorted(int(p.stem) for p in (folder / s / kind).iterdir()) for s in ("train", "val")}
        assert found == {"train": numbers[:-2].tolist(), "val": numbers[-2:].tolist()}
        assert len(list((folder / "test" / kind).iterdir())) == content["test"][1].count(c)


def test_what_cannot_be_copied_is_named(archive, tmp_path):
    name, root, content = archive
    fewest = min(map(content["train"][1].count, range(len(CLASSES[name]))))
    with pytest.raises(ConfigError, match="without training photos"):
        copy_cifar(tmp_path / "copy", CifarParams(name, str(root), val=fewest), progress=False)
    with pytest.raises(DataError, match="set download: true"):
        copy_cifar(tmp_path / "copy", CifarParams(name, str(tmp_path / "nowhere")), progress=False)
    torn = next(path for path in root.rglob("test_0"))
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.raises(DataError, match="no whole"):
        copy_cifar(tmp_path / "copy", CifarParams(name, str(root)), progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]
    with pytest.raises(DataError, match="exists already"):
        copy_cifar(root, CifarParams(name, str(root)), progress=False)
    with pytest.raises(ConfigError, match="did you mean 'cifar10"):
        CifarParams("cifar11", str(root))

"""Assembly of VOC 2012 + SBD, from miniature archives on a local server."""

import functools
import hashlib
import http.server
import io
import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from camflow.data.check import check_dataset
from camflow.data.download import Archive, download_voc2012, sbd_archive, train_aug_ids, voc2012_archive
from camflow.data.palette import voc_palette
from camflow.data.readers.base import make_reader
from camflow.errors import DataError

# VOC train: a, b; VOC val: v, w. SBD train: b, s1, v; SBD val: s2, w. So train_aug = a, b, s1, s2.
IDS = ["a", "b", "v", "w", "s1", "s2", "unused"]
H, W = 16, 20


def photo(name):
    pixels = np.random.default_rng(sum(name.encode())).integers(0, 256, (H, W, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def voc_mask(value):
    labels = np.zeros((H, W), np.uint8)
    labels[3:9, 4:12], labels[3, 4:12] = value, 255
    buffer = io.BytesIO()
    image = Image.fromarray(labels)
    image.putpalette([0] * 768)
    image.save(buffer, "PNG")
    return buffer.getvalue(), labels


def sbd_mat(value):
    labels = np.zeros((H, W), np.uint8)
    labels[5:12, 2:9] = value
    buffer = io.BytesIO()
    savemat(buffer, {"GTcls": {"Segmentation": labels, "CategoriesPresent": np.array([[value]], np.uint8)}})
    return buffer.getvalue(), labels


def tar(path, members, mode):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def voc_members():
    top = "VOCdevkit/VOC2012"
    lists = {"train": "a\nb\n", "val": "v\nw\n", "trainval": "a\nb\nv\nw\n"}
    return {
        **{f"{top}/JPEGImages/{i}.jpg": photo(i) for i in IDS},
        **{f"{top}/SegmentationClass/{i}.png": voc_mask(k)[0] for k, i in enumerate(["a", "b", "v", "w"], start=1)},
        **{f"{top}/ImageSets/Segmentation/{k}.txt": v.encode() for k, v in lists.items()},
        f"{top}/Annotations/a.xml": b"<annotation/>",
    }


def sbd_members():
    top = "benchmark_RELEASE/dataset"
    return {
        **{f"{top}/cls/{i}.mat": sbd_mat(10 + k)[0] for k, i in enumerate(["b", "s1", "v", "s2", "w"])},
        f"{top}/img/s1.jpg": b"not needed",
        f"{top}/train.txt": b"b\ns1\nv\n",
        f"{top}/val.txt": b"s2\nw\n",
        "benchmark_RELEASE/benchmark_code/x.m": b"not needed",
    }


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.served.append(self.path)
        if self.path in self.server.cut:  # the connection dies half-way
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            return
        super().do_GET()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "www"
    folder.mkdir()
    tar(folder / "voc.tar", voc_members(), "w")
    tar(folder / "sbd.tgz", sbd_members(), "w:gz")
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.folder, running.served, running.cut = folder, [], set()
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def archive(server, name):
    md5 = hashlib.md5((server.folder / name).read_bytes()).hexdigest()
    return Archive(f"http://127.0.0.1:{server.server_port}/{name}", md5)


def download(server, target, **more):
    options = {"voc": archive(server, "voc.tar"), "sbd": archive(server, "sbd.tgz"), "n_train_aug": 4, **more}
    return download_voc2012(target, progress=False, **options)


def read_list(root, name):
    return (root / f"ImageSets/Segmentation/{name}.txt").read_text().split()


def test_assembly(server, tmp_path):
    root = download(server, tmp_path / "data" / "voc")
    assert read_list(root, "train") == ["a", "b"]
    assert read_list(root, "val") == ["v", "w"]
    assert read_list(root, "train_aug") == ["a", "b", "s1", "s2"]
    assert (root / "JPEGImages/s1.jpg").read_bytes() == photo("s1")
    assert (root / "Annotations/a.xml").is_file()
    expected = {
        "a": voc_mask(1),
        "b": voc_mask(2),
        "v": voc_mask(3),
        "w": voc_mask(4),
        "s1": sbd_mat(11),
        "s2": sbd_mat(13),
    }
    found = {path.stem: Image.open(path) for path in (root / "SegmentationClassAug").iterdir()}
    assert set(found) == set(expected)
    for name, image in found.items():
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), expected[name][1])
    assert os.listdir(tmp_path / "data") == ["voc"]  # no archives, no temporary folders
    assert os.access(root, os.R_OK | os.X_OK)
    assert root.stat().st_mode & 0o055 == (0o055 & ~_umask())


def _umask():
    value = os.umask(0)
    os.umask(value)
    return value


def test_the_result_is_a_readable_dataset(server, tmp_path):
    root = download(server, tmp_path / "voc")
    reader = make_reader({"format": "voc", "root": str(root), "allow_unlabelled": True}, "voc12")
    assert check_dataset(reader, "train_aug", progress=False, on_bad_image="skip").ids == ["a", "b", "s1", "s2"]
    assert check_dataset(reader, "val", progress=False).ids == ["v", "w"]


def test_finished_folder_is_left_alone_and_foreign_one_refused(server, tmp_path):
    root = download(server, tmp_path / "voc")
    server.served.clear()
    assert download(server, tmp_path / "voc") == root
    assert server.served == []
    (tmp_path / "mine").mkdir()
    download(server, tmp_path / "mine")  # an empty folder is as good as none
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="full: exists but is no finished VOC folder"):
        download(server, tmp_path / "full")
    assert (tmp_path / "full/thesis.txt").read_text() == "precious"


def test_wrong_checksum(server, tmp_path):
    wrong = Archive(archive(server, "voc.tar").url, "0" * 32)
    with pytest.raises(DataError, match=r"voc\.tar: the download has checksum [0-9a-f]{32}, not 0{32}"):
        download(server, tmp_path / "d" / "voc", voc=wrong)
    assert [p for p in (tmp_path / "d").rglob("*") if p.is_file()] == []


def test_interrupted_download_goes_on(server, tmp_path):
    server.cut.add("/sbd.tgz")
    with pytest.raises(DataError, match=r"sbd\.tgz: (the download has checksum|cannot be downloaded)"):
        download(server, tmp_path / "d" / "voc")
    assert {p.name for p in (tmp_path / "d").rglob("*") if p.is_file()} == {"voc.tar"}  # verified, and kept
    server.cut.clear()
    server.served.clear()
    download(server, tmp_path / "d" / "voc")
    assert "/voc.tar" not in server.served
    assert os.listdir(tmp_path / "d") == ["voc"]


def test_interrupted_assembly_leaves_nothing(server, tmp_path, monkeypatch):
    import camflow.data.download as module

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_sbd_mask", killed)
        with pytest.raises(KeyboardInterrupt):
            download(server, tmp_path / "d" / "voc")
    assert os.listdir(tmp_path / "d") == [".voc.archives"]
    assert download(server, tmp_path / "d" / "voc", keep_archives=True).is_dir()
    assert sorted(os.listdir(tmp_path / "d" / ".voc.archives")) == ["sbd.tgz", "voc.tar"]


def test_server_without_the_file(server, tmp_path):
    url = f"http://127.0.0.1:{server.server_port}/gone.tar"
    with pytest.raises(DataError, match=r"gone\.tar: cannot be downloaded \(HTTP Error 404"):
        download(server, tmp_path / "voc", voc=Archive(url, "0" * 32))


def test_archive_put_there_by_hand(server, tmp_path):
    voc, sbd = archive(server, "voc.tar"), archive(server, "sbd.tgz")
    for name in ("voc.tar", "sbd.tgz"):
        (tmp_path / "kept").mkdir(exist_ok=True)
        (tmp_path / "kept" / name).write_bytes((server.folder / name).read_bytes())
    download(server, tmp_path / "voc", voc=voc, sbd=sbd, archives=tmp_path / "kept", keep_archives=True)
    assert server.served == []


@pytest.mark.parametrize(
    "name", ["../../escaped.txt", "VOCdevkit/VOC2012/JPEGImages/../../../../../escaped.txt", "/escaped"]
)
def test_members_stay_inside(server, tmp_path, name):
    tar(server.folder / "voc.tar", {**voc_members(), name: b"x"}, "w")
    with pytest.raises(DataError, match="would be written outside the target folder"):
        download(server, tmp_path / "d" / "voc")
    assert not list(tmp_path.rglob("escaped*"))
    assert not (tmp_path / "d" / "voc").exists()


def test_links_are_not_followed(server, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("old")
    with tarfile.open(server.folder / "voc.tar", "a") as archive_file:
        link = tarfile.TarInfo("VOCdevkit/VOC2012/JPEGImages/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive_file.addfile(link)
    root = download(server, tmp_path / "voc")
    assert not (root / "JPEGImages/link.jpg").exists()


def change(members, name, content):
    key = next(key for key in members if key.endswith(name))
    if content is None:
        del members[key]
    else:
        members[key] = content
    return members


@pytest.mark.parametrize(
    ("voc", "sbd", "options", "message"),
    [
        (voc_members(), sbd_members(), {"n_train_aug": 10582}, "train_aug has 4 images instead of 10582"),
        (
            voc_members(),
            change(sbd_members(), "cls/s1.mat", None),
            {},
            r"s1\.mat: is in an SBD list but not in the archive",
        ),
        (voc_members(), change(sbd_members(), "cls/s1.mat", b"junk"), {}, r"s1\.mat: is not an SBD class annotation"),
        (
            change(voc_members(), "s2.jpg", None),
            sbd_members(),
            {},
            "image 's2': is in a list but not in the VOC archive",
        ),
        (change(voc_members(), "Segmentation/val.txt", None), sbd_members(), {}, r"val\.txt: does not exist"),
    ],
)
def test_wrong_content(server, tmp_path, voc, sbd, options, message):
    tar(server.folder / "voc.tar", voc, "w")
    tar(server.folder / "sbd.tgz", sbd, "w:gz")
    with pytest.raises(DataError, match=message):
        download(server, tmp_path / "voc", **options)
    assert not (tmp_path / "voc").exists()


def test_damaged_archive(server, tmp_path):
    data = (server.folder / "sbd.tgz").read_bytes()
    (server.folder / "sbd.tgz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"sbd\.tgz: is a damaged archive"):
        download(server, tmp_path / "voc")


def test_train_aug_is_set_algebra():
    assert train_aug_ids(["t", "b"], ["v"], ["b", "v", "s"]) == ["b", "s", "t"]


def test_official_archives():
    assert voc2012_archive().md5 == "6cd6e144f989b92b3379bac3b3de84fd"
    assert voc2012_archive().name == "VOCtrainval_11-May-2012.tar"
    assert sbd_archive().md5 == "82b4d87ceb2ed10f6038a1cba92111cb"


def test_palette_is_the_official_one():
    palette = voc_palette()
    # Colours of background, aeroplane, bicycle, cat, person, tv monitor and void in the development kit.
    official = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128),
                255: (224, 224, 192)}  # fmt: skip
    assert {k: tuple(palette[k].tolist()) for k in official} == official

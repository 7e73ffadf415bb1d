"""Photos as real folders contain them."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from camflow.data.images import decode_image, open_image, open_label_map
from camflow.errors import DataError

H, W = 12, 20
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (H, W), dtype=np.uint8)


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_rgb_png_is_unchanged(tmp_path):
    found = open_image(saved(tmp_path, Image.fromarray(COLOUR), "x.png"))
    assert found.dtype == np.uint8
    assert found.flags.writeable
    np.testing.assert_array_equal(found, COLOUR)


def test_grey_is_repeated(tmp_path):
    found = open_image(saved(tmp_path, Image.fromarray(GREY), "x.png"))
    np.testing.assert_array_equal(found, np.repeat(GREY[..., None], 3, axis=2))


def test_one_bit(tmp_path):
    found = open_image(saved(tmp_path, Image.fromarray(GREY > 127), "x.png"))
    np.testing.assert_array_equal(found[..., 1], np.where(GREY > 127, 255, 0))


def test_cmyk_jpeg(tmp_path):
    flat = np.zeros((H, W, 4), np.uint8)
    flat[..., 0] = 255  # full cyan: no red
    found = open_image(saved(tmp_path, Image.fromarray(flat, mode="CMYK"), "x.jpg", quality=95))
    assert found.shape == (H, W, 3)
    np.testing.assert_allclose(found.reshape(-1, 3).mean(0), [0, 255, 255], atol=6)


def test_palette(tmp_path):
    palette = RNG.integers(0, 256, 768)
    image = Image.fromarray(GREY)
    image.putpalette(palette.tolist())
    found = open_image(saved(tmp_path, image, "x.png"))
    np.testing.assert_array_equal(found, palette.reshape(256, 3)[GREY])


def test_palette_with_transparency_lies_over_white(tmp_path):
    image = Image.fromarray((GREY % 2).astype(np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    found = open_image(saved(tmp_path, image, "x.png", transparency=0))
    np.testing.assert_array_equal(found, np.array([[255, 255, 255], [40, 50, 60]])[GREY % 2])


def test_alpha_lies_over_white(tmp_path):
    alpha = np.full((H, W), 255, np.uint8)
    alpha[:, :5], alpha[:, 5:10] = 0, 51
    found = open_image(saved(tmp_path, Image.fromarray(np.dstack([COLOUR, alpha])), "x.png")).astype(int)
    weight = alpha[..., None] / 255
    np.testing.assert_allclose(found, COLOUR * weight + 255 * (1 - weight), atol=1.01)
    np.testing.assert_array_equal(found[:, 10:], COLOUR[:, 10:])


def test_grey_with_alpha(tmp_path):
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(np.full((H, W), 255, np.uint8))])
    np.testing.assert_array_equal(open_image(saved(tmp_path, image, "x.png"))[..., 2], GREY)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bit_keeps_the_high_byte(tmp_path, name):
    deep = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
    found = open_image(saved(tmp_path, Image.fromarray(deep), name))
    np.testing.assert_array_equal(found[..., 0], deep // 256)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    # The stored pixels of each orientation, spelt with numpy from the EXIF standard: where row 0 and column 0 are seen.
    stored = {
        1: COLOUR, 2: COLOUR[:, ::-1], 3: COLOUR[::-1, ::-1], 4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2), 6: np.rot90(COLOUR, 1), 7: np.rot90(COLOUR, 2).transpose(1, 0, 2),
        8: np.rot90(COLOUR, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "x.png", exif=exif)
    np.testing.assert_array_equal(open_image(path), COLOUR)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_matter(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOUR), "x.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert open_image(path).shape == (H, W, 3)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(open_image(path)[0, 0], [255, 0, 0])


def test_odd_mode_tiff_and_webp(tmp_path):
    assert open_image(saved(tmp_path, Image.fromarray(COLOUR).convert("YCbCr"), "x.tif")).shape == (H, W, 3)
    assert open_image(saved(tmp_path, Image.fromarray(COLOUR), "x.webp")).shape == (H, W, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated(tmp_path, suffix):
    big = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = saved(tmp_path, big, f"cut.{suffix}")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=rf"cut\.{suffix}: cannot be decoded.*replace the file"):
        open_image(path)


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "the file is empty"), (b"<html>404</html>", "not an image"), (b"\xff\xd8\xff", "")]
)
def test_not_an_image(data, reason):
    with pytest.raises(DataError, match=rf"page\.jpg: cannot be decoded as an image \({reason}"):
        decode_image(data, "page.jpg")


def test_every_flipped_byte_gives_a_photo_or_a_data_error():
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    for position in range(0, len(data), 7):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        with contextlib.suppress(DataError):  # any other exception fails the test
            assert decode_image(bytes(broken), "x.png").shape[2] == 3


def test_missing_photo_and_mask(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: does not exist; restore the file"):
        open_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"gone\.png: does not exist"):
        open_label_map(tmp_path / "gone.png")


def test_thirty_two_bit_photo_is_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(GREY.astype(np.float32)), "float.tif")
    with pytest.raises(DataError, match=r"float\.tif: pixel type F .* convert the file to 8-bit"):
        open_image(path)


def test_label_map_keeps_indices_whatever_the_palette(tmp_path):
    image = Image.fromarray(GREY)
    image.putpalette([0] * 768)
    found = open_label_map(saved(tmp_path, image, "x.png"))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, GREY)
    np.testing.assert_array_equal(open_label_map(saved(tmp_path, Image.fromarray(GREY), "l.png")), GREY)


def test_label_map_with_transparency_entry_and_small_depths(tmp_path):
    image = Image.fromarray((GREY % 3).astype(np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    found = open_label_map(saved(tmp_path, image, "x.png", transparency=0, bits=2))
    np.testing.assert_array_equal(found, GREY % 3)
    np.testing.assert_array_equal(open_label_map(saved(tmp_path, Image.fromarray(GREY > 9), "b.png")), GREY > 9)


def test_sixteen_bit_label_map(tmp_path):
    np.testing.assert_array_equal(
        open_label_map(saved(tmp_path, Image.fromarray(GREY.astype(np.uint16)), "ok.png")), GREY
    )
    with pytest.raises(DataError, match=r"wide\.png: label 300 does not fit"):
        open_label_map(saved(tmp_path, Image.fromarray(np.full((H, W), 300, np.uint16)), "wide.png"))


def test_colour_label_map_is_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOUR), "painted.png")
    with pytest.raises(DataError, match=r"painted\.png: .* mode RGB .* convert it to a palette"):
        open_label_map(path)


def test_unreadable_label_map(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"bad\.png: cannot be decoded as a label map"):
        open_label_map(tmp_path / "bad.png")

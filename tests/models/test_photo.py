"""Every kind of file that people call a photo, and some that only look like one."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from okko_models.photo import LONGEST_SIDE, PhotoError, decode_photo, is_photo_name, read_photo

# pytest sets aside the filters that okko_models.photo installs.
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")

RED, GREEN, BLUE = (200, 30, 40), (20, 180, 60), (30, 40, 210)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (30, 20)) -> Image.Image:
    return Image.new("RGB", size, colour)


def corners() -> Image.Image:
    """3x2 pixels, blown up to 48x32: red at top left, green at top right, blue at bottom left, black elsewhere."""
    image = Image.new("RGB", (3, 2))
    image.putpixel((0, 0), RED)
    image.putpixel((2, 0), GREEN)
    image.putpixel((0, 1), BLUE)
    return image.resize((48, 32), Image.Resampling.NEAREST)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_every_format_gives_the_same_colours(kind: str) -> None:
    pixels = read_photo(encoded(plain(), kind))
    assert pixels.shape == (20, 30, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(axis=0), RED, atol=3)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_kind_of_pixel_becomes_rgb(mode: str) -> None:
    pixels = read_photo(encoded(plain((255, 255, 255)).convert(mode), "TIFF"))
    assert (pixels == 255).all()


def test_sixteen_bit_grey_is_scaled_and_not_cut() -> None:
    values = np.array([[0, 128 * 257, 65535, 257]], dtype=np.uint16)
    assert read_photo(encoded(Image.fromarray(values)))[0, :, 0].tolist() == [0, 128, 255, 1]


def test_sixteen_bit_colour_is_scaled_and_not_cut() -> None:
    # Pillow writes no 16-bit colour, so the PNG is put together by hand.
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">HHH", 65535, 128 * 257, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert read_photo(png)[0, 0].tolist() == [255, 128, 0]


def test_pixels_of_unknown_range_are_refused() -> None:
    floats = Image.fromarray(np.ones((4, 4), dtype=np.float32))
    with pytest.raises(PhotoError, match=r"x\.tif: its pixels are 32-bit"):
        read_photo(encoded(floats, "TIFF"), name="x.tif")


def test_a_cmyk_jpeg_has_its_colours_with_and_without_adobes_marker() -> None:
    adobe = encoded(plain().convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(read_photo(adobe)[5, 5], RED, atol=4)
    marker = adobe.index(b"\xff\xee")
    length = struct.unpack(">H", adobe[marker + 2 : marker + 4])[0]
    # Without the marker the inks are not inverted, so the same numbers are other colours.
    bare = adobe[:marker] + adobe[marker + 2 + length :]
    cmyk = 255 - np.array(plain().convert("CMYK"))
    expected = Image.fromarray(cmyk, mode="CMYK").convert("RGB").getpixel((5, 5))
    np.testing.assert_allclose(read_photo(bare)[5, 5], expected, atol=4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photo_stands_upright(kind: str, orientation: int) -> None:
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = corners() if undo is None else corners().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    decoded = decode_photo(encoded(stored, kind, exif=exif, **options), name="x")
    assert (decoded.width, decoded.height) == (48, 32)
    np.testing.assert_allclose(decoded.pixels, np.array(corners()), atol=12)


def test_damaged_exif_does_not_spoil_the_photo() -> None:
    data = encoded(plain(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert read_photo(data).shape == (20, 30, 3)


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*RED, 255))
    assert read_photo(encoded(image))[0].tolist() == [[255, 255, 255], list(RED)]


def test_a_transparent_colour_of_a_palette_is_laid_on_white() -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([9, 9, 9, 100, 100, 100])
    assert read_photo(encoded(image, transparency=0))[0, 0].tolist() == [255, 255, 255]


def test_one_pixel_is_a_photo() -> None:
    assert read_photo(encoded(plain(size=(1, 1)))).tolist() == [[list(RED)]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photo_of_48_megapixels_is_made_smaller(kind: str) -> None:
    decoded = decode_photo(encoded(plain(size=(8000, 6000)), kind), name="x")
    assert decoded.pixels.shape == (1500, 2000, 3)
    assert (decoded.width, decoded.height) == (8000, 6000)
    np.testing.assert_allclose(decoded.pixels[700, 900], RED, atol=3)


@pytest.mark.parametrize("size", [(LONGEST_SIDE, 9), (LONGEST_SIDE + 1, 9), (1, 9000), (30_000, 2)])
def test_the_longest_side_is_bounded_and_small_photos_stay_as_they_are(size: tuple[int, int]) -> None:
    for kind in ("JPEG", "PNG"):
        height, width, _ = read_photo(encoded(plain(size=size), kind)).shape
        assert max(width, height) <= LONGEST_SIDE
        assert max(size) > LONGEST_SIDE or (width, height) == size
        assert min(width, height) >= 1


def test_making_smaller_averages_areas() -> None:
    stripes = np.zeros((8, LONGEST_SIDE * 2, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    assert np.unique(read_photo(encoded(Image.fromarray(stripes)))).tolist() == [100]


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    header = bytearray(encoded(plain(size=(10, 10)), "BMP"))
    for width, height in [(20_000, 6_000), (2_000_000, 2_000)]:
        header[18:26] = struct.pack("<ii", width, height)
        with pytest.raises(PhotoError, match="the limit is 100 megapixels"):
            read_photo(bytes(header))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"These are my notes.\n", "a text file, not a photo"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC"),
        (encoded(plain(), "GIF"), "a GIF file"),
        (bytes(range(256)), "not in a format that okko knows"),
        (encoded(plain(), "JPEG")[:3] + b"nothing more", "damaged or cut off"),
    ],
)
def test_what_is_no_photo_is_named_for_what_it_is(data: bytes, words: str) -> None:
    with pytest.raises(PhotoError, match=words) as error:
        read_photo(data, name="OK/17.jpg")
    assert str(error.value).startswith("OK/17.jpg: ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_a_photo_cut_in_half_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(PhotoError, match="damaged or cut off"):
        read_photo(data[: len(data) // 2])


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"gone\.jpg: cannot be read \(No such file"):
        read_photo(tmp_path / "gone.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(PhotoError, match=r"folder\.jpg: cannot be read \(Is a directory"):
        read_photo(tmp_path / "folder.jpg")


def test_a_file_and_its_bytes_are_the_same_photo(tmp_path: Path) -> None:
    path = tmp_path / "-söme photo.JPG"
    path.write_bytes(encoded(corners(), "JPEG"))
    np.testing.assert_array_equal(read_photo(path), read_photo(path.read_bytes()))


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "TIFF", "BMP", "WEBP"]),
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=12),
    keep=st.integers(1, 10_000),
)
def test_damaged_bytes_give_a_photo_or_a_photo_error(kind: str, damage: list[tuple[int, int]], keep: int) -> None:
    data = bytearray(encoded(corners(), kind))
    for position, value in damage:
        data[position % len(data)] = value
    try:
        pixels = read_photo(bytes(data[:keep]))
    except PhotoError:
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


def test_photos_are_known_by_their_extension_in_any_case() -> None:
    assert all(is_photo_name(name) for name in ["a.jpg", "b.JPEG", "c.Png", "d.bmp", "e.webp", "f.tif", "g.TIFF"])
    assert not any(is_photo_name(name) for name in ["a.txt", "jpg", ".jpg", "b.heic", "c.jpg.part", "d.gif"])

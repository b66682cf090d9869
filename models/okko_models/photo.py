"""Turns a stored image into the array a model sees: 8-bit RGB, upright, bounded in size.

Training and the edge both read photos here, so a photo means the same numbers on both sides. Colour profiles
are ignored (a camera on a belt has none), and an animation or a multi-page file gives its first picture. EXIF
orientation follows the EXIF 2.32 specification, tag 0x0112.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from okko_models.errors import OkkoError

PIXEL_LIMIT: Final = 100_000_000
"""Photos with more pixels are refused: decoding one would take more memory than a Pi has to spare."""

LONGEST_SIDE: Final = 2048
"""Larger photos are halved until their longest side is at most this many pixels; no backbone sees more."""

PHOTO_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

# "JPEG" includes the MPO files that many phones write.
_FORMATS: Final = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_GOLDEN_PIXEL_LIMIT: Final = LONGEST_SIDE**2
_PHOTO_STARTS: Final = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"II*\0", b"MM\0*")
_SAVE_AGAIN: Final = "Save it as an 8-bit JPEG or PNG."

_ORIENTATION_TAG: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Importing a plugin registers its format; the others register themselves.
_PLUGINS: Final = (TiffImagePlugin, WebPImagePlugin)

# PIXEL_LIMIT is checked below, before a pixel is decoded, and damaged EXIF says nothing about the pixels: Pillow's
# warnings about both would only be noise on a terminal.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class PhotoError(OkkoError):
    """A file that should hold a photo and cannot be used as one."""


@dataclass(frozen=True)
class DecodedPhoto:
    """A photo as `read_photo` gives it, and the size it had.

    Attributes:
        pixels: (height, width, 3) uint8 RGB, upright, longest side at most `LONGEST_SIDE`.
        width: of the stored photo when upright, in pixels.
        height: of the stored photo when upright, in pixels.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


def is_photo_name(path: Path | str) -> bool:
    """Whether the extension is one that okko reads: .jpg .jpeg .png .bmp .webp .tif .tiff, in any case."""
    return Path(path).suffix.lower() in PHOTO_SUFFIXES


def read_photo(source: Path | bytes, *, name: str | None = None) -> NDArray[np.uint8]:
    """Reads a photo as upright 8-bit RGB.

    16-bit greyscale is scaled to 8 bits, CMYK becomes RGB, transparency is laid on white. A photo whose longest
    side exceeds `LONGEST_SIDE` is halved (area average; JPEG: by the decoder, which keeps memory small) until it
    does not; the same file always gives the same array.

    Args:
        source: a file, or the bytes of one.
        name: what messages call it; the file name when omitted.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        PhotoError: the file cannot be read, is empty, is no photo, is cut off, or has more than `PIXEL_LIMIT` pixels.
    """
    if isinstance(source, bytes):
        return decode_photo(source, name=name or "photo").pixels
    name = name or source.name
    return decode_photo(read_bytes(source, name=name), name=name).pixels


def read_golden(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """Reads a golden frame of a bundle, as `read_photo` does, but takes only what training writes: a PNG.

    A bundle may come from anybody, and a small file can hold an image that takes a device's whole memory; so there are
    fewer decoders and fewer pixels than for photos.

    Raises:
        PhotoError: it is no PNG, is damaged, or has more than 4 million pixels.
    """
    return decode_photo(data, name=name, formats=("PNG",), pixel_limit=_GOLDEN_PIXEL_LIMIT).pixels


def read_bytes(path: Path, *, name: str) -> bytes:
    """The bytes of a file.

    Raises:
        PhotoError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise PhotoError(
            f"{name}: cannot be read ({error.strerror or error}). Check the path and its permissions."
        ) from error


def decode_photo(
    data: bytes, *, name: str, formats: tuple[str, ...] = _FORMATS, pixel_limit: int = PIXEL_LIMIT
) -> DecodedPhoto:
    """Decodes the bytes of a photo, as `read_photo` does, and keeps the size the photo had.

    Args:
        data: the file.
        name: what messages call it.
        formats: Pillow's names of the formats that are read.
        pixel_limit: so many pixels it may have.

    Raises:
        PhotoError: the bytes are empty, are no photo, are cut off, or hold more than `pixel_limit` pixels.
    """
    if not data:
        raise PhotoError(f"{name}: the file is empty. Copy it again, or delete it.")
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            width, height = image.size
            if width * height > pixel_limit:
                raise _too_large(name, f"{width}x{height} pixels", pixel_limit)
            return _decode(image, name)
    except PhotoError:
        raise
    except UnidentifiedImageError as error:
        if data.startswith(_PHOTO_STARTS):
            raise _damaged(name, "its header cannot be read") from error
        raise PhotoError(f"{name}: {_what_it_is(data)}, not a photo. {_SAVE_AGAIN}") from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, "too many pixels", pixel_limit) from error
    # A damaged file can make Pillow's readers raise nearly anything (struct.error, KeyError, zlib.error, ...).
    except Exception as error:
        raise _damaged(name, error) from error


def _decode(image: Image.Image, name: str) -> DecodedPhoto:
    width, height = image.size
    factor = 1
    while -(-max(width, height) // factor) > LONGEST_SIDE:
        factor *= 2
    if factor > 1:
        # A JPEG's decoder can give 1/2, 1/4 or 1/8 of the size at once; other formats ignore the request.
        image.draft(None, (max(1, width // factor), max(1, height // factor)))
    image.load()
    orientation = _orientation(image)
    rgb = _to_rgb(image, name)
    remaining = factor // max(1, round(width / rgb.width))
    if remaining > 1:
        rgb = rgb.reduce(remaining)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    if orientation >= 5:
        width, height = height, width
    return DecodedPhoto(np.array(rgb, dtype=np.uint8), width, height)


def _orientation(image: Image.Image) -> int:
    # A photo whose EXIF is damaged is taken as it lies.
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        # 65535 / 255 = 257: white stays white.
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        raise PhotoError(f"{name}: its pixels are 32-bit numbers of unknown range. {_SAVE_AGAIN}")
    elif image.mode == "CMYK" and image.format in {"JPEG", "MPO"} and "adobe" not in image.info:
        # Pillow reads every CMYK JPEG as inverted; only those that Adobe's marker announces are.
        image = ImageChops.invert(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _damaged(name: str, why: object) -> PhotoError:
    return PhotoError(f"{name}: damaged or cut off ({why}). Copy it again from where it came, or delete it.")


def _too_large(name: str, found: str, pixel_limit: int) -> PhotoError:
    limit = pixel_limit // 1_000_000
    return PhotoError(f"{name}: {found}; the limit is {limit} megapixels. Save a smaller copy of it.")


def _what_it_is(data: bytes) -> str:
    """A guess that helps the reader: what people most often have instead of a photo."""
    start = data[:512]
    if start[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    if start[:4] in {b"GIF8", b"%PDF"}:
        return f"a {'PDF' if start.startswith(b'%') else 'GIF'} file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<svg", b"<?xml")):
        return "a web page or drawing"
    if all(32 <= byte < 128 or byte in b"\t\r\n" for byte in start):
        return "a text file"
    return "not in a format that okko knows (JPEG, PNG, BMP, WebP, TIFF)"


def shrink(image: NDArray[np.uint8], longest_side: int) -> NDArray[np.uint8]:
    """Returns (height, width, 3) `image` with no side longer than `longest_side` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((longest_side, longest_side))
    return np.asarray(picture)

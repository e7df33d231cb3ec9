"""Still images by Pillow: upright, in 8-bit RGB, over white where they are transparent."""

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from cascade.media.reason import MAX_PIXELS, DecodeError, check_size, reasons

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF")
"""The image formats that are read, by Pillow's names; a JPEG of several views is opened as MPO."""
ANIMATED = ("PNG", "WEBP", "AVIF")
"""Those that may be animated."""


@contextmanager
def open_picture(
    file: str | IO[bytes], *, max_pixels: int = MAX_PIXELS, several: Collection[str] = ()
) -> Iterator[Image.Image]:
    """An image of which only the header is read; those of the formats `several` may be animated.

    Raises:
        DecodeError: it is not an image that can be read, or its size is out of bounds.
    """
    with _by_pillow(), _opened(file, max_pixels) as image:
        check_size(*image.size, max_pixels=max_pixels)
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if count > 1 and image.format not in several:
            raise DecodeError(f"has {count} images; convert them to a video")
        yield image


def check_sums(file: str | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> None:
    """Check the checksums of a PNG: Pillow ignores them, and damaged pixels may be black.

    Raises:
        DecodeError: one of them is wrong, or the image cannot be opened.
    """
    with _by_pillow(), _opened(file, max_pixels) as image:
        if image.format == "PNG":
            image.verify()


def _opened(file: str | IO[bytes], max_pixels: int) -> Image.Image:
    """An image; Pillow's limits of its size, which are above those of every reader, are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(file, formats=FORMATS)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise DecodeError(f"claims more than the limit of {max_pixels} pixels") from None


@contextmanager
def _by_pillow() -> Iterator[None]:
    """Turns every exception into a `DecodeError`: Pillow raises any for damaged bytes."""
    try:
        with reasons():
            yield
    except DecodeError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, OSError):
            raise
        raise DecodeError(f"does not decode: {cause}") from cause


def upright(image: Image.Image) -> Image.Image:
    """The image as it is shown: turned by its EXIF, in RGB, transparency over white.

    Of 16 bits the upper 8 are kept, as Pillow does for colours.

    Raises:
        DecodeError: its values have no known range.
    """
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16") or (turned.mode == "I" and image.format == "PNG"):
        return _from_16_bits(turned, image.info.get("transparency"))
    if turned.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if turned.mode == "I" else "floating-point numbers"
        raise DecodeError(
            f"its pixels are {kind}, of which black and white are not known; convert it to 8 or "
            "16 bits"
        )
    if (
        "A" not in turned.getbands()
        and "a" not in turned.getbands()
        and ("transparency" not in image.info)
    ):
        return turned.convert("RGB")
    rgba = turned.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def pixels(file: str | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an image as it is shown.

    Raises:
        DecodeError: with the reason.
    """
    check_sums(file, max_pixels=max_pixels)
    with open_picture(file, max_pixels=max_pixels) as image:
        return np.array(upright(image))


def _from_16_bits(image: Image.Image, transparent: object) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    grey = np.clip(values >> 8, 0, 255).astype(np.uint8)
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")

"""Decoding of still images by Pillow."""

import numpy as np
from jaxtyping import Int64, UInt8

from cascade.media.picture import open_picture, pixels
from data.decode.frames import Allocate
from data.decode.probe import Header, Packets, Timing


class PictureReader:
    """An image opened by its path, as a video of one frame."""

    def __init__(self, path: str, *, max_pixels: int) -> None:
        self.path, self.max_pixels = path, max_pixels
        self.header = image_header(path, max_pixels=max_pixels)

    @property
    def timing(self) -> Timing:
        """One frame, shown for one second."""
        return self.header.timing

    def read(
        self, frames: Int64[np.ndarray, " n"], allocate: Allocate
    ) -> UInt8[np.ndarray, "n h w c"]:
        """The image, as it is shown, once per requested frame.

        Raises:
            DecodeError: with the reason.
        """
        shown = pixels(self.path, max_pixels=self.max_pixels)
        made = allocate((len(frames), *shown.shape))
        made[:] = shown
        return made

    def close(self) -> None:
        """Do nothing: no file stays open."""


def image_header(path: str, *, max_pixels: int) -> Header:
    """The header of an image, in its stored orientation.

    Raises:
        DecodeError: it cannot be read, or its size is out of bounds.
    """
    with open_picture(path, max_pixels=max_pixels) as image:
        one = np.zeros(1, dtype=np.int64)
        form = "jpeg" if image.format == "MPO" else (image.format or "image").lower()
        return Header(
            kind="image",
            codec=form,
            width=image.width,
            height=image.height,
            pts=one,
            unit=1.0,
            duration=1.0,
            packets=Packets(pts=one, size=one, key=one == 0, shown=one == 0),
            container="",
            by_order=False,
        )

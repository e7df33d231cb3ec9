"""Decoding of still images by Pillow."""

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps

from data.decode.frames import Allocate
from data.decode.probe import Timing, image_header, reasons


class PictureReader:
    """An image opened by its path, as a video of one frame."""

    def __init__(self, path: str, *, max_pixels: int) -> None:
        self.path = path
        with reasons():
            self.header = image_header(path, max_pixels=max_pixels)

    @property
    def timing(self) -> Timing:
        """One frame, shown for one second."""
        return self.header.timing

    def read(
        self, frames: Int64[np.ndarray, " n"], allocate: Allocate
    ) -> UInt8[np.ndarray, "n h w c"]:
        """The image, upright, once per requested frame.

        Raises:
            DecodeError: with the reason.
        """
        with reasons(), Image.open(self.path) as image:
            upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        pixels = allocate((len(frames), *upright.shape[:2], 3))
        pixels[:] = upright
        return pixels

    def close(self) -> None:
        """Do nothing: no file stays open."""

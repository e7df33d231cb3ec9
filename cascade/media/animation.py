"""The pictures of an image file with their times: one of a still, several of an animation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cascade.media.picture import ANIMATED, check_sums, open_picture, upright
from cascade.media.reason import MAX_PIXELS, reasons

#: Milliseconds of a frame that claims none, as browsers show it.
UNTIMED = 100


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture, until the next one is asked for; times are seconds from the first."""

    image: Image.Image
    time: float
    end: float
    """That of a still is 0."""

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The upright RGB pixels."""
        with reasons():
            return np.array(upright(self.image))


def pictures(file: str | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Iterator[Picture]:
    """The pictures of an image or of an animated WebP, AVIF or PNG, in order.

    Raises:
        DecodeError: with the reason.
    """
    check_sums(file, max_pixels=max_pixels)
    with open_picture(file, max_pixels=max_pixels, several=ANIMATED) as image:
        count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
        if count == 1:
            yield Picture(image=image, time=0.0, end=0.0)
            return
        time = 0.0
        # The default image of an animated PNG may not be one of its frames.
        for number in range(bool(image.info.get("default_image")), count):
            image.seek(number)
            image.load()
            end = time + (image.info.get("duration") or UNTIMED) / 1000
            yield Picture(image=image, time=time, end=end)
            time = end

"""The images of a clip for the model: evenly spaced in time, small, as JPEG."""

import asyncio
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64
from PIL import Image

from data.decode.decoder import Decoder
from data.decode.probe import Timing
from data.shards.store import read_span


def even_times(timing: Timing, count: int) -> Float64[np.ndarray, " n"]:
    """The middles of `count` equal parts, in seconds; at most one per frame."""
    count = max(1, min(count, timing.frames))
    return np.asarray((np.arange(count) + 0.5) * timing.duration / count)


def pictures(
    decoder: Decoder, shard: str, row: Mapping[str, Any], *, count: int, side: int, quality: int
) -> list[bytes]:
    """JPEGs of a clip's frames in temporal order, with a longer side of at most `side` pixels.

    Raises:
        DecodeError: the clip cannot be decoded.
        OSError: its shard cannot be read.
    """
    data = read_span(shard, (row["offset"], row["size"]))
    timing = decoder.open(data, decord=bool(row["decord"]))
    frames = decoder.frames(even_times(timing, count))
    return [_jpeg(frame.numpy(), side, quality) for frame in frames]


def _jpeg(pixels: np.ndarray, side: int, quality: int) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return file.getvalue()


class Pictures:
    """Makes the images of up to `decoders` clips at once."""

    def __init__(self, *, count: int, side: int, quality: int, decoders: int) -> None:
        self.count, self.side, self.quality = count, side, quality
        self._free: list[Decoder] = [Decoder() for _ in range(decoders)]
        self._turns = asyncio.Semaphore(decoders)

    async def __call__(self, shard: str, row: Mapping[str, Any]) -> list[bytes]:
        """The JPEGs of a clip.

        Raises:
            DecodeError: the clip cannot be decoded.
            OSError: its shard cannot be read.
        """
        async with self._turns:
            decoder = self._free.pop()
            try:
                return await asyncio.to_thread(
                    pictures,
                    decoder,
                    shard,
                    row,
                    count=self.count,
                    side=self.side,
                    quality=self.quality,
                )
            finally:
                self._free.append(decoder)

    def close(self) -> None:
        """End the decoders."""
        for decoder in self._free:
            decoder.close()

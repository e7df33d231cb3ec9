"""Bytes to frames at requested times: the nearest by presentation time stamp, upright, in RGB.

Decoding runs in a sandbox: a crash or a hang becomes an error with a reason. The frames are those
that PyAV decodes strictly; decord is used only for videos that were verified for it. Videos and
frames are passed through shared memory.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from cascade.media.reason import MAX_PIXELS, DecodeError
from data.decode.inspection import Depth, Inspection, inspect_media
from data.decode.media import Media, open_media, read_frames
from data.decode.probe import Timing
from data.decode.sandbox import MEMORY_BYTES, Sandbox, SandboxError

log = logging.getLogger(__name__)

DEADLINE_S = 30.0


class Decoder:
    """Decodes one video or image after another in a separate process, started when needed.

    A video or image is refused if it makes no progress for `deadline_s` seconds, if its frames have
    more than `max_pixels`, or if it needs more than `memory_bytes` of memory.
    """

    def __init__(
        self,
        *,
        deadline_s: float = DEADLINE_S,
        max_pixels: int = MAX_PIXELS,
        memory_bytes: int | None = MEMORY_BYTES,
    ) -> None:
        self.deadline_s, self.max_pixels = deadline_s, max_pixels
        self._sandbox = Sandbox(memory_bytes=memory_bytes)
        self._numbers = count()
        self._media: Media | None = None

    def open(self, data: bytes, *, decord: bool = False) -> Timing:
        """Open a video or image; return when its frames are shown.

        Set `decord` only for a video that an inspection at depth `decord` has verified.

        Raises:
            DecodeError: with the reason.
        """
        media = self._put(data, decord=decord)
        try:
            timing: Timing = self._call(open_media, media)
        except DecodeError as error:
            media = self._without_decord(media, error)
            timing = self._call(open_media, media)
        self._media = media
        return timing

    def frames(
        self, wanted_s: Sequence[float] | Float64[np.ndarray, " n"]
    ) -> UInt8[Tensor, "n h w c"]:
        """The frames of the open video nearest to these times, in seconds from its first frame.

        They are upright, have square pixels, and share one size. The next call reuses their memory:
        scale or clone them before it.

        Raises:
            DecodeError: with the reason.
        """
        if self._media is None:
            raise RuntimeError("Decoder.frames: no video or image is open")
        wanted = np.asarray(wanted_s, dtype=np.float64)
        try:
            return self._read(self._media, wanted)
        except DecodeError as error:
            self._media = self._without_decord(self._media, error)
            return self._read(self._media, wanted)

    def inspect(self, data: bytes, depth: Depth) -> Inspection:
        """Inspect a video or image: decode its first frame, its key frames, or all frames.

        At depth `decord` a crash or a hang may be decord's, so depth `full` is tried after it.

        Raises:
            DecodeError: it cannot be read, with the reason.
        """
        media = self._put(data)
        try:
            return self._inspect(media, depth)
        except SandboxError:
            if depth != "decord":
                raise
            return self._inspect(media, "full")

    def close(self) -> None:
        """End the process; a later call starts another."""
        self._sandbox.close()

    def _inspect(self, media: Media, depth: Depth) -> Inspection:
        found: Inspection = self._call(inspect_media, media, depth)
        return found

    def _read(self, media: Media, wanted: Float64[np.ndarray, " n"]) -> UInt8[Tensor, "n h w c"]:
        memory = self._sandbox.share("frames")
        shape, back = self._call(read_frames, media, wanted, memory.path)
        frames = torch.frombuffer(memory.view(int(np.prod(shape))), dtype=torch.uint8).view(shape)
        return frames if back == list(range(shape[0])) else frames[back]

    def _without_decord(self, media: Media, error: DecodeError) -> Media:
        """The same media for strict decoding; raises the error again if that was used already."""
        if not media.decord:
            raise error
        log.warning("decord failed on a video that was verified (%s); decoding strictly", error)
        return replace(media, decord=False)

    def _put(self, data: bytes, *, decord: bool = False) -> Media:
        self._media = None
        if not data:
            raise DecodeError("is empty: it has 0 bytes")
        self._sandbox.share("frames")
        memory = self._sandbox.share("media")
        memory.write(data)
        return Media(
            path=memory.path, number=next(self._numbers), max_pixels=self.max_pixels, decord=decord
        )

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return self._sandbox.call(function, *args, deadline_s=self.deadline_s, **kwargs)

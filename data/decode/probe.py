"""The header of a video or image: its size, its packets and their time stamps.

It is read from the container without decoding, in a few milliseconds.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from jaxtyping import Bool, Float64, Int64

from cascade.media.container import by_order, square_size
from cascade.media.reason import DecodeError, check_size
from cascade.media.strict import IN_ORDER

_MAX_DURATION_S = 1e7  # four months


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When the frames of a video are shown; an image is one frame of one second."""

    kind: Literal["video", "image"]
    times: Float64[np.ndarray, " f"]
    """Seconds from the first frame shown."""
    duration: float
    """Seconds from the first frame shown to the end of the last."""

    @property
    def frames(self) -> int:
        """Number of frames shown."""
        return len(self.times)

    @property
    def fps(self) -> float:
        """Mean frames per second."""
        return self.frames / self.duration


@dataclass(frozen=True, kw_only=True)
class Packets:
    """The packets of a video stream in their stored order, which is the order of decoding."""

    pts: Int64[np.ndarray, " p"]
    size: Int64[np.ndarray, " p"]
    key: Bool[np.ndarray, " p"]
    """Whether the container marks it as a key frame."""
    shown: Bool[np.ndarray, " p"]
    """Whether its frame is shown; an edit list may hide frames that others depend on."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header; `width` and `height` have the sample aspect ratio applied."""

    kind: Literal["video", "image"]
    codec: str
    width: int
    height: int
    pts: Int64[np.ndarray, " f"]
    """Time stamps of the shown frames in the stream's own unit, in presentation order."""
    unit: float
    """Seconds per time stamp."""
    duration: float
    """Seconds from the first frame shown to the end of the last."""
    packets: Packets
    container: str
    """The container's format, by FFmpeg's name; '' for an image."""
    by_order: bool
    """Whether frames are identified by their order: AVI stores no presentation times."""

    @property
    def frames(self) -> int:
        """Number of frames shown."""
        return len(self.pts)

    @property
    def times(self) -> Float64[np.ndarray, " f"]:
        """Seconds from the first frame shown."""
        return np.asarray((self.pts - self.pts[0]) * self.unit)

    @property
    def timing(self) -> Timing:
        """When its frames are shown."""
        return Timing(kind=self.kind, times=self.times, duration=self.duration)


def video_header(
    container: av.container.InputContainer, stream: av.VideoStream, *, max_pixels: int
) -> Header:
    """The header of a video; all of its packets are read, none is decoded.

    Raises:
        DecodeError: no frame shown, no time stamps, or a size out of bounds.
    """
    context, unit = stream.codec_context, stream.time_base or Fraction(1)
    width, height = square_size(stream, context.width, context.height)
    check_size(width, height, max_pixels=max_pixels)
    rows = [
        (p.pts, p.duration or 0, p.size, p.is_keyframe, not p.is_discard)
        for p in container.demux(stream)
        if p.size
    ]
    if any(row[0] is None for row in rows):
        raise DecodeError("a frame without a time stamp")
    table = np.array(rows, dtype=np.int64).reshape(-1, 5)
    if not table[:, 4].any():
        raise DecodeError("no frame is shown")
    gone = np.zeros(len(table), dtype=np.bool_)
    gone[leading(table[:, 0], 0, context.name)] = bool(table[0, 3])
    packets = Packets(
        pts=table[:, 0], size=table[:, 2], key=table[:, 3] == 1, shown=(table[:, 4] == 1) & ~gone
    )
    if not packets.shown.any():
        raise DecodeError("no frame is shown")
    shown = table[packets.shown]
    pts = np.unique(shown[:, 0])
    length = int(shown[np.argmax(shown[:, 0]), 1])
    return Header(
        kind="video",
        codec=context.codec.canonical_name,
        width=width,
        height=height,
        pts=pts,
        unit=float(unit),
        duration=_duration(pts, length, stream.average_rate, unit),
        packets=packets,
        container=container.format.name,
        by_order=by_order(container),
    )


def leading(pts: Int64[np.ndarray, " p"], key: int, codec: str) -> slice:
    """The packets right after a key frame whose frames are shown before it.

    They refer to frames before the key frame, as the others do not (open groups of pictures).
    """
    if codec in IN_ORDER:
        return slice(0, 0)
    later = np.flatnonzero(pts[key + 1 :] >= pts[key])
    return slice(key + 1, key + 1 + int(later[0]) if len(later) else len(pts))


def _duration(
    pts: Int64[np.ndarray, " f"], length: int, rate: Fraction | None, unit: Fraction
) -> float:
    """Duration to the end of the last frame; the median length is assumed if it states none.

    Raises:
        DecodeError: it is no positive number of seconds that a video may last.
    """
    if length <= 0 and len(pts) > 1:
        length = int(np.median(np.diff(pts.astype(np.float64))))
    last = length * unit if length > 0 else 1 / (rate or Fraction(1))
    duration = float((int(pts[-1]) - int(pts[0])) * unit + last)
    if not 0 < duration < _MAX_DURATION_S:
        raise DecodeError(f"its time stamps span {duration:.3g} s")
    return duration

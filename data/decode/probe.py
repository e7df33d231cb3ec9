"""The header of a video or image: its size, its packets and their time stamps.

It is read from the container without decoding, in a few milliseconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from jaxtyping import Bool, Float64, Int64
from PIL import Image

MAX_PIXELS = 8192 * 4320
MIN_SIDE = 8

_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
# decord 0.6.0 hangs on transport streams, returns neighbouring frames for AVI (and for edit lists
# and open groups of pictures), and does not support the others.
_NOT_FOR_DECORD = frozenset({"mpegts", "avi", "gif", "ogg"})
# Playlists are not allowed: they could open other files or a connection.
OPTIONS = {
    "format_whitelist": "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif",
    "protocol_whitelist": "file",
}


class DecodeError(ValueError):
    """A video or image cannot be decoded; the text is the reason."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When the frames of a video are shown; an image is one frame of one second."""

    kind: Literal["video", "image"]
    times: Float64[np.ndarray, " f"]
    """Seconds from the first frame shown; from decord in single precision."""
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

    @property
    def closed(self) -> bool:
        """Whether every frame stored after a key frame is also shown after it."""
        earliest = np.minimum.accumulate(self.pts[::-1])[::-1]
        return bool((earliest == self.pts)[self.key].all())


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
    by_order: bool
    """Whether frames are identified by their order: AVI stores no presentation times."""
    decord: bool
    """Whether decord supports it."""

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


def is_image(head: bytes) -> bool:
    """Whether the bytes are a still image, judged by content, not by file name."""
    return head.startswith(_IMAGE_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def check_size(width: int, height: int, *, max_pixels: int = MAX_PIXELS) -> None:
    """Check the frame size in a header before memory is allocated for it.

    Raises:
        DecodeError: too many pixels, or a side that is too small.
    """
    if width * height > max_pixels:
        raise DecodeError(f"claims {width}×{height} pixels, more than the limit of {max_pixels}")
    if min(width, height) < MIN_SIDE:
        raise DecodeError(f"has {width}×{height} pixels; each side must have at least {MIN_SIDE}")


@contextmanager
def reasons() -> Iterator[None]:
    """Turns the exceptions that libraries raise for damaged bytes into a `DecodeError`."""
    try:
        yield
    except MemoryError:  # the limit of the process, not damage; FFmpegError is a base class of it
        raise
    except (av.FFmpegError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise DecodeError(f"does not decode: {error}") from error


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is not an attached picture.

    Raises:
        DecodeError: there is none.
    """
    for stream in container.streams.video:
        if not int(stream.disposition) & int(av.stream.Disposition.attached_pic):
            return stream
    raise DecodeError("no video stream")


def image_header(path: str, *, max_pixels: int) -> Header:
    """The header of an image, in its stored orientation.

    Raises:
        DecodeError: its size is out of bounds.
    """
    with Image.open(path, formats=_IMAGE_FORMATS) as image:
        width, height = image.size
        check_size(width, height, max_pixels=max_pixels)
        one = np.zeros(1, dtype=np.int64)
        return Header(
            kind="image",
            codec=(image.format or "image").lower(),
            width=width,
            height=height,
            pts=one,
            unit=1.0,
            duration=1.0,
            packets=Packets(pts=one, size=one, key=one == 0, shown=one == 0),
            by_order=False,
            decord=False,
        )


def video_header(container: av.container.InputContainer, *, max_pixels: int) -> Header:
    """The header of a video; all of its packets are read, none is decoded.

    Raises:
        DecodeError: no video stream, no frame shown, no time stamps, or a size out of bounds.
    """
    stream = video_stream(container)
    context, unit = stream.codec_context, stream.time_base or Fraction(1)
    stretch = float(stream.sample_aspect_ratio or 1) or 1.0
    width, height = round(context.width * max(stretch, 1)), round(context.height / min(stretch, 1))
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
    # Cut at an open group of pictures: frames shown before the first key frame need missing frames.
    gone = table[:, 0] < table[0, 0] if table[0, 3] else np.zeros(len(table), dtype=np.bool_)
    packets = Packets(
        pts=table[:, 0], size=table[:, 2], key=table[:, 3] == 1, shown=(table[:, 4] == 1) & ~gone
    )
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
        by_order=container.format.name == "avi",
        decord=container.format.name not in _NOT_FOR_DECORD
        and bool(packets.shown.all())
        and packets.closed,
    )


def _duration(
    pts: Int64[np.ndarray, " f"], length: int, rate: Fraction | None, unit: Fraction
) -> float:
    """Duration to the end of the last frame; the median length is assumed if it states none."""
    if length <= 0 and len(pts) > 1:
        length = int(np.median(np.diff(pts)))
    last = length * unit if length > 0 else 1 / (rate or Fraction(1))
    return float(int(pts[-1] - pts[0]) * unit + last)

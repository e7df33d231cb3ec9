"""The frames of a file in presentation order; a damaged frame is an error.

A file is read from its start without seeking, through a file object and by a few demuxers only, so
that a disguised playlist cannot open another file or a connection.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from cascade.media.container import open_video, square_size
from cascade.media.reason import MAX_PIXELS, DecodeError, check_size, reasons
from cascade.media.sequence import Shown, numbered, shown_frames
from cascade.media.strict import Numbered, listen, strict_decoder
from cascade.media.upright import Orientation
from data.decode.sandbox import beat

# Exact rounding gives the same pixels on every CPU, and no noise in the hue near black.
_EXACT = int(
    av.video.reformatter.Interpolation.AREA
    | av.video.reformatter.Interpolation.ACCURATE_RND
    | av.video.reformatter.Interpolation.FULL_CHR_H_INT
    | av.video.reformatter.Interpolation.FULL_CHR_H_INP
    | av.video.reformatter.Interpolation.BITEXACT
)


@dataclass(kw_only=True)
class Reel:
    """The properties of a video stream; they are completed while its frames are read."""

    container: str
    codec: str
    pixels: str
    streams: int
    orientation: Orientation = field(default_factory=Orientation)
    width: int = 0
    """Of the first frame, upright, with square pixels; other frames are scaled to it."""
    height: int = 0
    claimed_s: float | None = None
    """Duration in seconds, from the container."""
    square: bool = True
    one_size: bool = True
    opaque: bool = True
    discarded: int = 0
    keys: list[float] = field(default_factory=list)
    """Times of the key frames in seconds, from the first frame shown."""
    times: list[float] = field(default_factory=list)
    """Times of the frames in seconds, from the first."""
    end: float = 0.0
    """End of the last frame in seconds."""


@contextlib.contextmanager
def opened(file: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its video stream.

    Raises:
        DecodeError: it cannot be opened, has no video, or its frames are too large.
    """
    listen()
    with contextlib.ExitStack() as stack:
        with reasons():
            data = stack.enter_context(Path(file).open("rb"))
            container, stream = open_video(data, max_pixels=MAX_PIXELS)
            stack.enter_context(container)
        yield container, stream


def whole_file(file: str) -> bytes:
    """All bytes of a file.

    Raises:
        DecodeError: it cannot be read.
    """
    with reasons():
        return Path(file).read_bytes()


def claimed_s(file: str) -> float | None:
    """The duration in a file's header; None if there is none, or it cannot be opened."""
    try:
        with opened(file) as (container, stream):
            return reel_of(container, stream).claimed_s
    except DecodeError:
        return None


def reel_of(container: av.container.InputContainer, stream: av.VideoStream) -> Reel:
    """The properties that the container states, before a frame is read."""
    claimed = container.duration
    return Reel(
        container=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        pixels=stream.codec_context.pix_fmt or "",
        streams=len(container.streams.video),
        claimed_s=claimed / av.time_base if claimed else None,
    )


def frames(
    container: av.container.InputContainer, stream: av.VideoStream, reel: Reel
) -> Iterator[tuple[float, av.VideoFrame]]:
    """(seconds from the first, frame) of every frame shown; completes the reel.

    Raises:
        DecodeError: a frame is damaged, or none is shown.
    """
    keys: list[int] = []
    first: int | None = None
    packets = _counted(container, stream, reel, keys)
    size = (0, 0)
    decoder = strict_decoder(stream, max_pixels=MAX_PIXELS)
    for shown in shown_frames(packets, container, stream, decoder):
        beat()
        if first is None:
            first = shown.frame.pts or 0
            size = shown.frame.width, shown.frame.height
            _first_frame(reel, shown, stream)
        reel.one_size &= size == (shown.frame.width, shown.frame.height)
        reel.opaque &= not shown.transparent
        reel.times.append(shown.time)
        reel.end = shown.end
        yield shown.time, shown.frame
    reel.keys = sorted((key - (first or 0)) * float(stream.time_base or 0) for key in keys)


def _counted(
    container: av.container.InputContainer, stream: av.VideoStream, reel: Reel, keys: list[int]
) -> Iterator[Numbered]:
    """Numbered packets; the time stamps of key frames are added to `keys`."""
    for one in numbered(container, stream):
        packet = one.packet
        if packet.size:
            reel.discarded += packet.is_discard
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
        yield one


def _first_frame(reel: Reel, shown: Shown, stream: av.VideoStream) -> None:
    """Set the size and orientation of the reel from the first frame."""
    stored = shown.frame.width, shown.frame.height
    size = square_size(stream, *stored)
    reel.orientation = shown.orientation
    reel.width, reel.height = reel.orientation.shown(*size)
    reel.square = size == stored
    check_size(reel.width, reel.height)


def shrunk(width: int, height: int, side: int | None) -> tuple[int, int]:
    """The size with a short side of at most `side`, at the same aspect ratio, with even sides."""
    scale = min(1.0, side / min(width, height)) if side else 1.0
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def picture(
    frame: av.VideoFrame, reel: Reel, size: tuple[int, int], form: str
) -> UInt8[np.ndarray, "h w c"]:
    """The frame, upright, at `size` (width, height), as rgb24 or bgr24."""
    width, height = reel.orientation.shown(*size)
    pixels = frame.reformat(
        width=width, height=height, format=form, interpolation=_EXACT, threads=1
    ).to_ndarray()
    return np.ascontiguousarray(reel.orientation.apply(pixels))

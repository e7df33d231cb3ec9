"""The frames of a file in presentation order; a damaged frame is an error.

A file is read from its start without seeking, through a file object and by a few demuxers only, so
that a disguised playlist cannot open another file or a connection.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from data.decode.damage import be_strict, decode, listen
from data.decode.probe import OPTIONS, DecodeError, check_size, video_stream
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
    rotation: int = 0
    """Quarter turns counter-clockwise."""
    width: int = 0
    """Of the first frame, upright, with square pixels; other frames are scaled to it."""
    height: int = 0
    claimed_s: float | None = None
    """Duration in seconds, from the container."""
    square: bool = True
    one_size: bool = True
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
        with reading():
            data = stack.enter_context(Path(file).open("rb"))
            container = stack.enter_context(av.open(data, "r", options=OPTIONS))
            stream = video_stream(container)
            be_strict(stream)
            check_size(stream.codec_context.width, stream.codec_context.height)
        yield container, stream


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turns the exceptions that libraries raise for a damaged file into a `DecodeError`.

    Raises:
        DecodeError: with the reason.
    """
    try:
        yield
    except av.FFmpegError as error:
        raise DecodeError(f"does not decode: {error.strerror or error}") from error
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}") from error


def whole_file(file: str) -> bytes:
    """All bytes of a file.

    Raises:
        DecodeError: it cannot be read.
    """
    with reading():
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
    unit = float(stream.time_base or 0)
    by_order = container.format.name == "avi"  # has no presentation times, only an order
    first: float | None = None
    keys: list[float] = []
    length = 1 / float(stream.average_rate or 25)
    stored = (0, 0)
    with reading():
        for packet in container.demux(stream):
            if packet.size:
                reel.discarded += packet.is_discard
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts * unit)
            for frame in _decoded(packet, len(reel.times)):
                beat()
                stamp = frame.dts if by_order else frame.pts
                if frame.is_corrupt:
                    raise DecodeError(f"frame {len(reel.times)} is damaged")
                if first is None and stamp is not None:
                    first, stored = stamp * unit, (frame.width, frame.height)
                    _first_frame(reel, frame, stream)
                if first is None or (stamp is None and not by_order):
                    raise DecodeError(f"frame {len(reel.times)} has no time stamp")
                time = reel.end if stamp is None else stamp * unit - first
                if reel.times and time <= reel.times[-1]:
                    raise DecodeError(
                        f"frame {len(reel.times)} is shown at {time:.3f} s, the one before it at "
                        f"{reel.times[-1]:.3f} s"
                    )
                reel.one_size &= stored == (frame.width, frame.height)
                length = frame.duration * unit if frame.duration else length
                reel.times.append(time)
                reel.end = time + length
                yield time, frame
    if first is None:
        raise DecodeError("no frame is shown")
    reel.keys = sorted(key - first for key in keys)


def _decoded(packet: Any, number: int) -> list[av.VideoFrame]:
    """The frames that the decoder returns for a packet."""
    name = f"a packet at frame {number}"
    if packet.is_corrupt:
        raise DecodeError(f"{name} is damaged")
    return decode(packet, name)


def _first_frame(reel: Reel, frame: av.VideoFrame, stream: av.VideoStream) -> None:
    """Set the size and rotation of the reel from the first frame."""
    check_size(frame.width, frame.height)
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    width, height = round(frame.width * max(aspect, 1.0)), round(frame.height / min(aspect, 1.0))
    reel.rotation = round(frame.rotation / 90) % 4
    reel.width, reel.height = (height, width) if reel.rotation % 2 else (width, height)
    reel.square = aspect == 1.0
    check_size(reel.width, reel.height)


def shrunk(width: int, height: int, side: int | None) -> tuple[int, int]:
    """The size with a short side of at most `side`, at the same aspect ratio, with even sides."""
    scale = min(1.0, side / min(width, height)) if side else 1.0
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def picture(
    frame: av.VideoFrame, reel: Reel, size: tuple[int, int], form: str
) -> UInt8[np.ndarray, "h w c"]:
    """The frame, upright, at `size` (width, height), as rgb24 or bgr24."""
    stored = size[::-1] if reel.rotation % 2 else size
    pixels = frame.reformat(
        width=stored[0], height=stored[1], format=form, interpolation=_EXACT, threads=1
    ).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, k=reel.rotation))

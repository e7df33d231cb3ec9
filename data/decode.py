"""Bytes to frames at wanted times: the frame nearest by presentation time stamp, upright, in RGB.

decord reads what it can be trusted with, through a file in memory; everything else, and everything
on a machine without decord, is read by PyAV in presentation order. A frame that does not decode is
an error, never its neighbour.
"""

import io
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import av
import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from data.probe import DecodeError, Header, check_size, video_stream

try:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
except ImportError:
    decord = None

log = logging.getLogger(__name__)

DEADLINE_S = 30.0
_SEEK_FROM_S = 1.0


def nearest(
    times: Float64[np.ndarray, " f"], wanted: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Index of the frame nearest to each wanted time; of two equally near, the earlier."""
    return np.searchsorted((times[1:] + times[:-1]) / 2, wanted).astype(np.int64)


def decode(
    data: bytes,
    header: Header,
    wanted: Sequence[float] | Float64[np.ndarray, " n"],
    *,
    deadline_s: float = DEADLINE_S,
) -> UInt8[Tensor, "n h w c"]:
    """The frames nearest to the wanted times, in seconds from the first frame shown.

    Raises:
        DecodeError: with the reason.
    """
    if header.kind == "image":
        return _read_image(data).expand(len(wanted), -1, -1, -1)
    frames, back = np.unique(
        nearest(header.times, np.asarray(wanted, dtype=np.float64)), return_inverse=True
    )
    pixels = None
    if decord is not None and header.decord:
        pixels = _by_decord(data, header, frames)
    if pixels is None:
        pixels = _by_pyav(data, header, frames, time.monotonic() + deadline_s)
    return torch.from_numpy(pixels if len(back) == len(frames) else pixels[back])


def _read_image(data: bytes) -> UInt8[Tensor, "1 h w c"]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            check_size(*image.size)
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DecodeError(f"image does not decode: {error}") from error
    return torch.from_numpy(pixels)[None]


@contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    """A path to the bytes without a disk; decord's BytesIO reader crashes the process."""
    descriptor = os.memfd_create("clip")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _by_decord(
    data: bytes, header: Header, frames: Int64[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n h w c"] | None:
    """None where decord refuses, or counts other frames than the container shows."""
    try:
        with _memory_file(data) as path:
            reader = decord.VideoReader(path, num_threads=1)
            if len(reader) != header.frames:
                return None
            pixels: UInt8[np.ndarray, "n h w c"] = reader.get_batch(frames).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        log.debug("decord refuses, PyAV reads instead: %s", error)
        return None
    return pixels


def _by_pyav(
    data: bytes, header: Header, frames: Int64[np.ndarray, " n"], deadline: float
) -> UInt8[np.ndarray, "n h w c"]:
    wanted = header.pts[frames]
    try:
        found = {}
        if not header.sequential and header.times[frames[0]] > _SEEK_FROM_S:
            found = _read(data, header, wanted, deadline, seek=True)
        if len(found) < len(wanted):
            found = _read(data, header, wanted, deadline, seek=False)
    except (av.FFmpegError, MemoryError) as error:
        raise DecodeError(f"does not decode: {error}") from error
    for at, index in zip(wanted.tolist(), frames.tolist(), strict=True):
        if at not in found:
            raise DecodeError(f"frame {index} of {header.frames} does not decode")
    return np.stack([found[at] for at in wanted.tolist()])


def _read(
    data: bytes, header: Header, wanted: Int64[np.ndarray, " n"], deadline: float, *, seek: bool
) -> dict[int, UInt8[np.ndarray, "h w c"]]:
    """Decoded frames by time stamp, of those wanted; after a seek that fell short, fewer."""
    remaining: set[int] = set(wanted.tolist())
    found: dict[int, UInt8[np.ndarray, "h w c"]] = {}
    with av.open(io.BytesIO(data), "r") as container:
        stream = video_stream(container)
        if seek:
            container.seek(int(wanted[0]), stream=stream, backward=True)
        for frame in container.decode(stream):
            if time.monotonic() > deadline:
                raise DecodeError("decoding passes its deadline")
            if frame.pts is not None and frame.pts in remaining and not frame.is_corrupt:
                remaining.discard(frame.pts)
                found[frame.pts] = _upright(frame, header)
            if not remaining:
                break
    return found


def _upright(frame: av.VideoFrame, header: Header) -> UInt8[np.ndarray, "h w c"]:
    """The frame in RGB at the size shown, its rotation applied."""
    pixels = frame.to_ndarray(format="rgb24", width=header.width, height=header.height)
    return np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90) % 4))

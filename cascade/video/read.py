"""Videos and pictures from files: in the order shown, upright, with square pixels, by time stamp.

So a variable frame rate is read as it plays.
"""

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cascade.grid import Grid
from cascade.video.resample import frame_times, resize, to_float

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
Shown = tuple[NDArray[np.uint8], float, float]
"""Pixels (h w 3), the time at which they come on and how long they stay, in seconds."""


def read_image(path: str | Path) -> UInt8[Tensor, "h w 3"]:
    """A picture, upright as its EXIF tells, transparency over white.

    Raises:
        ValueError: not a picture that can be read.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path}: not a picture that can be read ({error})") from error
    paper = Image.new("RGBA", upright.size, "white")
    return torch.from_numpy(np.array(Image.alpha_composite(paper, upright).convert("RGB")))


def read_frames(path: str | Path) -> tuple[UInt8[Tensor, "f h w 3"], Float[Tensor, " f"]]:
    """All frames in the order shown and their times (s, float64, the first 0), or a picture's one.

    Raises:
        ValueError: not a video or picture that can be read.
    """
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return read_image(path)[None], torch.zeros(1, dtype=torch.float64)
    shown = [(torch.from_numpy(pixels), time) for pixels, time, _ in _decode(path)]
    frames, times = zip(*shown, strict=True)
    return torch.stack(frames), torch.tensor(times, dtype=torch.float64)


def load_clip(path: str | Path, grid: Grid, *, from_end: bool = False) -> Float[Tensor, "3 f h w"]:
    """The first `grid.duration` of a video, or a picture for a grid of one frame, on the grid.

    With `from_end` it is the last `grid.duration`. At each time of the grid the frame on show is
    taken; space is cropped at the centre to the grid's aspect ratio, then resampled.

    Raises:
        ValueError: the video ends before the grid's last frame, or cannot be read.
    """
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        shown, end = [read_image(path)], 0.0
    else:
        wanted = frame_times(grid)
        if from_end:
            ((_, time, lasting),) = deque(_decode(path), maxlen=1)
            wanted = wanted + max(time + lasting - grid.duration, 0.0)
        shown, end = _on_show(path, wanted.tolist())
    if len(shown) < grid.frames:
        raise ValueError(
            f"{path}: lasts {end:.3f} s, but {grid} begins its last frame at "
            f"{(grid.frames - 1) / grid.fps:.3f} s; take {len(shown)} frames, or more per second"
        )
    fitted = [_fit(to_float(pixels), grid.height, grid.width) for pixels in shown]
    return torch.stack(fitted, dim=1)


def _on_show(path: str | Path, wanted: list[float]) -> tuple[list[UInt8[Tensor, "h w 3"]], float]:
    """The frame shown at each wanted time, as far as the video lasts, and its end in seconds."""
    taken: list[Tensor] = []
    before, end = None, 0.0
    for pixels, time, lasting in _decode(path):
        while before is not None and len(taken) < len(wanted) and wanted[len(taken)] < time - 1e-4:
            taken.append(before)
        if len(taken) == len(wanted):
            return taken, time
        before, end = torch.from_numpy(pixels), time + lasting
    while before is not None and len(taken) < len(wanted) and wanted[len(taken)] < end - 1e-4:
        taken.append(before)
    return taken, end


def _fit(pixels: Float[Tensor, "h w 3"], height: int, width: int) -> Float[Tensor, "3 h2 w2"]:
    h, w, _ = pixels.shape
    crop_h, crop_w = (
        min(h, max(1, round(w * height / width))),
        min(w, max(1, round(h * width / height))),
    )
    top, left = (h - crop_h) // 2, (w - crop_w) // 2
    cropped = pixels[top : top + crop_h, left : left + crop_w].permute(2, 0, 1)
    return resize(cropped[None, :, None], height, width)[0, :, 0]


def _decode(path: str | Path) -> Iterator[Shown]:
    """(pixels, time, duration) of each frame shown, upright and with square pixels."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                raise ValueError(f"{path}: holds no video")
            stream.thread_type = "AUTO"
            yield from _shown(path, container, stream)
    except FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be read ({error})") from error


def _shown(path: str | Path, container: InputContainer, stream: VideoStream) -> Iterator[Shown]:
    aspect, size = stream.sample_aspect_ratio or Fraction(1), None
    first, time, lasting = None, 0.0, 1 / float(stream.average_rate or 25)
    by_order = container.format.name == "avi"  # has no presentation times, only an order
    for frame in container.decode(stream):
        stamp = frame.dts if by_order else frame.pts
        if stamp is not None and frame.time_base is not None:
            seconds = float(stamp * frame.time_base)
            first = seconds if first is None else first
            time = seconds - first
        elif size is not None:
            time += lasting
        if frame.duration and frame.time_base is not None:
            lasting = float(frame.duration * frame.time_base)
        size = size or _square(frame, aspect)
        pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
        yield np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))), time, lasting
    if size is None:
        raise ValueError(f"{path}: holds no frame")


def _square(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Width and height at which pixels are square: stretched, never shrunk."""
    if aspect >= 1:
        return round(frame.width * aspect), frame.height
    return frame.width, round(frame.height / aspect)

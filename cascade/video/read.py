"""Reads videos and images: frames in display order, upright, with square pixels, by time stamp.

So a video of variable frame rate is read as a player shows it.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float, Float64, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cascade.grid import Grid
from cascade.times import clip_length, nearest
from cascade.video.resample import covering, frame_times, scale_frames, to_float

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A frame in display order; times are seconds from the first frame."""

    frame: VideoFrame
    size: tuple[int, int]
    """Width and height at which pixels are square, before the frame is turned upright."""
    time: float
    lasting: float | None
    """The duration of the frame; None if the file does not have it."""
    usual: float
    """The average duration of a frame of this video, according to the file."""

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The upright RGB pixels."""
        rgb = self.frame.to_ndarray(format="rgb24", width=self.size[0], height=self.size[1])
        return np.ascontiguousarray(np.rot90(rgb, round(self.frame.rotation / 90)))


def read_image(path: str | Path) -> UInt8[Tensor, "h w 3"]:
    """An image, upright according to its EXIF, with transparency over white.

    Raises:
        ValueError: the image cannot be read.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    paper = Image.new("RGBA", upright.size, "white")
    return torch.from_numpy(np.array(Image.alpha_composite(paper, upright).convert("RGB")))


def read_frames(path: str | Path) -> tuple[UInt8[Tensor, "f h w 3"], Float[Tensor, " f"]]:
    """All frames in display order, and their times (s, float64, first 0); one frame for an image.

    Raises:
        ValueError: the file cannot be read as a video or an image.
    """
    if _is_image(path):
        return read_image(path)[None], torch.zeros(1, dtype=torch.float64)
    shown = [(torch.from_numpy(frame.pixels()), frame.time) for frame in _shown(path)]
    frames, times = zip(*shown, strict=True)
    return torch.stack(frames), torch.tensor(times, dtype=torch.float64)


def frame_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a video's first frame or of an image.

    Raises:
        ValueError: the file cannot be read as a video or an image.
    """
    if _is_image(path):
        height, width, _ = read_image(path).shape
        return height, width
    with contextlib.closing(_shown(path)) as shown:
        height, width, _ = next(shown).pixels().shape
    return height, width


def load_clip(
    path: str | Path,
    grid: Grid,
    *,
    from_end: bool = False,
    places: Sequence[int] | None = None,
) -> Float[Tensor, "3 f h w"]:
    """The first `grid.duration` seconds of a video on the grid, or an image for one frame.

    Frames and pixels are chosen as in training: for each time of the grid the frame with the
    nearest time stamp, resized with antialiasing to cover the grid, then cropped at the centre.

    Args:
        path: a video or an image.
        grid: the grid of the clip.
        from_end: take the last `grid.duration` seconds instead.
        places: indices of the grid's frames to take; all by default.

    Raises:
        ValueError: the video is too short, or cannot be read.
    """
    taken = list(range(grid.frames)) if places is None else list(places)
    is_image = _is_image(path)
    times, duration = np.zeros(1), 0.0
    if not is_image:
        times, duration = _timeline(path, until=None if from_end else grid.duration)
    length = clip_length(duration, grid.fps)
    if max(taken) >= length:
        raise ValueError(
            f"{path}: lasts {duration:.3f} s and gives {length} of the {max(taken) + 1} frames "
            f"required at {grid.fps:g} frames per second; take fewer frames or a longer video"
        )
    wanted = frame_times(grid)[taken].numpy()
    if from_end:
        wanted = wanted + max(duration - grid.duration, 0.0)
    numbers = nearest(times, wanted).tolist()
    each = {0: read_image(path)}.items() if is_image else _numbered(path, numbers)
    fitted = {number: _fit(pixels, grid.height, grid.width) for number, pixels in each}
    return to_float(torch.cat([fitted[number] for number in numbers], dim=1))


def _is_image(path: str | Path) -> bool:
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def _timeline(path: str | Path, *, until: float | None) -> tuple[Float64[np.ndarray, " f"], float]:
    """The times of frames and the end of the last one, in seconds; only up to `until`."""
    times: list[float] = []
    with contextlib.closing(_shown(path)) as shown:
        for frame in shown:
            times.append(frame.time)
            if until is not None and frame.time >= until:
                break
    lasting = frame.lasting
    if lasting is None:
        lasting = float(np.median(np.diff(times))) if len(times) > 1 else frame.usual
    return np.array(times), times[-1] + lasting


def _numbered(path: str | Path, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """The frames of these numbers, in display order; only these are converted to pixels."""
    with contextlib.closing(_shown(path)) as shown:
        for number, frame in enumerate(shown):
            if number in numbers:
                yield number, torch.from_numpy(frame.pixels())
            if number >= max(numbers):
                return


def _fit(pixels: UInt8[Tensor, "h w 3"], height: int, width: int) -> UInt8[Tensor, "3 1 h2 w2"]:
    size = covering(pixels.shape[0], pixels.shape[1], (height, width))
    scaled = scale_frames(pixels[None], size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, :, top : top + height, left : left + width]


def _shown(path: str | Path) -> Generator[Shown, None, None]:
    """Each frame in display order."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with av.open(f"file:{path}") as container:  # else a colon ends the name of a protocol
            stream = next(filter(_moves, container.streams.video), None)
            if stream is None:
                raise ValueError(f"{path}: contains no video")
            stream.thread_type = "AUTO"
            yield from _decode(path, container, stream)
    except FFmpegError as error:
        raise ValueError(f"{path}: cannot be read as a video ({error})") from error


def _moves(stream: VideoStream) -> bool:
    """Whether it is a video, not a cover image."""
    return not int(stream.disposition) & int(Disposition.attached_pic)


def _decode(path: str | Path, container: InputContainer, stream: VideoStream) -> Iterator[Shown]:
    aspect, size = stream.sample_aspect_ratio or Fraction(1), None
    first, time, usual = None, 0.0, 1 / float(stream.average_rate or 1)
    by_order = container.format.name == "avi"  # has an order but no presentation times
    for frame in container.decode(stream):
        stamp = frame.dts if by_order else frame.pts
        if stamp is not None and frame.time_base is not None:
            seconds = float(stamp * frame.time_base)
            first = seconds if first is None else first
            time = seconds - first
        elif size is not None:
            time += usual
        size = size or _square(frame, aspect)
        lasting = None
        if frame.duration and frame.time_base is not None:
            lasting = float(frame.duration * frame.time_base)
        yield Shown(frame=frame, size=size, time=time, lasting=lasting, usual=usual)
    if size is None:
        raise ValueError(f"{path}: contains no frame")


def _square(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Width and height at which pixels are square; one side may be enlarged, none is reduced."""
    if aspect >= 1:
        return round(frame.width * aspect), frame.height
    return frame.width, round(frame.height / aspect)

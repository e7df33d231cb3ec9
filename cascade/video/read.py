"""Videos and pictures from files: in the order shown, upright, with square pixels, by time stamp.

So a variable frame rate is read as it plays.
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
    """A frame as a player shows it; times are seconds from the first frame."""

    frame: VideoFrame
    size: tuple[int, int]
    """Width and height at which pixels are square, before the frame is turned upright."""
    time: float
    lasting: float | None
    """None where the file does not say."""
    usual: float
    """How long a frame of this video lasts on average, as the file says."""

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """Upright, in RGB."""
        rgb = self.frame.to_ndarray(format="rgb24", width=self.size[0], height=self.size[1])
        return np.ascontiguousarray(np.rot90(rgb, round(self.frame.rotation / 90)))


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
    if _is_picture(path):
        return read_image(path)[None], torch.zeros(1, dtype=torch.float64)
    shown = [(torch.from_numpy(frame.pixels()), frame.time) for frame in _shown(path)]
    frames, times = zip(*shown, strict=True)
    return torch.stack(frames), torch.tensor(times, dtype=torch.float64)


def frame_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a video's first frame or of a picture.

    Raises:
        ValueError: not a video or picture that can be read.
    """
    if _is_picture(path):
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
    """The first `grid.duration` of a video, or a picture for a grid of one frame, on the grid.

    Frames and pixels are those that training takes: at each time of the grid the frame nearest by
    time stamp, scaled antialiased until it covers the grid, then cropped at the centre.

    Args:
        path: a video or a picture.
        grid: where the clip shall live.
        from_end: take the last `grid.duration` instead.
        places: the frames of the grid to take; all by default.

    Raises:
        ValueError: the video is too short, or cannot be read.
    """
    taken = list(range(grid.frames)) if places is None else list(places)
    picture = _is_picture(path)
    times, duration = np.zeros(1), 0.0
    if not picture:
        times, duration = _timeline(path, until=None if from_end else grid.duration)
    length = clip_length(duration, grid.fps)
    if max(taken) >= length:
        raise ValueError(
            f"{path}: lasts {duration:.3f} s and gives {length} of the {max(taken) + 1} frames "
            f"wanted at {grid.fps:g} frames per second; ask for fewer, or take a longer video"
        )
    wanted = frame_times(grid)[taken].numpy()
    if from_end:
        wanted = wanted + max(duration - grid.duration, 0.0)
    numbers = nearest(times, wanted).tolist()
    each = {0: read_image(path)}.items() if picture else _numbered(path, numbers)
    fitted = {number: _fit(pixels, grid.height, grid.width) for number, pixels in each}
    return to_float(torch.cat([fitted[number] for number in numbers], dim=1))


def _is_picture(path: str | Path) -> bool:
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def _timeline(path: str | Path, *, until: float | None) -> tuple[Float64[np.ndarray, " f"], float]:
    """When frames come on and when the last one goes, in seconds; of those up to `until`."""
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
    """The frames of these numbers, in the order shown; only these become pixels."""
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
    """Each frame in the order shown."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with av.open(str(path)) as container:
            stream = next(filter(_moves, container.streams.video), None)
            if stream is None:
                raise ValueError(f"{path}: holds no video")
            stream.thread_type = "AUTO"
            yield from _decode(path, container, stream)
    except FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be read ({error})") from error


def _moves(stream: VideoStream) -> bool:
    """Whether it is a video, not a cover picture."""
    return not int(stream.disposition) & int(Disposition.attached_pic)


def _decode(path: str | Path, container: InputContainer, stream: VideoStream) -> Iterator[Shown]:
    aspect, size = stream.sample_aspect_ratio or Fraction(1), None
    first, time, usual = None, 0.0, 1 / float(stream.average_rate or 1)
    by_order = container.format.name == "avi"  # has no presentation times, only an order
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
        raise ValueError(f"{path}: holds no frame")


def _square(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Width and height at which pixels are square: stretched, never shrunk."""
    if aspect >= 1:
        return round(frame.width * aspect), frame.height
    return frame.width, round(frame.height / aspect)

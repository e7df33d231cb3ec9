"""Reads videos and images: frames in display order, upright, with square pixels, by time stamp.

So a video of variable frame rate is read as a player shows it.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from cascade.grid import Grid
from cascade.media import picture
from cascade.media.container import open_video, square_size
from cascade.media.kinds import START, is_image
from cascade.media.reason import MAX_PIXELS, DecodeError, reasons
from cascade.media.sequence import Shown, numbered, shown_frames
from cascade.media.strict import listen, strict_decoder
from cascade.times import clip_length, nearest
from cascade.video.resample import covering, frame_times, scale_frames, to_float


@dataclass(frozen=True, kw_only=True)
class _Upright:
    """A frame and the size at which its pixels are square, before it is turned upright."""

    shown: Shown
    size: tuple[int, int]

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The upright RGB pixels."""
        rgb = self.shown.frame.to_ndarray(format="rgb24", width=self.size[0], height=self.size[1])
        return np.ascontiguousarray(self.shown.orientation.apply(rgb))


def read_image(path: str | Path) -> UInt8[Tensor, "h w 3"]:
    """An image, upright according to its EXIF, with transparency over white.

    Raises:
        ValueError: the image cannot be read.
    """
    with _named(path):
        return torch.from_numpy(picture.pixels(str(path)))


def read_frames(path: str | Path) -> tuple[UInt8[Tensor, "f h w 3"], Float[Tensor, " f"]]:
    """All frames in display order, and their times (s, float64, first 0); one frame for an image.

    Raises:
        ValueError: the file cannot be read as a video or an image.
    """
    if _is_image(path):
        return read_image(path)[None], torch.zeros(1, dtype=torch.float64)
    shown = [(torch.from_numpy(frame.pixels()), frame.shown.time) for frame in _shown(path)]
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


def video_length(path: str | Path, fps: float) -> int:
    """How many frames at `fps` a video lasts; 1 for an image.

    Raises:
        ValueError: the file cannot be read as a video or an image.
    """
    if _is_image(path):
        return 1
    _, duration = _timeline(path, until=None)
    return clip_length(duration, fps)


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


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Names the file in the reason why it cannot be read."""
    try:
        with reasons():
            yield
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error


def _is_image(path: str | Path) -> bool:
    """Whether a file is an image, by its first bytes."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    with _named(path), Path(path).open("rb") as file:
        return is_image(file.read(START))


def _timeline(path: str | Path, *, until: float | None) -> tuple[Float64[np.ndarray, " f"], float]:
    """The times of frames and the end of the last one, in seconds; only up to `until`."""
    times: list[float] = []
    end = 0.0
    with contextlib.closing(_shown(path)) as shown:
        for frame in shown:
            times.append(frame.shown.time)
            end = frame.shown.end
            if until is not None and frame.shown.time >= until:
                break
    return np.array(times), end


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


def _shown(path: str | Path) -> Generator[_Upright, None, None]:
    """Each frame in display order."""
    listen()
    with _named(path), Path(path).open("rb") as file:
        container, stream = open_video(file, max_pixels=MAX_PIXELS)
        with container:
            decoder = strict_decoder(stream, max_pixels=MAX_PIXELS)
            size: tuple[int, int] | None = None
            packets = numbered(container, stream)
            for shown in shown_frames(packets, container, stream, decoder):
                size = size or square_size(stream, shown.frame.width, shown.frame.height)
                yield _Upright(shown=shown, size=size)

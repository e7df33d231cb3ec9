"""Reads videos and images: frames in display order, upright, with square pixels, by time stamp.

So a video of variable frame rate is read as a player shows it.
"""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from cascade.grid import Grid
from cascade.media import picture
from cascade.media.animation import Picture, pictures
from cascade.media.container import open_video, square_size
from cascade.media.kinds import START, is_image
from cascade.media.reason import MAX_PIXELS, DecodeError, reasons
from cascade.media.sequence import Shown, numbered, shown_frames
from cascade.media.strict import listen, strict_decoder
from cascade.times import clip_length, nearest
from cascade.video.memory import Frames, Media
from cascade.video.resample import covering, frame_times, scale_frames, to_float

log = logging.getLogger(__name__)
#: How a picture of another aspect ratio is fitted to a grid.
Fit = Literal["crop", "pad"]
#: Frames with their numbers in the video.
Numbered = Iterator[tuple[int, Tensor]]
#: The largest image of a prompt: phones make 64 million pixels.
MAX_IMAGE = 80_000_000


@dataclass(frozen=True, kw_only=True)
class _Upright:
    """A frame and the size at which its pixels are square, before it is turned upright."""

    shown: Shown
    size: tuple[int, int]

    @property
    def time(self) -> float:
        """When it is shown, in seconds."""
        return self.shown.time

    @property
    def end(self) -> float:
        """Until when."""
        return self.shown.end

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The upright RGB pixels."""
        rgb = self.shown.frame.to_ndarray(format="rgb24", width=self.size[0], height=self.size[1])
        return np.ascontiguousarray(self.shown.orientation.apply(rgb))


def read_image(path: str | Path) -> UInt8[Tensor, "h w 3"]:
    """A still image, upright according to its EXIF, with transparency over white.

    Raises:
        ValueError: the image cannot be read.
    """
    with _named(path):
        return torch.from_numpy(picture.pixels(str(path), max_pixels=MAX_IMAGE))


def read_frames(path: str | Path) -> tuple[UInt8[Tensor, "f h w 3"], Float[Tensor, " f"]]:
    """All frames in display order, and their times (s, float64, first 0); one frame for a still.

    Raises:
        ValueError: the file cannot be read as a video or an image.
    """
    shown = [(torch.from_numpy(frame.pixels()), frame.time) for frame in _shown(path)]
    frames, times = zip(*shown, strict=True)
    return torch.stack(frames), torch.tensor(times, dtype=torch.float64)


def frame_size(path: Media) -> tuple[int, int]:
    """Height and width of a video's first frame or of an image.

    Raises:
        ValueError: the file cannot be read as a video or an image.
    """
    if isinstance(path, Frames):
        return path.pixels.shape[1], path.pixels.shape[2]
    with contextlib.closing(_shown(path)) as shown:
        height, width, _ = next(shown).pixels().shape
    return height, width


def video_length(path: Media, fps: float) -> int:
    """How many frames at `fps` a video lasts; 1 for a still.

    Raises:
        ValueError: the file cannot be read as a video or an image.
    """
    if isinstance(path, Frames):
        return len(path.pixels)
    _, duration = _timeline(path, until=None)
    return clip_length(duration, fps)


def is_still(path: Media) -> bool:
    """Whether a source has only one frame.

    Raises:
        ValueError: the file cannot be read as a video or an image.
    """
    if isinstance(path, Frames):
        return len(path.pixels) == 1
    with contextlib.closing(_shown(path)) as shown:
        return len(list(itertools.islice(shown, 2))) == 1


def load_clip(
    path: Media,
    grid: Grid,
    *,
    fit: Fit = "crop",
    from_end: bool = False,
    places: Sequence[int] | None = None,
) -> Float[Tensor, "3 f h w"]:
    """The first `grid.duration` seconds of a video on the grid, or an image for one frame.

    Frames and pixels are chosen as in training: for each time of the grid the frame with the
    nearest time stamp, resized with antialiasing to cover the grid, then cropped at the centre.
    What was read and cropped is logged.

    Args:
        path: a video or an image; one in memory has the grid's frame rate.
        grid: the grid of the clip.
        fit: "crop", or "pad": the whole picture at the centre, with black bars.
        from_end: take the last `grid.duration` seconds instead.
        places: indices of the grid's frames to take; all by default.

    Raises:
        ValueError: the video is too short, or cannot be read.
    """
    taken = list(range(grid.frames)) if places is None else list(places)
    times, duration, read, frames_of = _opened(
        path, grid, until=None if from_end else grid.duration
    )
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
    fitted: dict[int, Tensor] = {}
    for number, pixels in frames_of(numbers):
        if not fitted:
            _say(f"{path}: {read}", (pixels.shape[0], pixels.shape[1]), grid, fit, len(taken))
        fitted[number] = _fit(pixels, grid.height, grid.width, fit)
    clip = torch.cat([fitted[number] for number in numbers], dim=1)
    return clip if clip.is_floating_point() else to_float(clip)


def _opened(
    path: Media, grid: Grid, *, until: float | None
) -> tuple[Float64[np.ndarray, " f"], float, str, Callable[[Sequence[int]], Numbered]]:
    """The times of frames, their end, how they were read, and what gives them by their numbers."""
    if isinstance(path, Frames):
        count = len(path.pixels)
        held = functools.partial(_held, path.pixels)
        return np.arange(count) / grid.fps, count / grid.fps, "read", held
    times, end = _timeline(path, until=until)
    read = f"read up to {end:.3f} s ({len(times)} frames)" if end else "an image"
    return times, end, read, functools.partial(_numbered, path)


def _held(pixels: Tensor, numbers: Sequence[int]) -> Numbered:
    return ((number, pixels[number]) for number in numbers)


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
        raise ValueError(f"{path}: {'is a folder' if Path(path).is_dir() else 'no such file'}")
    with _named(path), Path(path).open("rb") as file:
        return is_image(file.read(START))


def _timeline(path: str | Path, *, until: float | None) -> tuple[Float64[np.ndarray, " f"], float]:
    """The times of frames and the end of the last one, in seconds; only up to `until`."""
    times: list[float] = []
    end = 0.0
    with contextlib.closing(_shown(path)) as shown:
        for frame in shown:
            times.append(frame.time)
            end = frame.end
            if until is not None and frame.time >= until:
                break
    return np.array(times), end


def _numbered(path: str | Path, numbers: Sequence[int]) -> Numbered:
    """The frames of these numbers, in display order; only these are converted to pixels."""
    with contextlib.closing(_shown(path)) as shown:
        for number, frame in enumerate(shown):
            if number in numbers:
                yield number, torch.from_numpy(frame.pixels())
            if number >= max(numbers):
                return


def fitted_size(height: int, width: int, grid: Grid, fit: Fit) -> tuple[int, int]:
    """The size to which a picture is scaled, before it is cropped or padded at the centre."""
    if fit == "crop":
        return covering(height, width, (grid.height, grid.width))
    scale = min(grid.height / height, grid.width / width)
    return (
        min(max(round(height * scale), 1), grid.height),
        min(max(round(width * scale), 1), grid.width),
    )


def inside(size: tuple[int, int], grid: Grid) -> tuple[slice, slice]:
    """Rows and columns of a grid that a padded picture of this size fills."""
    top, left = (grid.height - size[0]) // 2, (grid.width - size[1]) // 2
    return slice(top, top + size[0]), slice(left, left + size[1])


def _say(read: str, own: tuple[int, int], grid: Grid, fit: Fit, count: int) -> None:
    (height, width), (high, wide) = fitted_size(*own, grid, fit), (grid.height, grid.width)
    did = "resized"
    if fit == "pad" and (height, width) != (high, wide):
        did = f"resized to {height}×{width} and padded"
    elif (height, width) != (high, wide):
        kept = round(own[0] * high / height), round(own[1] * wide / width)
        did = f"cropped to the centre {kept[0]}×{kept[1]}"
    log.info(
        "%s, %d×%d (height×width): %s for %d frame%s of %d×%d at %g fps (fit=%s)",
        *(read, *own, did, count, "" if count == 1 else "s", high, wide, grid.fps, fit),
    )


def _fit(
    pixels: UInt8[Tensor, "h w 3"] | Float[Tensor, "h w 3"], height: int, width: int, fit: Fit
) -> UInt8[Tensor, "3 1 h2 w2"] | Float[Tensor, "3 1 h2 w2"]:
    grid = Grid(frames=1, height=height, width=width, fps=1)
    size = fitted_size(pixels.shape[0], pixels.shape[1], grid, fit)
    scaled = scale_frames(pixels[None], size)
    if fit == "pad":
        black = -1.0 if scaled.is_floating_point() else 0
        padded = scaled.new_full((3, 1, height, width), black)
        padded[:, :, *inside(size, grid)] = scaled
        return padded
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, :, top : top + height, left : left + width]


def _shown(path: str | Path) -> Generator[_Upright | Picture, None, None]:
    """Each frame in display order."""
    if _is_image(path):
        with _named(path):
            yield from pictures(str(path), max_pixels=MAX_IMAGE)
        return
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

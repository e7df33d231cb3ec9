"""Writes videos to files: mp4 (H.264), gif and png."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from cascade.files.atomic import replacing
from cascade.grid import Grid
from cascade.video.metadata import TAG, as_comment
from cascade.video.resample import to_uint8

#: With x264's macroblock tree, files of the same frames differ after a video was decoded.
REPEATABLE = {"x264-params": "mbtree=0"}
#: The largest side of an H.264 and of a gif picture.
MAX_SIDES = {".mp4": 16_384, ".gif": 65_535}
#: The lowest and highest frame rates: time stamps of an mp4, and delays of a gif, keep no others.
RATES = {".mp4": (0.01, 1000.0), ".gif": (0.01, 100.0)}
#: The largest gif, in pixels of all frames: all of them are in memory while it is written.
MAX_GIF = 2**28


class _DiscardedError(Exception):
    """A file that is not finished."""


class Mp4Writer:
    """An H.264 file written frame by frame, so that a long video need not fit into memory.

    The file appears when it is complete: until `close` it is a hidden `.part` beside it, which is
    removed after an error. Its index comes first, so that a browser shows it while it loads. H.264
    in 4:2:0 needs even sides: the last row or column of an odd side is repeated.

    Args:
        path: the file, which is replaced if it exists.
        fps: frames per second.
        crf: 0 is lossless except for the colour space, 18 is visually lossless.
        metadata: what the file says about itself, see `read_metadata`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float,
        crf: int = 18,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = Path(path)
        self._rate = Fraction(fps).limit_denominator(60_000)
        self._crf = crf
        self._stream: VideoStream | None = None
        self._file = contextlib.ExitStack()
        part = self._file.enter_context(replacing(self._path))
        with self._explained():
            # FFmpeg reads a word before a colon as a protocol, so the path is marked as a file.
            self._container = av.open(
                f"file:{part}", "w", format="mp4", options={"movflags": "faststart"}
            )
        if metadata is not None:
            self._container.metadata[TAG] = as_comment(metadata)

    def write(self, video: Float[Tensor, "3 f h w"]) -> None:
        """Append frames; all calls of one file share height and width."""
        video = _even(video)
        frames = to_uint8(video).permute(1, 2, 3, 0).cpu().contiguous().numpy()
        with self._explained():
            stream = self._stream or self._open(*frames.shape[1:3])
            for pixels in frames:
                frame = VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
                self._container.mux(stream.encode(frame))

    def close(self) -> None:
        """Finish the file, which then appears.

        Raises:
            ValueError: no frame was written, or the disk is full.
        """
        with self._explained():
            if self._stream is None:
                raise ValueError(f"{self._path}: a video needs at least one frame, got none")
            self._container.mux(self._stream.encode())
            self._container.close()
        self._file.close()

    def discard(self) -> None:
        """Remove what was written; a file of that name stays as it was."""
        with contextlib.suppress(av.FFmpegError, OSError):
            self._container.close()
        self._abandon()

    def _abandon(self) -> None:
        with contextlib.suppress(_DiscardedError), self._file:
            raise _DiscardedError

    def __enter__(self) -> "Mp4Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Removes the part after an error, and names the file that cannot be written."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._abandon()
            raise ValueError(
                f"{self._path}: cannot be written ({error.strerror or error}); free space or name "
                "another folder"
            ) from error
        except BaseException:
            self._abandon()
            raise

    def _open(self, height: int, width: int) -> VideoStream:
        stream = self._container.add_stream(
            "libx264", rate=self._rate, options={"crf": str(self._crf), **REPEATABLE}
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        self._stream = stream
        return stream


def _even(video: Tensor) -> Tensor:
    pad = (0, video.shape[-1] % 2, 0, video.shape[-2] % 2)
    return F.pad(video, pad, mode="replicate") if any(pad) else video


def write_mp4(
    path: str | Path,
    video: Float[Tensor, "3 f h w"],
    fps: float,
    crf: int = 18,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write H.264; `crf` 0 is lossless except for the colour space, 18 is visually lossless."""
    with Mp4Writer(path, fps=fps, crf=crf, metadata=metadata) as writer:
        writer.write(video)


def write_gif(
    path: str | Path,
    video: Float[Tensor, "3 f h w"],
    fps: float,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a looping gif; frame durations are multiples of 10 ms, rounded so as not to drift."""
    frames = to_uint8(video).permute(1, 2, 3, 0).cpu().numpy()
    ticks = [round(100 * i / fps) for i in range(len(frames) + 1)]
    lasting = [10 * max(b - a, 1) for a, b in pairwise(ticks)]
    first, *rest = (Image.fromarray(frame) for frame in frames)
    said = {} if metadata is None else {TAG: as_comment(metadata).encode()}
    options: dict[str, Any] = {"duration": lasting, "loop": 0, **said}
    with replacing(Path(path)) as part:
        first.save(part, format="GIF", save_all=True, append_images=rest, **options)


def write_png(
    path: str | Path,
    image: Float[Tensor, "3 h w"],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write one picture."""
    said = PngInfo()
    if metadata is not None:
        said.add_text(TAG, as_comment(metadata))
    pixels = Image.fromarray(to_uint8(image).permute(1, 2, 0).cpu().numpy())
    with replacing(Path(path)) as part:
        pixels.save(part, format="PNG", pnginfo=said)


def check_format(path: str | Path, grid: Grid) -> None:
    """Check that a video on this grid can be written to a file of this name.

    Raises:
        ValueError: another suffix than .mp4, .gif or .png, several frames for a png, or frames that
            are too large or too fast or slow for the format.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".mp4", ".gif", ".png"):
        raise ValueError(f"{path}: videos are written as .mp4, .gif or .png, got {suffix!r}")
    if suffix == ".png" and grid.frames != 1:
        raise ValueError(
            f"{path}: a png has one frame, got {grid.frames}; set num_frames=1, or write an mp4 or "
            "a gif"
        )
    most = MAX_SIDES.get(suffix)
    if most is not None and max(grid.height, grid.width) > most:
        raise ValueError(f"{path}: a side has at most {most} pixels, got {grid}; make it smaller")
    low, high = RATES.get(suffix, (0.0, math.inf))
    if not low <= grid.fps <= high:
        raise ValueError(
            f"{path}: frame rates of {suffix[1:]} are {low:g} to {high:g} per second, got "
            f"{grid.fps:g}; set another fps"
        )
    if suffix == ".gif" and (pixels := math.prod(grid.shape)) > MAX_GIF:
        raise ValueError(
            f"{path}: a gif is written from memory and has at most {MAX_GIF} pixels in all frames, "
            f"got {pixels} ({grid}); write an mp4"
        )


def write_video(
    path: str | Path,
    video: Float[Tensor, "3 f h w"],
    fps: float,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write mp4, gif or (one frame only) png, according to the file name's suffix.

    Raises:
        ValueError: as `check_format`.
    """
    _, frames, height, width = video.shape
    check_format(path, Grid(frames=frames, height=height, width=width, fps=fps))
    match Path(path).suffix.lower():
        case ".mp4":
            write_mp4(path, video, fps, metadata=metadata)
        case ".gif":
            write_gif(path, video, fps, metadata=metadata)
        case _:
            write_png(path, video[:, 0], metadata=metadata)

"""Writes videos to files: mp4 (H.264), gif and png."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import av
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cascade.video.resample import to_uint8


class Mp4Writer:
    """An H.264 file written frame by frame, so that a long video need not fit into memory.

    H.264 in 4:2:0 needs even sides: the last row or column of an odd side is repeated.
    """

    def __init__(self, path: str | Path, *, fps: float, crf: int = 18) -> None:
        # FFmpeg reads a word before a colon as a protocol, so the path is marked as a file.
        self._container = av.open(f"file:{path}", "w", format="mp4")
        self._rate = Fraction(fps).limit_denominator(60_000)
        self._crf = crf
        self._stream: VideoStream | None = None

    def write(self, video: Float[Tensor, "3 f h w"]) -> None:
        """Append frames; all calls of one file share height and width."""
        video = _even(video)
        frames = to_uint8(video).permute(1, 2, 3, 0).cpu().contiguous().numpy()
        stream = self._stream or self._open(*frames.shape[1:3])
        for pixels in frames:
            frame = VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            self._container.mux(stream.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def __enter__(self) -> "Mp4Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, height: int, width: int) -> VideoStream:
        stream = self._container.add_stream(
            "libx264", rate=self._rate, options={"crf": str(self._crf)}
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        self._stream = stream
        return stream


def _even(video: Tensor) -> Tensor:
    pad = (0, video.shape[-1] % 2, 0, video.shape[-2] % 2)
    return F.pad(video, pad, mode="replicate") if any(pad) else video


def write_mp4(path: str | Path, video: Float[Tensor, "3 f h w"], fps: float, crf: int = 18) -> None:
    """Write H.264; `crf` 0 is lossless except for the colour space, 18 is visually lossless."""
    with Mp4Writer(path, fps=fps, crf=crf) as writer:
        writer.write(video)


def write_gif(path: str | Path, video: Float[Tensor, "3 f h w"], fps: float) -> None:
    """Write a looping gif; frame durations are multiples of 10 ms, rounded so as not to drift."""
    frames = to_uint8(video).permute(1, 2, 3, 0).cpu().numpy()
    ticks = [round(100 * i / fps) for i in range(len(frames) + 1)]
    lasting = [10 * max(b - a, 1) for a, b in pairwise(ticks)]
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=lasting, loop=0)


def write_png(path: str | Path, image: Float[Tensor, "3 h w"]) -> None:
    """Write one picture."""
    Image.fromarray(to_uint8(image).permute(1, 2, 0).cpu().numpy()).save(path, format="PNG")


def write_video(path: str | Path, video: Float[Tensor, "3 f h w"], fps: float) -> None:
    """Write mp4, gif or (one frame only) png, according to the file name's suffix.

    Raises:
        ValueError: another suffix, or several frames for a png.
    """
    match Path(path).suffix.lower():
        case ".mp4":
            write_mp4(path, video, fps)
        case ".gif":
            write_gif(path, video, fps)
        case ".png" if video.shape[1] == 1:
            write_png(path, video[:, 0])
        case ".png":
            raise ValueError(
                f"{path}: a png has one frame, got {video.shape[1]}; write an mp4 or a gif"
            )
        case suffix:
            raise ValueError(f"{path}: videos are written as .mp4, .gif or .png, got {suffix!r}")

"""Encoding of clips as H.264 in MP4: short GOPs, constant frame rate, reproducible bytes."""

import io
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from jaxtyping import UInt8

from cascade.media.upright import Orientation
from data.ingest.frame_reader import Reel, shrunk
from data.ingest.recipe import Encoding

_SCALING = int(
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)
_UNSPECIFIED = 2
_RGB = 0
_USUAL_RATES = tuple(
    Fraction(n, d) for n, d in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1))
) + tuple(Fraction(n, d) for n, d in ((48, 1), (50, 1), (60000, 1001), (60, 1), (15, 1), (12, 1)))
_JITTER_S = 0.0021  # of time stamps in milliseconds


def is_constant(times: list[float]) -> bool:
    """Whether the frame rate is constant, apart from time stamps rounded to milliseconds."""
    steps = np.diff(times)
    return len(steps) == 0 or bool(np.ptp(steps) <= _JITTER_S)


def frame_rate(times: list[float], end: float, most: float | None) -> Fraction:
    """The frame rate to encode at: the mean of a constant rate, the median of a variable one."""
    steps = np.diff(times)
    if len(steps) == 0:
        raw, near = 1 / end, 0.0
    elif is_constant(times):
        raw, near = 1 / float(steps.mean()), 3e-4 + 0.001 / times[-1]
    else:
        raw, near = 1 / float(np.median(steps)), 0.02
    raw = min(raw, most) if most else raw
    usual = min(_USUAL_RATES, key=lambda rate: abs(float(rate) - raw))
    if abs(float(usual) / raw - 1) <= near:
        return usual
    return Fraction(raw).limit_denominator(1001)


class Encoder:
    """Encodes one clip in memory, frame by frame.

    There are no B-frames, so no edit list is needed, which some decoders misread. The same frames
    give the same bytes: x264 runs with one thread and without its macroblock tree, whose arithmetic
    depends on the CPU.
    """

    def __init__(self, reel: Reel, rate: Fraction, encoding: Encoding) -> None:
        self.width, self.height = shrunk(reel.width, reel.height, encoding.short_side)
        self._orientation = reel.orientation
        self._file = io.BytesIO()
        self._container = av.open(self._file, "w", format="mp4", options={"fflags": "+bitexact"})
        options = {
            "crf": str(encoding.crf),
            "preset": encoding.preset,
            "threads": "1",
            "bf": "0",
            "g": str(max(1, int(encoding.gop_s * rate))),
            "x264-params": "mbtree=0:rc-lookahead=0",
        }
        stream = self._container.add_stream("libx264", rate=rate, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
        self._stream, self._rate = stream, rate
        self.frames = 0

    def add(self, frame: av.VideoFrame, times: int) -> None:
        """Append a frame that is shown for `times` ticks of the constant rate."""
        if not times:
            return
        pixels = self._converted(frame)
        for _ in range(times):
            pixels.pts, pixels.time_base = self.frames, 1 / self._rate
            self._container.mux(self._stream.encode(pixels))
            self.frames += 1

    def finish(self) -> bytes:
        """Finish and return the file."""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._file.getvalue()

    def _converted(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame scaled, upright, in 8-bit 4:2:0 limited range; the colour matrix is kept."""
        width, height = self._orientation.shown(self.width, self.height)
        space = Colorspace.ITU601 if frame.colorspace in (_RGB, _UNSPECIFIED) else None
        made = frame.reformat(
            width=width,
            height=height,
            format="yuv420p",
            dst_colorspace=space,
            dst_color_range=ColorRange.MPEG,
            interpolation=_SCALING,
            threads=1,
        )
        context = self._stream.codec_context
        if self.frames == 0:
            context.color_range = ColorRange.MPEG
            context.colorspace = made.colorspace
        if self._orientation != Orientation():
            made = _turned(made, self._orientation)
        made.pict_type = av.video.frame.PictureType.NONE
        return made


def _turned(frame: av.VideoFrame, orientation: Orientation) -> av.VideoFrame:
    """A yuv420p frame as it is shown."""
    pixels: UInt8[np.ndarray, "r w"] = frame.to_ndarray()
    height, width = frame.height, frame.width
    planes = [
        pixels[:height],
        *pixels[height:].reshape(2, height // 2, width // 2),
    ]
    flat = [orientation.apply(plane).reshape(-1) for plane in planes]
    width, height = orientation.shown(width, height)
    whole = np.concatenate(flat).reshape(height * 3 // 2, width)
    turned = av.VideoFrame.from_ndarray(whole, format="yuv420p")
    turned.colorspace, turned.color_range = frame.colorspace, frame.color_range
    return turned

"""What a video or image says of itself: its size, its time stamps, and how it may be read.

Time stamps come from the packets, without decoding, so a header costs about a millisecond.
"""

import io
from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image

MAX_PIXELS = 8192 * 4320
MIN_SIDE = 8

_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
# decord 0.6.0 hangs on transport streams, returns neighbours in AVI, reads neither AV1 nor GIF, and
# rounds deep colour otherwise than PyAV does.
_NOT_FOR_DECORD = frozenset({"mpegts", "avi", "gif", "ogg"})
_CODECS_NOT_FOR_DECORD = frozenset({"libdav1d", "av1", "libaom-av1", "gif"})


class DecodeError(ValueError):
    """A video or image that cannot be read; its text is the reason."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the container says; `width` and `height` have the sample aspect ratio applied."""

    kind: Literal["video", "image"]
    codec: str
    width: int
    height: int
    pts: Int64[np.ndarray, " f"]
    """Time stamps of the shown frames in the stream's own unit, in presentation order."""
    unit: float
    """Seconds per time stamp."""
    duration: float
    """Seconds from the first frame shown to the end of the last."""
    sequential: bool
    """Whether random access may give wrong frames, so that it is read from its start."""
    decord: bool
    """Whether decord may be trusted with it."""

    @property
    def frames(self) -> int:
        """How many frames are shown."""
        return len(self.pts)

    @property
    def fps(self) -> float:
        """Mean frames per second."""
        return self.frames / self.duration

    @property
    def times(self) -> Float64[np.ndarray, " f"]:
        """Seconds from the first frame shown."""
        return np.asarray((self.pts - self.pts[0]) * self.unit)


def is_image(data: bytes) -> bool:
    """Whether the bytes are a still image, whatever their name says."""
    return data.startswith(_IMAGE_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def check_size(width: int, height: int, *, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a claimed frame size before anything is allocated for it.

    Raises:
        DecodeError: too many pixels, or a side too small for a picture.
    """
    if width * height > max_pixels:
        raise DecodeError(f"claims {width}×{height} pixels, more than the limit of {max_pixels}")
    if min(width, height) < MIN_SIDE:
        raise DecodeError(f"{width}×{height} pixels: less than {MIN_SIDE} on a side")


def read_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of a video or image.

    Raises:
        DecodeError: no picture in it, no frame shown, no time stamps, or a size out of bounds.
    """
    try:
        header = _image_header(data) if is_image(data) else _video_header(data)
    except (av.FFmpegError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise DecodeError(f"container does not open: {error}") from error
    check_size(header.width, header.height, max_pixels=max_pixels)
    return header


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is not an attached picture.

    Raises:
        DecodeError: there is none.
    """
    for stream in container.streams.video:
        if not int(stream.disposition) & int(av.stream.Disposition.attached_pic):
            return stream
    raise DecodeError("no video stream")


def _image_header(data: bytes) -> Header:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if image.getexif().get(0x0112, 1) >= 5:  # EXIF orientations 5 to 8 lie on their side.
            width, height = height, width
        return Header(
            kind="image",
            codec=(image.format or "image").lower(),
            width=width,
            height=height,
            pts=np.zeros(1, dtype=np.int64),
            unit=1.0,
            duration=1.0,
            sequential=False,
            decord=False,
        )


def _video_header(data: bytes) -> Header:
    with av.open(io.BytesIO(data), "r") as container:
        stream = video_stream(container)
        context, unit = stream.codec_context, float(stream.time_base or 0)
        check_size(context.width, context.height, max_pixels=2**62)
        shown, lengths, discarded = [], [], 0
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.is_discard:
                discarded += 1
            elif packet.pts is None:
                raise DecodeError("a frame without a time stamp")
            else:
                shown.append(packet.pts)
                lengths.append(packet.duration or 0)
        if not shown:
            raise DecodeError("no frame is shown")
        pts = np.unique(np.asarray(shown, dtype=np.int64))
        stretch = float(stream.sample_aspect_ratio or 1) or 1.0
        name = container.format.name
        plain = not discarded and name not in _NOT_FOR_DECORD and len(pts) == len(shown)
        return Header(
            kind="video",
            codec=context.codec.canonical_name,
            width=round(context.width * max(stretch, 1.0)),
            height=round(context.height / min(stretch, 1.0)),
            pts=pts,
            unit=unit,
            duration=_duration(
                pts, lengths[int(np.argmax(shown))], float(stream.average_rate or 0), unit
            ),
            sequential=bool(discarded) or name == "mpegts",
            decord=plain
            and stretch == 1.0
            and len(container.streams.video) == 1
            and context.name not in _CODECS_NOT_FOR_DECORD
            and not (context.pix_fmt or "").endswith(("le", "be")),
        )


def _duration(pts: Int64[np.ndarray, " f"], length: int, rate: float, unit: float) -> float:
    """To the end of the last frame, which is as long as the median one where it does not say."""
    last = length * unit
    if last <= 0:
        last = float(np.median(np.diff(pts))) * unit if len(pts) > 1 else 1 / (rate or 1.0)
    return float(pts[-1] - pts[0]) * unit + last

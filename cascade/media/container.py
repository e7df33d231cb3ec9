"""Opens a video for strict decoding: a container of a permitted kind, and its video stream."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import av

from cascade.media.kinds import DEMUXERS, START, is_mp4
from cascade.media.reason import DecodeError, check_size, reasons, refuse_foreign
from cascade.media.upright import Orientation, orientation

_OPTIONS = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
_TAG = re.compile(r"\(([ -~]{1,16}) / 0x[0-9A-Fa-f]+\)")

Said = Sequence[tuple[int, str, str]]


def open_video(
    file: str | IO[bytes], *, max_pixels: int
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """The container and its video stream, before anything is decoded.

    Metadata need not be UTF-8.

    Raises:
        DecodeError: it cannot be opened, has no video that can be decoded, or its frames are too
            large or too small.
    """
    with reasons():
        start = _start(file)
        refuse_foreign(start)
    with av.logging.Capture() as said:
        try:
            container = av.open(file, "r", options=_OPTIONS, metadata_errors="replace")
        except MemoryError:
            raise
        except av.FFmpegError as error:
            raise DecodeError(_why(start, said, error)) from error
    try:
        with reasons():
            stream = _video_stream(container, said)
            check_size(
                stream.codec_context.width, stream.codec_context.height, max_pixels=max_pixels
            )
            if stream.codec_context.name == "vp8":
                _refuse_turned(container, stream)
    except BaseException:
        container.close()
        raise
    return container, stream


def by_order(container: av.container.InputContainer) -> bool:
    """Whether the container has an order of frames but no presentation times."""
    return container.format.name == "avi"


def square_size(stream: av.VideoStream, width: int, height: int) -> tuple[int, int]:
    """The size at which pixels are square; one side may be enlarged, none is reduced."""
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    return round(width * max(aspect, 1.0)), round(height / min(aspect, 1.0))


def _start(file: str | IO[bytes]) -> bytes:
    """The first bytes of a file."""
    if isinstance(file, str):
        with Path(file).open("rb") as opened:
            return opened.read(START)
    start = file.read(START)
    file.seek(0)
    return start


def _video_stream(container: av.container.InputContainer, said: Said) -> av.VideoStream:
    """The first video stream that is not an attached picture."""
    for stream in container.streams.video:
        if int(stream.disposition) & int(av.stream.Disposition.attached_pic):
            continue
        context: av.VideoCodecContext | None = stream.codec_context
        if context is None:
            tag = next((m[1] for *_, text in said for m in _TAG.finditer(text)), "")
            raise DecodeError(
                f"its codec is not known to FFmpeg{f' ({tag.strip()})' if tag else ''}; "
                "convert it to H.264"
            )
        return stream
    others = sorted({stream.type for stream in container.streams if stream.type})
    has = f": it has {' and '.join(others)} only" if others and others != ["video"] else ""
    raise DecodeError(f"no video stream{has}")


def _refuse_turned(container: av.container.InputContainer, stream: av.VideoStream) -> None:
    """Refuse a display matrix where the strict decoder is not the container's and has none."""
    first = next((frame for frame in container.decode(stream)), None)
    if first is not None and orientation(first) != Orientation():
        raise DecodeError(
            "is a rotated or mirrored VP8 video, which is not read; convert it to H.264"
        )
    container.seek(0)


def _why(start: bytes, said: Said, error: av.FFmpegError) -> str:
    for _, name, text in said:
        if text.startswith("Format not on whitelist"):
            return f"is of the format {name}, which is not read; convert it, for example to mp4"
        if text.startswith("moov atom not found") and is_mp4(start):
            return "has no index (moov atom): it is truncated, or was copied before it was complete"
    return f"is not a video or image that can be read ({error.strerror or error})"

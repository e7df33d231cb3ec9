"""Tries clips in this process, until data.decode has its Decoder."""

import io
from dataclasses import dataclass
from typing import Any

import av
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a video or image is."""

    kind: str
    codec: str
    width: int
    height: int
    frames: int
    fps: float
    duration: float
    decord: bool


class Decoder:
    """Tries one clip after another."""

    def inspect(self, data: bytes, depth: str) -> Inspection:
        """The figures of a clip, after its first frame."""
        try:
            return self._inspect(data, depth)
        except (av.FFmpegError, OSError, IndexError, StopIteration) as error:
            raise ValueError(f"container does not open: {error}") from error

    def _inspect(self, data: bytes, depth: str) -> Inspection:
        if data[:2] == b"\xff\xd8":
            with Image.open(io.BytesIO(data)) as image:
                figures = ("image", "jpeg", *image.size, 1, 1.0, 1.0, False)
            return self._made(figures)
        container: Any
        with av.open(io.BytesIO(data)) as container:
            count = sum(bool(packet.size) for packet in container.demux(video=0))
            container.seek(0)
            frame, stream = next(container.decode(video=0)), container.streams.video[0]
            fps, codec = float(stream.average_rate), stream.codec_context.codec.canonical_name
            size = (frame.width, frame.height)
            return self._made(("video", codec, *size, count, fps, count / fps, depth == "full"))

    @staticmethod
    def _made(figures: tuple[Any, ...]) -> Inspection:
        return Inspection(**dict(zip(Inspection.__annotations__, figures, strict=True)))

    def close(self) -> None:
        """Nothing to close."""

"""Strict decoding of a video by PyAV: its frames in presentation order, or an error.

Damage is an error here; a player would conceal it. To read from the middle, it seeks to the key
frame before, and compares every packet and frame from there with the header. If one differs (a
false key frame, a wrong index in the container), the video is decoded from its start instead. The
way to a frame depends on the frame alone, so its pixels do not depend on what was read before.
"""

from collections.abc import Callable, Iterator

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Int64, UInt8

from cascade.media.container import open_video
from cascade.media.reason import DecodeError, reasons
from cascade.media.strict import Numbered, SoundFrames, listen, strict_decoder
from cascade.media.upright import Orientation, opaque, orientation
from data.decode.frames import Allocate, new_array
from data.decode.probe import Header, Timing, leading, video_header

_SEEK_PACKETS = 1000
_WHOLE = -1  # in the place of a key frame's number: the start of the video
# The decoders that forget at a key frame, or when they are flushed, all that came before. Of others
# (VP8, MPEG-4 part 2, FLV1 and older ones) a frame is always decoded from the start.
_FORGETFUL = frozenset({"h264", "hevc", "vp9", "av1"})
# Of damaged frames it returns what its memory held before, even after it is flushed.
_OPENED_ANEW = frozenset({"hevc"})

Shown = Iterator[tuple[int, av.VideoFrame]]
"""(time stamp, frame) in presentation order."""


class _AstrayError(DecodeError):
    """A packet or frame differs from the header."""


class StrictReader:
    """A video opened by its path; `decoded` counts the frames decoded so far."""

    def __init__(self, path: str, *, max_pixels: int) -> None:
        self.path, self.max_pixels, self.decoded = path, max_pixels, 0
        with reasons():
            self._open()
            self.header = video_header(self._container, self._stream, max_pixels=max_pixels)
        self._reformatter = VideoReformatter()
        self._always_whole = self.header.by_order or self.header.codec not in _FORGETFUL
        stored, counts = np.unique(self.header.packets.pts, return_counts=True)
        self._ambiguous = set(stored[counts > 1].tolist())
        self._astray: dict[int, int] = {}  # by key frame: the first time stamp not found by seeking
        self._frames: Shown | None = None
        self._group = _WHOLE  # the key frame that these frames begin at
        self._last_pts = 0
        self._seekable = True  # the demuxer has read all packets: some know only what they read

    @property
    def timing(self) -> Timing:
        """When its frames are shown."""
        return self.header.timing

    def read(
        self, frames: Int64[np.ndarray, " n"], allocate: Allocate
    ) -> UInt8[np.ndarray, "n h w c"]:
        """The frames of these ascending numbers, upright, in RGB, at the header's size.

        Raises:
            DecodeError: with the reason.
        """
        batch = _Batch(len(frames), self.header, allocate, self._reformatter)
        with reasons():
            for number in frames.tolist():
                batch.add(self._frame(number))
        return batch.pixels

    def verify(self, beat: Callable[[], None]) -> tuple[int, int]:
        """Decode all frames in order; return the shown width and height.

        Only frames of a new format are converted to pixels. `beat` is called for every frame.

        Raises:
            DecodeError: a frame is damaged, missing or cannot be converted.
        """
        batch = _Batch(1, self.header, new_array, self._reformatter)
        form: object = None
        with reasons():
            for number in range(self.header.frames):
                frame = self._next(_WHOLE, number)
                batch.check(frame)
                if form != (form := (frame.format.name, frame.width, frame.height)):
                    batch.add(frame)
                beat()
        height, width = batch.pixels.shape[1:3]
        return width, height

    def close(self) -> None:
        """Close the container."""
        self._frames = None
        self._container.close()

    def _open(self) -> None:
        listen()
        self._container, self._stream = open_video(self.path, max_pixels=self.max_pixels)
        self._decoder = strict_decoder(self._stream, max_pixels=self.max_pixels)

    def _frame(self, number: int) -> av.VideoFrame:
        """A frame by its number: from the key frame before it, or else from the start."""
        pts = int(self.header.pts[number])
        key = _WHOLE if self._always_whole else self._key_before(pts)
        if key == _WHOLE or pts >= self._astray.get(key, pts + 1):
            return self._next(_WHOLE, number)
        try:
            return self._next(key, number)
        except MemoryError:
            raise
        except (DecodeError, av.FFmpegError):
            frame = self._next(_WHOLE, number)
        self._astray[key] = pts
        return frame

    def _next(self, group: int, number: int) -> av.VideoFrame:
        """A frame by its number, decoded from a key frame on; reading goes on where it was."""
        pts = int(self.header.pts[number])
        if pts in self._ambiguous:
            raise DecodeError(f"frame {number}: another frame has its time stamp too")
        try:
            if self._frames is None or self._group != group or pts <= self._last_pts:
                self._frames = self._from(group)
                self._group = group
            for shown, frame in self._frames:
                self._last_pts = shown
                if shown == pts:
                    return frame
            raise DecodeError(f"frame {number} of {self.header.frames} does not decode")
        except BaseException:
            self._frames, self._seekable = None, False  # some errors are reported once per opening
            raise

    def _from(self, group: int) -> Shown:
        """The frames from a key frame on, or from the start."""
        if group == _WHOLE:
            self._reopen()
            return self._from_the_start()
        if not self._seekable:
            self._reopen()
            for _ in self._container.demux(self._stream):
                pass
        self._seekable = self.header.codec not in _OPENED_ANEW
        return self._after_seek(group)

    def _reopen(self) -> None:
        self._container.close()
        self._open()
        self._seekable = False

    def _key_before(self, pts: int) -> int:
        """Number of the last key-frame packet that is stored and shown before a frame."""
        packets = self.header.packets
        stored = int(np.flatnonzero((packets.pts == pts) & packets.shown)[0])
        keys = np.flatnonzero(packets.key[: stored + 1] & (packets.pts[: stored + 1] <= pts))
        return int(keys[-1]) if len(keys) else 0

    def _after_seek(self, key: int) -> Shown:
        """The frames from a key frame on; each must be the next in presentation order."""
        packets = self.header.packets
        omitted = leading(packets.pts, key, self.header.codec)
        kept = packets.shown.copy()
        kept[:key] = kept[omitted] = False
        expected = np.sort(packets.pts[kept])
        shown = self._decode(self._seek(key), key, omitted)
        for number, (pts, frame) in enumerate(shown):
            if number >= len(expected) or pts != expected[number]:
                raise _AstrayError
            if number == 0 and pts == packets.pts[key] and not frame.key_frame:
                raise _AstrayError
            yield pts, frame

    def _seek(self, key: int) -> Iterator["av.Packet[av.VideoStream]"]:
        """The packets from number `key` on."""
        packets = self.header.packets
        target = int(packets.pts[key]), int(packets.size[key])
        self._container.seek(target[0], stream=self._stream, backward=True)
        stream = self._container.demux(self._stream)
        for _, packet in zip(range(_SEEK_PACKETS), stream, strict=False):
            if (packet.pts, packet.size) == target:
                yield packet
                yield from stream
                return
        raise _AstrayError

    def _from_the_start(self) -> Shown:
        """All frames."""
        stream, packets = self._container.demux(self._stream), self.header.packets
        cut = packets.key[0] and not self.header.by_order
        omitted = leading(packets.pts, 0, self.header.codec) if cut else slice(0, 0)
        yield from self._decode(stream, 0, omitted)

    def _decode(
        self, stream: Iterator["av.Packet[av.VideoStream]"], first: int, omitted: slice
    ) -> Shown:
        """The frames of packets from number `first` on, without those of some packets."""
        packets = self._checked(stream, first, omitted)
        sound = SoundFrames(packets, self._decoder, max_pixels=self.max_pixels)
        delay = last = None
        for number, (_, frame) in enumerate(sound):
            self.decoded += 1
            if not self.header.by_order:
                if frame.pts is None or (last is not None and frame.pts <= last):
                    raise DecodeError(f"its time stamps are not in order: {frame.pts} after {last}")
                last = frame.pts
                yield frame.pts, frame
                continue
            delay = sound.fed - sound.returned if delay is None else delay
            if sound.fed - sound.returned > delay or number >= self.header.frames:
                raise DecodeError(f"frame {number} of {self.header.frames} does not decode")
            yield int(self.header.pts[number]), frame

    def _checked(
        self, stream: Iterator["av.Packet[av.VideoStream]"], first: int, omitted: slice
    ) -> Iterator[Numbered]:
        """Numbered packets that are the same as when the header was read."""
        packets = self.header.packets
        for number, packet in enumerate(stream, first):
            known = number < len(packets.pts)
            if packet.size and not (known and packet.pts == packets.pts[number]):
                raise _AstrayError(f"packet {number} differs when it is read a second time")
            yield Numbered(number, packet, omitted=omitted.start <= number < omitted.stop)


class _Batch:
    """Frames at one size, upright, in RGB; the first frame determines the allocated shape."""

    def __init__(self, n: int, header: Header, allocate: Allocate, reformatter: VideoReformatter):
        self.n, self.header, self.allocate, self.reformatter = n, header, allocate, reformatter
        self.pixels = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self.orientation: Orientation | None = None
        self._row = 0

    def add(self, frame: av.VideoFrame) -> None:
        """Write the next frame; beyond the last row, the rows are written again."""
        self.check(frame)
        size = self.header.width, self.header.height
        rgb = self.reformatter.reformat(opaque(frame), *size, "rgb24", threads=1)
        assert self.orientation is not None
        if not len(self.pixels):
            width, height = self.orientation.shown(*size)
            self.pixels = self.allocate((self.n, height, width, 3))
        self.pixels[self._row % self.n] = self.orientation.apply(_pixels(rgb))
        self._row += 1

    def check(self, frame: av.VideoFrame) -> None:
        """Check that a frame is turned as the first one."""
        turned = orientation(frame)
        self.orientation = self.orientation or turned
        if turned != self.orientation:
            raise DecodeError(f"its orientation changes from {self.orientation} to {turned}")


def _pixels(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w c"]:
    """A view of an RGB frame without the padding of its rows."""
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
    shape = frame.height, frame.width, 3
    return np.asarray(lines[: frame.height, : 3 * frame.width].reshape(shape))

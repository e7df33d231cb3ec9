"""Strict decoding of a video by PyAV: its frames in presentation order, or an error.

Damage is an error here; a player would conceal it. To read from the middle, it seeks to the key
frame before, and compares every packet and frame from there with the header. If one differs (a
false key frame, a wrong index in the container), the video is decoded from its start instead.
"""

from collections.abc import Iterable, Iterator, Sequence

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Int64, UInt8

from data.decode.damage import be_strict, decode, listen
from data.decode.frames import Allocate
from data.decode.probe import (
    OPTIONS,
    DecodeError,
    Header,
    Timing,
    check_size,
    reasons,
    video_header,
    video_stream,
)

_SEEK_PACKETS = 1000


class _AstrayError(DecodeError):
    """A packet or frame differs from the header."""


class StrictReader:
    """A video opened by its path; `decoded` counts the frames decoded so far."""

    def __init__(self, path: str, *, max_pixels: int) -> None:
        self.path, self.max_pixels, self.decoded = path, max_pixels, 0
        with reasons():
            self._open()
            self.header = video_header(self._container, max_pixels=max_pixels)
        self._reformatter = VideoReformatter()
        self._from_start = self.header.by_order
        self._frames: Iterator[tuple[int, av.VideoFrame]] | None = None
        self._last_pts, self._fed = 0, 0

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
        wanted = self.header.pts[frames].tolist()
        with reasons():
            if not self._from_start:
                try:
                    return self._fill(frames, allocate, enumerate(map(self._by_seeking, wanted)))
                except MemoryError:
                    raise
                except (DecodeError, av.FFmpegError):
                    self._from_start, self._frames = True, None
            try:
                return self._fill(frames, allocate, self._by_reading_on(wanted))
            except BaseException:
                self._frames = None
                raise

    def _fill(
        self,
        frames: Int64[np.ndarray, " n"],
        allocate: Allocate,
        found: Iterable[tuple[int, av.VideoFrame]],
    ) -> UInt8[np.ndarray, "n h w c"]:
        batch = _Batch(len(frames), self.header, allocate, self._reformatter)
        for row, frame in found:
            batch.put(row, frame)
        missing = np.setdiff1d(np.arange(len(frames)), list(batch.rows))
        if len(missing):
            raise DecodeError(f"frame {frames[missing[0]]} of {self.header.frames} does not decode")
        return batch.pixels

    def close(self) -> None:
        """Close the container."""
        self._frames = None
        self._container.close()

    def _open(self) -> None:
        listen()
        self._container = av.open(self.path, "r", options=OPTIONS)
        self._stream = video_stream(self._container)
        be_strict(self._stream, max_pixels=str(self.max_pixels))

    def _by_seeking(self, pts: int) -> av.VideoFrame:
        """The frame of a time stamp, decoded on from the current one or from a key frame before."""
        key = self._key_before(pts)
        if self._frames is None or pts <= self._last_pts or key > self._fed + 1:
            self._frames = self._after_seek(key)
        for shown, frame in self._frames:
            self._last_pts = shown
            if shown == pts:
                return frame
        raise _AstrayError

    def _key_before(self, pts: int) -> int:
        """Number of the last key-frame packet that is stored and shown before a frame."""
        packets = self.header.packets
        stored = int(np.flatnonzero((packets.pts == pts) & packets.shown)[0])
        keys = np.flatnonzero(packets.key[: stored + 1] & (packets.pts[: stored + 1] <= pts))
        return int(keys[-1]) if len(keys) else 0

    def _after_seek(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames from a key frame on; each must be the next in presentation order."""
        packets = self.header.packets
        start = int(packets.pts[key])
        expected = np.sort(packets.pts[key:][packets.shown[key:] & (packets.pts[key:] >= start)])
        shown = self._decode(self._seek(key), key, start)
        for number, (pts, frame) in enumerate(shown):
            if number >= len(expected) or pts != expected[number]:
                raise _AstrayError
            if number == 0 and pts == start and not frame.key_frame:
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

    def _by_reading_on(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(row, frame) of requested time stamps, decoded from the start or from the current one."""
        if self._frames is None or wanted[0] <= self._last_pts:
            self._frames = self._from_the_start()
        rows = {pts: row for row, pts in enumerate(wanted)}
        for pts, frame in self._frames:
            self._last_pts = pts
            if pts in rows:
                yield rows.pop(pts), frame
            if not rows:
                return

    def _from_the_start(self) -> Iterator[tuple[int, av.VideoFrame]]:
        self._container.close()
        self._open()
        stream, packets = self._container.demux(self._stream), self.header.packets
        if not self.header.by_order:
            yield from self._decode(stream, 0, int(packets.pts[0]) if packets.key[0] else None)
            return
        shown = self._decode(stream, 0, None)
        delay = None
        for number, (pts, (_, frame)) in enumerate(
            zip(self.header.pts.tolist(), shown, strict=False)
        ):
            delay = self._fed if delay is None else delay
            if self._fed - number > delay:
                raise DecodeError(f"frame {number} of {self.header.frames} does not decode")
            yield pts, frame

    def _decode(
        self, stream: Iterator["av.Packet[av.VideoStream]"], first: int, start: int | None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """(time stamp, frame) of packets from number `first` on, in presentation order.

        Frames shown before `start` depend on earlier ones and are left out.
        """
        packets = self.header.packets
        for number, packet in enumerate(stream, first):
            if packet.size:
                if number >= len(packets.pts) or packet.pts != packets.pts[number]:
                    raise _AstrayError(f"packet {number} differs when it is read a second time")
                if packet.is_corrupt:
                    raise DecodeError(f"packet {number} of {len(packets.pts)} is damaged")
                if start is not None and packets.pts[number] < start:
                    continue
                self._fed = number
            for frame in decode(packet, f"packet {number}"):
                self.decoded += 1
                if frame.is_corrupt or frame.pts is None:
                    raise DecodeError(f"the frame at packet {number} is damaged")
                check_size(frame.width, frame.height, max_pixels=self.max_pixels)
                yield frame.pts, frame


class _Batch:
    """Frames at one size, upright, in RGB; the first frame determines the allocated shape."""

    def __init__(self, n: int, header: Header, allocate: Allocate, reformatter: VideoReformatter):
        self.n, self.header, self.allocate, self.reformatter = n, header, allocate, reformatter
        self.pixels = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self.rows: set[int] = set()
        self.turns = 0

    def put(self, row: int, frame: av.VideoFrame) -> None:
        """Write a frame."""
        turns = round(frame.rotation / 90) % 4
        if not self.rows:
            self.turns = turns
            sides = (self.header.height, self.header.width)
            height, width = sides if turns % 2 == 0 else sides[::-1]
            self.pixels = self.allocate((self.n, height, width, 3))
        if turns != self.turns:
            raise DecodeError(
                f"its rotation changes from {90 * self.turns} to {90 * turns} degrees"
            )
        rgb = self.reformatter.reformat(
            frame, self.header.width, self.header.height, "rgb24", threads=1
        )
        self.pixels[row] = np.rot90(_pixels(rgb), turns)
        self.rows.add(row)


def _pixels(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w c"]:
    """A view of an RGB frame without the padding of its rows."""
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
    shape = frame.height, frame.width, 3
    return np.asarray(lines[: frame.height, : 3 * frame.width].reshape(shape))

"""Strict decoding by PyAV: damage that libav reports is an error, not concealed.

Damage is often reported when the damaged frame is returned, not when it is decoded. Frames that
refer to it may be returned earlier: those that are shown before it. So a frame counts as sound once
all frames that were decoded before it have been returned sound.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import av

from cascade.media.reason import DecodeError, check_size

# Warnings of the HEVC decoder about a frame that it returns incomplete.
_WARNINGS = ("Skipping invalid undecodable NALU", "Error parsing NAL unit")
# Legal zeros after the last slice (at a constant bit rate) are damage to FFmpeg's check of the end
# of the bitstream; without that check other bits than zeros are still damage.
_MAY_BE_STUFFED = frozenset({"mpeg1video", "mpeg2video"})
IN_ORDER = frozenset({"vp8", "vp9", "av1", "flv", "gif", "png", "mjpeg", "theora"})
"""Codecs whose frames are shown in the order of decoding, by FFmpeg's names."""
# FFmpeg's own decoder of VP8 detects no damage, and then returns whatever its memory held before.
_BETTER = {"vp8": "libvpx"}
_MOST_HELD = 16  # the largest number of frames that H.264 or HEVC reorder

logging.getLogger("libav").addHandler(logging.NullHandler())


class Numbered(NamedTuple):
    """A packet and its number.

    The frames of an omitted one are not shown, and may be damaged: they are those right after the
    first key frame that refer to frames before it.
    """

    number: int
    packet: "av.Packet[av.VideoStream]"
    omitted: bool = False


def listen() -> None:
    """Let libav report warnings; call it before a container is opened."""
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)


def strict_decoder(stream: av.VideoStream, *, max_pixels: int) -> av.VideoCodecContext:
    """A decoder of a stream that detects damage, before its first packet."""
    context = stream.codec_context
    if context.name in _BETTER and _BETTER[context.name] in av.codecs_available:
        better = av.CodecContext.create(_BETTER[context.name], "r")
        assert isinstance(better, av.VideoCodecContext)
        context = better
    # The HEVC decoder reports more damage when it decodes the parts of a frame in parallel.
    context.thread_type, context.thread_count = "SLICE", 2 if context.name == "hevc" else 1
    checks = "crccheck+buffer+explode" + ("" if context.name in _MAY_BE_STUFFED else "+bitstream")
    context.options = {"err_detect": checks, "max_pixels": str(max_pixels)}
    context.copy_opaque = True
    return context


class SoundFrames:
    """The frames of numbered packets that are shown, in presentation order; damage is an error.

    `fed` packets were decoded and `returned` frames came out of the decoder so far.
    """

    def __init__(
        self, packets: Iterable[Numbered], decoder: av.VideoCodecContext, *, max_pixels: int
    ) -> None:
        self.fed = self.returned = 0
        self._packets, self._decoder, self._max_pixels = packets, decoder, max_pixels
        self._held: deque[tuple[int, av.VideoFrame]] = deque()
        self._omitted: set[int] = set()
        self._inside: dict[int, None] = {}  # packets whose frame is not returned yet, in order

    def __iter__(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number of its packet, frame) of every frame.

        Raises:
            DecodeError: the decoder reported damage, or a frame is marked as damaged.
        """
        for one in self._packets:
            if one.packet.size:
                self.fed += 1
                if one.omitted:
                    self._omitted.add(one.number)
                elif not one.packet.is_discard:
                    self._inside[one.number] = None
            for frame in _decoded(self._decoder, one):
                self._hold(frame, one.number)
            yield from self._sound(self._decoder.has_b_frames)
        while self._held:
            yield self._held.popleft()

    def _hold(self, frame: av.VideoFrame, now: int) -> None:
        number = frame.opaque[0] if isinstance(frame.opaque, tuple) else now
        self.returned += 1
        if number in self._omitted:
            return
        if frame.is_corrupt:
            raise DecodeError(f"the frame of packet {number} is damaged")
        check_size(frame.width, frame.height, max_pixels=self._max_pixels)
        self._inside.pop(number, None)
        self._held.append((number, frame))

    def _sound(self, reorders: bool) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames that no packet inside the decoder was decoded before.

        A packet whose frame never comes is not waited for longer than frames can be reordered.
        """
        while self._held:
            number = self._held[0][0]
            earlier = [inside for inside in self._inside if inside < number]
            if earlier and reorders and len(self._held) <= _MOST_HELD:
                return
            for one in earlier:
                del self._inside[one]
            yield self._held.popleft()


def _decoded(decoder: av.VideoCodecContext, one: Numbered) -> list[av.VideoFrame]:
    """The frames that the decoder returns for a packet."""
    number, packet, omitted = one
    if packet.is_corrupt:
        raise DecodeError(f"packet {number} is damaged: the container marks it so")
    if packet.size and packet.has_sidedata("encryption_info"):
        raise DecodeError("is encrypted (DRM): it can only be read with its key; decrypt it first")
    packet.opaque = (number,)  # a new object: PyAV identifies it by its address
    with av.logging.Capture() as said:
        try:
            frames = decoder.decode(packet)
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            failed: av.FFmpegError | None = error
        else:
            failed = None
    texts = [text for level, _, text in said if level <= av.logging.ERROR]
    texts += [text for _, _, text in said if text.startswith(_WARNINGS)]
    if omitted:
        return [] if failed else frames
    if texts or failed is not None:
        reason = texts[0].strip() if texts else failed.strerror if failed else ""
        raise DecodeError(f"packet {number} is damaged: {reason}") from failed
    return frames

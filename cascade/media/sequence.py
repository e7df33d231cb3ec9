"""The frames of a whole video in presentation order, each with its time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import av

from cascade.media.container import by_order
from cascade.media.reason import MAX_PIXELS, DecodeError, reasons
from cascade.media.strict import IN_ORDER, Numbered, SoundFrames
from cascade.media.upright import Orientation, opaque, orientation


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A sound frame; times are seconds from the first frame."""

    frame: av.VideoFrame
    """As stored, without transparency."""
    orientation: Orientation
    transparent: bool
    time: float
    end: float


def numbered(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[Numbered]:
    """The packets of a stream, numbered from 0.

    A cut at an open group of pictures begins with its key frame: the packets right after it whose
    frames are shown before it are omitted.
    """
    first: int | None = None
    leading = stream.codec_context.codec.canonical_name not in IN_ORDER
    for number, packet in enumerate(container.demux(stream)):
        if packet.size and number == 0:
            first = packet.pts if packet.is_keyframe else None
        elif packet.size and leading and first is not None and packet.pts is not None:
            leading = packet.pts < first
            yield Numbered(number, packet, omitted=leading)
            continue
        yield Numbered(number, packet)


def shown_frames(
    packets: Iterable[Numbered],
    container: av.container.InputContainer,
    stream: av.VideoStream,
    decoder: av.VideoCodecContext,
) -> Iterator[Shown]:
    """Every frame shown.

    Raises:
        DecodeError: a frame is damaged, its time or orientation is inconsistent, or none is shown.
    """
    unit, ordered = float(stream.time_base or 0), by_order(container)
    length = 1 / float(stream.average_rate or 25)
    first: float | None = None
    last: Shown | None = None
    with reasons():
        for count, (_, frame) in enumerate(SoundFrames(packets, decoder, max_pixels=MAX_PIXELS)):
            stamp = frame.dts if ordered else frame.pts
            if stamp is None and (last is None or not ordered):
                raise DecodeError(f"frame {count} has no time stamp")
            seconds = None if stamp is None else stamp * unit
            first = seconds if first is None else first
            time = last.end if seconds is None and last else (seconds or 0.0) - (first or 0.0)
            turned, visible = orientation(frame), opaque(frame)
            _check_order(count, time, turned, last)
            length = frame.duration * unit if frame.duration else length
            last = Shown(
                frame=visible,
                orientation=turned,
                transparent=visible is not frame,
                time=time,
                end=time + length,
            )
            yield last
    if last is None:
        raise DecodeError("no frame is shown")


def _check_order(count: int, time: float, turned: Orientation, last: Shown | None) -> None:
    if last is None:
        return
    if time <= last.time:
        raise DecodeError(
            f"frame {count} is shown at {time:.3f} s, the one before it at {last.time:.3f} s"
        )
    if turned != last.orientation:
        raise DecodeError(f"its orientation changes from {last.orientation} to {turned}")

"""PyAV asked not to conceal damage, and believed in what it says of it."""

import logging

import av

from data.decode.probe import DecodeError

# What the HEVC decoder says of a frame that it gives without some of its parts.
_WARNINGS = ("Skipping invalid undecodable NALU", "Error parsing NAL unit")

logging.getLogger("libav").addHandler(logging.NullHandler())


def listen() -> None:
    """Have the libraries tell what they see; before a container is opened."""
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)


def be_strict(stream: av.VideoStream, **options: str) -> None:
    """Have the decoder of a stream look for damage; before its first packet is decoded."""
    context = stream.codec_context
    context.thread_count = 2 if context.name == "hevc" else 1  # in parallel it sees more damage
    context.options = {"err_detect": "crccheck+bitstream+buffer+explode", **options}


def decode(packet: "av.Packet[av.VideoStream]", name: str) -> list[av.VideoFrame]:
    """The frames that a packet makes known.

    Raises:
        DecodeError: the decoder said that not all of them is right; it calls the packet by `name`.
    """
    with av.logging.Capture() as said:
        frames = packet.decode()
    for level, _, text in said:
        if level <= av.logging.ERROR or text.startswith(_WARNINGS):
            raise DecodeError(f"{name} is damaged: {text.strip()}")
    return frames

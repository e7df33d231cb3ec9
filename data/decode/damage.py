"""Strict decoding by PyAV: damage that libav reports is an error, not concealed."""

import logging

import av

from data.decode.probe import DecodeError

# Warnings of the HEVC decoder about a frame that it returns incomplete.
_WARNINGS = ("Skipping invalid undecodable NALU", "Error parsing NAL unit")

logging.getLogger("libav").addHandler(logging.NullHandler())


def listen() -> None:
    """Let libav report warnings; call it before a container is opened."""
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)


def be_strict(stream: av.VideoStream, **options: str) -> None:
    """Let the decoder of a stream detect damage; call it before the first packet is decoded."""
    context = stream.codec_context
    # The HEVC decoder reports more damage when it runs in parallel.
    context.thread_count = 2 if context.name == "hevc" else 1
    context.options = {"err_detect": "crccheck+bitstream+buffer+explode", **options}


def decode(packet: "av.Packet[av.VideoStream]", name: str) -> list[av.VideoFrame]:
    """The frames that the decoder returns for a packet; `name` is the packet's name in an error.

    Raises:
        DecodeError: the decoder reported damage.
    """
    with av.logging.Capture() as said:
        frames = packet.decode()
    for level, _, text in said:
        if level <= av.logging.ERROR or text.startswith(_WARNINGS):
            raise DecodeError(f"{name} is damaged: {text.strip()}")
    return frames

"""What PyAV shows of a video: a plain loop over all its frames from the first, without any seek.

Tests of damaged bytes run it in a sandbox of its own, which imports it by its name.
"""

from itertools import islice

import av
import numpy as np

from cascade.media.reason import MAX_PIXELS
from cascade.media.upright import opaque, orientation
from data.decode.pyav import StrictReader


def stamps(path):
    """Time stamps of the frames that a container promises, and their (width, height)."""
    header = StrictReader(path, max_pixels=MAX_PIXELS).header
    return header.pts.tolist(), (header.width, header.height)


def shown(path, *, size, wanted, first=None, threads=0):
    """(time stamps of the frames in presentation order, {time stamp: frame} of those wanted).

    Of the `first` so many frames, or of all up to an error. AVI stores no times of presentation:
    there the frames, in the order they come in, have the stamps in ascending order.
    """
    times, frames = [], {}
    with av.open(path) as container:
        container.streams.video[0].thread_count = threads
        in_order = container.format.name == "avi"
        try:
            for number, frame in enumerate(islice(container.decode(video=0), first)):
                times.append(frame.pts)
                name = number if in_order else frame.pts
                if in_order or frame.pts in wanted:
                    frames[name] = _rgb(frame, size)
        except av.FFmpegError:
            pass  # what came before the damage was shown
    if in_order:
        times.sort()
        frames = {times[number]: frame for number, frame in frames.items()}
    return times, {pts: frame for pts, frame in frames.items() if pts in wanted}


def strictly(path, *, size):
    """The frames, in presentation order, up to the first report of damage, by their time stamps.

    VP8 is decoded by libvpx: FFmpeg's own decoder reports no damage.
    """
    frames = []
    with av.open(path, metadata_errors="replace") as container, av.logging.Capture() as said:
        stream = container.streams.video[0]
        context = stream.codec_context
        if context.name == "vp8":
            context = av.CodecContext.create("libvpx", "r")
        context.thread_count = 1
        context.options = {"err_detect": "crccheck+buffer+explode"}
        try:
            for packet in container.demux(stream):
                made = context.decode(packet)
                if any(level <= av.logging.ERROR for level, *_ in said) or packet.is_corrupt:
                    break
                for frame in made:
                    if frame.is_corrupt:
                        return frames
                    frames.append((frame.pts, _rgb(frame, size)))
        except av.FFmpegError:
            pass
    return frames


def _rgb(frame, size):
    rgb = opaque(frame).to_ndarray(format="rgb24", width=size[0], height=size[1])
    return np.ascontiguousarray(orientation(frame).apply(rgb))

"""Resampling, reading and writing videos: axes `b c f h w`, pixels in [-1, 1], times in seconds."""

from cascade.video.memory import Frames, Media, as_media
from cascade.video.metadata import read_metadata
from cascade.video.read import (
    Fit,
    fitted_size,
    frame_size,
    inside,
    load_clip,
    read_frames,
    read_image,
    video_length,
)
from cascade.video.resample import (
    bicubic,
    covering,
    downsample,
    every,
    frame_times,
    hold,
    linear,
    resize,
    scale_frames,
    to_float,
    to_uint8,
    upsample,
)
from cascade.video.write import (
    Mp4Writer,
    check_format,
    write_gif,
    write_mp4,
    write_png,
    write_video,
)

__all__ = [
    "Fit",
    "Frames",
    "Media",
    "Mp4Writer",
    "as_media",
    "bicubic",
    "check_format",
    "covering",
    "downsample",
    "every",
    "fitted_size",
    "frame_size",
    "frame_times",
    "hold",
    "inside",
    "linear",
    "load_clip",
    "read_frames",
    "read_image",
    "read_metadata",
    "resize",
    "scale_frames",
    "to_float",
    "to_uint8",
    "upsample",
    "video_length",
    "write_gif",
    "write_mp4",
    "write_png",
    "write_video",
]

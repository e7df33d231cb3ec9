"""A small file of every container and codec that is read, for mutations of their headers."""

import io

import numpy as np
from PIL import Image

from tests.data.odd_files import drifting, picture, video

FORMS = {
    "mp4_h264": ("mp4", "libx264", {"x264-params": "bframes=2:keyint=6"}),
    "mp4_hevc": ("mp4", "libx265", {"x265-params": "log-level=none:keyint=6"}),
    "mov_mpeg4": ("mov", "mpeg4", {"g": "5"}),
    "fragmented_h264": ("mp4", "libx264", {"g": "4"}),
    "3gp_h264": ("3gp", "libx264", {"g": "5"}),
    "mkv_h264": ("matroska", "libx264", {"x264-params": "bframes=2:keyint=6"}),
    "webm_vp8": ("webm", "libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "5"}),
    "webm_vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "5"}),
    "avi_mpeg4": ("avi", "mpeg4", {"g": "5", "bf": "2"}),
    "ts_h264": ("mpegts", "libx264", {"g": "5"}),
    "ts_mpeg2": ("mpegts", "mpeg2video", {"g": "5", "bf": "2"}),
    "ps_mpeg1": ("mpeg", "mpeg1video", {"g": "5"}),
    "flv_flv1": ("flv", "flv", {"g": "5"}),
    "wmv_wmv2": ("asf", "wmv2", {"g": "5"}),
    "ogv_vp8": ("ogg", "libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "5"}),
}
IMAGES = ("png", "jpeg", "webp", "bmp", "tiff")


def small_files() -> dict[str, bytes]:
    """The files by name: videos of 12 frames, and images."""
    frames = drifting(12, 48, 64)
    made = {}
    for name, (form, codec, options) in FORMS.items():
        muxing = {"movflags": "frag_keyframe+empty_moov"} if "fragmented" in name else None
        made[name] = video(
            frames,
            form=form,
            codec=codec,
            options=options,
            muxing=muxing,
            rate=25,
            bit_rate=0 if "264" in codec or "265" in codec else 400_000,
        )
    pages = [Image.fromarray(frame) for frame in frames]
    gif = io.BytesIO()
    pages[0].save(gif, "gif", save_all=True, append_images=pages[1:], duration=40)
    made["gif"] = gif.getvalue()
    return made | {form: picture(pages[0], form) for form in IMAGES}


def header_places(data: bytes) -> np.ndarray:
    """Offsets of the bytes of the structure: both ends, and around every tag of four letters."""
    near = {*range(min(600, len(data))), *range(max(0, len(data) - 400), len(data))}
    tags = (
        b"moov",
        b"trak",
        b"stsd",
        b"stts",
        b"ctts",
        b"stss",
        b"stsc",
        b"stsz",
        b"stco",
        b"elst",
        b"tkhd",
        b"mdhd",
        b"avcC",
        b"hvcC",
        b"moof",
        b"trun",
        b"idx1",
        b"strf",
        b"\x1aE\xdf\xa3",
        b"\x1fC\xb6u",
        b"\x1cS\xbbk",
        b"OggS",
        b"IHDR",
        b"IDAT",
    )
    for tag in tags:
        at = data.find(tag)
        while at >= 0:
            near.update(range(max(0, at - 4), min(len(data), at + 60)))
            at = data.find(tag, at + 4)
    return np.array(sorted(near))

"""Whether a video can be copied instead of re-encoded: it already has all required properties."""

from pathlib import Path

import numpy as np

from cascade.media.upright import Orientation
from data.ingest.cut import Window
from data.ingest.encode import frame_rate, is_constant
from data.ingest.frame_reader import Reel, shrunk
from data.ingest.recipe import Recipe


def reason_to_encode(file: str, reel: Reel, windows: list[Window], recipe: Recipe) -> str:
    """Why a video must be re-encoded; '' if its bytes are kept."""
    encoding = recipe.encoding
    size = (reel.width, reel.height)
    rate = float(frame_rate(reel.times, reel.end, None))
    gop = float(np.max(np.diff([*reel.keys, reel.end]), initial=0.0)) if reel.keys else float("inf")
    checks = {
        "encoding.keep is false": encoding.keep,
        f"{reel.container} is not mp4": "mp4" in reel.container.split(","),
        f"QuickTime, not mp4: {Path(file).suffix}": Path(file).suffix.lower() in (".mp4", ".m4v"),
        f"{reel.codec} is not h264": reel.codec == "h264",
        f"{reel.pixels} is not 8-bit 4:2:0": reel.pixels in ("yuv420p", "yuvj420p"),
        f"{reel.streams} video streams": reel.streams == 1,
        f"{len(windows)} windows": len(windows) == 1,
        f"an edit list hides {reel.discarded} frames": reel.discarded == 0,
        "it is rotated or mirrored": reel.orientation == Orientation(),
        "it is transparent": reel.opaque,
        "its pixels are not square": reel.square,
        "its size changes": reel.one_size,
        f"{reel.width}×{reel.height} is too large or odd": size
        == shrunk(*size, encoding.short_side),
        "its frame rate varies": is_constant(reel.times),
        f"{rate:g} frames per second": encoding.max_fps is None or rate <= encoding.max_fps * 1.001,
        f"{gop:.2f} s between key frames": gop <= encoding.keep_gop_s + 1e-3,
        "it does not begin with a key frame": bool(reel.keys) and abs(reel.keys[0]) < 1e-6,
    }
    return next((reason for reason, holds in checks.items() if not holds), "")

"""How a decoded frame is shown: turned and mirrored by its display matrix, opaque, in RGB."""

import struct
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from jaxtyping import UInt8

_WHITE = 255


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """From stored to shown pixels: first transposed, then mirrored."""

    transposed: bool = False
    """Rows become columns."""
    left_right: bool = False
    top_bottom: bool = False

    def __str__(self) -> str:
        names = [name for name, value in vars(self).items() if value]
        return " and ".join(name.replace("_", " to ") for name in names) or "as stored"

    def apply(self, pixels: UInt8[np.ndarray, "h w ..."]) -> UInt8[np.ndarray, "y x ..."]:
        """A view of an image or plane as it is shown."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1]

    def shown(self, width: int, height: int) -> tuple[int, int]:
        """The shown size of a stored one, and the stored size of a shown one."""
        return (height, width) if self.transposed else (width, height)


def orientation(frame: av.VideoFrame) -> Orientation:
    """The orientation of a frame by its display matrix, to the nearest quarter turn.

    The matrix takes a stored pixel (p, q) to (a p + c q + x, b p + d q + y), where y points down
    (ISO 14496-12, 8.5.2).
    """
    side = cast(SideDataContainer, frame.side_data).get(Type.DISPLAYMATRIX)
    if side is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(left_right=a < 0, top_bottom=d < 0)
    return Orientation(transposed=True, left_right=c < 0, top_bottom=b < 0)


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether the pixels of a frame may be transparent."""
    return any(part.is_alpha for part in frame.format.components) or frame.format.has_palette


def over_white(rgba: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """The colours seen where an image lies on white paper."""
    alpha = rgba[..., 3:].astype(np.uint32)
    mixed = rgba[..., :3] * alpha + _WHITE * (_WHITE - alpha)
    return ((mixed + _WHITE // 2) // _WHITE).astype(np.uint8)


def opaque(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, without transparency: over white, in RGB, where it has any."""
    if not has_alpha(frame):
        return frame
    pixels = over_white(frame.to_ndarray(format="rgba"))
    made = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    made.pts, made.time_base = frame.pts, frame.time_base
    return made

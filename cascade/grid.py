"""The grid of a video: its frames, height, width and frame rate.

Axes have the same names everywhere: `b` batch, `c` channels, `f` frames, `h` height, `w` width;
text is `b l d` (length, width). Pixels are float in [-1, 1], times are in seconds, frame rates in
frames per second, log-SNR in nats.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The factors by which a stage multiplies frames (`time`), and height and width (`space`)."""

    time: int = 1
    space: int = 1


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sampling grid in time and space; `fps` is in frames per second."""

    frames: int
    height: int
    width: int
    fps: float

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1 or not self.fps > 0:
            raise ValueError(f"grid {self}: frames, height, width and fps must be positive")

    def __str__(self) -> str:
        return f"{self.frames}×{self.height}×{self.width} @ {self.fps:g} fps"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        return self.frames, self.height, self.width

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return self.frames / self.fps

    def scaled(self, *, time: int = 1, space: int = 1) -> "Grid":
        """The grid with `time` times the frames and frame rate, `space` times height and width."""
        return Grid(
            frames=self.frames * time,
            height=self.height * space,
            width=self.width * space,
            fps=self.fps * time,
        )

    def divided(self, *, time: int = 1, space: int = 1) -> "Grid":
        """The inverse of `scaled`.

        Raises:
            ValueError: a side is not a multiple of its factor.
        """
        for name, size, factor in (
            ("frames", self.frames, time),
            ("height", self.height, space),
            ("width", self.width, space),
        ):
            if size % factor:
                raise ValueError(
                    f"grid {self}: {name} {size} is not a multiple of the factor {factor}; "
                    f"the nearest multiple is {max(factor, round(size / factor) * factor)}"
                )
        return Grid(
            frames=self.frames // time,
            height=self.height // space,
            width=self.width // space,
            fps=self.fps / time,
        )

    def check_multiple(self, multiple: Sequence[int], *, name: str) -> None:
        """Refuse a grid whose (frames, height, width) are not multiples of `multiple`.

        Raises:
            ValueError: a side is not a multiple; the message begins with `name`.
        """
        for side, size, factor in zip(
            ("frames", "height", "width"), self.shape, multiple, strict=True
        ):
            if size % factor:
                raise ValueError(
                    f"{name}: {side} must be a multiple of {factor}, got {size} in {self}; "
                    f"the nearest that fits is {math.ceil(size / factor) * factor}"
                )

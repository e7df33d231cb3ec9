"""The files of a prompt, read on the grid of the video to be made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cascade.conditioning.given import Given
from cascade.conditioning.room import Room
from cascade.grid import Grid
from cascade.video import frame_size, load_clip


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a cascade is given besides text: fixed frames, or a video to start from."""

    given: Given | None = None
    start: Float[Tensor, "b 3 f h w"] | None = None
    strength: float | None = None
    """How much of `start` is made anew, in (0, 1]."""

    @property
    def end(self) -> int | None:
        """How many of the frames made belong to the video; none: all."""
        return None if self.given is None else self.given.end

    def arguments(self, count: int) -> dict[str, Any]:
        """What `Cascade` is called with, for so many videos."""
        named: dict[str, Any] = {}
        if self.given is not None:
            frames, mask = (
                x.expand(count, -1, -1, -1, -1) for x in (self.given.frames, self.given.mask)
            )
            named["given"] = replace(self.given, frames=frames, mask=mask)
        if self.start is not None:
            named["start"] = self.start.expand(count, -1, -1, -1, -1)
            named["strength"] = self.strength
        return named


@dataclass(frozen=True, kw_only=True)
class Files:
    """Sources by name (paths, and the values beside them), for a video on `grid`.

    The base makes every `stride`-th frame of `grid`. Known spans fill `share` of the video.
    """

    sources: Mapping[str, Any]
    grid: Grid
    stride: int = 1
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(
                f"share={self.share}: the given video fills a share of the new one, "
                "more than 0 and less than 1"
            )

    @property
    def room(self) -> Room:
        """Where given frames may stand."""
        return Room(self.grid.frames, self.stride)

    def known(self, most: int, *, ends: int = 1) -> int:
        """How many frames each of so many ends is given, at most `most`."""
        return min(max(round(self.grid.frames * self.share / ends), 1), most)

    def picture(self, source: str) -> Float[Tensor, "1 3 1 h w"]:
        """A picture, or the first frame of a video."""
        return self.head(source, 1)

    def head(self, source: str, count: int) -> Float[Tensor, "1 3 k h w"]:
        """The first frames of a video."""
        return load_clip(self.sources[source], replace(self.grid, frames=count))[None]

    def tail(self, source: str, count: int) -> Float[Tensor, "1 3 k h w"]:
        """The last frames of a video."""
        grid = replace(self.grid, frames=count)
        return load_clip(self.sources[source], grid, from_end=True)[None]

    def at(self, source: str, places: list[int]) -> Float[Tensor, "1 3 k h w"]:
        """The frames of a video at places of the grid."""
        return load_clip(self.sources[source], self.grid, places=places)[None]

    def indices(self, source: str) -> list[int]:
        """Places of the grid.

        Raises:
            ValueError: something else.
        """
        value, last = self.sources[source], self.grid.frames - 1
        numbers = [value] if isinstance(value, int) else list(value)
        if not numbers or not all(type(n) is int and 0 <= n <= last for n in numbers):
            raise ValueError(
                f"{source}={value}: frames of the new video are numbers from 0 to {last}, "
                f"such as {source}=[0,{last}]"
            )
        return sorted(set(numbers))

    def fraction(self, source: str) -> float:
        """A number in (0, 1].

        Raises:
            ValueError: something else.
        """
        value = self.sources[source]
        if not isinstance(value, int | float) or not 0 < value <= 1:
            raise ValueError(f"{source}={value}: must be more than 0 and at most 1")
        return float(value)

    def area(self, source: str, video: str) -> Float[Tensor, "1 1 f h w"]:
        """A mask for all frames of a video from one picture of it: 1 where the picture is light.

        Raises:
            ValueError: the picture has another aspect ratio than the video, or is of one colour.
        """
        (h, w), (height, width) = (frame_size(self.sources[name]) for name in (source, video))
        if abs(h * width - w * height) > max(h * width, w * height) * 0.02:
            raise ValueError(
                f"{source}={self.sources[source]}: the mask is {h}×{w} and the video "
                f"{height}×{width} (height×width); give a mask of the video's aspect ratio"
            )
        mask = (self.picture(source).mean(dim=1, keepdim=True) > 0).float()
        if mask.min() == mask.max():
            raise ValueError(
                f"{source}={self.sources[source]}: white is kept and black is painted anew, but "
                f"all of it is {'white' if mask.any() else 'black'}"
            )
        return mask.expand(-1, -1, self.grid.frames, -1, -1)

"""The pictures and videos of a prompt, read on the grid of the new video."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.conditioning.given import Given
from cascade.conditioning.placement import Placement
from cascade.grid import Grid
from cascade.video import Fit, fitted_size, frame_size, inside, is_still, load_clip

_PADDED = 4  # channels of a padded frame: RGB, and 1 in the picture


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The inputs of a cascade besides text: given frames, or a video to start from."""

    given: Given | None = None
    start: Float[Tensor, "b c f h w"] | None = None
    strength: float | None = None
    """How much of `start` is regenerated, in [0, 1]: the diffusion time that it is noised to."""

    @property
    def end(self) -> int | None:
        """How many of the generated frames belong to the video; None: all."""
        return None if self.given is None else self.given.end

    def arguments(self, count: int) -> dict[str, Any]:
        """The arguments of a call of `Cascade` for `count` videos."""
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


def without_bars(prompt: Prompt) -> Prompt:
    """A prompt of padded frames in RGB: their bars are not given, so they are generated.

    The bars of a video to restyle stay black, because it is noised as a whole.
    """
    given, start = prompt.given, prompt.start
    if given is not None and given.frames.shape[1] == _PADDED:
        mask = given.mask * given.frames[:, 3:]
        prompt = replace(prompt, given=Given(given.frames[:, :3] * mask, mask, end=given.end))
    if start is not None and start.shape[1] == _PADDED:
        prompt = replace(prompt, start=start[:, :3])
    return prompt


@dataclass(frozen=True, kw_only=True)
class Files:
    """A user's sources by name (pictures, videos and other values), for a video on `grid`.

    The base generates every `stride`-th frame of `grid`. Frames given from a video fill `share` of
    the new one. Pictures of another aspect ratio are cropped; with `fit` "pad" they are whole, and
    the bars beside them are not given (see `without_bars`).
    """

    sources: Mapping[str, Any]
    grid: Grid
    stride: int = 1
    share: float = 0.5
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        if not isinstance(self.share, int | float) or not 0 < self.share < 1:
            raise ValueError(
                f"share={self.share}: the given video fills a share of the new one, "
                "more than 0 and less than 1"
            )

    @property
    def placement(self) -> Placement:
        """Where given frames can be placed."""
        return Placement(self.grid.frames, self.stride)

    def known(self, most: int, *, ends: int = 1) -> int:
        """How many frames are given at each of `ends` ends of the video, at most `most`."""
        return min(max(round(self.grid.frames * self.share / ends), 1), most)

    def image(self, source: str) -> Float[Tensor, "1 c 1 h w"]:
        """An image, or the first frame of a video."""
        return self.head(source, 1)

    def head(self, source: str, count: int) -> Float[Tensor, "1 c k h w"]:
        """The first frames of a video."""
        return self._load(source, replace(self.grid, frames=count))

    def tail(self, source: str, count: int) -> Float[Tensor, "1 c k h w"]:
        """The last frames of a video."""
        return self._load(source, replace(self.grid, frames=count), from_end=True)

    def at(self, source: str, places: list[int]) -> Float[Tensor, "1 c k h w"]:
        """The frames of a video at these indices of the grid."""
        return self._load(source, self.grid, places=places)

    def _load(self, source: str, grid: Grid, **options: Any) -> Float[Tensor, "1 c k h w"]:
        """Frames of a video; padded ones have a fourth channel, 1 in the picture, 0 in the bars."""
        path = self.sources[source]
        clip = load_clip(path, grid, fit=self.fit, **options)[None]
        if self.fit == "crop":
            return clip
        picture = torch.zeros_like(clip[:, :1])
        picture[..., *inside(fitted_size(*frame_size(path), grid, self.fit), grid)] = 1
        return torch.cat([clip, picture], dim=1)

    def indices(self, source: str) -> list[int]:
        """Indices of frames of the grid.

        Raises:
            ValueError: the value is not one or more of them.
        """
        value, last = self.sources[source], self.grid.frames - 1
        numbers = list(value) if isinstance(value, list | tuple) else [value]
        if not numbers or not all(type(n) is int and 0 <= n <= last for n in numbers):
            raise ValueError(
                f"{source}={value}: must be indices of frames of the new video, from 0 to {last}, "
                f"such as {source}=[0,{last}]"
            )
        return sorted(set(numbers))

    def fraction(self, source: str) -> float:
        """A number in [0, 1].

        Raises:
            ValueError: the value is not one.
        """
        value = self.sources[source]
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{source}={value}: must be a number from 0 to 1")
        return float(value)

    def area(self, source: str, video: str) -> Float[Tensor, "1 1 f h w"]:
        """A mask for all frames of a video, read from one image: 1 where the image is light.

        Raises:
            ValueError: it has several frames or another aspect ratio, or is all light or all dark.
        """
        if not is_still(self.sources[source]):
            raise ValueError(
                f"{source}={self.sources[source]}: a mask is one picture, for all frames of the "
                "video, but this file has several; give one picture"
            )
        (h, w), (height, width) = (frame_size(self.sources[name]) for name in (source, video))
        if abs(h * width - w * height) > max(h * width, w * height) * 0.02:
            raise ValueError(
                f"{source}={self.sources[source]}: the mask is {h}×{w} and the video "
                f"{height}×{width} (height×width); give a mask of the video's aspect ratio"
            )
        mask = (self.image(source)[:, :3].mean(dim=1, keepdim=True) > 0).float()
        if mask.min() == mask.max():
            raise ValueError(
                f"{source}={self.sources[source]}: white is kept and black is regenerated, but "
                f"all of it is {'white' if mask.any() else 'black'}"
            )
        return mask.expand(-1, -1, self.grid.frames, -1, -1)

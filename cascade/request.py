"""One call of a stage's sampler: what it takes besides the captions."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Required, TypedDict

from jaxtyping import Float
from torch import Tensor

from cascade.conditioning import Given
from cascade.diffusion.sampler import Step
from cascade.grid import Grid
from cascade.text.encoder import TextFeatures

Captions = Sequence[str] | TextFeatures
#: A function of (purpose, frames, (channels, height, width)), such as ("start", range(8), (3, 16,
#: 16)), that returns standard normal noise (b, c, f, h, w) for these frames of the videos.
Noise = Callable[[str, range, tuple[int, int, int]], Tensor]
#: A function of (step, x̂): x̂ is that of the network, with guidance, for a window's own frames, in
#: latents; given frames are not put back yet.
OnStep = Callable[[Step, Tensor], None]


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The parts in which a stage is sampled; by default the whole video at once.

    A local network's result equals that of the whole video. A network that reads all frames
    generates one window after another, and the last `overlap` frames of one are the first given
    frames of the next.
    """

    frames: int | None = None
    """Frames of a window, in the stage's video; None: all."""
    tile: int | None = None
    """Height and width of a tile in pixels, for local networks; None: whole frames."""
    overlap: int | None = None
    """Frames that two windows of a network that is not local share; None: a quarter of a window."""

    def __str__(self) -> str:
        """The sizes that are set."""
        sizes = [f"windows of {self.frames} frames"] if self.frames else []
        sizes += [f"tiles of {self.tile}×{self.tile} pixels"] if self.tile else []
        return " and ".join(sizes) or "the whole video at once"

    def __post_init__(self) -> None:
        for name in ("frames", "tile", "overlap"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"windows: {name} must be an integer of at least 1, got {value!r}")


class SampleRequest(TypedDict, total=False):
    """The arguments of `Stage.stream` and `Stage.sample` besides the captions."""

    grid: Required[Grid]
    """The grid of the videos, in pixels; that of `low` is smaller by the stage's scale."""
    seeds: Required[Sequence[int]]
    """One per video."""
    negative: Captions | None
    """The negative captions of guidance; empty ones by default."""
    later: Sequence[tuple[float, Captions]]
    """Captions that replace the earlier ones from a time on, in seconds, in order."""
    low: Float[Tensor, "b 3 f2 h2 w2"] | Iterable[Tensor] | None
    """The previous stage's output, for stages that have one: whole, or in parts as it is made."""
    given: Given | None
    """Given frames and regions, in pixels on `grid`."""
    zoom: float
    """Magnification of the videos, for a stage that reads it; 1 by default."""
    steps: int | None
    """Sampler steps; the stage's own by default."""
    guidance_scale: float | None
    """Classifier-free guidance; the stage's own by default."""
    low_logsnr: float | None
    """Log-SNR of the noise on `low` (nats); the augmentation's own by default."""
    start: tuple[Float[Tensor, "b 3 f h w"], float] | None
    """A video and a time in [0, 1] to start from, instead of noise (SDEdit)."""
    loop: bool
    """Whether the last frame is followed by the first."""
    windows: Windows
    """The parts in which the video is sampled."""
    first: int
    """The first frame of the result; windows before it are not sampled unless it needs them."""
    on_step: OnStep | None
    """Called after each x̂ of each window."""
    noise: Noise | None
    """The source of normal noise; keyed by `seeds` by default."""

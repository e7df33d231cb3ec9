"""Classifier-free guidance: extrapolates from the unconditional to the conditional prediction.

Its parts are composed in YAML: a scale, the steps at which it applies (`oscillate`, `interval`),
and corrections of the result (`zero_star`, `rescale`, `threshold`). Every statistic is computed per
sample, so that samples do not depend on their batch, and over free positions only: at given
positions the network's output is not trained, so it must not influence the others. A statistic is
of a whole video or of each frame; only the latter lets a video be sampled in windows of frames.
"""

import copy
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from cascade.diffusion.sampler import Step

Video = Float[Tensor, "b c f h w"]
Scale = Float[Tensor, "b 1 1 1 1"]
NoiseLevel = Float[Tensor, "#b 1 #f 1 1"] | float
#: What a statistic is computed of: a whole video, or each of its frames.
Statistics = Literal["video", "frame"]
#: True at positions that are not given; None: all positions are free.
Free = Bool[Tensor, "#b 1 #f #h #w"] | None


def _total(values: Video, free: Free) -> Scale:
    """The sum over each sample's free positions."""
    kept = values if free is None else values.where(free, 0.0)
    return kept.sum(dim=(1, 2, 3, 4), keepdim=True)


def _deviation(x: Video, free: Free) -> Scale:
    """The standard deviation of each sample's free values; 0 if there are none."""
    count: Tensor | int = x[0].numel()
    if free is not None:
        count = free.expand_as(x).sum(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1)
    centred = x - _total(x, free) / count
    return (_total(centred.square(), free) / count).sqrt()


def _frames(x: Tensor) -> Tensor:
    """Each frame as a video of its own."""
    return rearrange(x, "b c f h w -> (b f) c 1 h w")


class Oscillate:
    """The full scale for the first `constant` share of the steps, then `low` at every other step.

    A high scale saturates colours; steps with a low scale undo it (Imagen Video, section 2.6.2).
    """

    def __init__(self, *, constant: float = 0.1, low: float = 1.0) -> None:
        if not 0 <= constant <= 1:
            raise ValueError(
                f"Oscillate: constant is a share of the steps, in [0, 1], got {constant}"
            )
        self.constant = constant
        self.low = low

    def __call__(self, scale: float, step: Step) -> float:
        """The scale at this step."""
        after = step.index - math.ceil(self.constant * step.count)
        return self.low if after >= 0 and after % 2 else scale


class ZeroStar:
    """CFG-Zero* (Fan et al. 2025): scales the unconditional velocity, and zeroes the first steps.

    `still` is the share of steps with velocity zero; the velocity is that of rectified flow.
    """

    def __init__(self, *, still: float = 0.04) -> None:
        if not 0 <= still < 1:
            raise ValueError(f"ZeroStar: still is a share of the steps, in [0, 1), got {still}")
        self.still = still

    def stands_still(self, step: Step) -> bool:
        """Whether the velocity of this step is zero."""
        return step.index < math.ceil(self.still * step.count)

    def project(self, cond: Video, uncond: Video, free: Free = None) -> Video:
        """S* uncond with s* = ⟨cond, uncond⟩/‖uncond‖², the multiple of uncond nearest to cond."""
        inner, norm = _total(cond * uncond, free), _total(uncond.square(), free)
        return inner / norm.clamp(min=torch.finfo(norm.dtype).tiny) * uncond


class DynamicThreshold:
    """Clips x̂ to ±s and divides by s, where s is the `percentile` of |x̂| and at least 1.

    (Imagen, section 2.3.) `ceiling` bounds s: 1 is the static threshold, a plain clip to [-1, 1].
    """

    def __init__(self, *, percentile: float = 99.5, ceiling: float = math.inf) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(f"DynamicThreshold: percentile must lie in (0, 100], got {percentile}")
        if not ceiling >= 1:
            raise ValueError(f"DynamicThreshold: ceiling must be at least 1, got {ceiling}")
        self.percentile = percentile
        self.ceiling = ceiling

    def __call__(self, x: Video, free: Free = None) -> Video:
        """The thresholded x̂."""
        bound = self._percentile(x.abs(), free).clamp(1, self.ceiling)
        return x.clamp(-bound, bound) / bound

    def _percentile(self, size: Video, free: Free) -> Scale:
        """The smallest value that `percentile` % of each sample's free values do not exceed.

        0 if a sample has no free position.
        """
        if free is None:
            rank = self._rank(size[0].numel())
            return size.flatten(1).kthvalue(rank, dim=1).values[:, None, None, None, None]
        bounds = [
            values[kept].kthvalue(self._rank(int(kept.sum()))).values
            if kept.any()
            else values.new_zeros(())
            for values, kept in zip(size, free.expand_as(size), strict=True)
        ]
        return torch.stack(bounds)[:, None, None, None, None]

    def _rank(self, count: int) -> int:
        return math.ceil(self.percentile / 100 * count)


class Guidance:
    """x̂ = x̂_u + scale (x̂_c − x̂_u) (Ho & Salimans 2022), equal in x, ε and velocity.

    `interval` bounds the diffusion times at which the scale applies (Kynkäänniemi et al. 2024);
    `rescale` in [0, 1] moves the standard deviation of the result towards that of the conditional
    prediction (Lin et al. 2023). `statistics` says whether `zero_star`, `rescale` and `threshold`
    take a whole video or each frame.
    """

    def __init__(
        self,
        *,
        scale: float = 1.0,
        oscillate: Oscillate | None = None,
        interval: Sequence[float] | None = None,
        zero_star: ZeroStar | None = None,
        rescale: float | None = None,
        threshold: DynamicThreshold | None = None,
        statistics: Statistics = "video",
    ) -> None:
        if statistics not in get_args(Statistics):
            raise ValueError(
                f"Guidance: statistics must be one of {', '.join(get_args(Statistics))}, "
                f"got {statistics!r}"
            )
        if interval is not None and (
            len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1
        ):
            raise ValueError(f"Guidance: interval is (low, high) in [0, 1], got {tuple(interval)}")
        if rescale is not None and not 0 <= rescale <= 1:
            raise ValueError(f"Guidance: rescale must lie in [0, 1], got {rescale}")
        self.scale = scale
        self.oscillate = oscillate
        self.interval = interval
        self.zero_star = zero_star
        self.rescale = rescale
        self.threshold = threshold
        self.statistics = statistics

    @property
    def over_video(self) -> tuple[str, ...]:
        """The parts that take a statistic of a whole video, by name."""
        names = ("zero_star", "rescale", "threshold") if self.statistics == "video" else ()
        return tuple(name for name in names if getattr(self, name) is not None)

    def with_scale(self, scale: float) -> "Guidance":
        """A copy with another scale."""
        other = copy.copy(self)
        other.scale = scale
        return other

    def scale_at(self, step: Step) -> float:
        """The scale at this step; 1 means no guidance."""
        if self.interval is not None and not self.interval[0] <= step.t <= self.interval[1]:
            return 1.0
        return self.scale if self.oscillate is None else self.oscillate(self.scale, step)

    def needs_uncond(self, step: Step) -> bool:
        """Whether this step uses the unconditional prediction."""
        still = self.zero_star is not None and self.zero_star.stands_still(step)
        return not still and self.scale_at(step) != 1.0

    def __call__(
        self,
        x_cond: Video,
        x_uncond: Video | None,
        *,
        z: Video,
        alpha: NoiseLevel,
        sigma: NoiseLevel,
        step: Step,
        free: Free = None,
    ) -> Video:
        """The guided x̂; the caller must overwrite it at given positions.

        Args:
            x_cond: x̂ with the prompt.
            x_uncond: x̂ without it (or with the negative prompt); None if it is not needed.
            z: the noisy video from which both were predicted.
            alpha: α of z.
            sigma: σ of z.
            step: the step of the sampler.
            free: true at positions that are not given; None: everywhere.

        Raises:
            ValueError: `x_uncond` is missing although `needs_uncond(step)`.
        """
        still = z / (alpha + sigma)  # the x̂ whose velocity (z/(α + σ) − x̂)/s is zero
        if self.zero_star is not None and self.zero_star.stands_still(step):
            return still
        if self.statistics == "video":
            return self._corrected(x_cond, x_uncond, still, step, free)
        x = self._corrected(
            _frames(x_cond),
            None if x_uncond is None else _frames(x_uncond),
            _frames(still),
            step,
            None if free is None else _frames(free.expand_as(z[:, :1])),
        )
        return rearrange(x, "(b f) c 1 h w -> b c f h w", f=z.shape[2])

    def _corrected(
        self, x_cond: Tensor, x_uncond: Tensor | None, still: Tensor, step: Step, free: Free
    ) -> Tensor:
        x = x_cond
        if self.needs_uncond(step):
            if x_uncond is None:
                raise ValueError(
                    f"Guidance: scale {self.scale_at(step):g} at step {step.index} needs x̂ without "
                    "the prompt, got None; check needs_uncond(step) first"
                )
            x = self._guided(x_cond, x_uncond, still, self.scale_at(step), free)
        return x if self.threshold is None else self.threshold(x, free)

    def _guided(
        self, cond: Tensor, uncond: Tensor, still: Tensor, scale: float, free: Tensor | None
    ) -> Tensor:
        if self.zero_star is not None:
            uncond = still - self.zero_star.project(still - cond, still - uncond, free)
        x = uncond + scale * (cond - uncond)
        if self.rescale is None:
            return x
        spread, wanted = (_deviation(v, free) for v in (x, cond))
        ratio = wanted / spread.clamp(min=torch.finfo(spread.dtype).tiny)
        return x * (1 + self.rescale * (ratio - 1))

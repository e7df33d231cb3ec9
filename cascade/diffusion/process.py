"""A stage's diffusion: its schedule, how time is drawn, what the network predicts, the weight."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from cascade.diffusion.gaussian import Target
from cascade.diffusion.guidance import Guidance
from cascade.diffusion.loss import Weight
from cascade.diffusion.sampler import Sampler
from cascade.diffusion.schedule import Schedule


class Diffusion:
    """The four choices that define a diffusion, kept apart from network and sampler (EDM, §2)."""

    def __init__(
        self,
        *,
        schedule: Schedule,
        times: Callable[[Float[Tensor, " b"]], Float[Tensor, " b"]],
        target: Target,
        weight: Weight,
    ) -> None:
        self.schedule = schedule
        self.times = times
        self.target = target
        self.weight = weight

    def logsnr(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Log-SNR of training samples from uniform numbers `u` in (0, 1)."""
        return self.schedule.logsnr(self.times(u))


class Sampling:
    """How a stage is sampled when the caller does not say otherwise."""

    def __init__(self, *, sampler: Sampler, steps: int, guidance: Guidance) -> None:
        if steps < 1:
            raise ValueError(f"sampling: at least 1 step is needed, got {steps}")
        self.sampler = sampler
        self.steps = steps
        self.guidance = guidance


class StartedAt(Schedule):
    """A schedule entered at time `start` instead of 1: SDEdit's way into a video (2108.01073)."""

    def __init__(self, schedule: Schedule, start: float) -> None:
        if not 0 < start <= 1:
            raise ValueError(f"start {start} must lie in (0, 1]; 1 is pure noise")
        super().__init__(logsnr_min=schedule.logsnr_min, logsnr_max=schedule.logsnr_max)
        self._schedule = schedule
        self._start = start

    def alpha(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The wrapped schedule's α."""
        return self._schedule.alpha(logsnr)

    def sigma(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The wrapped schedule's σ."""
        return self._schedule.sigma(logsnr)

    def _logsnr(self, t: Tensor) -> Tensor:
        return self._schedule.logsnr(t * self._start)

    def _time(self, logsnr: Tensor) -> Tensor:
        return self._schedule.time(logsnr) / self._start

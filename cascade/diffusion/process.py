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

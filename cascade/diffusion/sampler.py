"""Samplers: from noise to a clean video with any denoiser and any schedule, in log-SNR.

All have the same signature. They step through λ(t) at evenly spaced t, from `start` (1 is pure
noise) to 0, and return the last x̂. Only stochastic samplers use noise; they request it by step
number, so that the caller can key it. The denoiser, not the sampler, handles given frames.

A sampler is a coroutine: it yields each z that it needs denoised, with its step, and is sent x̂. So
the caller decides when and on what a network runs: on the whole video, or on parts of it in turn.
All arithmetic is element by element, so the parts of a video are sampled as the whole is.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.diffusion.schedule import Schedule

Video = Float[Tensor, "b c f h w"]


@dataclass(frozen=True)
class Step:
    """One step of a sampler: `index` of `count`, at diffusion time `t` and λ = `logsnr`."""

    index: int
    count: int
    t: float
    logsnr: float


Denoise = Callable[[Tensor, Step], Tensor]
Noise = Callable[[int], Tensor]
#: Yields (z, step), is sent x̂, and returns the sampled video.
Walk = Generator[tuple[Tensor, Step], Tensor, Tensor]


@dataclass(frozen=True)
class Level:
    """A step with its α and σ."""

    step: Step
    alpha: float
    sigma: float


def levels(schedule: Schedule, steps: int, start: float = 1.0) -> list[Level]:
    """The levels at which a sampler of `steps` steps denoises, the noisiest first.

    Raises:
        ValueError: `steps` is below 1, or `start` is outside (0, 1].
    """
    if steps < 1:
        raise ValueError(f"sampler: steps must be at least 1, got {steps}")
    if not 0 < start <= 1:
        raise ValueError(f"sampler: start must lie in (0, 1], where 1 is pure noise, got {start}")
    t = start * (1 - torch.arange(steps, dtype=torch.float64) / steps)
    logsnr = schedule.logsnr(t)
    columns = (t, logsnr, schedule.alpha(logsnr), schedule.sigma(logsnr))
    return [
        Level(Step(i, steps, t, logsnr), alpha, sigma)
        for i, (t, logsnr, alpha, sigma) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    ]


@dataclass(frozen=True)
class Path:
    """The levels that one run of a sampler visits, and its noise by step number."""

    levels: list[Level]
    noise: Noise

    @property
    def moves(self) -> list[tuple[Level, Level]]:
        """The pairs of consecutive levels, the noisier first."""
        return list(pairwise(self.levels))


class Sampler(ABC):
    """A method that integrates z from the first level to the last, where x̂ is the result."""

    def walk(
        self,
        z: Video,
        *,
        schedule: Schedule,
        steps: int,
        noise: Noise | None = None,
        start: float = 1.0,
    ) -> Walk:
        """The coroutine that samples a video, or a part of one.

        Args:
            z: α x + σ ε at time `start`; for 1, noise.
            schedule: α and σ of λ.
            steps: the number of steps; Heun needs two x̂ per step except in the last.
            noise: the function from a step's index to standard normal noise like z; only
                stochastic samplers need it.
            start: the first diffusion time; below 1, z is a noised video to restyle (SDEdit).
        """

        def no_noise(index: int) -> Tensor:
            raise ValueError(
                f"{type(self).__name__} is stochastic: step {index} needs `noise`, got None"
            )

        path = Path(levels(schedule, steps, start), noise or no_noise)
        z = yield from self._to_last_level(z, path)
        return (yield z, path.levels[-1].step)

    @abstractmethod
    def _to_last_level(self, z: Tensor, path: Path) -> Walk:
        """The coroutine that returns the noisy z at the last level."""


class Ancestral(Sampler):
    """The reverse process of DDPM in continuous time (Imagen Video, eq. 4).

    `gamma` interpolates the variance geometrically, from the posterior's (0) to the forward
    process's (1). Equation 4 is for variance-preserving σ; other processes are scaled to it.
    """

    def __init__(self, *, gamma: float = 0.0) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"Ancestral: gamma must lie in [0, 1], got {gamma}")
        self.gamma = gamma

    def _to_last_level(self, z: Tensor, path: Path) -> Walk:
        for now, then in path.moves:
            x = yield z, now.step
            ratio = math.exp(now.step.logsnr - then.step.logsnr)
            std = math.sqrt(1 - ratio) * then.sigma
            if self.gamma > 0:
                std *= (_vp_sigma(now) / _vp_sigma(then)) ** self.gamma
            mean = ratio * (then.alpha / now.alpha) * z + (1 - ratio) * then.alpha * x
            z = mean + std * path.noise(now.step.index)
        return z


class DDIM(Sampler):
    """Song et al. 2021, eq. 12: deterministic at `eta` 0, the ancestral posterior at 1."""

    def __init__(self, *, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"DDIM: eta must lie in [0, 1], got {eta}")
        self.eta = eta

    def _to_last_level(self, z: Tensor, path: Path) -> Walk:
        for now, then in path.moves:
            x = yield z, now.step
            eps = (z - now.alpha * x) / now.sigma
            ratio = math.exp(now.step.logsnr - then.step.logsnr)
            fresh = self.eta * math.sqrt(1 - ratio) * then.sigma
            z = then.alpha * x + math.sqrt(then.sigma**2 - fresh**2) * eps
            if fresh > 0:
                z = z + fresh * path.noise(now.step.index)
        return z


class Euler(Sampler):
    """Euler steps of the probability-flow ODE dy/ds = (y − x̂)/s.

    y = z/(α + σ) and s = σ/(α + σ) are the coordinates of rectified flow, which every schedule has.
    """

    def _to_last_level(self, z: Tensor, path: Path) -> Walk:
        y = z / _scale(path.levels[0])
        for now, then in path.moves:
            slope = (y - (yield y * _scale(now), now.step)) / _time(now)
            y = y + (_time(then) - _time(now)) * slope
        return y * _scale(path.levels[-1])


class Heun(Sampler):
    """Heun's second-order steps of the same ODE as Euler's (Karras et al. 2022, algorithm 1)."""

    def _to_last_level(self, z: Tensor, path: Path) -> Walk:
        y = z / _scale(path.levels[0])
        for now, then in path.moves:
            length = _time(then) - _time(now)
            slope = (y - (yield y * _scale(now), now.step)) / _time(now)
            ahead = y + length * slope
            # The slope at the end of the same step.
            end = Step(now.step.index, now.step.count, then.step.t, then.step.logsnr)
            slope_ahead = (ahead - (yield ahead * _scale(then), end)) / _time(then)
            y = y + length * (slope + slope_ahead) / 2
        return y * _scale(path.levels[-1])


class DPMSolverPP2M(Sampler):
    """DPM-Solver++(2M): second order with the previous step's x̂ (Lu et al. 2022, algorithm 2)."""

    def _to_last_level(self, z: Tensor, path: Path) -> Walk:
        before: tuple[Tensor, float] | None = None
        for now, then in path.moves:
            x = yield z, now.step
            length = (then.step.logsnr - now.step.logsnr) / 2  # the paper's λ is log(α/σ)
            ahead = x
            if before is not None and before[1] > 0:
                ahead = x + (length / before[1]) / 2 * (x - before[0])
            z = (then.sigma / now.sigma) * z - then.alpha * math.expm1(-length) * ahead
            before = x, length
        return z


def _scale(level: Level) -> float:
    return level.alpha + level.sigma


def _time(level: Level) -> float:
    return level.sigma / (level.alpha + level.sigma)


def _vp_sigma(level: Level) -> float:
    return level.sigma / math.hypot(level.alpha, level.sigma)

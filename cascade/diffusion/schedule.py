"""Noise schedules in log-SNR: λ = log(α²/σ²) as a function of t, and α, σ as functions of λ.

t is diffusion time in [0, 1] (0 clean, 1 noise), never the time of frames. `logsnr_shift` is added
to λ(t): SD3's resolution shift a is −2 log a, that of simple diffusion is 2 log(64/d).
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor


class Schedule(ABC):
    """A path z = α(λ) x + σ(λ) ε from data to noise."""

    def __init__(
        self, *, logsnr_shift: float = 0.0, logsnr_min: float = -20.0, logsnr_max: float = 20.0
    ) -> None:
        if not logsnr_min < logsnr_max:
            raise ValueError(
                f"{type(self).__name__}: logsnr_min must lie below logsnr_max, "
                f"got {logsnr_min} and {logsnr_max}"
            )
        self.logsnr_shift = logsnr_shift
        self.logsnr_min = logsnr_min
        self.logsnr_max = logsnr_max

    def logsnr(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """λ(t), shifted, then clipped to [logsnr_min, logsnr_max]; falls as t rises."""
        first, last = self._ends(t.dtype)  # clip t, so that λ is never infinite in float32
        logsnr = self._logsnr(t.clamp(first, last)) + self.logsnr_shift
        logsnr = logsnr.masked_fill(t <= first, self.logsnr_max)
        logsnr = logsnr.masked_fill(t >= last, self.logsnr_min)
        return logsnr.clamp(self.logsnr_min, self.logsnr_max)

    def time(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """t(λ), the inverse of `logsnr` where that is not clipped."""
        return self._time(logsnr - self.logsnr_shift)

    def speed(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """|dt/dλ|; infinite at the ends, where an interval of t is clipped to one λ."""
        ends = (logsnr <= self.logsnr_min) | (logsnr >= self.logsnr_max)
        return self._speed(logsnr - self.logsnr_shift).masked_fill(ends, math.inf)

    def _ends(self, dtype: torch.dtype) -> tuple[float, float]:
        """The times of the ends of λ; computed on the CPU, since no GPU need wait for them."""
        ends = torch.tensor([self.logsnr_max, self.logsnr_min], dtype=dtype)
        first, last = self.time(ends).tolist()
        return first, last

    @abstractmethod
    def alpha(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The share of data in z."""

    @abstractmethod
    def sigma(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The share of noise in z."""

    @abstractmethod
    def _logsnr(self, t: Tensor) -> Tensor:
        """λ(t) before the shift, for t inside (0, 1)."""

    @abstractmethod
    def _time(self, logsnr: Tensor) -> Tensor:
        """The inverse of `_logsnr`."""

    @abstractmethod
    def _speed(self, logsnr: Tensor) -> Tensor:
        """|dt/dλ| of `_time`."""


class CosineVP(Schedule):
    """Variance-preserving, α² + σ² = 1, with λ = −2 log tan(πt/2) (Imagen Video, section 2.1)."""

    def alpha(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """√sigmoid(λ)."""
        return logsnr.sigmoid().sqrt()

    def sigma(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """√sigmoid(−λ)."""
        return (-logsnr).sigmoid().sqrt()

    def _logsnr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(torch.tan(t * (math.pi / 2)))

    def _time(self, logsnr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-logsnr / 2)) * (2 / math.pi)

    def _speed(self, logsnr: Tensor) -> Tensor:
        return 1 / (2 * math.pi * torch.cosh(logsnr / 2))


class RectifiedFlow(Schedule):
    """The straight path z = (1 − t) x + t ε, λ = 2 log((1 − t)/t) (Liu et al. 2022); α + σ = 1."""

    def alpha(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """sigmoid(λ/2)."""
        return (logsnr / 2).sigmoid()

    def sigma(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """sigmoid(−λ/2)."""
        return (-logsnr / 2).sigmoid()

    def _logsnr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def _time(self, logsnr: Tensor) -> Tensor:
        return (-logsnr / 2).sigmoid()

    def _speed(self, logsnr: Tensor) -> Tensor:
        return (logsnr / 2).sigmoid() * (-logsnr / 2).sigmoid() / 2


class TimeDistribution(ABC):
    """The distribution of t in training, as the inverse distribution function of given uniforms u.

    So a stratified or keyed u gives a stratified or keyed t.
    """

    @abstractmethod
    def __call__(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """T for u in (0, 1)."""

    @abstractmethod
    def density(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The density p(t) for t in (0, 1)."""


class UniformTime(TimeDistribution):
    """t uniform in (0, 1)."""

    def __call__(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """U itself."""
        return u

    def density(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """1."""
        return torch.ones_like(t)


class LogitNormalTime(TimeDistribution):
    """logit(t) ~ N(mean, std²) (SD3, section 3.1); under rectified flow λ ~ N(−2 mean, (2 std)²).

    A positive mean favours noise. JiT has t = 1 for data and (−0.8, 0.8), which is (0.8, 0.8) here.
    """

    def __init__(self, *, mean: float = 0.0, std: float = 1.0) -> None:
        if not std > 0:
            raise ValueError(f"LogitNormalTime: std must be positive, got {std}")
        self.mean = mean
        self.std = std

    def __call__(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """sigmoid(mean + std Φ⁻¹(u))."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def density(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """N(logit(t); mean, std²) / (t (1 − t))."""
        score = (torch.logit(t) - self.mean) / self.std
        normal = torch.exp(-(score**2) / 2) / (self.std * math.sqrt(2 * math.pi))
        return normal / (t * (1 - t))

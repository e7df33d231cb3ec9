"""Power-function averages of weights, several widths at once (Karras et al. 2024, EDM2, §3.1).

θ̂(t) = β θ̂(t-1) + (1 - β) θ(t) with β = (1 - 1/t)^(γ+1): the average weighs the steps by t^γ.
Its relative width σ_rel, the standard deviation of that profile over the run's length, sets γ.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cascade.parallel.shards import like, local


def exponent(sigma_rel: float) -> float:
    """The γ for which the profile t^γ has the standard deviation `sigma_rel` × the run's length.

    Solves σ² = (γ + 1) (γ + 2)⁻² (γ + 3)⁻¹ (EDM2, eq. 126).

    Raises:
        ValueError: no profile with γ >= 0 is that wide.
    """
    if not 0 < sigma_rel <= 12**-0.5:
        raise ValueError(f"EMA: sigma_rel must lie in (0, 0.288], got {sigma_rel}")
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class PowerEMA:
    """Averages, in float32, of a module's trained parameters, one set per width in `sigma_rels`.

    If weights are sharded, each rank averages its own shard.
    """

    def __init__(self, module: nn.Module, sigma_rels: Sequence[float] = (0.05, 0.10)) -> None:
        self.sigma_rels = tuple(sigma_rels)
        self._exponents = [exponent(sigma) for sigma in self.sigma_rels]
        self._averages = {
            sigma: {name: p.detach().float().clone() for name, p in _trained(module).items()}
            for sigma in self.sigma_rels
        }

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Add the weights after optimizer step `step`, counted from 1."""
        weights = [local(p.detach()).float() for p in _trained(module).values()]
        for sigma, gamma in zip(self.sigma_rels, self._exponents, strict=True):
            beta = (1 - 1 / step) ** (gamma + 1)
            averages = [local(average) for average in self._averages[sigma].values()]
            torch._foreach_lerp_(averages, weights, 1 - beta)

    @torch.no_grad()
    def copy_to(self, module: nn.Module, sigma_rel: float) -> None:
        """Overwrite the module's trained parameters with an average."""
        average = self.average(sigma_rel)
        for name, parameter in _trained(module).items():
            parameter.copy_(average[name])

    @contextmanager
    def swapped(self, module: nn.Module, sigma_rel: float) -> Iterator[None]:
        """A context in which the module has the averaged weights; its own are restored exactly."""
        own = {name: p.detach().clone() for name, p in _trained(module).items()}
        self.copy_to(module, sigma_rel)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in _trained(module).items():
                    parameter.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors by width and name."""
        return {
            "sigma_rels": list(self.sigma_rels),
            "averages": [dict(self._averages[sigma]) for sigma in self.sigma_rels],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            ValueError: the state has other widths or other parameters.
        """
        if tuple(state["sigma_rels"]) != self.sigma_rels:
            raise ValueError(
                f"EMA: the saved averages have widths {list(state['sigma_rels'])}, the config "
                f"{list(self.sigma_rels)}; set callbacks.ema.sigma_rels to the saved ones"
            )
        for sigma, saved in zip(self.sigma_rels, state["averages"], strict=True):
            own = self._averages[sigma]
            other = sorted(saved.keys() ^ own.keys()) or [
                name for name in own if saved[name].shape != own[name].shape
            ]
            if other:
                raise ValueError(
                    f"EMA: the saved averages and the module have different parameters: {other[:5]}"
                )
            for name, average in own.items():
                average.copy_(like(saved[name], average))

    def average(self, sigma_rel: float) -> dict[str, Tensor]:
        """The average of one width, by parameter name; sharded like the parameters.

        Raises:
            ValueError: the width is not tracked.
        """
        if sigma_rel not in self._averages:
            raise ValueError(f"EMA: width {sigma_rel} is not tracked; known: {self.sigma_rels}")
        return self._averages[sigma_rel]


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}

"""Optimizers (Muon for hidden matrices with AdamW for the rest, or AdamW alone) and the schedule.

A hidden matrix is a parameter named `weight` with two or more dimensions (kernels are flattened)
inside a list named `blocks`, `down_blocks` or `up_blocks`. All other parameters (embeddings, input
and output layers, modulation, tables, gains and biases) use AdamW.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as adamw_step

from cascade.orthogonal import orthogonalize, orthogonalize_all
from cascade.parallel.muon import map_full_matrices
from cascade.parallel.shards import check_sharded, local

HIDDEN = re.compile(r"(^|[._])blocks\..*\bweight$")
#: The attribute by which an optimizer announces that its step unscales gradients (torch.amp).
AMP_SCALING = "_step_supports_amp_scaling"


def split(
    parameters: Iterable[tuple[str, nn.Parameter]],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(hidden matrices, the rest) of the trained parameters, by the rule of this module."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and HIDDEN.search(name) is not None
            (hidden if matrix else rest).append(parameter)
    return hidden, rest


class MuonAdamW(torch.optim.Optimizer):
    """Muon on hidden matrices and AdamW on the rest, each with its own learning rate.

    Muon steps by lr · max(1, rows / columns)^½ along the orthogonalised Nesterov momentum; matrices
    of one shape are orthogonalised together, and the work is divided among ranks. `weight_decay` is
    decoupled and applies to Muon's matrices; AdamW's parameters, mostly vectors, are not decayed.
    Under FSDP2 the state is sharded like the weights, and each of Muon's matrices is gathered on
    one rank for the step.
    """

    def __init__(
        self,
        params: Iterable[tuple[str, nn.Parameter]],
        *,
        muon_lr: float = 0.02,
        adamw_lr: float = 2e-3,
        momentum: float = 0.95,
        betas: Sequence[float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        _check(rates={"muon_lr": muon_lr, "adamw_lr": adamw_lr, "weight_decay": weight_decay})
        _check(shares={"momentum": momentum, "betas[0]": betas[0], "betas[1]": betas[1]})
        hidden, rest = split(params)
        muon = {
            "algorithm": "muon",
            "params": hidden,
            "lr": muon_lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        # With `fused`, torch keeps the step counter a float32 tensor when it loads the state.
        adamw = {
            "algorithm": "adamw",
            "params": rest,
            "lr": adamw_lr,
            "betas": (betas[0], betas[1]),
            "eps": eps,
            "fused": True,
        }
        super().__init__([muon, adamw], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of both algorithms; parameters without a gradient do not change."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params and group["algorithm"] == "muon":
                self._muon(group, params)
            elif params:
                self._adamw(group, params)
        return loss

    def _muon(self, group: dict[str, Any], params: list[nn.Parameter]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        weights = [local(p) for p in params]
        grads = [local(cast(Tensor, p.grad)) for p in params]
        buffers = [local(self.state[p]["momentum"]) for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, buffers, group["momentum"])  # Nesterov
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        flat = [
            one.reshape(len(one), p.numel() // len(p)) for one, p in zip(ahead, params, strict=True)
        ]
        mesh = check_sharded(params)
        if mesh is None or mesh.size() == 1:
            updates = orthogonalize_all(flat)
        else:
            rows = [len(p) for p in params]
            updates = map_full_matrices(orthogonalize, flat, rows, mesh.get_group())
        for weight, update, p in zip(weights, updates, params, strict=True):
            rate = group["lr"] * math.sqrt(max(1.0, len(p) ** 2 / p.numel()))
            weight.add_(update.reshape(weight.shape), alpha=-rate)

    def _adamw(self, group: dict[str, Any], params: list[nn.Parameter]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        beta1, beta2 = group["betas"]
        adamw_step(
            [local(p) for p in params],
            [local(cast(Tensor, p.grad)) for p in params],
            [local(self.state[p]["exp_avg"]) for p in params],
            [local(self.state[p]["exp_avg_sq"]) for p in params],
            [],
            [self.state[p]["step"] for p in params],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )


def muon_adamw(
    module: nn.Module,
    *,
    muon_lr: float = 0.02,
    adamw_lr: float = 2e-3,
    momentum: float = 0.95,
    betas: Sequence[float] = (0.9, 0.99),
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """`MuonAdamW` of a module's parameters."""
    return MuonAdamW(
        module.named_parameters(),
        muon_lr=muon_lr,
        adamw_lr=adamw_lr,
        momentum=momentum,
        betas=betas,
        weight_decay=weight_decay,
    )


def adamw(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.99),
) -> torch.optim.Optimizer:
    """AdamW alone; only hidden matrices (by the rule of this module) are decayed."""
    _check(rates={"lr": lr, "weight_decay": weight_decay})
    _check(shares={"betas[0]": betas[0], "betas[1]": betas[1]})
    hidden, rest = split(module.named_parameters())
    groups = [
        {"params": hidden, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
    # The trainer unscales and clips the gradients before the step. A fused optimizer announces that
    # it unscales them in the step, and Lightning refuses to clip before that.
    setattr(optimizer, AMP_SCALING, False)
    return optimizer


class WarmupDecay:
    """The factor of the learning rate per step: linear warm-up to 1, constant, then decay.

    The decay takes the last `decay_steps` (None: all after the warm-up) and ends at `final`. Where
    warm-up and decay overlap, the smaller factor counts.

    Raises:
        ValueError: `decay` is not constant, linear or cosine; the steps do not fit in the run; or
            `final` is not in [0, 1].
    """

    # In slots, since LambdaLR saves `__dict__` and would restore it over a resumed run's config.
    __slots__ = ("__dict__", "decay", "decay_steps", "final", "total_steps", "warmup_steps")

    def __init__(
        self,
        *,
        warmup_steps: int,
        total_steps: int,
        decay: str = "constant",
        decay_steps: int | None = None,
        final: float = 0.0,
    ) -> None:
        if decay_steps is None:
            decay_steps = max(total_steps - warmup_steps, 0)
        if decay not in ("constant", "linear", "cosine"):
            raise ValueError(
                f"learning rate: decay must be constant, linear or cosine, got {decay!r}"
            )
        if not (warmup_steps >= 0 and 0 <= decay_steps <= total_steps):
            raise ValueError(
                f"learning rate: {warmup_steps} steps of warm-up and {decay_steps} of decay do not "
                f"fit in {total_steps} steps; set decay_steps to at most {total_steps}, or omit it"
            )
        if not 0 <= final <= 1:
            raise ValueError(f"learning rate: final must be a factor from 0 to 1, got {final}")
        self.warmup_steps, self.total_steps, self.decay = warmup_steps, total_steps, decay
        self.decay_steps, self.final = decay_steps, final

    @property
    def shortfall(self) -> str | None:
        """What is wrong if the warm-up does not end within the run; None if it does."""
        if self.warmup_steps < self.total_steps:
            return None
        return (
            f"the warm-up of {self.warmup_steps} steps is not shorter than the run of "
            f"{self.total_steps}, so the learning rate reaches only "
            f"{max(map(self, range(self.total_steps))):.2g} of its value; set "
            f"stage.train.lr_factor.warmup_steps={self.total_steps // 10}"
        )

    def __call__(self, step: int) -> float:
        """The factor at step `step`, counted from 0; it is above 0 during the warm-up."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.decay == "constant":
            return warm
        left = min(1.0, max(0.0, (self.total_steps - step) / max(self.decay_steps, 1)))
        if self.decay == "cosine":
            left = (1 - math.cos(math.pi * left)) / 2
        return min(warm, self.final + (1 - self.final) * left)


def _check(
    *, rates: Mapping[str, float] | None = None, shares: Mapping[str, float] | None = None
) -> None:
    """Refuse settings with which the optimizer would silently not train, or train wrongly.

    Raises:
        ValueError: a rate is not a finite number of at least 0, or a decay factor of a moving
            average is not in [0, 1).
    """
    for name, rate in (rates or {}).items():
        if not (isinstance(rate, int | float) and 0 <= rate < math.inf):
            raise ValueError(f"optimizer: {name} must be a finite number of at least 0, got {rate}")
    for name, share in (shares or {}).items():
        if not (isinstance(share, int | float) and 0 <= share < 1):
            raise ValueError(f"optimizer: {name} must be at least 0 and below 1, got {share}")

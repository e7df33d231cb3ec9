"""Describes how the inputs that training and the sampler feed a network differ."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.proof.network_inputs import Inputs


@dataclass(frozen=True, kw_only=True)
class Components:
    """The components of one clip's noisy inputs, on the latent grid."""

    x: Float[Tensor, "b c f h w"]
    eps: Float[Tensor, "b c f h w"]
    low: Float[Tensor, "b c f h w"] | None = None
    low_eps: Float[Tensor, "b c f h w"] | None = None


#: Causes before their effects: given frames change z and logsnr, for instance; scalars between.
FIRST = ("text", "text_mask", "mask", "given", "low", "baseline")
LAST = ("logsnr", "z")


def by_cause(names: Iterable[str]) -> list[str]:
    """Names of inputs, those first whose difference explains others."""
    ranks = {name: i - len(FIRST) for i, name in enumerate(FIRST)}
    ranks |= {name: i + 1 for i, name in enumerate(LAST)}
    return sorted(names, key=lambda name: (ranks.get(name, 0), name))


def gap(one: Tensor, other: Tensor) -> float:
    """The largest difference; infinite where shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def explain(name: str, train: Inputs, sample: Inputs, components: Components) -> str:
    """How the input `name` differs between `train` and `sample`, the inputs of one clip."""
    one, other = train[name], sample[name]
    if name in ("low", "given") and _swapped(train, sample):
        return "low and given: the sampler swaps their channels"
    if name.startswith("text"):
        return _texts(name, one, other)
    if one.shape != other.shape:
        shapes = ("×".join(map(str, value.shape[1:])) for value in (one, other))
        return "{}: training feeds {}, the sampler {}".format(name, *shapes)
    if name == "mask":
        return f"mask: training {_set(one)}, the sampler {_set(other)}"
    if name == "z":
        return _noisy("z", one, other, components.x, components.eps)
    if name == "low" and components.low is not None and components.low_eps is not None:
        return _noisy("low", one, other, components.low, components.low_eps)
    if one[0].numel() == 1 or name == "logsnr":
        a, b = (float(value.min()) for value in (one, other))
        return f"{name}: training feeds {a:.6g}, the sampler {b:.6g} ({b - a:+.3g})"
    return f"{name}: differs by up to {gap(one, other):.3g}"


def _noisy(name: str, one: Tensor, other: Tensor, clean: Tensor, eps: Tensor) -> str:
    """The shares of clip and noise in both, and the residual of the sampler's input."""
    shares = [_shares(value, clean, eps) for value in (one, other)]
    (a, s, _), (b, r, left) = shares
    text = f"{name}: differs by up to {gap(one, other):.3g}"
    if abs(a - b) + abs(s - r) > 1e-4:
        text += f"; training feeds {a:.4f} clip + {s:.4f} noise, the sampler {b:.4f} + {r:.4f}"
    if left > max(1e-4, 2 * shares[0][2]):
        text += f"; the sampler's clip differs by {left:.3g} on average: resized otherwise"
    return text


def _shares(value: Tensor, clean: Tensor, eps: Tensor) -> tuple[float, float, float]:
    """The least-squares shares of clip and noise, and the root mean square of the residual."""
    parts = torch.stack([clean.flatten(), eps.flatten()], dim=1).double()
    target = value.flatten().double()
    shares = torch.linalg.lstsq(parts.cpu(), target.cpu().unsqueeze(1)).solution
    rest = target.cpu() - (parts.cpu() @ shares)[:, 0]
    return float(shares[0]), float(shares[1]), float(rest.square().mean().sqrt())


def _swapped(train: Inputs, sample: Inputs) -> bool:
    if "low" not in train or not {"low", "given"} <= sample.keys():
        return False
    crossed = (gap(train["low"], sample["given"]), gap(train["given"], sample["low"]))
    return max(crossed) == 0 and gap(train["low"], sample["low"]) > 0


def _set(mask: Tensor) -> str:
    share = float((mask > 0).float().mean())
    return "never sets it" if share == 0 else f"sets {100 * share:.1f} % of the positions"


def _texts(name: str, one: Tensor, other: Tensor) -> str:
    if one.shape != other.shape:
        differ = f"training feeds {one.shape[1]} tokens, the sampler {other.shape[1]}"
    else:
        differ = f"differs by up to {gap(one, other):.3g}"
    return f"{name}: {differ}: another caption, or another encoder"

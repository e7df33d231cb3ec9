"""What differs between what training and the sampler feed a network, in words."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.proof.network_inputs import Inputs


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the noisy inputs of one clip were made of, on the latent grid."""

    x: Float[Tensor, "b c f h w"]
    eps: Float[Tensor, "b c f h w"]
    low: Float[Tensor, "b c f h w"] | None = None
    low_eps: Float[Tensor, "b c f h w"] | None = None


def gap(one: Tensor, other: Tensor) -> float:
    """The largest difference; infinite where shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def explain(name: str, train: Inputs, sample: Inputs, made: Made) -> str:
    """How one input differs: `train` and `sample` are the inputs of one clip."""
    one, other = train[name], sample[name]
    if name in ("low", "given") and _swapped(train, sample):
        return f"{name}: the sampler swaps the channels of low and given"
    if one.shape != other.shape:
        return f"{name}: training feeds {_shape(name, one)}, the sampler {_shape(name, other)}"
    if name == "mask":
        return f"mask: training sets {_set(one)}, the sampler {_set(other)}"
    if name == "z":
        return _noisy("z", one, other, made.x, made.eps)
    if name == "low" and made.low is not None and made.low_eps is not None:
        return _noisy("low", one, other, made.low, made.low_eps)
    if one[0].numel() == 1 or name == "logsnr":
        a, b = (float(value.min()) for value in (one, other))
        return f"{name}: training feeds {a:.6g}, the sampler {b:.6g} ({b - a:+.3g})"
    return f"{name}: differs by up to {gap(one, other):.3g}"


def _noisy(name: str, one: Tensor, other: Tensor, clean: Tensor, eps: Tensor) -> str:
    """The shares of clip and noise in both, and what is left over in the sampler's."""
    shares = [_shares(value, clean, eps) for value in (one, other)]
    (a, s, _), (b, r, left) = shares
    text = f"{name}: differs by up to {gap(one, other):.3g}"
    if abs(a - b) + abs(s - r) > 1e-4:
        text += f"; training feeds {a:.4f} clip + {s:.4f} noise, the sampler {b:.4f} + {r:.4f}"
    if left > max(1e-4, 2 * shares[0][2]):
        text += f"; the sampler's clip is another (resized otherwise?), by {left:.3g} on average"
    return text


def _shares(value: Tensor, clean: Tensor, eps: Tensor) -> tuple[float, float, float]:
    """The least-squares shares of clip and noise, and the root mean square of the rest."""
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
    return "no position" if share == 0 else f"{100 * share:.1f} % of the positions"


def _shape(name: str, value: Tensor) -> str:
    if name.startswith("text"):
        return f"{value.shape[1]} tokens"
    return "×".join(map(str, value.shape[1:]))

"""Averages of any width, after training, from snapshots of the tracked ones (EDM2, section 3.2).

An average of width σ_rel at step t weighs the weights of step τ ≤ t by the profile
p(τ) = (γ + 1) τ^γ / t^(γ+1). The profile of another width is the least-squares combination of the
snapshots' profiles (EDM2, algorithm 3), and the same combination of the snapshots is its average.
`PowerEMA` weighs each step by the integral of p over it, so this holds for short runs too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cascade.ema import exponent
from cascade.files.atomic import replacing

#: The largest allowed error of a profile, relative to the profile, in the 2-norm. With two tracked
#: widths, fewer than about five snapshots exceed it.
LIMIT = 0.03


@dataclass(frozen=True)
class Profile:
    """The weights that an average of width `sigma_rel` at `step` gives to the steps up to it."""

    sigma_rel: float
    step: int


@dataclass(frozen=True)
class ProfileFit:
    """A linear combination of profiles; `error` is relative to the wanted profile, in the 2-norm.

    If the weights of different steps were independent, the average would have the same error.
    """

    coefficients: tuple[float, ...]
    error: float


@dataclass(frozen=True)
class Snapshot:
    """A file with the tracked averages of one step."""

    path: Path
    step: int
    sigma_rels: tuple[float, ...]


def fit(known: Sequence[Profile], wanted: Profile) -> ProfileFit:
    """The combination of `known` nearest to `wanted`, with coefficients of sum 1 (EDM2, alg. 3)."""
    return _fits(known, [wanted])[0]


def _fits(known: Sequence[Profile], wanted: Sequence[Profile]) -> list[ProfileFit]:
    """Least squares of profiles scaled to norm 1, under the constraint that coefficients sum to 1.

    The constraint is not in EDM2: without it, the fit's error would scale weights that hardly
    change in training.
    """
    size, goal = (np.sqrt(np.diag(_inner(p, p))) for p in (known, wanted))
    matrix = _inner(known, known) / size / size[:, None]
    right = _inner(known, wanted) / goal / size[:, None]
    scale = np.linalg.norm(1 / size)  # of the constraint, which is scaled to norm 1 as well
    unit = (1 / size / scale)[:, None]
    # Lagrange: the gradient is a multiple of the constraint's.
    system = np.block([[matrix, unit], [unit.T, np.zeros((1, 1))]])
    found = np.linalg.lstsq(system, np.vstack([right, 1 / goal / scale]), rcond=1e-13)[0][:-1]
    square = 1 + (found * (matrix @ found - 2 * right)).sum(0)
    errors = np.sqrt(square.clip(min=0)).tolist()
    coefficients = (found * goal / size[:, None]).T.tolist()
    return [ProfileFit(tuple(c), error) for c, error in zip(coefficients, errors, strict=True)]


def _inner(one: Sequence[Profile], other: Sequence[Profile]) -> np.ndarray:
    """∫ p q dτ for every pair: (γ+1)(δ+1)/(γ+δ+1) (s/t)^δ / t where s ≤ t; δ is q's exponent."""
    gamma, s = (np.array(v, float)[:, None] for v in _numbers(one))
    delta, t = (np.array(v, float)[None] for v in _numbers(other))
    later = np.where(s < t, delta, gamma)
    ratio = np.minimum(s, t) / np.maximum(s, t)
    factor = (gamma + 1) * (delta + 1) / (gamma + delta + 1)
    products: np.ndarray = factor * ratio**later / np.maximum(s, t)
    return products


def _numbers(profiles: Sequence[Profile]) -> tuple[list[float], list[int]]:
    return [exponent(p.sigma_rel) for p in profiles], [p.step for p in profiles]


def path_of(folder: Path, step: int) -> Path:
    """The path of the snapshot of a step."""
    return folder / f"{step:08d}.safetensors"


def write_snapshot(folder: Path, step: int, averages: Mapping[float, Mapping[str, Tensor]]) -> None:
    """Write the averages of a step atomically; `averages` are by width and parameter.

    Raises:
        OSError: the disk is full, for example.
    """
    tensors = {
        f"{sigma}/{name}": value.contiguous()
        for sigma, average in averages.items()
        for name, value in average.items()
    }
    # One metadata entry: safetensors writes several in any order, but equal snapshots should be
    # equal files.
    about = {"snapshot": json.dumps({"step": step, "sigma_rels": list(averages)})}
    with replacing(path_of(folder, step)) as part:
        try:
            save_file(tensors, part, about)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def remove_after(folder: Path, step: int) -> None:
    """Remove the snapshots of later steps, and partial files that a kill left."""
    for path in [*folder.glob("*.safetensors"), *folder.glob(".*")]:
        if path.name.startswith(".") or (path.stem.isdecimal() and int(path.stem) > step):
            path.unlink(missing_ok=True)


def snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in a folder, the earliest first.

    Raises:
        ValueError: a snapshot is damaged.
    """
    return [_described(path) for path in sorted(folder.glob("[0-9]*.safetensors"))]


def _described(path: Path) -> Snapshot:
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["snapshot"])
        return Snapshot(path, about["step"], tuple(about["sigma_rels"]))
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"snapshot {path} is damaged ({error}); remove it to use the others"
        ) from error


def reconstruct(folder: Path, sigma_rel: float, step: int) -> tuple[dict[str, Tensor], ProfileFit]:
    """The average of width `sigma_rel` at `step`, from the snapshots in `folder`.

    Raises:
        ValueError: there is no snapshot of that step; the width is invalid, or these snapshots do
            not determine it; a snapshot is damaged or of another network.
    """
    found = [one for one in snapshots(folder) if one.step <= step]
    if not found or found[-1].step != step:
        newest = f"the newest is of step {found[-1].step}" if found else "there is none"
        raise ValueError(
            f"{folder}: an average at step {step} needs a snapshot of that step, but {newest}; "
            "train with callbacks.ema.snapshot_every=…"
        )
    known = [Profile(sigma, one.step) for one in found for sigma in one.sigma_rels]
    fitted = fit(known, Profile(sigma_rel, step))
    if fitted.error > LIMIT:
        raise ValueError(
            f"{folder}: the fit to {len(found)} snapshots of widths "
            f"{_listed(found[-1].sigma_rels)} gives the profile of width {sigma_rel:g} with an "
            f"error of {fitted.error:.1%}, but the limit is {LIMIT:.0%}; take "
            f"{_within(known, step)}, or train with a smaller callbacks.ema.snapshot_every"
        )
    return _combined(found, fitted.coefficients), fitted


def _within(known: Sequence[Profile], step: int) -> str:
    """The widths whose error is within the limit, for a message."""
    widths = [round(0.005 * n, 3) for n in range(2, 58)]
    fits = _fits(known, [Profile(width, step) for width in widths])
    near = [width for width, one in zip(widths, fits, strict=True) if one.error <= LIMIT]
    if not near:
        return f"one of {_listed(sorted({p.sigma_rel for p in known}))}"
    gaps = round((near[-1] - near[0]) / 0.005) + 1 != len(near)
    return f"one of {_listed(near)}" if gaps else f"one from {near[0]:g} to {near[-1]:g}"


def _listed(widths: Sequence[float]) -> str:
    return ", ".join(f"{width:g}" for width in widths)


def _combined(found: Sequence[Snapshot], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """The sum of all averages times their coefficients; reads one file at a time."""
    left = iter(coefficients)
    total: dict[str, Tensor] = {}
    for snapshot in found:
        factors = {str(sigma): next(left) for sigma in snapshot.sigma_rels}
        with safe_open(snapshot.path, "pt") as file:
            keys: list[str] = file.keys()
            names = {key.partition("/")[2] for key in keys}
            if total and names != total.keys():
                other = sorted(names ^ total.keys())
                raise ValueError(f"snapshot {snapshot.path} is of another network: {other[:3]}")
            for name in names:
                parts = [
                    factor * file.get_tensor(f"{sigma}/{name}").double()
                    for sigma, factor in factors.items()
                ]
                own = torch.stack(parts).sum(0)
                if name in total and total[name].shape != own.shape:
                    raise ValueError(
                        f"snapshot {snapshot.path} is of another network: {name} is "
                        f"{list(own.shape)}, in others {list(total[name].shape)}"
                    )
                total[name] = total[name] + own if name in total else own
    return {name: value.float() for name, value in total.items()}

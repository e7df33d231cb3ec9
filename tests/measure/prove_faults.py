"""Plants faults that differ between training and sampling: does `make prove` find and name them?

    python tests/measure/prove_faults.py stage=demo/ssr1 [name=default] [paths.runs=runs] [prove.…]

Checks a trained run once as it is and once with each fault; prints a row per fault.
"""

import contextlib
import copy
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import cascade.diffusion.sampler
import stages.sampling.part
from cascade.video import linear
from stages.condition import Conditioner
from stages.stage import Stage


@contextlib.contextmanager
def sigma_shift() -> Iterator[None]:
    """The sampler uses a schedule whose log-SNR is shifted by −1."""
    levels = cascade.diffusion.sampler.levels

    def shifted(schedule: Any, steps: int, start: float = 1.0) -> Any:
        found = []
        for level in levels(schedule, steps, start):
            logsnr = level.step.logsnr - 1
            wide = torch.tensor(logsnr, dtype=torch.float64)
            found.append(
                replace(
                    level,
                    step=replace(level.step, logsnr=logsnr),
                    alpha=float(schedule.alpha(wide)),
                    sigma=float(schedule.sigma(wide)),
                )
            )
        return found

    with (
        patch.object(cascade.diffusion.sampler, "levels", shifted),
        patch.object(stages.sampling.part, "levels", shifted),
    ):
        yield


@contextlib.contextmanager
def conditions(change: Callable[..., Any], *, at_sampling: bool) -> Iterator[None]:
    """Inside, conditions are built by `change(conditioner, build, arguments)`, on one side only."""
    build, sample = Conditioner.__call__, Stage.sample
    depth: list[None] = []

    def built(self: Conditioner, **arguments: Any) -> Any:
        if bool(depth) == at_sampling:
            return change(self, build, arguments)
        return build(self, **arguments)

    @functools.wraps(sample)
    def sampled(self: Any, *arguments: Any, **named: Any) -> Any:
        depth.append(None)
        try:
            return sample(self, *arguments, **named)
        finally:
            depth.pop()

    with patch.object(Conditioner, "__call__", built), patch.object(Stage, "sample", sampled):
        yield


def mask_never_set() -> AbstractContextManager[None]:
    """Training builds its conditions without the mask of what is given."""

    def blind(conditioner: Conditioner, build: Any, arguments: dict[str, Any]) -> Any:
        made = build(conditioner, **arguments)
        return replace(made, mask=torch.zeros_like(made.mask))

    return conditions(blind, at_sampling=False)


class _OtherKind:
    """A kind that expands `low` by another interpolation."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kind, name)

    def expand(self, low: torch.Tensor) -> torch.Tensor:
        if self.scale.space == 1:
            return linear(low, self.scale.time)
        size = tuple(self.scale.space * side for side in low.shape[-2:])
        frames = low.transpose(1, 2)
        made = torch.nn.functional.interpolate(frames.flatten(0, 1), size, mode="nearest")
        return made.view(*frames.shape[:3], *size).transpose(1, 2)


def another_resize() -> AbstractContextManager[None]:
    """Sampling enlarges `low` by nearest neighbours (in time: blends it), and training does not."""

    def other(conditioner: Conditioner, build: Any, arguments: dict[str, Any]) -> Any:
        changed = copy.copy(conditioner)
        changed.kind = _OtherKind(conditioner.kind)
        return build(changed, **arguments)

    return conditions(other, at_sampling=True)


@contextlib.contextmanager
def caption_template() -> Iterator[None]:
    """Sampling puts the prompt into a template that training does not use."""
    sample = Stage.sample

    @functools.wraps(sample)
    def templated(self: Any, captions: Any, **arguments: Any) -> Any:
        return sample(self, [f"a high quality video of {one}" for one in captions], **arguments)

    with patch.object(Stage, "sample", templated):
        yield


@contextlib.contextmanager
def swapped_channels() -> Iterator[None]:
    """Sampling swaps the channels of `given` and `low`."""
    sample, inputs = Stage.sample, Stage.inputs

    def crossed(self: Any, z: Any, cond: Any) -> Any:
        return inputs(self, z, replace(cond, low=cond.given, given=cond.low))

    @functools.wraps(sample)
    def swapped(self: Any, *arguments: Any, **named: Any) -> Any:
        with patch.object(Stage, "inputs", crossed):
            return sample(self, *arguments, **named)

    with patch.object(Stage, "sample", swapped):
        yield


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault, and a pattern of the note that names it."""

    plant: Callable[[], AbstractContextManager[None]]
    named: str
    needs_low: bool = False


FAULTS = {
    "sigma shift in the sampler": Fault(
        plant=sigma_shift, named=r"logsnr: training feeds .*, the sampler .* \(-1\)"
    ),
    "mask never set in training": Fault(
        plant=mask_never_set, named="mask: training never sets it, the sampler sets"
    ),
    "another resize at sampling": Fault(
        plant=another_resize, named="low: .* resized otherwise", needs_low=True
    ),
    "caption template at sampling": Fault(
        plant=caption_template, named="text: training feeds .* another caption"
    ),
    "low and given swapped": Fault(
        plant=swapped_channels,
        named="low and given: the sampler swaps their channels",
        needs_low=True,
    ),
}


def run(arguments: list[str], out: Path) -> dict[str, Any]:
    """The JSON of a proof of the run, computed in this process."""
    from cascade.prove import main

    own = [*arguments, f"prove.out={out}", "prove.only=['same inputs']"]
    with (
        patch.object(sys, "argv", ["cascade.prove", *own]),
        contextlib.suppress(SystemExit),
        contextlib.redirect_stdout(None),
    ):
        main()
    proof: dict[str, Any] = json.loads((out / "prove.json").read_text())
    return proof


def row(name: str, fault: Fault | None, proof: dict[str, Any]) -> dict[str, Any]:
    """Whether a fault was found and named."""
    (claim,) = proof["claims"]
    said = [note for note in claim["notes"] if fault and re.search(fault.named, note)]
    return {
        "fault": name,
        "verdict": claim["verdict"],
        "named": bool(said),
        "said": (said or claim["notes"] or [""])[0],
        "notes": len(claim["notes"]),
        "seconds": claim["seconds"],
    }


def main() -> None:
    """The command line."""
    import tempfile

    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        sound = run(arguments, Path(folder) / "sound")
        rows = [row("none", None, sound)]
        has_low = any("low" in one for one in sound["claims"][0]["tables"][0])
        for name, fault in FAULTS.items():
            if fault.needs_low and not has_low:
                continue
            with fault.plant():
                rows.append(row(name, fault, run(arguments, Path(folder) / name.replace(" ", "_"))))
    for one in rows:
        sys.stdout.write(json.dumps(one, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

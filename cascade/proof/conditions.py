"""The claim that every condition changes the output and lowers the loss on held-out clips."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev

import torch
from torch import Tensor

from cascade.callbacks.start import MIN_CHANGE
from cascade.proof.found import Found, Table, judged
from cascade.proof.network_inputs import BASELINE, Inputs, recorded, run_network
from cascade.proof.subject import PURPOSE, Subject, taken
from cascade.proof.trained_ways import giving, training_ways
from cascade.report import Cell
from cascade.report.sections import Tone

#: The fewest clips with another value of a condition that allow an estimate of its worth.
FEWEST = 8


@dataclass(frozen=True, kw_only=True)
class WorthEstimate:
    """The mean log ratio of the loss without a condition to the loss with it."""

    name: str
    clips: int
    mean: float = math.nan
    half: float = math.nan
    """Half the width of the confidence interval."""

    @property
    def factor(self) -> str:
        """The loss without the condition as a multiple of the loss with it; a geometric mean."""
        return _times(self.mean)

    @property
    def interval(self) -> str:
        """The ends of the confidence interval of the factor."""
        return f"{_times(self.mean - self.half)} to {_times(self.mean + self.half)}"

    def verdict(self, least: float) -> str:
        """Whether the condition has an effect, in words."""
        if not self.clips:
            return "not tested: it has the same value on all held-out clips"
        if self.clips < FEWEST:
            return f"not tested: it differs on {self.clips} held-out clips, but {FEWEST} are needed"
        if self.mean - self.half > 0:
            return "effect"
        if self.mean + self.half < least:
            return "no effect"
        return f"undecided on {self.clips} clips"


@torch.no_grad()
def check(subject: Subject) -> Found:
    """The claim's figures: the change of the output by input, the worth by condition."""
    changes = dict(_changes(subject))
    least = float(subject.settings.worth["least"])
    worths = _worths(subject)
    wrong = [
        f"{name}: does not change the network's output (relative change {change:.1g})"
        for name, change in changes.items()
        if not change > MIN_CHANGE
    ]
    wrong += [
        f"{one.name}: no effect on {one.clips} held-out clips: the loss without it is "
        f"{one.factor} times the loss with it ({one.interval})"
        for one in worths
        if one.verdict(least) == "no effect"
    ]
    weakest = min(changes, key=lambda name: changes[name])
    effective = sum(one.verdict(least) == "effect" for one in worths)
    return judged(
        wrong,
        figure=f"the smallest change of the output is {changes[weakest]:.2g} ({weakest}); "
        f"{effective} of {len(worths)} conditions lower the loss",
        tolerance=f"change above {MIN_CHANGE:g}; worth not significantly below {100 * least:g} % "
        f"({100 * float(subject.settings.worth['confidence']):g} % interval)",
        tables=[_change_table(changes), _worth_table(worths, least)],
    )


def _changes(subject: Subject) -> Iterator[tuple[str, float]]:
    """The relative change of the output when only one input is changed, by input."""
    stage, held = subject.trained, subject.clips()
    some = giving(stage, held["video"].shape[2])[:1]
    with training_ways(stage, some), recorded(stage) as calls:
        stage.losses(taken(held, range(min(2, len(held["position"])))), purpose=PURPOSE)
    inputs = calls[0]
    out = run_network(stage, inputs)
    for name, value in inputs.items():
        if name not in ("text_mask", BASELINE):
            changed = run_network(stage, {**inputs, name: _other(name, value, inputs)})
            yield name, float((changed - out).norm() / out.norm().clamp(min=1e-12))


def _other(name: str, value: Tensor, inputs: Inputs) -> Tensor:
    """Another value of an input."""
    match name:
        case "z" | "low" | "given":
            return -value
        case "mask":
            return torch.zeros_like(value) if value.any() else torch.ones_like(value)
        case "logsnr":
            return value + 2
        case "text":
            return -value.flip(-1) * inputs["text_mask"].unsqueeze(-1)
        case _:
            return value + 0.5


def _worths(subject: Subject) -> list[WorthEstimate]:
    """Each condition's worth, from the loss with the condition of another clip at the same draws.

    For given frames, from the loss without them, on clips that all have some.
    """
    stage, held = subject.trained, subject.clips()
    ways = giving(stage, held["video"].shape[2])
    others = [name for name in stage.conditions if name != "given"]
    logs = _ratios(subject, others, ()) | _ratios(subject, ["given"], ways)
    confidence = float(subject.settings.worth["confidence"])
    return [_estimate(name, list(logs[name].values()), confidence) for name in stage.conditions]


def _ratios(
    subject: Subject, names: Sequence[str], ways: Sequence[str]
) -> dict[str, dict[int, list[float]]]:
    """The log ratios of the losses by condition and clip; only `ways` are drawn, if not empty."""
    stage, held, settings = subject.trained, subject.clips(), subject.settings
    count = min(settings.clips, len(held["position"]))
    logs: dict[str, dict[int, list[float]]] = {name: {} for name in names}
    for draw, start in itertools.product(range(settings.draws), range(0, count, settings.batch)):
        rows = range(start, min(start + settings.batch, count))
        if len(rows) < 2:
            continue
        with training_ways(stage, ways):
            noised = stage.noise(taken(held, rows), purpose=f"{PURPOSE} {draw}")
        own, _ = stage.loss_without(noised, noised, "text")  # with its own text, so nothing changes
        for name in names:
            other, differs = stage.loss_without(noised, noised.rolled(), name)
            ratios = (other / own).log().tolist()
            for row, value, counts in zip(rows, ratios, differs.tolist(), strict=True):
                if counts and math.isfinite(value):
                    logs[name].setdefault(row, []).append(value)
    return logs


def _estimate(name: str, logs: Sequence[Sequence[float]], confidence: float) -> WorthEstimate:
    """The mean over clips of each clip's mean over draws, with a normal confidence interval."""
    means = [sum(values) / len(values) for values in logs]
    if len(means) < FEWEST:
        return WorthEstimate(name=name, clips=len(means))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = z * stdev(means) / len(means) ** 0.5
    return WorthEstimate(name=name, clips=len(means), mean=sum(means) / len(means), half=half)


def _times(log: float) -> str:
    return f"{math.exp(log):.5g}"


def _change_table(changes: Mapping[str, float]) -> Table:
    rows = [
        (name, Cell(f"{change:.3g}", "good" if change > MIN_CHANGE else "bad"))
        for name, change in changes.items()
    ]
    caption = "The relative change of the network's output when only one input is changed."
    return Table(columns=["input", "change"], rows=rows, caption=caption)


def _worth_table(worths: Sequence[WorthEstimate], least: float) -> Table:
    tones: dict[str, Tone] = {"effect": "good", "no effect": "bad"}
    rows = [
        (
            one.name,
            one.clips,
            None if math.isnan(one.mean) else one.factor,
            None if math.isnan(one.mean) else one.interval,
            Cell(verdict := one.verdict(least), tones.get(verdict, "plain")),
        )
        for one in worths
    ]
    caption = (
        "The loss on held-out clips when one condition is replaced by another clip's (given "
        "frames are removed), relative to the loss with it, at the same noise and log-SNR."
    )
    columns = ["condition", "clips", "relative loss", "interval", "verdict"]
    return Table(columns=columns, rows=rows, caption=caption)

"""The claim that training and the sampler feed the network the same inputs, for every way.

A held-out clip is passed, with the same random draws, to the training loss and to `sample`, with
the arguments that a pipeline passes. Both networks record their inputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.conditioning import ways
from cascade.proof.both_sides import sampling, training
from cascade.proof.diagnosis import LAST, Components, by_cause, explain, gap
from cascade.proof.found import ClaimPictures, Found, Table, judged
from cascade.proof.network_inputs import BASELINE, CHANNELS, Inputs
from cascade.proof.subject import Subject, taken
from cascade.proof.trained_ways import suitable
from cascade.report import Cell
from cascade.stage import Batch

#: The row of the unconditional prediction of guidance.
DROPPED = "no caption"
#: A text dropout at which every caption is dropped.
ALL = 1 - 1e-12


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The inputs of one clip under one way to prompt, in training and in the sampler."""

    way: str
    train: Inputs
    sample: Inputs
    components: Components

    @property
    def names(self) -> list[str]:
        """The names of all inputs of either side."""
        return list(dict.fromkeys([*self.train, *self.sample]))

    def gap(self, name: str) -> float:
        """The largest difference of an input; infinite if one side lacks it."""
        if name not in self.train or name not in self.sample:
            return float("inf")
        return gap(self.train[name], self.sample[name])

    def explained(self, name: str) -> str:
        """How an input differs, in words."""
        if name in self.train and name in self.sample:
            return explain(name, self.train, self.sample, self.components)
        return f"{name}: {'the sampler' if name in self.train else 'training'} does not feed it"


@torch.no_grad()
def check(subject: Subject) -> Found:
    """The claim's figures: the largest difference of each input under each way."""
    held = subject.clips()
    packed = subject.config["data"].get("batching") == "packing"
    tried = suitable(subject.trained, held["video"].shape[2])
    clips = min(subject.settings.few, len(held["position"]))
    allowed = _allowed(subject, held)
    pairs = [
        pair
        for i in range(clips)
        for pair in _pairs(subject, taken(held, [i]), tried, packed=packed)
    ]
    drifting = _drifting(subject, taken(held, [0]), tried)
    wrong = [*_differences(pairs, allowed), *_unset(pairs), *drifting]
    differing = sum(pair.gap(name) > 0 for pair in pairs for name in pair.names)
    total = sum(len(pair.names) for pair in pairs)
    exact = "exact, bit by bit"
    if allowed:
        exact += f"; {', '.join(allowed)} within {max(allowed.values()):g} (stored embeddings)"
    return judged(
        wrong,
        figure=f"{differing} of {total} inputs differ ({clips} clips × {len(tried)} ways)",
        tolerance=exact,
        tables=[_table(pairs, allowed)],
        pictures=[_pictures(_shown(pairs, allowed))],
    )


def _differences(pairs: Sequence[Pair], allowed: Mapping[str, float]) -> list[str]:
    """The inputs that differ by more than is allowed: how, and under which ways."""
    lines: dict[str, list[str]] = {}
    for name in by_cause({name for pair in pairs for name in pair.names}):
        wrong = [pair for pair in pairs if pair.gap(name) > allowed.get(name, 0.0)]
        if wrong:
            lines.setdefault(
                wrong[0].explained(name), list(dict.fromkeys(pair.way for pair in wrong))
            )
    every = {pair.way for pair in pairs}
    return [
        f"{line} (ways to prompt: {'all' if {*found} == every else ', '.join(found)})"
        for line, found in lines.items()
    ]


def _unset(pairs: Sequence[Pair]) -> list[str]:
    """The ways under which neither side sets the mask, although they give frames."""
    unset = [p.way for p in pairs if not p.train["mask"].any() and not p.sample["mask"].any()]
    found = [name for name in dict.fromkeys(unset) if name in ways and ways[name].gives_frames]
    return [f"mask: never set (ways to prompt: {', '.join(found)})"] if found else []


def _drifting(subject: Subject, one: Batch, tried: Sequence[str]) -> list[str]:
    """What the sampler feeds otherwise in later steps than in the first."""
    lines: dict[str, list[str]] = {}
    for way in tried:
        first = sampling(subject, one, way)
        for call in sampling(subject, one, way, steps=subject.settings.steps):
            for name, value in call.items():
                # In the first step the text is the caption's or, for guidance, that of none.
                same = any(name in known and gap(value, known[name]) == 0 for known in first)
                if not same and name not in LAST and way not in lines.setdefault(name, []):
                    lines[name].append(way)
    return [
        f"{name}: the sampler feeds another value in a later step "
        f"(ways to prompt: {', '.join(found)})"
        for name, found in lines.items()
        if found
    ]


def _pairs(subject: Subject, one: Batch, tried: Sequence[str], *, packed: bool) -> Iterator[Pair]:
    """The pairs of one clip: every way, and the captions that are dropped."""
    for way in tried:
        train, components = training(subject.trained, one, way, packed=packed)
        calls = sampling(subject, one, way)
        yield Pair(way=way, train=train, sample=calls[-1], components=components)
        if way == tried[0] and len(calls) > 1:
            train, components = training(subject.trained, one, way, packed=packed, text_dropout=ALL)
            yield Pair(way=DROPPED, train=train, sample=calls[0], components=components)


def _allowed(subject: Subject, held: Batch) -> dict[str, float]:
    """By how much an input may differ: training may read stored embeddings of 16 bits."""
    stored = any(one is not None for one in held.get("text") or [])
    return {"text": subject.settings.tolerances["stored_text"]} if stored else {}


def _table(pairs: Sequence[Pair], allowed: Mapping[str, float]) -> Table:
    names = list(dict.fromkeys(name for pair in pairs for name in pair.names))
    rows = []
    for way in dict.fromkeys(pair.way for pair in pairs):
        row: list[object] = [way]
        for name in names:
            worst = max(pair.gap(name) for pair in pairs if pair.way == way)
            good = worst <= allowed.get(name, 0.0)
            value = "equal" if worst == 0 else "other shape" if worst == float("inf") else worst
            row.append(Cell(value, "good" if good else "bad"))
        rows.append(row)
    caption = "The largest difference of each input over the clips."
    return Table(columns=["way to prompt", *names], rows=rows, caption=caption)


def _shown(pairs: Sequence[Pair], allowed: Mapping[str, float]) -> Pair:
    """The pair to show: the first that differs, else one with given frames."""
    bad = [p for p in pairs if any(p.gap(name) > allowed.get(name, 0.0) for name in p.names)]
    given = [pair for pair in pairs if pair.train["mask"].any()]
    return (bad or given or list(pairs))[0]


def _pictures(pair: Pair) -> ClaimPictures:
    rows = []
    for name in (*CHANNELS, BASELINE):
        both = [side[name] for side in (pair.train, pair.sample) if name in side]
        if len(both) == 2 and both[0].shape == both[1].shape:
            difference = (both[0] - both[1]).abs()
            most = float(difference.max())
            shown = [*both, difference / most if most else difference]
            rows.append((f"{name}", [_pixels(value, name) for value in shown]))
    caption = (
        f"The inputs of one clip under the way `{pair.way}`, frame by frame. The difference is "
        "scaled to its largest value; where both are equal it is grey, or black for the mask."
    )
    return ClaimPictures(columns=["training", "sampler", "difference"], rows=rows, caption=caption)


def _pixels(value: Tensor, name: str) -> Tensor:
    """Channels as a picture: three are shown as RGB, others by their mean."""
    one = value[0].float()
    one = one if len(one) == 3 else one.mean(0, keepdim=True).expand(3, -1, -1, -1)
    return (one * 2 - 1 if name == "mask" else one).clamp(-1, 1).cpu()

"""What training feeds the network equals what the sampler feeds it, for every way to prompt.

One held-out clip goes both ways at the same draws: through the training loss, and through `sample`
with the arguments that a pipeline passes. Both networks record their inputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cascade import keyed
from cascade.conditioning import bring
from cascade.diffusion.schedule import Schedule
from cascade.proof.diagnosis import Made, explain, gap
from cascade.proof.found import Found, NotCheckedError, Pictures, Table, judged
from cascade.proof.network_inputs import CHANNELS, Inputs, recorded
from cascade.proof.practised_ways import NOTHING, forced, practising, suiting
from cascade.proof.subject import PURPOSE, Subject, grid_of, taken
from cascade.report import Cell
from cascade.stage import Batch, TrainableStage

#: The row of the prediction that guidance leads away from.
DROPPED = "no caption"
#: So much that every caption is dropped.
ALL = 1 - 1e-12


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The inputs of one clip under one way to prompt, both ways."""

    way: str
    train: Inputs
    sample: Inputs
    made: Made

    @property
    def names(self) -> list[str]:
        """All inputs that either has."""
        return list(dict.fromkeys([*self.train, *self.sample]))

    def gap(self, name: str) -> float:
        """The largest difference of an input; infinite where one of both lacks it."""
        if name not in self.train or name not in self.sample:
            return float("inf")
        return gap(self.train[name], self.sample[name])

    def wrong(self, allowed: dict[str, float]) -> list[str]:
        """How each input differs that differs more than is allowed."""
        lines = []
        for name in self.names:
            if self.gap(name) > allowed.get(name, 0.0):
                missing = "training" if name not in self.train else "the sampler"
                both = name in self.train and name in self.sample
                lines.append(
                    explain(name, self.train, self.sample, self.made)
                    if both
                    else f"{name}: {missing} does not feed it"
                )
        return lines


@torch.no_grad()
def check(subject: Subject) -> Found:
    """The claim's figures: the largest difference of each input under each way."""
    held = subject.clips()
    packed = subject.config["data"].get("batching") == "packing"
    ways = suiting(held["video"].shape[2])
    clips = min(subject.settings.few, len(held["position"]))
    allowed = _allowed(subject, held)
    pairs: list[Pair] = []
    wrong: dict[str, list[str]] = {}
    for i in range(clips):
        for pair in _pairs(subject, taken(held, [i]), ways, packed=packed):
            pairs.append(pair)
            lines = pair.wrong(allowed)
            if pair.way not in (NOTHING, DROPPED) and not pair.train["mask"].any():
                lines.append("mask: training never sets it, so nothing is marked as given")
            if lines:
                wrong.setdefault(pair.way, list(dict.fromkeys(lines)))
    differing = sum(pair.gap(name) > 0 for pair in pairs for name in pair.names)
    total = sum(len(pair.names) for pair in pairs)
    exact = "exact, bit by bit"
    if allowed:
        exact += f"; {', '.join(allowed)} within {max(allowed.values()):g} (stored embeddings)"
    return judged(
        [f"{way}: {line}" for way, lines in wrong.items() for line in lines],
        figure=f"{differing} of {total} inputs differ ({clips} clips × {len(ways)} ways)",
        tolerance=exact,
        tables=[_table(pairs, allowed)],
        pictures=[_pictures(subject, _shown(pairs, wrong))],
    )


def _pairs(
    subject: Subject, one: Batch, ways: Sequence[str], *, packed: bool
) -> Iterator[Pair]:
    """The pairs of one clip: every way, and the captions that are dropped."""
    for way in ways:
        train, made = training(subject.trained, one, way, packed=packed)
        calls = sampling(subject, one, way)
        yield Pair(way=way, train=train, sample=calls[-1], made=made)
        if way == NOTHING and len(calls) > 1:
            train, made = training(subject.trained, one, way, packed=packed, text_dropout=ALL)
            yield Pair(way=DROPPED, train=train, sample=calls[0], made=made)


def training(
    stage: TrainableStage, one: Batch, way: str, *, packed: bool, text_dropout: float = 0.0
) -> tuple[Inputs, Made]:
    """What the training loss feeds the network, and what it is made of."""
    batch = {**one, "videos": list(one["video"])} if packed else one
    with practising(stage, [way], text_dropout=text_dropout):
        with recorded(stage) as calls:
            stage.losses(batch, purpose=PURPOSE)
        noised = stage.noise(one, purpose=PURPOSE)
    clip = stage.clip(one["video"])
    reduced = stage.kind.reduce(clip)
    low = None if reduced is None else stage.codec.encode(stage.kind.expand(reduced))
    eps = None if low is None else _draw(stage, one, "low", low.shape[1:])
    return calls[0], Made(x=noised.example.x, eps=noised.eps, low=low, low_eps=eps)


def sampling(subject: Subject, one: Batch, way: str) -> list[Inputs]:
    """What the sampler feeds the network in its first step, at the draws of training.

    The last call is the one with the caption; where the step is guided, the first is without.
    """
    stage, trained = subject.bundled, subject.trained
    clip, positions = trained.clip(one["video"]), one["position"].tolist()
    grid = grid_of(clip, float(one["fps"][0]))
    reduced, level = stage.kind.reduce(clip), None
    low = None if reduced is None else reduced.clamp(-1, 1)  # as every stage ends
    if stage.augment is not None:
        u = keyed.uniforms(trained.recipe.seed, positions, f"{PURPOSE}/augment")
        level = float(stage.augment.level(u.to(torch.float32)))
    given = forced(way).draw(clip, seed=trained.recipe.seed, positions=positions)
    drawn = float(trained.noise(one, purpose=PURPOSE).drawn)
    purposes = {"start": "eps", "low": "low"}  # the sampler's names → training's
    with recorded(stage) as calls:
        stage.sample(
            one["caption"],
            grid=grid,
            seeds=positions,
            low=low,
            given=bring(given, grid, subject.device),
            steps=1,
            low_logsnr=level,
            start=(clip, time_of(stage.diffusion.schedule, drawn)),
            noise=lambda purpose, shape: _draw(trained, one, purposes[purpose], shape),
        )
    return calls


def time_of(schedule: Schedule, logsnr: float) -> float:
    """The diffusion time t for which λ(t), rounded to float32, is exactly `logsnr`.

    Raises:
        NotCheckedError: there is none.
    """
    wanted = torch.tensor(logsnr, dtype=torch.float32)
    first = schedule.time(wanted.double())
    for step in range(64):
        for sign in (1, -1):
            t = first * (1 + sign * step * 2.0**-52)
            if schedule.logsnr(t).float() == wanted and 0 < t <= 1:
                return float(t)
    raise NotCheckedError(f"no diffusion time has log-SNR {logsnr!r} under {schedule}")


def _draw(
    stage: TrainableStage, one: Batch, purpose: str, shape: Sequence[int]
) -> Float[Tensor, "b ..."]:
    """The normal noise that training draws for a clip."""
    positions, seed = one["position"].tolist(), stage.recipe.seed
    return keyed.normals(seed, positions, f"{PURPOSE}/{purpose}", shape, stage.device)


def _allowed(subject: Subject, held: Batch) -> dict[str, float]:
    """By how much an input may differ: embeddings are stored in 16 bits, sampling encodes anew."""
    stored = any(one is not None for one in held.get("text") or [])
    return {"text": subject.settings.tolerances["stored_text"]} if stored else {}


def _table(pairs: Sequence[Pair], allowed: dict[str, float]) -> Table:
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
    caption = "The largest difference of each input, over the clips."
    return Table(columns=["way to prompt", *names], rows=rows, caption=caption)


def _shown(pairs: Sequence[Pair], wrong: dict[str, list[str]]) -> Pair:
    """The pair to show: the first that differs, else one with frames given."""
    bad = [pair for pair in pairs if pair.way in wrong]
    given = [pair for pair in pairs if pair.train["mask"].any()]
    return (bad or given or list(pairs))[0]


def _pictures(subject: Subject, pair: Pair) -> Pictures:
    rows = []
    for name in CHANNELS:
        both = [side[name] for side in (pair.train, pair.sample) if name in side]
        if len(both) == 2 and both[0].shape == both[1].shape:
            difference = (both[0] - both[1]).abs()
            most = float(difference.max())
            shown = [*both, difference / most if most else difference]
            rows.append((f"{name}", [_pixels(value, name) for value in shown]))
    caption = (
        f"The inputs of one clip under the way `{pair.way}`, frame by frame. The difference is "
        "scaled to its largest value; it is grey where both are equal."
    )
    return Pictures(columns=["training", "sampler", "difference"], rows=rows, caption=caption)


def _pixels(value: Tensor, name: str) -> Tensor:
    """Channels as a picture: three as they are, others by their mean."""
    one = value[0].float()
    one = one if len(one) == 3 else one.mean(0, keepdim=True).expand(3, -1, -1, -1)
    return (one * 2 - 1 if name == "mask" else one).clamp(-1, 1).cpu()

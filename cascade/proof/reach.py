"""The claim that no input outside the network's declared receptive field changes an output.

A stage that trains on crops and runs on whole frames, or in windows and tiles, relies on it.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cascade import keyed
from cascade.proof.found import Found, Table, judged
from cascade.proof.subject import PURPOSE, Subject
from cascade.report import Cell

AXES = ("frames", "height", "width")


@torch.no_grad()
def check(subject: Subject) -> Found:
    """The claim's figures: how far a change of one position reaches, by axis."""
    net: Any = subject.bundled.net
    declared = getattr(net, "receptive_field", None)
    if declared is None:
        return _everywhere(subject)
    rows, wrong = [], []
    radii = dict(zip(AXES, (declared[0], declared[1], declared[1]), strict=True))
    for axis, (name, radius) in enumerate(radii.items()):
        reached = max(_reaches(subject, axis, radius))
        bad = reached > radius or reached == 0
        rows.append((name, radius, Cell(reached, "bad" if bad else "good")))
        if reached > radius:
            wrong.append(
                f"{name}: a change reaches {reached} positions far, but {radius} are declared"
            )
        elif not reached:
            wrong.append(f"{name}: a change does not reach any other position")
    return judged(
        wrong,
        figure=", ".join(f"{row[0]} {row[2].value} of {row[1]}" for row in rows),
        tolerance="no further than declared; outputs beyond are equal bit by bit",
        tables=[Table(columns=["axis", "declared", "reached"], rows=rows)],
    )


def _everywhere(subject: Subject) -> Found:
    """The result for full attention, where a change must reach every position."""
    net: Any = subject.bundled.net
    size = tuple(3 * side for side in net.multiple)
    inputs = _inputs(subject, size)
    changed = _changed(subject, inputs, inputs[0][:, :, -1:, -1:, -1:])
    share = float((changed > 0).float().mean())
    return judged(
        [f"a change of one corner reaches {100 * share:.1f} % of the positions"]
        if share < 1
        else [],
        figure=f"a change of one corner reaches {100 * share:g} % of the positions",
        tolerance="all: the network declares no receptive field, so it attends everywhere",
    )


def _reaches(subject: Subject, axis: int, radius: int) -> Iterator[int]:
    """How far a change reaches along an axis, from each position within a cell of the network."""
    net: Any = subject.bundled.net
    side = net.multiple[axis]
    size = [2 * one if i and i != axis else one for i, one in enumerate(net.multiple)]
    size[axis] = side * (-(-(radius + 1) // side) + 2)
    inputs = _inputs(subject, tuple(size))
    for place in range(side):
        for spot in (place, size[axis] - 1 - place):
            changed = _changed(subject, inputs, inputs[0].narrow(2 + axis, spot, 1))
            others = [i for i in range(3) if i != axis]
            along = changed.amax(dim=others).nonzero().flatten()
            yield int((along - spot).abs().max()) if len(along) else 0


def _changed(subject: Subject, inputs: list[Tensor], part: Tensor) -> Tensor:
    """The change of the output at each position (f, h, w) when `part` of the input is changed."""
    net: Any = subject.bundled.net
    before = net(*inputs)
    kept = part.clone()
    part.add_(1)
    after = net(*inputs)
    part.copy_(kept)
    change: Tensor = (after - before)[0].abs().amax(dim=0)
    return change


def _inputs(subject: Subject, size: tuple[int, ...]) -> list[Tensor]:
    """Inputs of the network on a grid of this size: noise and one text."""
    stage, device = subject.bundled, subject.device
    channels, cell = stage.codec.channels, stage.codec.cell
    count = (3 if stage.kind.takes_low else 2) * channels + cell
    text = stage.text([subject.few(1)["caption"][0]])
    return [
        keyed.normals(0, [0], PURPOSE, (count, *size), device),
        torch.zeros(1, size[0], device=device),
        text.tokens,
        text.mask,
        torch.zeros(1, len(stage.kind.scalars), device=device),
    ]

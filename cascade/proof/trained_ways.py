"""The ways to prompt that a stage is trained with, and draws that are limited to some of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from cascade.conditioning import Modes, ways
from cascade.stage import TrainableStage

#: The way without given frames.
NOTHING = "text"


def all_ways() -> list[str]:
    """The names of all ways that training draws."""
    return [name for name, way in ways.items() if way.draw is not None]


def forced(*names: str, stride: int = 1) -> Modes:
    """The draw of given frames that training uses, limited to these ways in equal shares."""
    return Modes(shares=dict.fromkeys(names, 1.0), stride=stride)


def suitable(frames: int, *, stride: int = 1) -> list[str]:
    """The ways that a clip of this length can be trained with."""
    return [
        name
        for name in all_ways()
        if forced(name, stride=stride).names(frames, seed=0, positions=[0]) == [name]
    ]


@contextmanager
def training_ways(
    stage: TrainableStage, names: Sequence[str] = (), *, text_dropout: float = 0.0
) -> Iterator[None]:
    """A context in which the stage trains these ways only (by default its own shares)."""
    recipe = stage.recipe
    modes = forced(*names, stride=recipe.modes.stride) if names else recipe.modes
    stage.recipe = replace(recipe, modes=modes, text_dropout=text_dropout)
    try:
        yield
    finally:
        stage.recipe = recipe

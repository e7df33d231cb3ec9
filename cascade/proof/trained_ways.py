"""The ways to prompt that a stage is trained with, and draws that are limited to some of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from cascade.conditioning import Modes, ways
from cascade.stage import TrainableStage


def forced(stage: TrainableStage, *names: str) -> Modes:
    """Training's draw of given frames, by these ways alone, in equal shares."""
    return Modes(shares=dict.fromkeys(names, 1.0), stride=stage.recipe.modes.stride)


def suitable(stage: TrainableStage, frames: int) -> list[str]:
    """The ways that training can draw for a clip of so many frames."""
    drawn = [name for name, way in ways.items() if way.draw is not None]
    return [
        name for name in drawn if forced(stage, name).names(frames, seed=0, positions=[0]) == [name]
    ]


def giving(stage: TrainableStage, frames: int) -> list[str]:
    """Those of them that give frames or regions."""
    return [name for name in suitable(stage, frames) if ways[name].gives_frames]


@contextmanager
def training_ways(
    stage: TrainableStage, names: Sequence[str] = (), *, text_dropout: float = 0.0
) -> Iterator[None]:
    """A context in which the stage trains these ways only (by default its own shares)."""
    recipe = stage.recipe
    modes = forced(stage, *names) if names else recipe.modes
    stage.recipe = replace(recipe, modes=modes, text_dropout=text_dropout)
    try:
        yield
    finally:
        stage.recipe = recipe

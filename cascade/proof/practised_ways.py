"""The ways to prompt that a stage trains, each forced on its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from cascade.conditioning import Modes
from cascade.stage import TrainableStage

#: The way in which nothing is given.
NOTHING = "text"


def every() -> list[str]:
    """The names of all ways that training can practise."""
    return list(Modes(text=1.0).shares)


def forced(*names: str) -> Modes:
    """Training's draw of what is given, by these ways alone, in equal shares."""
    return Modes(**dict.fromkeys(names, 1.0))


def suiting(frames: int) -> list[str]:
    """The ways that a clip of so many frames can practise."""
    return [name for name in every() if forced(name).names(frames, seed=0, positions=[0]) == [name]]


@contextmanager
def practising(
    stage: TrainableStage, names: Sequence[str] = (), *, text_dropout: float = 0.0
) -> Iterator[None]:
    """Inside, the stage trains these ways alone (by default its own shares), at this dropout."""
    recipe = stage.recipe
    modes = forced(*names) if names else recipe.modes
    stage.recipe = replace(recipe, modes=modes, text_dropout=text_dropout)
    try:
        yield
    finally:
        stage.recipe = recipe

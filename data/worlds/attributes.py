"""The attributes of the world of shapes, their values, and the held-out combinations."""

import itertools
from dataclasses import asdict, astuple, dataclass

from data.worlds.raster import SHAPES

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 44, 40),
    "green": (40, 196, 68),
    "blue": (52, 92, 244),
    "yellow": (252, 224, 40),
    "magenta": (236, 60, 220),
    "cyan": (44, 214, 232),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (10, 10, 14),
    "gray": (112, 112, 116),
    "white": (244, 244, 240),
    "navy": (20, 24, 84),
}
SIZES: dict[str, float] = {"small": 0.15, "large": 0.22}
"""Half of an object's extent, in units of the frame's shorter side."""
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "still": (0, 0),
}

VALUES: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "background": tuple(BACKGROUNDS),
    "direction": tuple(DIRECTIONS),
}
"""Every attribute with its values, in order."""


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """The content of a caption: one value per attribute."""

    shape: str
    colour: str
    size: str
    background: str
    direction: str

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value not in VALUES[name]:
                raise ValueError(f"shapes: {name} must be one of {VALUES[name]}, got {value!r}")

    def to_dict(self) -> dict[str, str]:
        """Attribute → value."""
        return asdict(self)


def combinations() -> list[Attributes]:
    """All 720 combinations, in the order of `VALUES`."""
    return [
        Attributes(**dict(zip(VALUES, values, strict=True)))
        for values in itertools.product(*VALUES.values())
    ]


def held_out(attributes: Attributes) -> bool:
    """Whether a combination is held out of training.

    A linear rule on the indices of the values (shape, colour, size, background, direction) holds
    out 64 of the 720. Every value is held out about equally often, and every pair of values is
    trained on.
    """
    places = [VALUES[n].index(v) for n, v in zip(VALUES, astuple(attributes), strict=True)]
    return sum(w * p for w, p in zip(HELD_OUT_WEIGHTS, places, strict=True)) % HELD_OUT_MODULUS == 0


HELD_OUT_WEIGHTS = (1, 2, 1, 4, 2)
HELD_OUT_MODULUS = 11

HELD_OUT: tuple[Attributes, ...] = tuple(a for a in combinations() if held_out(a))
TRAINED: tuple[Attributes, ...] = tuple(a for a in combinations() if not held_out(a))

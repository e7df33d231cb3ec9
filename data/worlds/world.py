"""The interface of a procedural world: states drawn by key, rendered on any grid, captioned."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import UInt8

from cascade.grid import Grid

State = TypeVar("State")


class World(ABC, Generic[State]):
    """A source of captioned videos with known ground truth.

    A state is a continuous scene. Rendering samples it: frame i is the scene at time i / fps, and
    a pixel is the scene's mean over its area, so every grid shows the same clip.
    """

    name: ClassVar[str]
    phrasings: ClassVar[int]
    """Number of phrasings of a caption."""

    @property
    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """Everything that the drawn states depend on, as JSON."""

    @abstractmethod
    def sample(self, seed: int, position: int) -> State:
        """The training state of (seed, position); it is never held out."""

    @abstractmethod
    def render(self, state: State, grid: Grid) -> UInt8[np.ndarray, "f h w 3"]:
        """The clip on `grid`.

        Raises:
            ValueError: the grid lasts longer than the state.
        """

    def track(self, state: State, grid: Grid) -> dict[str, list[Any]]:
        """What is true of each frame of the clip on `grid`, by name; nothing by default."""
        del state, grid  # for worlds that know it
        return {}

    @abstractmethod
    def caption(self, state: State, phrasing: int, *, moving: bool = True) -> str:
        """A sentence with every attribute; without `moving` for a still image."""

    @abstractmethod
    def to_json(self, state: State) -> dict[str, Any]:
        """The state as JSON."""

    @abstractmethod
    def from_json(self, record: dict[str, Any]) -> State:
        """The inverse of `to_json`."""

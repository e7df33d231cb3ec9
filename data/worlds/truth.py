"""Ground truth for a prompt: the clip as the world renders it."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from cascade.grid import Grid
from data.worlds.attributes import Attributes
from data.worlds.minute import Minute
from data.worlds.physics import Physics, PhysicsState
from data.worlds.shapes import Shapes
from data.worlds.story import Content


def shapes_truth(attributes: Attributes, grid: Grid, position: int) -> UInt8[Tensor, "3 f h w"]:
    """A clip with these attributes on `grid`; `position` keys its start and speed."""
    world = Shapes(duration=grid.duration)
    state = world.sample(0, position, attributes)
    return torch.from_numpy(world.render(state, grid)).permute(3, 0, 1, 2)


def minute_truth(content: Content, grid: Grid, position: int) -> UInt8[Tensor, "3 f h w"]:
    """A clip with this content on `grid`; `position` keys the object's path."""
    world = Minute(duration=grid.duration)
    state = world.sample(0, position, content)
    return torch.from_numpy(world.render(state, grid)).permute(3, 0, 1, 2)


def physics_truth(state: PhysicsState, grid: Grid, position: int) -> UInt8[Tensor, "3 f h w"]:
    """The clip of a state, which is all that decides it."""
    del position
    return torch.from_numpy(Physics(state.law).render(state, grid)).permute(3, 0, 1, 2)

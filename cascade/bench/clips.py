"""Batches in memory, in the loader's format, so that a step can be timed without its loader."""

from collections.abc import Iterator
from typing import Any

import torch

from cascade.grid import Grid
from cascade.stage import TrainableStage

CAPTION = "a small red circle moves left on a black background"
#: Different batches in memory, which repeat.
BATCHES = 4


def training_grid(stage: TrainableStage) -> Grid:
    """The grid of a training clip: the recipe's crop, or the stage's target."""
    frames, height, width = stage.recipe.crop or stage.target.shape
    return Grid(frames=frames, height=height, width=width, fps=stage.target.fps)


def training_batch(stage: TrainableStage, grid: Grid, size: int, number: int = 0) -> dict[str, Any]:
    """Batch `number`: flat clips with a brighter box each, on the stage's device."""
    random = torch.Generator().manual_seed(number)
    grey = torch.randint(0, 200, (size, 3, 1, 1, 1), generator=random)
    video = grey.expand(size, 3, *grid.shape).to(torch.uint8).contiguous()
    video[..., : grid.height // 2, : grid.width // 2] += 55
    first = number * size
    return {
        "video": video.to(stage.device),
        "fps": torch.full((size,), float(grid.fps), device=stage.device),
        "zoom": torch.ones(size, device=stage.device),
        "caption": [CAPTION] * size,
        "position": torch.arange(first, first + size),
        "key": [str(i) for i in range(first, first + size)],
    }


class Repeated:
    """A loader of `count` batches from memory, which repeat."""

    def __init__(self, batches: list[dict[str, Any]], count: int) -> None:
        self.batches, self.count = batches, count
        #: Seconds that the reader has waited for batches: none.
        self.waited_s = 0.0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.batches[i % len(self.batches)] for i in range(self.count))

    def close(self) -> None:
        """Nothing is open."""


def from_memory(data: Any, stage: TrainableStage, *, size: int, count: int) -> Any:
    """A data module that gives `count` batches of `size` clips from memory, and reads no shard.

    It sends them to the device as it sends its own; in pinned memory, if there is a GPU.
    """
    grid = training_grid(stage)
    batches = [training_batch(stage, grid, size, number) for number in range(BATCHES)]
    if torch.cuda.is_available():
        batches = [
            {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            for batch in batches
        ]
    loader = Repeated(batches, count)
    data.prepare_data = lambda: None
    data.setup = lambda **_: None
    data.train_dataloader = lambda: loader
    return data

"""The settings of a stage that only training needs; they are not stored in a bundle."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from cascade.conditioning import Modes


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a stage is trained.

    `crop` is the size (frames, height, width) to which clips are cut; None: the target grid.
    `text_dropout` is the share of captions replaced by the empty one, which guidance needs.
    `low_from` is the bundle of the previous stage; validation also starts from that stage's output.
    `compile` compiles the network's blocks with torch; None: where they are trained on a GPU.
    """

    steps: int
    global_batch: int
    seed: int
    modes: Modes
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    lr_factor: Callable[[int], float]
    text_dropout: float = 0.1
    crop: list[int] | None = None
    low_from: str | None = None
    val_videos: int = 16
    val_steps: int = 12
    compile: bool | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.global_batch < 1:
            raise ValueError(
                f"train: steps and global_batch must be positive, "
                f"got {self.steps} and {self.global_batch}"
            )
        if not 0 <= self.text_dropout < 1:
            raise ValueError(f"train: text_dropout must lie in [0, 1), got {self.text_dropout}")

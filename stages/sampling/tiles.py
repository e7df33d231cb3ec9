"""Tiles of frames: a local network evaluated on one tile at a time equals it on the whole frame."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.diffusion.sampler import Step
from cascade.stage import Condition
from stages.sampling.part import Predict


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """A prediction in tiles of `size` latent positions a side, each read with `radius` more.

    Tiles begin and end at multiples of `cell`, the positions that the network's coarsest level
    joins.
    """

    predict: Predict
    size: int
    radius: int
    cell: tuple[int, int]

    def __call__(
        self, z: Float[Tensor, "b c f h w"], logsnr: Tensor, condition: Condition, step: Step
    ) -> Float[Tensor, "b c f h w"]:
        """The prediction for whole frames."""
        rows = []
        for top, bottom in self._spans(z.shape[3], self.cell[0]):
            row = []
            for left, right in self._spans(z.shape[4], self.cell[1]):
                ys = self._read(top, bottom, z.shape[3], self.cell[0])
                xs = self._read(left, right, z.shape[4], self.cell[1])
                part = condition.part(slice(None), ys, xs)
                out = self.predict(z[..., ys, xs], logsnr, part, step)
                row.append(
                    out[..., top - ys.start : bottom - ys.start, left - xs.start : right - xs.start]
                )
            rows.append(torch.cat(row, dim=4))
        return torch.cat(rows, dim=3)

    def _spans(self, side: int, cell: int) -> Iterator[tuple[int, int]]:
        size = max(self.size // cell, 1) * cell
        return ((start, min(start + size, side)) for start in range(0, side, size))

    def _read(self, start: int, stop: int, side: int, cell: int) -> slice:
        more = -(-self.radius // cell) * cell
        return slice(max(start - more, 0), min(stop + more, side))

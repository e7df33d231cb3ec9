"""What super-resolution stages share: they are held against the plain way they must beat.

Validation starts from true low-resolution input and from what the stage before makes
(`low_from`, a bundle), or, without one, from the true input noised at the sampling level.
"""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.bundle import load_stage
from cascade.eval.fidelity import psnr, ssim
from cascade.grid import Grid
from stages.stage import Stage


class SuperResolution(Stage):
    """A stage with a stage before it; abstract still: its kinds say how they degrade."""

    @abstractmethod
    def plain(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """`low` at this stage's grid without any learning: what the stage must beat."""

    @abstractmethod
    def made(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f3 h w"]:
        """The frames of `x` that are this stage's own work."""

    @torch.no_grad()
    def measure(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, " b"]]:
        """PSNR and SSIM per clip, this stage's and the plain way's, on true and on made input."""
        assert self.recipe is not None
        assert self.augment is not None
        x = self.clip(batch["video"])
        true = self.reduce(x)
        if true is None:
            return {}
        seeds = batch["position"].tolist()
        made = self._from_before(true, batch["caption"], seeds)
        # True input is told to be clean; made input is noised at the level used in sampling.
        inputs = {"true": (true, self.augment.schedule.logsnr_max), "made": (made, None)}
        _, _, frames, height, width = x.shape
        grid = Grid(frames=frames, height=height, width=width, fps=self.target.fps)
        figures = {}
        for name, (low, level) in inputs.items():
            video = self.sample(
                batch["caption"],
                grid=grid,
                seeds=seeds,
                low=low,
                steps=self.recipe.val_steps,
                low_logsnr=level,
                guidance_scale=1.0,
            )
            for way, result in (("psnr", video), ("plain_psnr", self.plain(low))):
                figures[f"{name}/{way}"] = psnr(self.made(result), self.made(x))
            for way, result in (("ssim", video), ("plain_ssim", self.plain(low))):
                figures[f"{name}/{way}"] = ssim(self.made(result), self.made(x))
        return figures

    def _from_before(
        self, true: Float[Tensor, "b c f h w"], captions: list[str], seeds: list[int]
    ) -> Float[Tensor, "b c f h w"]:
        """What the stage before makes of the clips; the true input where none is named."""
        assert self.recipe is not None
        if self.recipe.low_from is None:
            return true
        if not self._before:
            self._before.append(load_stage(self.recipe.low_from).to(self.device))
        before = self._before[0]
        assert isinstance(before, Stage)
        return before.remake(true, captions, seeds=seeds, steps=self.recipe.val_steps)

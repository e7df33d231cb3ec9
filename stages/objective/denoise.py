"""The objective of a diffusion model: remove noise of a drawn log-SNR (Imagen Video, eq. 3)."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.stage import Batch, Losses, TrainableStage
from stages.examples import examples
from stages.noised import noised, weighted


@final
class Denoise:
    """The weighted denoising loss of every example of a batch."""

    def check(self, stage: TrainableStage) -> None:
        """Nothing to check: every stage can be trained to denoise."""

    def losses(self, stage: TrainableStage, batch: Batch, *, purpose: str) -> Losses:
        """The loss of each sample; in a packed batch, each clip's loss is the same as alone."""
        seed, diffusion = stage.recipe.seed, stage.diffusion
        parts = [
            noised(one, diffusion, seed=seed, purpose=purpose)
            for one in examples(stage, batch, purpose=purpose)
        ]
        outs = (
            stage.predict_parts(parts)
            if "videos" in batch
            else [stage.predict(part.z, part.logsnr, part.condition) for part in parts]
        )
        pairs = list(zip(outs, parts, strict=True))
        with torch.no_grad():
            zero = [
                weighted(out.new_zeros(()).expand_as(out), part, diffusion) for out, part in pairs
            ]
        videos = batch["videos"] if "videos" in batch else batch["video"]
        return Losses(
            loss=torch.cat([weighted(out, part, diffusion) for out, part in pairs]),
            logsnr=torch.cat([part.drawn for part in parts]),
            zero=torch.cat(zero),
            ways=[way for part in parts for way in part.example.ways],
            shapes=[(v.shape[1], v.shape[2], v.shape[3]) for v in videos],
        )

    def figures(self, _stage: TrainableStage, _batch: Batch) -> dict[str, Float[Tensor, " b"]]:
        """No metrics besides the loss."""
        return {}

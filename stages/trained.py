"""A stage as a Lightning module: the hooks by which the trainer trains and validates it."""

from typing import Any, cast, final

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from cascade.bundle import load_stage
from cascade.grid import Grid
from cascade.stage import Batch
from cascade.stage import Stage as AnyStage
from stages.examples import take
from stages.measure import measure
from stages.noised import weighted
from stages.stage import Stage


@final
class TrainedStage(Stage, pl.LightningModule):
    """A stage with the hooks of a trainer."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        #: The previous stage, if validation starts from it; a list, so that it is no submodule.
        self._before: list[AnyStage] = []
        #: The number of clips that this validation has measured so far, on this rank.
        self._measured = 0
        #: The norm of this step's gradients, if a callback has computed it; clipping uses it.
        self.gradient_norm: Tensor | None = None

    @override
    def setup(self, stage: str) -> None:
        """Fail before the first step if files are missing or the grid does not fit."""
        self.text.prepare()
        self.check_grid(self.target)
        if self.recipe is None:
            return
        if self.objective is None:
            raise ValueError(f"stage {self.name}: nothing to train; set stage.objective")
        self.objective.check(self)
        if self.recipe.crop is not None:
            frames, height, width = self.recipe.crop
            self.check_grid(Grid(frames=frames, height=height, width=width, fps=self.target.fps))

    def on_train_start(self) -> None:
        """Take the learning rate of the schedule, which differs from the last one if it changed."""
        schedule: Any = self.lr_schedulers()
        rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, (rate, factor) in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(schedule.last_epoch)

    def training_step(self, batch: Batch, _: int) -> dict[str, Any]:
        """The mean loss, and the losses of the samples for callbacks."""
        losses = self.losses(batch, purpose="train")
        loss = losses.loss.mean() * batch.get("weight", 1.0)
        detached = losses._replace(loss=losses.loss.detach())
        return {"loss": loss, "mean": loss.detach(), "losses": detached}

    @override
    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients by their norm, which is computed once a step."""
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None or not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        torch.nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, norm)

    def on_validation_epoch_start(self) -> None:
        """Reset the count of measured clips."""
        self._measured = 0

    def validation_step(self, batch: Batch, _: int) -> dict[str, Any]:
        """Log the denoising loss at fixed draws, and metrics of the first `val_videos` clips."""
        assert self.recipe is not None
        noised = self.noise(batch, purpose="val")
        out = self.predict(noised.z, noised.logsnr, noised.condition)
        losses = weighted(out, noised, self.diffusion)
        self._log_mean("val/loss", losses)
        # Ranks have batches of equal sizes, so all of them measure in the same steps. Otherwise a
        # rank that logs a metric alone would wait for the others for ever.
        each = -(-self.recipe.val_videos // self.trainer.world_size)
        few = min(each - self._measured, len(batch["position"]))
        if few > 0:
            self._measured += few
            for name, values in self.measure(take(batch, range(few))).items():
                self._log_mean(f"val/{name}", values)
        zero = weighted(out.new_zeros(()).expand_as(out), noised, self.diffusion)
        return {"losses": losses, "zero": zero, "noised": noised}

    def measure(self, batch: Batch) -> dict[str, Float[Tensor, " b"]]:
        """Metrics of validation clips, one number per clip, by name."""
        assert self.recipe is not None
        if self.recipe.low_from is not None and not self._before:
            self._before.append(cast(AnyStage, load_stage(self.recipe.low_from).to(self.device)))
        before = self._before[0] if self._before else None
        figures = measure(self, batch, before=before, steps=self.recipe.val_steps)
        return figures if self.objective is None else figures | self.objective.figures(self, batch)

    def _log_mean(self, name: str, values: Float[Tensor, " b"]) -> None:
        self.log(name, values.mean(), batch_size=len(values), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """One optimizer, and a scheduler of the learning rate per step."""
        assert self.recipe is not None
        optimizer = self.recipe.optimizer(self)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.recipe.lr_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

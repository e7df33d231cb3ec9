"""The loss of a fixed batch, measured at each save and checked when the run resumes."""

import math
import time
from collections.abc import Mapping
from typing import Any, cast

import pytorch_lightning as pl
import torch

from cascade.callbacks.eval_mode import eval_mode
from cascade.checkpoint.manifest import Manifest
from cascade.checkpoint.origin import commit, device, versions
from cascade.parallel.ranks import gather
from cascade.stage import TrainableStage
from cascade.trainer import callbacks, datamodule


class ProbeError(ValueError):
    """The run would resume with other weights, or other arithmetic, than it was saved with."""


class Probe(pl.Callback):
    """The mean loss of the first held-out clips at fixed random draws, of the trained weights.

    All ranks read the same clips, so the loss does not depend on the number of ranks, and ranks
    whose weights have diverged are found. On a CPU, a resume on the same device with the same
    precision, processes and libraries must reproduce the loss bit for bit; otherwise within a
    tolerance.

    Args:
        samples: clips in the batch.
        tolerances: relative; for `cpu` and `cuda` in float32, and for `reduced` precision.
    """

    def __init__(self, *, samples: int, tolerances: Mapping[str, float]) -> None:
        unknown = set(tolerances) ^ {"cpu", "cuda", "reduced"}
        if samples < 1 or unknown:
            raise ValueError(
                f"probe: samples must be at least 1 and tolerances must have the keys cpu, cuda "
                f"and reduced; got {samples} and {sorted(tolerances)}"
            )
        self.samples, self.tolerances = samples, dict(tolerances)
        #: Total seconds of the measurements, and their number.
        self.spent_s, self.times = 0.0, 0
        self._batch: Any = None
        self._saved: Manifest | None = None

    def expect(self, saved: Manifest) -> None:
        """Set the checkpoint whose loss must be reproduced."""
        self._saved = saved

    def measure(self, trainer: pl.Trainer, module: pl.LightningModule) -> float:
        """The loss of the current weights.

        Raises:
            ProbeError: the ranks' losses differ.
        """
        began = time.perf_counter()
        if self._batch is None:
            self._batch = self._read(trainer)
        batch = trainer.strategy.batch_to_device(self._batch)
        with torch.inference_mode(False), eval_mode(trainer, module):
            stage = cast(TrainableStage, module)
            loss = float(stage.losses(batch, purpose="probe").loss.mean())
        self.spent_s, self.times = self.spent_s + time.perf_counter() - began, self.times + 1
        losses = gather(loss)
        allowed = 0.0 if module.device.type == "cpu" else self._allowed(trainer, module)
        if any(not _close(loss, other, allowed) for other in losses):
            raise ProbeError(
                f"stage {module.name}: all ranks must have the same weights, but at step "
                f"{trainer.global_step} their losses of the same clips are {losses}"
            )
        return loss

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check a resumed run before it trains."""
        self._check(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check a resumed run that has no steps left to train."""
        if trainer.state.fn == "validate":
            self._check(trainer, pl_module)

    def _check(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        saved, self._saved = self._saved, None
        if saved is None or saved.probe is None or saved.probe["samples"] != self.samples:
            return
        now, then = self.measure(trainer, module), saved.probe["loss"]
        changed = _changes(saved, trainer, module)
        exact = module.device.type == "cpu" and not changed
        allowed = 0.0 if exact else self._allowed(trainer, module)
        if not _close(now, then, allowed):
            causes = "; ".join(changed) or "device, precision, processes and libraries are the same"
            code = commit()
            causes += "" if code == saved.commit else f"; the code was {saved.commit}, is {code}"
            raise ProbeError(
                f"stage {module.name}: at step {saved.step} the probe's loss was {then!r} when it "
                f"was saved and is {now!r} now; the relative difference exceeds {allowed:g} "
                f"({causes}). Undo the change; or, if it is intended, resume without the probe: "
                "ARGS='~callbacks.probe'"
            )

    def _allowed(self, trainer: pl.Trainer, module: pl.LightningModule) -> float:
        kind = "cpu" if module.device.type == "cpu" else "cuda"
        return self.tolerances[kind if str(trainer.precision).startswith("32") else "reduced"]

    def _read(self, trainer: pl.Trainer) -> Any:
        data = datamodule(trainer)
        loader = data.val_loader(rank=0, world=1, size=self.samples)
        batch = next(iter(loader))
        loader.close()
        return batch


def probe_of(trainer: pl.Trainer) -> Probe | None:
    """The trainer's probe, if it has one."""
    return next((c for c in callbacks(trainer) if isinstance(c, Probe)), None)


def _changes(saved: Manifest, trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
    """What has changed since the save and may affect the arithmetic, as `name old → new`."""
    pairs = {
        "device": (saved.device, device(module.device)),
        "precision": (saved.precision, str(trainer.precision)),
        "processes": (saved.world, trainer.world_size),
        "strategy": (saved.strategy, type(trainer.strategy).__name__),
        "torch": (saved.versions.get("torch"), versions()["torch"]),
    }
    return [f"{name} {old} → {new}" for name, (old, new) in pairs.items() if old != new]


def _close(one: float, other: float, relative: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return abs(one - other) <= relative * max(abs(one), abs(other))

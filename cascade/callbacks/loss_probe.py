"""The loss of a fixed batch, at each save and again at a resume: what is read is what was saved."""

import math
import time
from collections.abc import Mapping
from typing import Any, cast

import pytorch_lightning as pl
import torch

from cascade.callbacks.eval_mode import looking
from cascade.checkpoint.manifest import Manifest
from cascade.checkpoint.origin import commit, device, versions
from cascade.parallel.ranks import gather
from cascade.stage import TrainableStage
from cascade.trainer import callbacks, datamodule


class ProbeError(ValueError):
    """A run that would go on from other weights, or by other arithmetic, than it was saved with."""


class Probe(pl.Callback):
    """The mean loss of the first held-out clips at fixed draws, by the weights as they train.

    All ranks read the same clips, so it does not depend on how many there are, and ranks whose
    weights have drifted apart are found too. A resume on the device, with the precision, processes
    and libraries of the save must give the loss to the last bit on a CPU; elsewhere within a
    tolerance.

    Args:
        samples: clips of the batch.
        tolerances: relative, of `cpu` and `cuda` in float32, and of `reduced` precision.
    """

    def __init__(self, *, samples: int, tolerances: Mapping[str, float]) -> None:
        unknown = set(tolerances) ^ {"cpu", "cuda", "reduced"}
        if samples < 1 or unknown:
            raise ValueError(
                f"probe: samples must be at least 1 and tolerances say cpu, cuda and reduced; got "
                f"{samples} and {sorted(tolerances)}"
            )
        self.samples, self.tolerances = samples, dict(tolerances)
        #: Seconds of all measurements, and how many they were.
        self.spent_s, self.times = 0.0, 0
        self._batch: Any = None
        self._saved: Manifest | None = None

    def expect(self, saved: Manifest) -> None:
        """Go on from this checkpoint: its loss must come out again."""
        self._saved = saved

    def measure(self, trainer: pl.Trainer, module: pl.LightningModule) -> float:
        """The loss now.

        Raises:
            ProbeError: the ranks do not agree.
        """
        began = time.perf_counter()
        if self._batch is None:
            self._batch = self._read(trainer)
        batch = trainer.strategy.batch_to_device(self._batch)
        with torch.inference_mode(False), looking(trainer, module):
            stage = cast(TrainableStage, module)
            loss = float(stage.losses(batch, purpose="probe").loss.mean())
        self.spent_s, self.times = self.spent_s + time.perf_counter() - began, self.times + 1
        losses = gather(loss)
        allowed = 0.0 if module.device.type == "cpu" else self._allowed(trainer, module)
        if any(not _close(loss, other, allowed) for other in losses):
            raise ProbeError(
                f"stage {module.name}: the ranks' weights differ at step {trainer.global_step}: "
                f"their losses of the same clips are {losses}"
            )
        return loss

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """At a resume, before anything is trained."""
        self._check(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where nothing was left to train."""
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
            told = "; ".join(changed) or "device, precision, processes and libraries are the same"
            moved = commit()
            told += "" if moved == saved.commit else f"; the code was {saved.commit}, is {moved}"
            raise ProbeError(
                f"stage {module.name}: at step {saved.step} the probe's loss was {then!r} when it "
                f"was saved, and is {now!r} now, further apart than {allowed:g} ({told}). The run "
                "would not go on as it was. Go back to what has changed; or, if it is meant to "
                "change, go on without the probe: ARGS='~callbacks.probe'"
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
    """The trainer's probe."""
    return next((c for c in callbacks(trainer) if isinstance(c, Probe)), None)


def _changes(saved: Manifest, trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
    """What else than the weights could change the arithmetic since."""
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

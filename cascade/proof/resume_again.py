"""The claim that a resume from a checkpoint repeats the losses of the next steps.

The run is resumed in a temporary folder from the newest checkpoint that has logged losses after it;
the last checkpoint of a finished run has none.
"""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

from cascade.callbacks.averages import EMA
from cascade.callbacks.guard import Guard
from cascade.callbacks.loss_probe import Probe, ProbeError
from cascade.checkpoint.checkpoint_folder import damages, folder_of
from cascade.checkpoint.manifest import Manifest
from cascade.checkpoint.origin import device, versions
from cascade.checkpoint.state_file import StateFile
from cascade.curves import read_curves
from cascade.entry import open_data
from cascade.proof.found import Found, NotCheckedError, Table, judged
from cascade.proof.subject import Subject, data_config
from cascade.report import Cell

#: The name of the logged loss of a step.
LOSS = "train/loss"
#: Lightning's warnings about a trainer without the run's other callbacks.
EXPECTED = (
    *(".*LeafSpec.*", ".*not resumable.*", ".*weights_only.*", ".*`srun` command.*"),
    *(".*used when calling `Trainer`.*", ".*provided when using `ckpt_path`.*", ".*ckpt_path.*"),
)


class Losses(pl.Callback):
    """Records the loss of each step, combined over micro-batches as the diagnostics do."""

    def __init__(self) -> None:
        self.by_step: dict[int, float] = {}
        self._step = 0
        self._sum: Any = 0.0

    def on_train_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Begin at the checkpoint's step."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, _module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Add a micro-batch; record the loss at the end of a step."""
        self._sum = self._sum + (outputs["mean"] / trainer.accumulate_grad_batches).float()
        if trainer.global_step > self._step:
            self.by_step[self._step], self._sum = float(self._sum), 0.0
            self._step = trainer.global_step


@dataclass(frozen=True, kw_only=True)
class Start:
    """A checkpoint to resume from, and the losses that were logged after it."""

    manifest: Manifest
    logged: Mapping[int, float]

    @property
    def steps(self) -> int:
        """The number of steps to train, up to the last of those losses."""
        return max(self.logged) + 1 - self.manifest.step


def check(subject: Subject) -> Found:
    """The claim's figures: each loss as logged and as repeated."""
    subject.clips()
    start = _start(subject)
    changes = _changes(subject, start.manifest)
    allowed = 0.0 if not changes else float(subject.settings.tolerances["resume"])
    try:
        again = resume(subject, start)
    except ProbeError as error:
        return judged([str(error)], figure="the checkpoint's own loss differs", tolerance="equal")
    rows, wrong, worst = [], [], 0.0
    for step, logged in start.logged.items():
        now = again[step]
        off = abs(now - logged) / abs(logged) if logged else abs(now)
        worst = max(worst, off)
        rows.append((step + 1, logged, now, Cell(off, "good" if off <= allowed else "bad")))
        if not off <= allowed:
            wrong.append(
                f"step {step + 1}: the logged loss is {logged!r}, but a resume gives {now!r}"
            )
    return judged(
        wrong,
        figure=f"relative differences of the losses: at most {worst:.2g}, over {start.steps} steps "
        f"from step {start.manifest.step}",
        tolerance=f"{allowed:g}: {'; '.join(changes)}" if changes else "exact, bit by bit",
        tables=[Table(columns=["step", "logged", "repeated", "relative difference"], rows=rows)],
    )


def _start(subject: Subject) -> Start:
    """The newest intact checkpoint with logged losses in the steps after it."""
    most, rows = (int(subject.settings.resume[name]) for name in ("steps", "rows"))
    curve = dict(read_curves(subject.run).get(LOSS, []))
    if not subject.saved:
        raise NotCheckedError(f"no checkpoint is left in {subject.run}")
    for manifest in subject.saved:
        after = [s for s in sorted(curve) if manifest.step <= s < manifest.step + most]
        if after and not damages(folder_of(subject.run, manifest.step)):
            return Start(manifest=manifest, logged={s: curve[s] for s in after[:rows]})
    steps = ", ".join(str(one.step) for one in subject.saved)
    raise NotCheckedError(
        f"no loss is logged within {most} steps after the checkpoints that are left ({steps}); "
        "keep more of them (callbacks.checkpoint.keep.last), log more often "
        "(trainer.log_every_n_steps), or raise prove.resume.steps"
    )


def resume(subject: Subject, start: Start) -> dict[int, float]:
    """The losses of the steps after a checkpoint, by step, from training in a temporary folder."""
    config, losses = subject.config, Losses()
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    stage = instantiate(config["stage"], _convert_="all")
    stage.text.prepare()
    data = open_data({"data": data_config(config)}, stage)
    data.prepare_data()
    state = folder_of(subject.run, start.manifest.step) / "state"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        for expected in EXPECTED:
            warnings.filterwarnings("ignore", message=expected)
        trainer = _trainer(subject, start, Path(folder), losses)
        try:
            trainer.fit(stage, data, ckpt_path=state, weights_only=True)
        finally:
            data.teardown()
    return losses.by_step


def _trainer(subject: Subject, start: Start, folder: Path, losses: Losses) -> pl.Trainer:
    """The run's trainer on one device: nothing is validated, logged or saved."""
    config, manifest = subject.config, start.manifest
    own = {k: v for k, v in config["trainer"].items() if k not in ("strategy", "num_nodes")}
    micro = own.get("accumulate_grad_batches", 1) * manifest.world
    callbacks = [instantiate(one, _convert_="all") for one in config["callbacks"].values()]
    kept: list[pl.Callback] = [one for one in callbacks if isinstance(one, Probe | EMA | Guard)]
    for callback in kept:
        if isinstance(callback, Probe):
            callback.expect(manifest)
    trainer: pl.Trainer = instantiate(
        own
        | {
            "accelerator": "gpu" if subject.device.type == "cuda" else "cpu",
            "devices": 1,
            "max_steps": manifest.step + start.steps,
            "accumulate_grad_batches": micro,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
        },
        callbacks=[*kept, losses],
        logger=False,
        default_root_dir=str(folder),
        enable_checkpointing=False,
        _convert_="all",
    )
    trainer.strategy.checkpoint_io = StateFile()
    return trainer


def _changes(subject: Subject, manifest: Manifest) -> Sequence[str]:
    """What has changed since the checkpoint was written and can change the arithmetic."""
    pairs = {
        "device": (manifest.device, device(subject.device)),
        "processes": (manifest.world, 1),
        "torch": (manifest.versions.get("torch"), versions()["torch"]),
    }
    changed = [f"{name} {old} → {new}" for name, (old, new) in pairs.items() if old != new]
    if subject.device.type != "cpu" and not torch.are_deterministic_algorithms_enabled():
        changed.append("sums on a GPU are not deterministic")
    return changed

"""The claim that a resume from a checkpoint repeats the losses and weights of the next steps.

The run is resumed in a temporary folder from the newest checkpoint that has a logged loss or
another checkpoint soon after it.
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
from torch import Tensor

from cascade.callbacks.averages import EMA
from cascade.callbacks.guard import Guard
from cascade.callbacks.loss_probe import Probe, ProbeError
from cascade.checkpoint.checkpoint_folder import STATE, damages, folder_of
from cascade.checkpoint.manifest import Manifest
from cascade.checkpoint.origin import commit, device, versions
from cascade.checkpoint.state_file import StateFile
from cascade.curves import read_curves
from cascade.opening import open_data
from cascade.proof.found import Found, NotCheckedError, Table, judged
from cascade.proof.subject import Subject, data_config
from cascade.report import Cell
from cascade.stage import trained_by_lightning

#: The name of the logged loss of a step.
LOSS = "train/loss"
COLUMNS = ("step", "logged", "repeated", "relative difference")
#: Lightning's warnings about a trainer without the run's other callbacks.
EXPECTED = (
    *(".*LeafSpec.*", ".*not resumable.*", ".*weights_only.*", ".*`srun` command.*"),
    *(".*used when calling `Trainer`.*", ".*provided when using `ckpt_path`.*", ".*ckpt_path.*"),
)


class LoggedLosses(pl.Callback):
    """Records the loss of each step, combined over micro-batches as the diagnostics do.

    `weights` are a copy of the stage's weights at step `at`.
    """

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.by_step: dict[int, float] = {}
        self.weights: dict[str, Tensor] = {}
        self._step = 0
        self._sum: Any = 0.0

    def on_train_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Begin at the checkpoint's step."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Add a micro-batch; record the loss at the end of a step."""
        self._sum = self._sum + (outputs["mean"] / trainer.accumulate_grad_batches).float()
        if trainer.global_step > self._step:
            self.by_step[self._step], self._sum = float(self._sum), 0.0
            self._step = trainer.global_step
            if self._step == self.at:
                state = pl_module.state_dict()
                self.weights = {n: value.detach().cpu().clone() for n, value in state.items()}


@dataclass(frozen=True, kw_only=True)
class ResumeStart:
    """A checkpoint to resume from, and the run's records of the steps after it."""

    manifest: Manifest
    logged: Mapping[int, float]
    """Losses by step."""
    later: Manifest | None
    """The next checkpoint, if it is near enough to train up to it."""

    @property
    def steps(self) -> int:
        """The number of steps to train, up to the last logged loss and the next checkpoint."""
        ends = [step + 1 for step in self.logged]
        ends += [] if self.later is None else [self.later.step]
        return max(ends) - self.manifest.step


def check(subject: Subject) -> Found:
    """The claim's figures: each loss as logged and as repeated, and the weights' difference."""
    subject.clips()
    start = _start(subject)
    changes = _changes(subject, start.manifest)
    allowed = 0.0 if not changes else float(subject.settings.tolerances["resume"])
    try:
        again, weights = resume(subject, start)
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
    figure = f"losses differ by at most {worst:.2g} (relative)" if rows else "no loss is logged"
    if start.later is not None:
        off = _apart(subject, start.later, weights)
        figure += f", weights by {off:.2g} from the checkpoint of step {start.later.step}"
        if off and not changes:
            wrong.append(
                f"step {start.later.step}: the weights differ from the checkpoint's by up to "
                f"{off:.3g}"
            )
    return judged(
        wrong,
        figure=f"{figure}; {start.steps} steps from step {start.manifest.step}",
        tolerance=f"losses {allowed:g}: {'; '.join(changes)}" if changes else "exact, bit by bit",
        tables=[Table(columns=COLUMNS, rows=rows)] if rows else [],
    )


def _start(subject: Subject) -> ResumeStart:
    """The newest intact checkpoint with a logged loss, or another checkpoint, soon after it."""
    most, rows = (int(subject.settings.resume[name]) for name in ("steps", "rows"))
    curve = dict(read_curves(subject.run).get(LOSS, []))
    if not subject.saved:
        raise NotCheckedError(f"no checkpoint is left in {subject.run}")
    later: Manifest | None = None
    for manifest in subject.saved:
        end = manifest.step + most
        after = [step for step in sorted(curve) if manifest.step <= step < end]
        near = later if later is not None and later.step <= end else None
        if (after or near) and not damages(folder_of(subject.run, manifest.step)):
            logged = {step: curve[step] for step in after[:rows]}
            return ResumeStart(manifest=manifest, logged=logged, later=near)
        later = manifest
    steps = ", ".join(str(one.step) for one in subject.saved)
    raise NotCheckedError(
        f"the checkpoints that are left ({steps}) have neither a logged loss nor another "
        f"checkpoint within {most} steps after them; keep more of them "
        "(callbacks.checkpoint.keep.last), log more often (trainer.log_every_n_steps), or raise "
        "prove.resume.steps"
    )


def _apart(subject: Subject, later: Manifest, weights: Mapping[str, Tensor]) -> float:
    """The largest difference between `weights` and those of a checkpoint."""
    state = StateFile().load_checkpoint(folder_of(subject.run, later.step) / STATE)["state_dict"]
    if state.keys() != weights.keys():
        return float("inf")
    return max(float((state[name].cpu() - weights[name]).abs().max()) for name in state)


def resume(subject: Subject, start: ResumeStart) -> tuple[dict[int, float], dict[str, Tensor]]:
    """The losses of the steps after a checkpoint, by step, and the weights at the next checkpoint.

    Trains in a temporary folder; the weights are empty if there is no next checkpoint.
    """
    config = subject.config
    losses = LoggedLosses(None if start.later is None else start.later.step)
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    stage = instantiate(trained_by_lightning(config["stage"]), _convert_="all")
    stage.text.prepare()
    data = open_data({"data": data_config(config)}, stage)
    data.prepare_data()
    state = folder_of(subject.run, start.manifest.step) / STATE
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        for expected in EXPECTED:
            warnings.filterwarnings("ignore", message=expected)
        trainer = _trainer(subject, start, Path(folder), losses)
        try:
            trainer.fit(stage, data, ckpt_path=state, weights_only=True)
        finally:
            data.teardown()
    return losses.by_step, losses.weights


def _trainer(
    subject: Subject, start: ResumeStart, folder: Path, losses: LoggedLosses
) -> pl.Trainer:
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
        "code": (manifest.commit, commit()),
    }
    changed = [f"{name} {old} → {new}" for name, (old, new) in pairs.items() if old != new]
    if subject.device.type != "cpu" and not torch.are_deterministic_algorithms_enabled():
        changed.append("sums on a GPU are not deterministic")
    return changed

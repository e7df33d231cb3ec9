"""Train one stage: `python -m cascade.train stage=demo/tsr1`.

The run's folder is `runs/<cascade>/<stage>/<name>`. The same command resumes a stopped run; a
changed config is refused with the differences. A finished run leaves a bundle.
"""

import contextlib
import logging
import os
import platform
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cascade import launch, slurm
from cascade.bundle import final_loss, read_card, save_bundle, stage_parts, start_from
from cascade.callbacks.averages import EMA, averages
from cascade.callbacks.checkpoints import Checkpoints
from cascade.callbacks.lengthened import Lengthened
from cascade.callbacks.loss_probe import Probe
from cascade.callbacks.progress import RunProgressBar
from cascade.checkpoint import wandb_run
from cascade.checkpoint.checkpoint_folder import choose
from cascade.checkpoint.finished import is_finished
from cascade.checkpoint.manifest import Manifest
from cascade.checkpoint.origin import commit
from cascade.checkpoint.run_config import check_fits, keep_config
from cascade.checkpoint.state_file import StateFile
from cascade.composed_chain import check_neighbours
from cascade.entry import check_choices, check_name, command
from cascade.files.lock import locked
from cascade.last_validation import in_words
from cascade.offered import check_machine, check_trainer
from cascade.opening import open_data
from cascade.parallel.ranks import is_first
from cascade.shrink import ignored_overrides, resolved
from cascade.stage import trained_by_lightning

log = logging.getLogger(__name__)
#: Seconds to wait for the run's lock, which the comparison of runs takes for a moment.
LOCKED_S = 2.0
#: Warnings of Lightning that do not apply here: the loader's position is in the checkpoint, …
EXPECTED = (
    ".*LeafSpec.*",
    ".*your dataloader is not resumable.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*weights_only.*",
    ".*smaller than the logging interval.*",
    ".*`srun` command is available.*",
)


def card(
    trainer: pl.Trainer, data: Any, sigma_rel: float, figures: dict[str, float], world: str | None
) -> dict[str, Any]:
    """A bundle's card: how it was trained, and its metrics."""
    return {
        "steps": trainer.global_step,
        "sigma_rel": sigma_rel,
        "commit": commit(),
        "data": getattr(data, "fingerprint", None),
        "world": world,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "figures": figures,
    }


def world_of(data: Mapping[str, Any]) -> str | None:
    """The name of the function that made the training clips; None for clips from elsewhere."""
    made = data.get("make")
    return None if made is None else str(made["_target_"]).rpartition(".")[2]


def train(cfg: DictConfig, run: Path) -> float | None:
    """Train or resume the run in folder `run`; return its `val/loss` if it has finished."""
    check_name(cfg.name)
    config = resolved(cfg)
    check_trainer(config["trainer"])
    check_machine(config["trainer"], cuda=torch.cuda.is_available())
    with run_lock(run):
        keep_config(run, config)
        if not is_finished(run, config) and not _train(cfg, config, run):
            return None
    figures, after_stage = read_card(run / "bundle")["figures"], cfg.stage.train.low_from
    log.info("%s: %s", cfg.stage.name, in_words(figures, after_stage=after_stage is not None))
    log.info("trained: %s/bundle; to train another run, choose another NAME=…", run)
    return final_loss(run)


def run_lock(run: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of the run's folder, held by the first rank.

    Raises:
        ValueError: another process trains in the folder.
    """
    if not is_first():
        return contextlib.nullcontext()
    busy = f"{run}: another process trains here; wait for it, or choose another NAME=…"
    return locked(run / ".lock", busy=busy, wait_s=LOCKED_S)


def _train(cfg: DictConfig, config: dict[str, Any], run: Path) -> bool:
    """Train until the run finishes or stops; return whether it has finished and left a bundle."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    for expected in EXPECTED:
        warnings.filterwarnings("ignore", message=expected)
    stage = hydra.utils.instantiate(trained_by_lightning(config["stage"]), _convert_="all")
    stage_parts(config["stage"])  # refuse now what no bundle could record at the end
    stage.text.prepare()  # first, since making shards may take long and a file may be missing
    if shortfall := getattr(stage.recipe.lr_factor, "shortfall", None):
        log.warning("stage %s: %s", stage.name, shortfall)
    data = open_data(config, stage)
    trainer, checkpoints = open_trainer(config, run)
    checkpoint = choose(trainer, run)
    if checkpoint is not None:
        check_fits(checkpoint, stage, config, run)
        log.info("resuming from %s", checkpoint.folder)
        state_schedule(checkpoint.manifest, stage.recipe)
    elif cfg.init_from is not None:
        stage.configure_model()
        start_from(stage, cfg.init_from)
    checkpoints.begin(config=config, wandb_id=wandb_run.known(run), resumed=checkpoint)
    state = None if checkpoint is None else checkpoint.state
    trainer.fit(stage, data, ckpt_path=state, weights_only=True)
    if trainer.global_step < (steps := config["stage"]["train"]["steps"]):
        if trainer.global_step >= trainer.max_steps >= 0:
            log.info(
                "trainer.max_steps=%d is reached; the run finishes at stage.train.steps=%d",
                trainer.max_steps,
                steps,
            )
            return False
        log.info("stopped at step %d; run the same command to resume", trainer.global_step)
        slurm.requeue_if_stopped()
        return False
    if checkpoints.validated_step < trainer.global_step:
        trainer.validate(stage, data, verbose=False)
    ema = averages(trainer)
    weights = ema.weights(stage)  # on every rank, since the weights may be sharded
    if trainer.is_global_zero:
        save_bundle(
            run / "bundle",
            stage=config["stage"] | {"text": config["stage"]["text"] | stage.text.identity()},
            weights=weights,
            card=card(trainer, data, ema.use, checkpoints.figures, world_of(config["data"])),
        )
    trainer.strategy.barrier()
    return True


def state_schedule(manifest: Manifest, recipe: Any) -> None:
    """Say how the learning rate goes on if the run has been lengthened since the checkpoint."""
    before = manifest.config["stage"]["train"]
    if before["steps"] >= recipe.steps:
        return
    factor = hydra.utils.instantiate(before["lr_factor"])
    log.info(
        "optimizer, averages and position go on at step %d; the learning rate's factor is %.3g "
        "there by the schedule of %d steps, and was %.3g by that of %d",
        *(manifest.step, recipe.lr_factor(manifest.step), recipe.steps),
        *(factor(manifest.step), before["steps"]),
    )


def open_trainer(config: dict[str, Any], run: Path) -> tuple[pl.Trainer, Checkpoints]:
    """The trainer of a run's folder, and its callback that saves.

    Raises:
        ValueError: a required callback is missing, or a number of the trainer is not positive.
    """
    for name in ("accumulate_grad_batches", "log_every_n_steps", "val_check_interval"):
        value = config["trainer"].get(name, 1)
        if not (isinstance(value, int | float) and value > 0):
            raise ValueError(f"trainer.{name} must be above 0, got {value}")
    callbacks = [hydra.utils.instantiate(c, _convert_="all") for c in config["callbacks"].values()]
    callbacks.append(Lengthened(run, config))
    first = (Checkpoints, Probe)  # they need the weights before another swaps in the averages
    if config["trainer"].get("enable_progress_bar", True):
        callbacks.append(RunProgressBar())
    callbacks.sort(key=lambda callback: [not isinstance(callback, kind) for kind in first])
    if not isinstance(callbacks[0], Checkpoints):
        raise ValueError(
            "callbacks.checkpoint is required, but was removed; to save less often, raise "
            "callbacks.checkpoint.every_n_steps"
        )
    if not any(isinstance(callback, EMA) for callback in callbacks):
        raise ValueError(
            "callbacks.ema is required, but was removed: the bundle stores averaged weights"
        )
    if not wandb_run.has_key():
        os.environ.setdefault("WANDB_MODE", "offline")
    trainer: pl.Trainer = hydra.utils.instantiate(
        config["trainer"],
        callbacks=callbacks,
        plugins=slurm.environment(),
        logger=[
            hydra.utils.instantiate(c) for c in wandb_run.one_run(config.get("logger") or {}, run)
        ],
        default_root_dir=str(run),
        enable_checkpointing=False,
        _convert_="all",
    )
    if not trainer.strategy.restore_checkpoint_after_setup:  # else FSDP2 writes a sharded state
        trainer.strategy.checkpoint_io = StateFile()
    return trainer, callbacks[0]


def check_cluster() -> None:
    """Refuse to train outside a Slurm job with a cluster's config.

    Raises:
        ValueError: with the command that submits the run.
    """
    where = HydraConfig.get().runtime.choices.get("cluster")
    if where not in (None, "local") and "SLURM_JOB_ID" not in os.environ:
        raise ValueError(
            f"cluster={where} must run inside a Slurm job, but this process is not in one; submit "
            f"it: make train CLUSTER={where}, or --multirun hydra/launcher=slurm cluster={where}"
        )


@command("train")
def main(cfg: DictConfig) -> float | None:
    """The command line; it returns the final `val/loss`, which a sweep reads."""
    check_cluster()
    check_neighbours(HydraConfig.get().runtime.choices["stage"])
    for message in ignored_overrides(cfg, HydraConfig.get().overrides.task):
        log.warning(message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    return train(cfg, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    launch.register()
    main()

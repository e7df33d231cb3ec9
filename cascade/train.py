"""Train one stage: `python -m cascade.train stage=demo/tsr1`.

The run lives in `runs/<cascade>/<stage>/<name>`. The same command again goes on where it stopped;
a changed config is refused with the difference. A finished run leaves a bundle.
"""

import contextlib
import fcntl
import json
import logging
import netrc
import os
import platform
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from cascade import slurm
from cascade.bundle import load_weights, read_stage, save_bundle
from cascade.callbacks.ema import averages
from cascade.entry import CONF, check_choices, explained, open_data
from cascade.shrink import shrink
from cascade.whole import write_whole

log = logging.getLogger(__name__)
#: Warnings of Lightning that are not so here: the loader's position is in the checkpoint.
EXPECTED = (
    ".*LeafSpec.*",
    ".*your dataloader is not resumable.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*weights_only.*",
    ".*smaller than the logging interval.*",
)
#: What may change between a run's legs, since it does not touch the numbers: whole groups, …
FREE = ("trainer", "callbacks", "logger", "paths", "hydra", "name", "min_psnr", "min_gain")
#: … keys of `data`, …
FREE_DATA = (
    *("num_workers", "prefetch", "cache_bytes", "decord"),
    *("index_dir", "index_depth", "cache_dir", "max_dropped"),
)
#: … and all of `trainer` but these.
FIXED_TRAINER = ("precision", "gradient_clip_val", "gradient_clip_algorithm")


class ConfigChangedError(ValueError):
    """A run was started with another config."""


def differences(old: Any, new: Any, *, where: str = "") -> list[str]:
    """Every key whose value differs, as `key: old → new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        parts = [
            differences(old.get(key, "nothing"), new.get(key, "nothing"), where=f"{where}.{key}")
            for key in keys
        ]
        return [line for part in parts for line in part]
    return [] if old == new else [f"{where.lstrip('.')}: {old!r} → {new!r}"]


def keep_config(run: Path, config: dict[str, Any]) -> None:
    """Write the run's config, or hold this one against it once something was trained with that.

    Raises:
        ConfigChangedError: naming every difference and the ways out.
    """
    path = run / "config.json"
    numbers = {name: value for name, value in config.items() if name not in FREE}
    numbers["data"] = {k: v for k, v in config["data"].items() if k not in FREE_DATA}
    numbers["trainer"] = {k: v for k, v in config["trainer"].items() if k in FIXED_TRAINER}
    started = newest_checkpoint(run) is not None or (run / "bundle").is_dir()
    if path.is_file() and started:
        changed = differences(json.loads(path.read_text()), json.loads(json.dumps(numbers)))
        if changed:
            lines = "\n  ".join(changed)
            out = "Go on with the old one, or choose another NAME=…"
            if (run / "bundle").is_dir():
                out += f", or start from its weights: NAME=… ARGS='init_from={run}/bundle'"
            raise ConfigChangedError(f"{run} was trained with another config:\n  {lines}\n{out}")
    elif int(os.environ.get("LOCAL_RANK", "0")) == 0:
        write_whole(path, json.dumps(numbers, indent=2, ensure_ascii=False).encode())


def newest_checkpoint(run: Path) -> Path | None:
    """The run's whole checkpoint with the highest step; none at the start."""
    found = []
    for path in (run / "checkpoints").glob("*.ckpt"):
        if zipfile.is_zipfile(path):
            found.append(path)
        else:
            log.warning("%s is not whole and is left out; the one before it counts", path)
    return max(
        found, key=lambda p: (int(p.stem.partition("-")[0]), p.stat().st_mtime), default=None
    )


def commit() -> str | None:
    """The commit of the code that runs, `+` behind it where it was changed; none outside git."""
    here = Path(__file__).resolve().parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def card(trainer: pl.Trainer, data: Any, sigma_rel: float) -> dict[str, Any]:
    """What a bundle says of its own making."""
    return {
        "steps": trainer.global_step,
        "sigma_rel": sigma_rel,
        "commit": commit(),
        "data": getattr(data, "fingerprint", None),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "figures": {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith("val/")
        },
    }


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values; shrunk, where it asks for that."""
    if cfg.shrink:
        plain: Any = OmegaConf.to_container(cfg.stage, resolve=True)
        cfg = cfg.copy()
        with open_dict(cfg):
            cfg.stage = shrink(plain, **cfg.shrink)
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return {str(name): value for name, value in config.items()}


def wandb_key() -> bool:
    """Whether W&B has a key on this machine, in the environment or in netrc."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    return known or bool(os.environ.get("WANDB_API_KEY"))


def train(cfg: DictConfig, run: Path) -> None:
    """Train, resume or finish the run in folder `run`."""
    config = resolved(cfg)
    with locked(run):
        keep_config(run, config)
        _train(cfg, config, run)


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """The run's folder for this process and its ranks alone.

    Raises:
        ValueError: another process trains in it.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) or int(os.environ.get("SLURM_PROCID", "0")):
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"{run}: another process trains here; wait for it, or choose another NAME=…"
            ) from error
        yield


def _train(cfg: DictConfig, config: dict[str, Any], run: Path) -> None:
    if (run / "bundle").is_dir():
        log.info("already trained: %s/bundle; another NAME=… trains another", run)
        return
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    for expected in EXPECTED:
        warnings.filterwarnings("ignore", message=expected)
    stage = hydra.utils.instantiate(config["stage"], _convert_="all")
    stage.text.prepare()  # a missing file is told before any shard is made
    data = open_data(config, stage)
    checkpoint = newest_checkpoint(run)
    if checkpoint is None and cfg.init_from is not None:
        read_stage(cfg.init_from)
        stage.configure_model()
        load_weights(stage, cfg.init_from)
    callbacks = [hydra.utils.instantiate(c, _convert_="all") for c in config["callbacks"].values()]
    for callback in callbacks:
        if isinstance(callback, pl.callbacks.ModelCheckpoint):
            callback.dirpath = str(run / "checkpoints")
    if not wandb_key():
        os.environ.setdefault("WANDB_MODE", "offline")
    trainer: pl.Trainer = hydra.utils.instantiate(
        config["trainer"],
        callbacks=callbacks,
        plugins=slurm.environment(),
        logger=[hydra.utils.instantiate(c) for c in config["logger"].values()],
        default_root_dir=str(run),
        _convert_="all",
    )
    if checkpoint is not None:
        log.info("going on from %s", checkpoint)
    trainer.fit(stage, data, ckpt_path=checkpoint, weights_only=True)
    if trainer.global_step < config["stage"]["train"]["steps"]:
        trainer.save_checkpoint(run / "checkpoints" / f"{trainer.global_step:08d}.ckpt")
        log.info("stopped at step %d; the same command goes on", trainer.global_step)
        slurm.requeue()
        return
    trainer.validate(stage, data, verbose=False)
    ema = averages(trainer)
    if trainer.is_global_zero:
        save_bundle(
            run / "bundle",
            stage=config["stage"] | {"text": config["stage"]["text"] | stage.text.identity()},
            weights=ema.weights(stage),
            card=card(trainer, data, ema.sigma_rels[0]),
        )
        log.info("bundle: %s/bundle", run)


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
@explained()
def main(cfg: DictConfig) -> None:
    """The command line."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    train(cfg, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()

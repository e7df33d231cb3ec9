"""Opens the cascade or the data that a command's config names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from cascade.chain import Settings, bundles_of, open_stage, runs_of
from cascade.pipeline import Cascade
from cascade.stage import Stage


def open_data(config: Mapping[str, Any], stage: Stage) -> Any:
    """The data module of a plain config, for a stage."""
    return instantiate(
        config["data"], multiple=stage.multiple, fetch=stage.text.ahead(), _convert_="all"
    )


def bundles_named(cfg: DictConfig) -> tuple[list[str | Path], Settings]:
    """The stage bundles that a config names, and their sampling settings.

    Raises:
        ValueError: `run` names a stage that the cascade does not have.
        BundleError: a bundle is missing; the message has the command that trains it.
    """
    if cfg.bundle is not None:
        return bundles_of(cfg.bundle)
    paths, sampling = runs_of(cfg.paths.runs, cfg.cascade, cfg.run)
    return list(paths), sampling


def open_cascade(cfg: DictConfig, **options: Any) -> Cascade:
    """The cascade that a config names: a bundle, or the runs of its stages.

    With device=auto it is on a GPU if there is one; the parts of a batch share the GPUs.
    """
    paths, sampling = bundles_named(cfg)
    device = cfg.device
    if device == "auto":
        gpus = torch.cuda.device_count()
        device = f"cuda:{cfg.get('part', 0) % gpus}" if gpus else "cpu"
    try:
        torch.zeros(1, device=device).item()  # a device without memory, such as meta, has no item
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device={device}: cannot be used ({reason}); set device=cpu") from error
    options.update(device=device, dtype=getattr(torch, cfg.dtype))
    return Cascade([open_stage(path) for path in paths], sampling=sampling, **options)

"""What the command lines share: where the configs are, and the cascade that a config names."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from cascade.pipeline import Cascade

CONF = str(Path(__file__).resolve().parents[1] / "conf")


def open_cascade(cfg: DictConfig, **options: Any) -> Cascade:
    """The cascade that a config names: a bundle, or the runs of its stages."""
    device = cfg.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    options.update(device=device, dtype=getattr(torch, cfg.dtype))
    if cfg.bundle is not None:
        return Cascade.from_pretrained(cfg.bundle, **options)
    return Cascade.from_runs(cfg.paths.runs, cfg.cascade, run=cfg.run, **options)

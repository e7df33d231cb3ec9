"""What the command lines share: where the configs are, and the cascade that a config names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from cascade.pipeline import Cascade

CONF = str(Path(__file__).resolve().parents[1] / "conf")


def check_stage(arguments: Sequence[str]) -> None:
    """Refuse `stage=…` where there is no such config, naming those that there are.

    Raises:
        SystemExit: with the message for the user.
    """
    known = sorted(
        str(path.relative_to(Path(CONF) / "stage").with_suffix(""))
        for path in Path(CONF).glob("stage/*/*.yaml")
    )
    for argument in arguments:
        name, _, choice = argument.partition("=")
        if name == "stage" and choice not in known:
            raise SystemExit(f"stage={choice}: no such stage; there are {', '.join(known)}")


def open_cascade(cfg: DictConfig, **options: Any) -> Cascade:
    """The cascade that a config names: a bundle, or the runs of its stages."""
    device = cfg.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    options.update(device=device, dtype=getattr(torch, cfg.dtype))
    if cfg.bundle is not None:
        return Cascade.from_pretrained(cfg.bundle, **options)
    return Cascade.from_runs(cfg.paths.runs, cfg.cascade, run=cfg.run, **options)

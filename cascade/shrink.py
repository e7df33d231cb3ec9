"""Shrinks a stage's config, keeping its structure: `debug=smoke` trains any stage on a laptop."""

import copy
from collections.abc import Sequence
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

#: The shrunk value of each network size; a list keeps its length.
SIZES = {"width": 64, "widths": 64, "depth": 2, "depths": 1, "head_width": 32}
SIDE = 32
#: Seconds that the shrunk grid lasts at most: the clips of data=smoke do.
SECONDS = 2.0
BYTES = "cascade.text.byte_text.ByteText"


def shrink(stage: dict[str, Any], *, steps: int = 2, batch: int = 2) -> dict[str, Any]:
    """A stage's plain config with a small network and grid, few steps, and the byte encoder."""
    small = copy.deepcopy(stage)
    net = small["net"]
    for name, size in SIZES.items():
        if isinstance(net.get(name), list):
            net[name] = [size] * len(net[name])
        elif name in net:
            net[name] = size
    small["text"] = {
        "_target_": BYTES,
        "width": 64,
        "depth": 1,
        "max_bytes": 512,
    }
    time = instantiate(small["kind"]).scale.time
    target = {"frames": 4 * time, "height": SIDE, "width": SIDE}
    small["target"].update(target, fps=max(small["target"]["fps"], 4 * time / SECONDS))
    small["sampling"]["steps"] = 2
    small["train"].update(
        steps=steps, global_batch=batch, crop=None, val_videos=2, val_steps=2, low_from=None
    )
    small["train"]["lr_factor"].update(warmup_steps=0, total_steps=steps, decay_steps=None)
    return small


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values, shrunk if its key `shrink` is set."""
    if cfg.shrink:
        small = _small(cfg)
        cfg = cfg.copy()
        with open_dict(cfg):
            cfg.stage = small
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return {str(name): value for name, value in config.items()}


def ignored_overrides(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """A message for each override of the stage that `shrink` replaces."""
    if not cfg.shrink:
        return []
    small = OmegaConf.create({"stage": _small(cfg)})
    keys = [override.partition("=")[0].lstrip("+").rpartition("@")[2] for override in overrides]
    pairs = zip(overrides, keys, strict=True)
    return [
        f"{override} is ignored: shrink sets {OmegaConf.select(small, key)}"
        for override, key in pairs
        if key.startswith("stage.") and OmegaConf.select(cfg, key) != OmegaConf.select(small, key)
    ]


def _small(cfg: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg.stage, resolve=True)
    return shrink(plain, **cfg.shrink)

"""Configs that tests of a process share: Hydra composes a run's config in a third of a second."""

import copy
import functools
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from cascade.entry import CONF


@functools.cache
def _composed(root: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        return compose(root, overrides=list(overrides))


def composed(root: str, *overrides: str) -> DictConfig:
    """A command's config with overrides; a copy, for the test to change."""
    return copy.deepcopy(_composed(root, *overrides))


def stage_config(choice: str) -> dict[str, Any]:
    """The resolved config of `stage=<choice>`."""
    cfg = _composed("train", f"stage={choice}")
    return OmegaConf.to_container(cfg.stage, resolve=True)

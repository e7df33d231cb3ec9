"""Bundles of tiny stages, as a training run would leave them."""

from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from cascade.bundle import save_bundle
from cascade.shrink import shrink
from tests.composed import composed, stage_config


@pytest.fixture(scope="session")
def bundle_of() -> Any:
    """Writes a bundle of a shrunk stage with random weights: bundle_of("demo/base", folder)."""

    def write(choice: str, folder: Path) -> Path:
        small = shrink(stage_config(choice))
        frames, side = {"base": (4, 16), "tsr1": (8, 16), "ssr1": (8, 32)}[small["name"]]
        small["target"].update(frames=frames, height=side, width=side)
        torch.manual_seed(0)
        stage = hydra.utils.instantiate(small, _convert_="all")
        stage.configure_model()
        for parameter in stage.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
        return save_bundle(folder, stage=small, weights=stage.state_dict(), card={"steps": 1})

    return write


@pytest.fixture
def config_of():
    def make(choice, *overrides):
        cfg = composed("plan", f"stage={choice}", "logger=[]", "data=shapes", *overrides)
        return OmegaConf.to_container(cfg, resolve=True)

    return make

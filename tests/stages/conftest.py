"""Tiny stages of each kind, built as the configs build them."""

from collections.abc import Callable
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from cascade.codec import Codec
from cascade.shrink import shrink
from cascade.stage import trained_by_lightning
from tests.composed import stage_config

Build = Callable[..., Any]


@pytest.fixture
def build() -> Build:
    """A shrunk stage of a config, with changes: build("demo/ssr1", train={"text_dropout": 0.5}).

    A codec may be given as an object.
    """

    def make(choice: str, codec: Codec | None = None, **changes: Any) -> Any:
        small = shrink(stage_config(choice))
        merged = OmegaConf.to_container(OmegaConf.merge(small, changes))
        torch.manual_seed(0)
        built = {} if codec is None else {"codec": codec}
        stage = hydra.utils.instantiate(trained_by_lightning(merged), **built, _convert_="all")
        stage.configure_model()
        for parameter in stage.parameters():  # zero-initialised gates would hide every condition
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
        return stage

    return make


@pytest.fixture
def batch() -> Callable[..., dict[str, Any]]:
    """Random clips in the loader's form."""

    def make(positions: list[int], shape: tuple[int, int, int] = (8, 16, 16)) -> dict[str, Any]:
        videos = [
            torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(p))
            for p in positions
        ]
        return {
            "video": torch.stack(videos).to(torch.uint8),
            "fps": torch.full((len(positions),), 8.0),
            "zoom": torch.ones(len(positions)),
            "caption": [f"clip number {p}" for p in positions],
            "key": [str(p) for p in positions],
            "position": torch.tensor(positions),
        }

    return make

"""A kind of one's own, with options and pixels read on the CPU, is planned and trained."""

import numpy as np
import pytest
import torch

from cascade.doctor.dry import Clips, DryStage
from cascade.grid import Scale
from cascade.shrink import shrink
from tests.cascade.callbacks.tiny import clips, tiny_stage
from tests.composed import stage_config


class Coarse:
    """Restores pixels that were rounded to `levels` levels, as a codec rounds them."""

    scalars = ("augment", "fps")
    takes_low = True
    reach = 0

    def __init__(self, *, levels: int) -> None:
        self.scale, self.table = Scale(), torch.linspace(-1, 1, levels)

    def reduce(self, x):
        near = np.abs(x.cpu().numpy()[..., None] - self.table.numpy()).argmin(-1)
        return self.table[torch.from_numpy(near)].to(x)

    def expand(self, low):
        return low

    def baseline(self, low):
        return low

    def new_frames(self, x):
        return x


KIND = {"_target_": "tests.cascade.test_own_kind.Coarse", "levels": 4}


def config():
    stage = stage_config("demo/ssr1")
    stage["kind"] = KIND
    return shrink(stage)


def test_a_kind_that_reads_pixels_is_planned():
    dry = DryStage(config(), text_tokens=8, captions=["a"])
    flops = dry.flops(Clips(2, 4, 32, 32, 8.0))
    assert flops > 10**6
    assert {p.device.type for p in dry.module.parameters()} == {"meta"}


def test_a_kind_with_options_is_trained():
    stage = tiny_stage("demo/ssr1")
    stage.kind = Coarse(levels=4)
    losses = stage.losses(clips([0, 1]), purpose="train").loss
    assert losses.isfinite().all()
    levels = stage.kind.reduce(torch.rand(1, 3, 2, 4, 4) * 2 - 1).unique()
    assert len(levels) <= 4


class Broken(Coarse):
    """A kind with a mistake of its own."""

    def reduce(self, x):
        return x @ x.new_zeros(1)


def test_a_mistake_of_a_kind_is_not_hidden_by_planning_it_without_values():
    broken = config() | {"kind": KIND | {"_target_": "tests.cascade.test_own_kind.Broken"}}
    dry = DryStage(broken, text_tokens=8, captions=["a"])
    with pytest.raises(RuntimeError, match="size mismatch"):
        dry.flops(Clips(2, 4, 32, 32, 8.0))

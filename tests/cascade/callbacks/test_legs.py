"""What the callbacks say of a run in legs is what they say of one that was never broken off."""

import json

import pytest
import pytorch_lightning as pl
import torch

from cascade.callbacks.diagnostics import Diagnostics
from cascade.callbacks.ranks import append_rows, keep_rows
from cascade.checkpoint.loops import go_on
from cascade.curves import read_curves


@pytest.fixture(scope="module")
def at():
    """A checkpoint of a step before the next batch, when all of the step is behind."""

    class At(pl.Callback):
        def __init__(self, step, path):
            self.step, self.path = step, path

        def on_train_start(self, trainer, *_):
            go_on(trainer, trainer.global_step)

        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == self.step and not self.path.exists():
                trainer.save_checkpoint(self.path)

    return At


def test_sums_go_on_where_a_leg_ends_between_two_rows(tiny, at, tmp_path):
    def run(folder, **options):
        callbacks = [at(6, tmp_path / "state"), Diagnostics(logsnr_edges=[-2.0, 2.0])]
        options |= {"log_every_n_steps": 4, "val_check_interval": 8, "data": tiny.Clips(batches=9)}
        stage = tiny.tiny_stage()
        return tiny.fit(stage, folder, callbacks=callbacks, steps=9, **options)

    run(tmp_path / "whole")
    table = tmp_path / "legs/losses.jsonl"
    table.parent.mkdir()
    table.write_text('{"step": 8, "of": "a leg that was killed"}\n{"ste')
    run(tmp_path / "legs", checkpoint=tmp_path / "state")
    whole, legs = (read_curves(tmp_path / name) for name in ("whole", "legs"))
    assert {n: dict(v)[7] for n, v in legs.items() if n.startswith("train/")} == {
        n: dict(v)[7] for n, v in whole.items() if n.startswith("train/") and 7 in dict(v)
    }
    assert table.read_text() == (tmp_path / "whole/losses.jsonl").read_text()


class Rank(pl.Trainer):
    """A trainer that is one of several ranks."""

    callbacks, global_step, world_size, global_rank, is_global_zero = (), 3, 1, 0, True

    def __init__(self):
        pass


@pytest.mark.parametrize("world", [1, 2, 3])
def test_sums_of_two_ranks_are_all_there_on_any_number_of_ranks(world):
    watching = Diagnostics(logsnr_edges=[0.0])
    parts = [torch.full((2, 3), float(rank + 1)) for rank in range(2)]
    sums = [torch.full((5,), float(rank + 1)) for rank in range(2)]
    found = []
    for rank in range(world):
        watching._now, watching._sums = torch.zeros(2, 3), torch.zeros(5)
        watching._since = torch.zeros(2, 3)
        trainer = Rank()
        trainer.world_size, trainer.global_rank, trainer.is_global_zero = world, rank, rank == 0
        state = {"now": parts, "sums": sums, "since": torch.ones(2, 3)}
        watching._go_on(trainer, state)
        assert watching._since.eq(1).all()
        found.append((watching._now, watching._sums))
    assert sum(now for now, _ in found).eq(3).all()
    assert sum(sums for _, sums in found).eq(3).all()


def test_rows_hold_no_bare_nan_and_none_of_a_step_that_is_done_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    nan = float("nan")
    append_rows(path, [{"step": 1, "loss": nan, "samples": [("a", nan)]}, {"step": 2, "loss": 1.0}])
    first, _ = path.read_text().splitlines()
    assert json.loads(first) == {"step": 1, "loss": None, "samples": [["a", None]]}
    keep_rows(path, before=2)
    assert path.read_text() == first + "\n"

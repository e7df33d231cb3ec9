"""The callbacks log the same for a run that was resumed as for an uninterrupted one."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import pytorch_lightning as pl
import torch

from cascade.callbacks.averages import EMA
from cascade.callbacks.checkpoints import Checkpoints
from cascade.callbacks.diagnostics import Diagnostics
from cascade.callbacks.figures import append_rows, keep_rows
from cascade.callbacks.samples import Samples
from cascade.callbacks.throughput import Throughput
from cascade.callbacks.watchdog import Watchdog
from cascade.callbacks.worth import Worth
from cascade.checkpoint.checkpoint_folder import newest
from cascade.checkpoint.keep import Keep
from cascade.checkpoint.loops import resume_after
from cascade.curves import read_curves


@pytest.fixture(scope="module")
def at():
    """Saves a checkpoint of a step before the next batch, when the step is complete."""

    class At(pl.Callback):
        def __init__(self, step, path=None):
            self.step, self.path = step, path

        def on_train_start(self, trainer, *_):
            resume_after(trainer, trainer.global_step)

        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == self.step and not self.path.exists():
                trainer.save_checkpoint(self.path)

    return At


def test_sums_are_restored_if_a_leg_ends_between_two_rows(tiny, at, tmp_path):
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

    callbacks: ClassVar = []
    global_step, world_size, global_rank, is_global_zero = 3, 1, 0, True

    def __init__(self, folder=None):
        self._folder = str(folder)

    @property
    def default_root_dir(self):
        return self._folder


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
        watching._restore(trainer, state)
        assert watching._since.eq(1).all()
        found.append((watching._now, watching._sums))
    assert sum(now for now, _ in found).eq(3).all()
    assert sum(sums for _, sums in found).eq(3).all()


class Recorded(Watchdog):
    """A watchdog that records the progress reported to it."""

    def __init__(self, places):
        super().__init__(hang_s=60.0)
        self.places = places

    def alive(self, place):
        self.places.append(place)
        super().alive(place)


@pytest.fixture(scope="module")
def stopped(tiny, at, tmp_path_factory):
    """A run that is stopped at a step whose samples are due, and then resumed."""
    folder = tmp_path_factory.mktemp("run")
    places, seen = [], []

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                trainer.should_stop = True
                trainer.limit_val_batches = 0

        def on_train_end(self, trainer, *_):
            if trainer.global_step == 2:
                trainer.save_checkpoint(folder / "state")

    class Slow(Samples):
        def _write(self, *args):
            time.sleep(1.0)
            super()._write(*args)

    def leg(**options):
        callbacks = [
            *(at(9, folder / "none"), Stop(), Recorded(places), EMA(sigma_rels=[0.1])),
            *(Slow(every_n_steps=2, count=2, steps=2), Throughput()),
        ]
        data = tiny.Clips(batches=5)
        tiny.fit(tiny.tiny_stage(), folder, callbacks=callbacks, steps=5, data=data, **options)
        seen.append(sorted(path.name for path in (folder / "samples").glob("*")))

    leg()
    leg(checkpoint=folder / "state", limit_val_batches=0)
    return SimpleNamespace(folder=folder, seen=seen, places=places)


def test_samples_that_a_stop_left_out_are_made_after_the_resume(stopped):
    assert stopped.seen == [[], ["00000002", "00000004", "00000005"]]
    assert len(list((stopped.folder / "samples/00000002").glob("*.mp4"))) == 2


def test_the_time_of_samples_does_not_count_as_training(stopped):
    rates = dict(read_curves(stopped.folder)["throughput/steps_per_s"])
    assert min(rates[step] for step in (3, 4)) > 1  # each sample waits a second


def test_samples_and_saves_report_progress(stopped):
    for place in (
        "the samples of step 2",
        "the samples of step 2, after 1 of 2 steps,",
        "the samples of step 2, after number 1,",
        "the save at step 2",
        "after restoring the checkpoint",
    ):
        assert place in stopped.places


def test_the_watchdogs_limit_is_longer_until_the_first_batch_has_ended(tmp_path):
    watch, trainer = Watchdog(hang_s=50.0, first_hang_s=70.0), Rank(tmp_path)
    stage = pl.LightningModule()
    stage.name = "base"
    watch.setup(trainer, stage, "fit")
    watch.on_train_batch_start(trainer)
    assert watch._limit == 70
    watch.on_train_batch_end(trainer)
    assert watch._limit == 50
    watch.teardown()


def test_a_validation_that_its_checkpoint_does_not_hold_counts_for_its_worth(tiny, at, tmp_path):
    def leg(steps, resumed=None):
        stage = tiny.tiny_stage("demo/ssr1")
        stage.predict = lambda z, _logsnr, cond: cond.low + 0 * z * stage.net.out.bias.sum()
        stage.recipe = replace(stage.recipe, text_dropout=0.0)
        saves = Checkpoints(every_n_steps=2, keep=Keep())
        saves.begin(config={}, resumed=resumed)
        worth = Worth(conditions=["text", "low"], clips=8, patience=9)
        watch = Recorded([])
        data = tiny.Clips(batches=8)
        data.state_dict = dict
        tiny.fit(
            stage,
            tmp_path,
            callbacks=[saves, at(99), watch, EMA(sigma_rels=[0.1]), worth],
            steps=steps,
            data=data,
            val_check_interval=2,
            checkpoint=None if resumed is None else resumed.state,
        )
        save = watch.places.index(f"the save at step {steps}")
        assert save < watch.places.index(f"after the save at step {steps}")
        return worth.state_dict()

    assert leg(4) == {"nothing": {"text": 2}}
    saved = newest(tmp_path)
    held = torch.load(saved.state, weights_only=True)["callbacks"]["Worth"]
    assert (saved.step, saved.manifest.validated, held) == (4, 4, {"nothing": {"text": 1}})
    assert leg(6, saved) == {"nothing": {"text": 3}}


def test_rows_hold_no_bare_nan_and_none_of_a_step_that_is_repeated(tmp_path):
    path = tmp_path / "rows.jsonl"
    nan = float("nan")
    append_rows(path, [{"step": 1, "loss": nan, "samples": [("a", nan)]}, {"step": 2, "loss": 1.0}])
    first, _ = path.read_text().splitlines()
    assert json.loads(first) == {"step": 1, "loss": None, "samples": [["a", None]]}
    keep_rows(path, before=2)
    assert path.read_text() == first + "\n"
    path.write_text(
        '1\n{}\n[]\n{"step": null}\n' + first + "\n"
    )  # a damaged file does not stop a resume
    keep_rows(path, before=2)
    assert path.read_text() == first + "\n"

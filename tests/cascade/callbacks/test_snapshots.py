"""Laws of the averages' callback: the width in use, and the snapshots of all widths."""

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open

from cascade.callbacks import averages
from cascade.callbacks.averages import EMA
from cascade.posthoc import snapshots

WIDTHS = [0.05, 0.10]


class Stop(pl.Callback):
    """Ends a run after a step, with its state saved at an earlier one, as a kill would leave it."""

    def __init__(self, *, saved: int, stopped: int, state: Path) -> None:
        self.saved, self.stopped, self.state = saved, stopped, state

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.saved:
            trainer.save_checkpoint(self.state)
        trainer.should_stop = trainer.global_step == self.stopped


class Seen(pl.Callback):
    """What the network is while it validates."""

    def __init__(self, ema: EMA) -> None:
        self.ema, self.same = ema, dict[float, bool]()

    def on_validation_batch_start(self, _: pl.Trainer, stage: pl.LightningModule, *__: Any) -> None:
        own = dict(stage.named_parameters())
        for sigma in WIDTHS:
            kept = self.ema._ema.average(sigma)
            self.same[sigma] = all(torch.equal(own[name], kept[name]) for name in kept)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "ema").iterdir())}


@pytest.mark.parametrize("use", WIDTHS)
def test_the_width_in_use_validates_and_is_bundled(tiny, tmp_path, use):
    ema = EMA(sigma_rels=WIDTHS, use=use)
    seen = Seen(ema)
    stage = tiny.tiny_stage()
    tiny.fit(stage, tmp_path, callbacks=[ema, seen], steps=5)
    assert seen.same == {sigma: sigma == use for sigma in WIDTHS}
    bundled, kept = ema.weights(stage), ema._ema.average(use)
    assert all(torch.equal(bundled[name], kept[name]) for name in kept)


def test_an_untracked_width_and_a_snapshot_every_0_steps_are_refused():
    with pytest.raises(ValueError, match=r"one of sigma_rels, \[0\.05, 0\.1\], got 0\.2"):
        EMA(sigma_rels=WIDTHS, use=0.2)
    with pytest.raises(ValueError, match="needs at least one width, got none"):
        EMA(sigma_rels=[])
    with pytest.raises(ValueError, match=r"at least 1 step, or null, got 0"):
        EMA(sigma_rels=WIDTHS, snapshot_every=0)


def test_the_last_step_s_averages_are_kept_where_no_others_are(tiny, tmp_path):
    ema = EMA(sigma_rels=WIDTHS)
    tiny.fit(tiny.tiny_stage(), tmp_path, callbacks=[ema], steps=3)
    [last] = snapshots(tmp_path / "ema")
    assert (last.step, list(last.sigma_rels)) == (3, WIDTHS)
    with safe_open(last.path, "pt") as file:
        for sigma in WIDTHS:
            for name, value in ema._ema.average(sigma).items():
                assert torch.equal(file.get_tensor(f"{sigma}/{name}"), value)


def test_a_run_killed_and_resumed_leaves_the_snapshots_of_an_unbroken_one(tiny, tmp_path):
    def leg(name: str, *others: pl.Callback, **options: Any) -> Path:
        callbacks = [EMA(sigma_rels=WIDTHS, snapshot_every=2), *others]
        data = tiny.Clips(batches=7)
        tiny.fit(
            tiny.tiny_stage(), tmp_path / name, callbacks=callbacks, steps=7, data=data, **options
        )
        return tmp_path / name

    unbroken = files(leg("unbroken"))
    assert [int(name[:8]) for name in unbroken] == [2, 4, 6, 7]
    state = tmp_path / "state"
    broken = leg("broken", Stop(saved=3, stopped=5, state=state), limit_val_batches=0)
    assert [int(name[:8]) for name in files(broken)] == [2, 4]
    (broken / "ema" / ".00000006.safetensors.0123abcd.part").write_bytes(b"half")
    stale = broken / "ema" / "00000004.safetensors"
    stale.write_bytes(b"of a leg whose steps are trained again")
    leg("broken", checkpoint=state)
    assert files(broken) == unbroken


def test_a_full_disk_costs_the_snapshot_and_not_the_run(tiny, tmp_path, monkeypatch, caplog):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(averages, "write_snapshot", full)
    with caplog.at_level(logging.ERROR):
        ema = EMA(sigma_rels=WIDTHS, snapshot_every=2)
        trainer = tiny.fit(tiny.tiny_stage(), tmp_path, callbacks=[ema], steps=3)
    assert trainer.global_step == 3
    assert (
        "step 2: the snapshot of the averages could not be saved ([Errno 28] No space"
        in caplog.text
    )

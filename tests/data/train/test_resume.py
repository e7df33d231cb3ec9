"""A run that was broken off goes on with the samples that it would have had."""

import contextlib
import json
import os
import shutil

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from tests.data.sharded import mark_of, module


class Recorder(pl.LightningModule):
    """Records the keys it is given; dies at a step."""

    def __init__(self, die_at: int = -1, die_in: int = 0):
        super().__init__()
        self.die_in = die_in
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.die_at, self.seen, self.validated = die_at, [], []

    def training_step(self, batch):
        if self.global_step == self.die_at:
            if self.die_in == 0:
                raise KeyboardInterrupt
            self.die_in -= 1
        self.seen += zip(batch["position"].tolist(), batch["key"], strict=True)
        return self.weight * batch["video"].float().mean()

    def validation_step(self, batch):
        self.validated += batch["key"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(model, data, folder, *, steps=8, accumulate=1, ckpt=None):
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        callbacks=[
            ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1),
            OnExceptionCheckpoint(folder, "died"),
        ],
        val_check_interval=4,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(model, data, ckpt_path=ckpt, weights_only=False)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (2, 1), (0, 2)])
def test_resumed_run_equals_unbroken_run(shards, tmp_path, workers, accumulate):
    def data():
        return module(shards, num_workers=workers)

    whole = fit(Recorder(), data(), tmp_path / "whole", accumulate=accumulate)
    assert [p for p, _ in whole.seen] == list(range(8 * 4))
    fit(Recorder(die_at=5), data(), tmp_path / "broken", accumulate=accumulate)
    saved = sorted((tmp_path / "broken").glob("*step=4.ckpt"))
    rest = fit(Recorder(), data(), tmp_path / "rest", accumulate=accumulate, ckpt=saved[0])
    assert rest.seen == whole.seen[4 * 4 :]
    assert rest.global_step == 8
    assert rest.validated


@pytest.mark.filterwarnings("ignore")
def test_accumulation_may_change_at_a_resume(shards, tmp_path):
    whole = fit(Recorder(), module(shards), tmp_path / "whole")
    fit(Recorder(die_at=7), module(shards), tmp_path / "broken")
    saved = next((tmp_path / "broken").glob("*step=6.ckpt"))
    rest = fit(Recorder(), module(shards), tmp_path / "rest", accumulate=2, ckpt=saved)
    assert (rest.seen, rest.global_step) == (whole.seen[6 * 4 :], 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("die_in", [0, 1])
def test_a_step_broken_off_is_done_again_from_its_first_sample(shards, tmp_path, die_in):
    whole = fit(Recorder(), module(shards), tmp_path / "whole", accumulate=2)
    dead = Recorder(die_at=5, die_in=die_in)
    fit(dead, module(shards), tmp_path / "broken", accumulate=2)
    assert len(dead.seen) == 5 * 4 + 2 * die_in
    died = tmp_path / "broken" / "died.ckpt"
    rest = fit(Recorder(), module(shards), tmp_path / "rest", accumulate=2, ckpt=died)
    assert (rest.seen, rest.global_step) == (whole.seen[5 * 4 :], 8)


@pytest.mark.filterwarnings("ignore")
def test_other_data_is_refused_at_a_resume(shards, tmp_path):
    fit(Recorder(), module(shards), tmp_path, steps=4)
    saved = next(tmp_path.glob("*step=2.ckpt"))
    with pytest.raises(ValueError, match="fingerprint of the checkpoint is"):
        fit(Recorder(), module(shards / "00000.tar"), tmp_path / "other", ckpt=saved)
    with pytest.raises(ValueError, match="seed of the checkpoint is 0, but that of this run is 1"):
        fit(Recorder(), module(shards, seed=1), tmp_path / "other", ckpt=saved)
    with pytest.raises(
        ValueError, match=r"plan of the checkpoint is fixed of 4 .* run is fixed of 16"
    ):
        fit(Recorder(), module(shards, global_batch=16), tmp_path / "other", ckpt=saved)


@pytest.mark.filterwarnings("ignore")
def test_shards_that_moved_are_the_same_data_and_other_validation_is_not(shards, tmp_path):
    first = fit(Recorder(), module(shards, val=shards / "00001.tar"), tmp_path, steps=8)
    saved = next(tmp_path.glob("*step=4.ckpt"))
    moved = shutil.copytree(shards, tmp_path / "moved")
    again = module(moved, val=moved / "00001.tar")
    assert fit(Recorder(), again, tmp_path / "again", ckpt=saved).seen == first.seen[4 * 4 :]
    with pytest.raises(ValueError, match="fingerprint of the checkpoint is"):
        fit(Recorder(), module(moved, val=moved / "00000.tar"), tmp_path / "other", ckpt=saved)


@pytest.mark.filterwarnings("ignore")
def test_a_failed_sample_is_written_down_and_not_tried_again(
    write_shard, make_clips, tmp_path, caplog
):
    path = write_shard(tmp_path / "a.tar", make_clips(12))
    whole = path.read_bytes()

    def data():
        return module(path, val_share=0.1, cache_bytes=0, num_workers=1)

    data().prepare_data()
    path.write_bytes(whole.replace(b"moov", b"mooo", 1))
    os.utime(path, ns=(path.stat().st_atime_ns, json.loads(mark_of(path))))
    first = fit(Recorder(), data(), tmp_path / "run")
    lines = (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()
    listed = [json.loads(line)["key"] for line in lines if line]
    assert listed == ["clip_0"]
    caplog.clear()
    saved = next((tmp_path / "run").glob("*step=4.ckpt"))
    again = data()
    rest = fit(Recorder(), again, tmp_path / "run", ckpt=saved)
    assert rest.seen == first.seen[4 * 4 :]
    assert again.failures == []
    assert "fails" not in caplog.text

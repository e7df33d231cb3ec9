"""A run's progress without a terminal."""

import pytorch_lightning as pl
import torch

from cascade.callbacks.progress import RunProgressBar


class Trainer(pl.Trainer):
    """As much of one as a line needs."""

    global_step, max_steps, accumulate_grad_batches, is_global_zero = 10, 100, 1, True
    loggers, progress_bar_metrics, lightning_module = (), {"train/loss": 0.25}, None

    def __init__(self, stage):
        self.lightning_module = stage


def test_without_a_terminal_a_line_is_printed_every_so_many_seconds(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("cascade.callbacks.progress.time.monotonic", lambda: now[0])
    progress = RunProgressBar(every_s=30)
    stage = pl.LightningModule()
    stage.name = "base"
    trainer = Trainer(stage)
    progress._trainer = trainer
    assert progress.is_disabled
    progress.on_train_start(trainer, stage)
    for seconds, step in (20, 20), (40, 30), (60, 40), (75, 50):
        now[0], trainer.global_step = 100.0 + seconds, step
        progress.on_train_batch_end(trainer, stage, torch.zeros(()), None, step)
    output = capsys.readouterr()
    assert "\r" not in output.err
    assert output.err.splitlines() == [
        "base: step 30 of 100, train/loss 0.25, 0.5 steps/s, 0:02:20 left",
        "base: step 50 of 100, train/loss 0.25, 0.533 steps/s, 0:01:34 left",
    ]

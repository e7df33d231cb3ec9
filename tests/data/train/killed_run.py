"""A run that writes down the keys of every step, to be killed: see test_killed.py."""

import json
import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from cascade.grid import Grid
from data.train.module import ShardData
from data.train.options import ClipOptions, LoadingOptions, ValidationOptions


class Recorder(pl.LightningModule):
    """Writes the keys of each step to a file of its own process, at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.weight = folder, torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch):
        path = self.folder / f"keys-{os.getpid()}.jsonl"
        line = [self.global_step, self.trainer.world_size, self.global_rank, batch["key"]]
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return self.weight * batch["video"].float().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def module(shards: str, workers: int) -> ShardData:
    """Buckets of two shapes from all shards."""
    return ShardData(
        shards=shards,
        grid=Grid(frames=4, height=16, width=16, fps=8),
        multiple=(1, 4, 4),
        global_batch=8,
        clips=ClipOptions(lengths=(2,)),
        validation=ValidationOptions(share=0.0),
        loading=LoadingOptions(num_workers=workers),
    )


def main(shards: str, folder: str, world: str, steps: str) -> None:
    """Train, or go on from the newest whole checkpoint."""
    torch.set_num_threads(1)
    saved = sorted(Path(folder).glob("*.ckpt"), key=lambda p: int(p.stem))
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_steps=int(steps),
        max_epochs=-1,
        accelerator="cpu",
        devices=int(world),
        strategy="ddp" if int(world) > 1 else "auto",
        callbacks=[
            ModelCheckpoint(
                folder,
                "{step}",
                every_n_train_steps=1,
                save_top_k=-1,
                auto_insert_metric_name=False,
                save_on_train_epoch_end=False,
            )
        ],
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    whole = [path for path in saved if _whole(path)]
    trainer.fit(
        Recorder(Path(folder)),
        module(shards, workers=2),
        ckpt_path=whole[-1] if whole else None,
        weights_only=False,
    )


def _whole(path: Path) -> bool:
    try:
        torch.load(path, weights_only=False)
    except Exception:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])

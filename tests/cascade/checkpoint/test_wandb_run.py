"""A run has one W&B run, however often it is resumed."""

import shutil

from cascade.checkpoint import wandb_run
from tests.cascade.checkpoint.test_checkpoint_folder import save

LOGGERS = {
    "csv": {"_target_": "cascade.loggers.csv_logger.AtomicCSVLogger"},
    "wandb": {"_target_": "cascade.loggers.wandb_logger.WandbLogger", "project": "cascade"},
}


def test_an_id_is_drawn_once_and_outlives_its_file(tmp_path):
    csv, first = wandb_run.one_run(LOGGERS, tmp_path)
    assert csv == LOGGERS["csv"]
    assert len(first["id"]) == 8
    assert wandb_run.one_run(LOGGERS, tmp_path)[1] == first
    assert wandb_run.one_run(LOGGERS, tmp_path / "other")[1] != first
    save(tmp_path, 2, wandb_id=first["id"])
    shutil.rmtree(tmp_path / "wandb")
    assert wandb_run.one_run(LOGGERS, tmp_path)[1] == first
    given = LOGGERS | {"wandb": LOGGERS["wandb"] | {"id": "mine"}}
    assert wandb_run.one_run(given, tmp_path)[1]["id"] == "mine"

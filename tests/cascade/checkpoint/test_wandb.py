"""All legs of a run are one run at W&B."""

import shutil

from cascade.checkpoint import wandb
from tests.cascade.checkpoint.test_folder import save

LOGGERS = {
    "csv": {"_target_": "cascade.rows.Rows"},
    "wandb": {"_target_": "cascade.tracking.WandbLogger", "project": "cascade"},
}


def test_an_id_is_drawn_once_and_outlives_its_file(tmp_path):
    csv, first = wandb.one_run(LOGGERS, tmp_path)
    assert csv == LOGGERS["csv"]
    assert len(first["id"]) == 8
    assert wandb.one_run(LOGGERS, tmp_path)[1] == first
    assert wandb.one_run(LOGGERS, tmp_path / "other")[1] != first
    save(tmp_path, 2, wandb_id=first["id"])
    shutil.rmtree(tmp_path / "wandb")
    assert wandb.one_run(LOGGERS, tmp_path)[1] == first
    given = LOGGERS | {"wandb": LOGGERS["wandb"] | {"id": "mine"}}
    assert wandb.one_run(given, tmp_path)[1]["id"] == "mine"

"""Runs as W&B and training write them, made by W&B's own client offline."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cascade.video import write_mp4

sys.path.insert(0, str(Path(__file__).parent))  # wandb_service is a command too

LEG = """
import os, sys, json, signal, wandb
given = json.loads(sys.argv[1])
run = wandb.init(mode="offline", project="cascade", id=given["id"], name=given["name"],
                 group="demo/ssr1/prediction", dir=given["folder"], config=given["config"],
                 resume="allow", settings=wandb.Settings(x_disable_stats=True, console="off"))
run.define_metric("trainer/global_step")
run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
for step, loss in given["losses"]:
    run.log({"train/loss": loss, "epoch": 0, "trainer/global_step": step})
run.log({"samples": [wandb.Video(given["video"], caption="low | made | real: " + c, format="mp4")
                     for c in ("a red circle", "a blue cross")],
         "trainer/global_step": step})
print("logged", flush=True)
sys.stdin.read() if given["hang"] else run.finish()
"""


def leg(folder: Path, *, name, target, losses, video, identity, hang=False) -> None:
    """One leg of an offline run; one that hangs is killed before it can end."""
    given = {
        "folder": str(folder),
        "name": name,
        "id": identity,
        "losses": losses,
        "video": str(video),
        "hang": hang,
        "config": {
            "name": name,
            "stage": {
                "_target_": "stages.stage.Stage",
                "name": "ssr1",
                "diffusion": {"target": target},
                "augment": {"max_t": 0.5},
                "target": {"height": 16, "width": 16},
            },
        },
    }
    process = subprocess.Popen(
        [sys.executable, "-c", LEG, json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "WANDB_ERROR_REPORTING": "false"},
    )
    if hang:
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)


@pytest.fixture(scope="session")
def wandb_runs(tmp_path_factory) -> Path:
    """Two runs: `x` of two legs, whose first was killed, with CSV beside; `v` of one leg."""
    home = tmp_path_factory.mktemp("offline")
    video = home / "sample.mp4"
    parts = [torch.full((3, 4, 16, 16), value) for value in (-1.0, 0.0, 1.0)]
    write_mp4(video, torch.cat(parts, dim=-1), fps=4)
    x, v = home / "runs/x", home / "runs/v"
    x.mkdir(parents=True)
    v.mkdir()
    first = [(step, 1.0 / (step + 1)) for step in range(4)]
    leg(x, name="x", target="x", losses=first, video=video, identity="aaaa1111", hang=True)
    time.sleep(1.1)  # W&B names its folders by the second
    again = [(step, 0.5 / (step + 1)) for step in range(2, 6)]
    leg(x, name="x", target="x", losses=again, video=video, identity="aaaa1111")
    rows = "".join(f"{loss},{step}\n" for step, loss in first)
    (x / "metrics/version_0").mkdir(parents=True)
    (x / "metrics/version_0/metrics.csv").write_text(f"train/loss,step\n{rows}")
    other = [(step, 2.0 / (step + 1)) for step in range(6)]
    leg(v, name="v", target="v", losses=other, video=video, identity="bbbb2222")
    return home / "runs"

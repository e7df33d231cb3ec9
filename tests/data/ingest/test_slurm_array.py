"""An array on a real Slurm gives the bytes that one machine gives, and is joined again."""

import json
import os
import signal
import subprocess
import time

import pytest

from data.ingest.run import Settings, make_shards
from data.ingest.slurm_array import SlurmArray
from data.ingest.work import LocalProcesses

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("alone_on_the_cluster")]
SETTINGS = Settings(deadline_s=60, memory_gb=4, ahead=100, thumbnails=4)
CLUSTER = (
    "cluster=slurm",
    "cluster.shards.array=3",
    "cluster.shards.cpus=1",
    "cluster.setup=[sleep 8]",
)


def files(to):
    paths = sorted([*to.glob("*.tar"), *to.glob("report/*.json*")])
    return {path.name: path.read_bytes() for path in paths}


def test_an_array_makes_the_same_bytes_and_is_joined_by_the_same_command(
    videos, make_recipe, ingest, tmp_path
):
    whole, to = tmp_path / "whole", tmp_path / "array"
    make_shards(
        str(videos), whole, make_recipe("packing.samples=5"), LocalProcesses(workers=2), SETTINGS
    )
    options = (*CLUSTER, "packing.samples=5", "run.thumbnails=4", "cluster.shards.poll_s=1")
    process = ingest(videos, to, *options)
    note = to / ".work/sources.array.json"
    while not note.exists() and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    array = json.loads(note.read_text())
    os.killpg(process.pid, signal.SIGKILL)  # the array runs on without who submitted it
    process.communicate()
    process = ingest(videos, to, *options)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert f"waiting for array {array}" in said
    assert "tasks on index" in said
    assert "indexing" not in said
    assert files(to) == files(whole)


def test_what_a_cancelled_array_leaves_the_same_command_goes_on_with(
    videos, make_recipe, tmp_path, monkeypatch
):
    settings = {"partition": None, "account": None, "qos": None, "constraint": None}
    settings |= {"parameters": {}, "array": 2, "cpus": 1, "minutes": 5}
    settings |= {"memory_gb_per_cpu": None, "setup": [], "poll_s": 0.5}
    waited = SlurmArray._wait

    def cancel(self, array):
        subprocess.run(["scancel", array], check=True)
        yield from waited(self, array)

    with monkeypatch.context() as patched:
        patched.setattr(SlurmArray, "_wait", cancel)
        with pytest.raises(ValueError, match=r"sources unfinished; its logs.*run the same command"):
            make_shards(str(videos), tmp_path, make_recipe(), SlurmArray(**settings), SETTINGS)
    assert not (tmp_path / "report").exists()
    shards = make_shards(str(videos), tmp_path, make_recipe(), SlurmArray(**settings), SETTINGS)
    assert len(shards) == 1

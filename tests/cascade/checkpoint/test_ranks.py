"""Ranks verify a checkpoint together, each file once, and fail together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from tests.cascade.checkpoint.test_checkpoint_folder import flip, save

SCRIPT = """
import sys
from pathlib import Path
import torch.distributed as dist
import pytest

from cascade.checkpoint import checkpoint_folder
dist.init_process_group("gloo")
read, own = [], checkpoint_folder.hashed
checkpoint_folder.hashed = lambda path, **o: (read.append(path.parent.name), own(path, **o))[1]
found = checkpoint_folder.newest(Path(sys.argv[1]))
def full(path, **options):
    raise OSError(122, "Disk quota exceeded")
if dist.get_rank():
    checkpoint_folder.hashed = full
try:
    checkpoint_folder.describe(found.folder, {})
except OSError as error:
    failed = error.errno
files = ",".join(read[:2])
print("rank", dist.get_rank(), "step", found.step, "read", files, "failed", failed)
dist.barrier()
"""


@pytest.mark.slow
def test_two_ranks_fall_back_together_and_read_each_file_once(tmp_path):
    save(tmp_path, 2)
    flip(save(tmp_path, 4) / "state")
    port = str(find_free_network_port())
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            env=env | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    lines = sorted(process.communicate(timeout=120)[0].strip() for process in ranks)
    assert lines == [
        "rank 0 step 2 read 00000004,00000002 failed 122",
        "rank 1 step 2 read  failed 122",
    ]

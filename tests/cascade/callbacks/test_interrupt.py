"""A job is requeued when a rank lost another, and not when a rank failed by itself."""

import subprocess
import sys
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
from torch import distributed as dist

from cascade import slurm
from cascade.callbacks.interrupt import Interrupt

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"


@pytest.fixture
def queued(tmp_path, monkeypatch):
    """Whether a job whose rank ends with an error is requeued."""
    monkeypatch.setenv(slurm.AGAIN, str(tmp_path / "again"))
    monkeypatch.setattr(slurm.stop, "handles_signals", True)
    monkeypatch.setattr(Interrupt, "TELL_S", 0.0)

    def ended(error: BaseException) -> bool:
        Interrupt().on_exception(Mock(spec=pl.Trainer), Mock(spec=pl.LightningModule), error)
        again, never = (tmp_path / name for name in ("again", "again.not"))
        assert again.exists() is not never.exists()
        return again.exists()

    return ended


@pytest.mark.parametrize(
    "error",
    [
        dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:77, remote process exited"),
        dist.DistNetworkError("Failed to recv, got 0 bytes"),
        dist.DistStoreError("wait timeout after 1000ms"),
        RuntimeError(f"{GLOO}pair.cc:537] Read error [127.0.0.1]:172: Connection reset by peer"),
        RuntimeError(f"{GLOO}pair.cc:547] Connection closed by peer [127.0.0.1]:172"),
        RuntimeError(f"{GLOO}unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation"),
        RuntimeError("Application timeout caused pair closure"),
        RuntimeError("Gloo connectFullMesh failed with [/pytorch/third_party/gloo/x.cc:1] no"),
        RuntimeError("NCCL Error 2: unhandled system error"),
        RuntimeError("NCCL error: remote process exited or there was a network error"),
        RuntimeError("[Rank 1] NCCL communicator was aborted"),
    ],
    ids=lambda error: f"{type(error).__name__}: {str(error)[-24:]}",
)
def test_a_rank_that_lost_another_requeues_its_job(queued, error):
    assert queued(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Connection refused"),
        RuntimeError("the skip connection has 3 channels, not 4"),
        RuntimeError("my gloo of a codec failed"),
        RuntimeError(f"[enforce fail at {GLOO[1:]}pair.cc:456] op.nbytes == 4. 8 vs 4"),
        RuntimeError("NCCL is not there"),
        ConnectionRefusedError("Connection refused"),
        ValueError(f"{GLOO}pair.cc:537] Connection reset by peer"),
    ],
    ids=lambda error: f"{type(error).__name__}: {str(error)[-24:]}",
)
def test_a_rank_that_failed_by_itself_does_not_requeue_its_job(queued, error):
    assert not queued(error)


RANK = """
import os, sys, torch
from torch import distributed as dist
store = dist.TCPStore("127.0.0.1", int(sys.argv[1]))
dist.init_process_group("gloo", store=store, rank=int(sys.argv[2]), world_size=2)
dist.barrier()
if sys.argv[2] == "1":
    os._exit(9)
try:
    while True:
        dist.all_reduce(torch.ones(1))
except RuntimeError as error:
    print(error, flush=True)
    os._exit(0)
"""


def test_gloos_error_about_a_rank_that_ended_is_recognised(queued):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(store.port), number],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in ("0", "1")
    ]
    errors = [process.communicate(timeout=60)[0].strip() for process in ranks]
    assert queued(RuntimeError(errors[0]))

"""Shapes are checked while the tests run; real videos are found by the variable CASCADE_MEDIA."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import checked

checked.install()
# A shell's background job ignores SIGINT, and so would all that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A command that was interrupted ignores Ctrl-C from then on; the next test does not."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on a cluster come first: while they wait for it, others run."""
    items.sort(key=lambda item: "slurm" not in item.keywords)


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real videos; the test is left out, and says so, where there is none."""
    folder = os.environ.get("CASCADE_MEDIA")
    if not folder:
        pytest.skip("left out: CASCADE_MEDIA names no folder of real videos")
    return Path(folder)


@pytest.fixture(scope="session")
def cluster() -> Path:
    """The folder of a Slurm's configuration; tests are left out where no cluster answers."""
    if shutil.which("sbatch") is None:
        pytest.skip("left out: there is no sbatch on the PATH")
    if subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("left out: sbatch is on the PATH, and no cluster answers")
    return Path(os.environ.get("SLURM_CONF", "/etc/slurm/slurm.conf")).parent


@pytest.fixture
def alone_on_the_cluster(cluster: Path) -> Iterator[None]:
    """Tests that run side by side take the cluster in turns."""
    with Path(tempfile.gettempdir(), "cascade-tests-slurm.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a T5 encoder of width 16 with random weights, and a tokenizer of bytes."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    transformers.ByT5Tokenizer().save_pretrained(folder)
    return folder

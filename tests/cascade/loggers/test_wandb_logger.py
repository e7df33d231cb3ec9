"""Without W&B's service, or with a key that it refuses, a run is logged offline."""

import http.server
import threading
import time

import pytest

wandb = pytest.importorskip("wandb")

from cascade.loggers.wandb_logger import WandbLogger  # noqa: E402 (needs wandb)

CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def answering():
    """The address of a service that answers 404 to everything."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("key", "answers", "said"),
    [("k" * 40, False, "Connection refused"), ("short", True, "API key must have 40")],
)
def test_a_run_goes_on_offline_within_seconds(
    key, answers, said, answering, monkeypatch, tmp_path, caplog
):
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", answering if answers else CLOSED)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="cascade", save_dir=str(tmp_path), id="abcdefgh")
    began = time.monotonic()
    logger.log_metrics({"loss": 1.0}, step=0)
    took = time.monotonic() - began
    logger.experiment.finish()
    wandb.teardown()
    assert took < 20
    assert not logger.lost
    assert [
        message for message in caplog.messages if said in message and "logged offline" in message
    ]
    assert len(list(tmp_path.glob("wandb/offline-run-*/run-abcdefgh.wandb"))) == 1

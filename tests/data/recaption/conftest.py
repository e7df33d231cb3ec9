"""A server of OpenAI's protocol that fails as it is told to, and counts what it is asked."""

import json
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from data.index.sidecar import ensure_index
from data.recaption.__main__ import recaption
from data.recaption.clip_images import Pictures
from data.shards.store import find_shards
from tests.composed import composed

USAGE = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
QUESTION = "Clip <{key}>: {frames} frames of {duration:.1f} s, {json[number]}. Was: {caption}"


def asking(text: str, **captions: str) -> str:
    """The argument that asks for these captions."""
    names = ", ".join(f"{name}: {what}" for name, what in captions.items())
    return "requests=[{text: '" + text + "', captions: {" + names + "}}]"


def captions(key: str) -> dict[str, str]:
    """What the server says of a clip."""
    return {"long": f"A long caption of {key}, “quoted”.", "short": f"short {key}"}


class Server(ThreadingHTTPServer):
    """Answers rightly, but for what `behave(key, nth)` says: the nth time that a key is asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave: Callable[[str, int], str] = lambda key, nth: "well"
        self.asked: Counter[str] = Counter()
        self.well: Counter[str] = Counter()
        self.billed = 0
        self.at: list[tuple[float, str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.most_at_once = self.now = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed hangs up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        """Quietly."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"][0]["text"]
        key = re.search(r"<(.*?)>", text)[1]
        server = self.server
        with server.lock:
            server.bodies.append(body)
            nth = server.asked[key]
            server.asked[key] += 1
            how = server.behave(key, nth)
            server.at.append((time.monotonic(), key, how))
            server.now += 1
            server.most_at_once = max(server.most_at_once, server.now)
        try:
            getattr(self, how)(key)
        finally:
            with server.lock:
                server.now -= 1

    def send(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def reply(self, content: str | None) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": content}}
        with self.server.lock:
            self.server.billed += 1
        self.send(
            200,
            {
                **{"id": "1", "object": "chat.completion", "created": 1, "model": "m"},
                **{"choices": [{**choice, "finish_reason": "stop"}], "usage": USAGE},
            },
        )

    def well(self, key: str) -> None:
        with self.server.lock:
            self.server.well[key] += 1
        self.reply(json.dumps(captions(key)))

    def slowly(self, key: str) -> None:
        time.sleep(0.1)
        self.well(key)

    def thinking(self, key: str) -> None:
        with self.server.lock:
            self.server.well[key] += 1
        said = json.dumps(captions(key))
        self.reply(f'<think>a draft {{"long": "no"}}, so:</think>\n```json\n{said}\n```')

    def garbage(self, key: str) -> None:
        self.reply('I cannot help with {"long": that')

    def empty(self, key: str) -> None:
        self.reply(None)

    def half(self, key: str) -> None:
        self.reply(json.dumps({"long": "only this", "short": " "}))

    def busy(self, key: str) -> None:
        self.send(429, {"error": {"message": "slow down"}}, Retry_After="1")

    def broken(self, key: str) -> None:
        self.send(500, {"error": {"message": "out of memory"}})

    def no_protocol(self, key: str) -> None:
        self.send(200, b"<html>a proxy's page</html>", Content_Type="text/html")

    def hung(self, key: str) -> None:
        time.sleep(3)

    def trickling(self, key: str) -> None:
        """A byte now and then, so that no time-out between bytes ever ends."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(15):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.2)

    def gone(self, key: str) -> None:
        self.close_connection = True

    def refused(self, key: str) -> None:
        self.send(400, {"error": {"message": "picture too large"}})

    def unknown(self, key: str) -> None:
        given = self.headers["Authorization"]
        self.send(401, {"error": {"message": f"wrong key: {given}"}})

    def unpaid(self, key: str) -> None:
        error = {"message": "pay first", "code": "insufficient_quota"}
        self.send(429, {"error": error})


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="session")
def indexed(tmp_path_factory, write_shard, make_clips) -> Path:
    """Two shards of 12 and 8 clips, one of which does not decode, with their indices."""
    folder = tmp_path_factory.mktemp("captioned")
    first, second = make_clips(12), make_clips(8, first=12)
    second.append({"__key__": "broken", "mp4": b"no video", "txt": "of nothing"})
    write_shard(folder / "00000.tar", first)
    write_shard(folder / "00001.tar", second)
    ensure_index(find_shards(folder))
    return folder


@pytest.fixture
def folder(indexed, tmp_path) -> Path:
    """A copy of the shards, for one test."""
    return shutil.copytree(indexed, tmp_path / "shards")


@pytest.fixture(name="asking")
def asking_fixture() -> Callable[..., str]:
    return asking


@pytest.fixture
def overrides(folder, server, tmp_path) -> list[str]:
    """The command's arguments."""
    return [
        *(f"shards={folder}", "model=tiny-vlm", f"endpoint={server.url}", "api_key=sk-secret-key"),
        *("frames=3", "side=32", "concurrency=4", "timeout_s=1", f"paths.runs={tmp_path}/runs"),
        asking(QUESTION, long="in full", short="in short"),
        *("prices.prompt=2", "prices.completion=10", "shown=0"),
    ]


@pytest.fixture
def undecoded(monkeypatch, make_jpeg) -> None:
    """The same picture for every clip, at once: for what does not depend on pictures."""

    async def same(self: Pictures, shard: str, row: Any) -> list[bytes]:
        return [make_jpeg()]

    monkeypatch.setattr(Pictures, "__call__", same)


@pytest.fixture
def call(overrides, tmp_path) -> Callable[..., dict[str, Any]]:
    """Captions in this process; what its report says."""

    def run(*more: str) -> dict[str, Any]:
        cfg = composed("captions", *overrides, *more)
        try:
            recaption(OmegaConf.to_container(cfg, resolve=True), Console(quiet=True))
        finally:
            told = json.loads((tmp_path / "runs/captions/captions.json").read_text())
        return told

    return run

"""A shard is read the same from a disk and from afar, and nothing is opened that was not named."""

import contextlib
import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from data.index.index_file import read_about
from data.index.sidecar import ensure_index, index_path
from data.shards import remote, store
from data.shards.store import find_shards, identity, open_shard, read_span, size

BYTES = bytes(range(256)) * 400


class Server(BaseHTTPRequestHandler):
    """Files of a folder, by ranges; counts what it is asked, and fails where it is told to."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        server = self.server
        server.asked.append((self.command, self.path, self.headers.get("Range")))
        path = server.folder / self.path.partition("?")[0].lstrip("/")
        if server.failures:
            server.failures -= 1
            self.send_error(503)
            return
        if path.is_dir():
            data = "".join(f'<a href="{p.name}">x</a>' for p in path.iterdir()).encode()
            kind = "text/html"
        elif path.is_file():
            data, kind = path.read_bytes(), "application/x-tar"
        else:
            self.send_error(404)
            return
        etag, status = hashlib.sha256(data).hexdigest(), 200
        asked = self.headers.get("Range")
        if asked and server.ranges:
            first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
            data, status = data[first : last + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", kind)
        self.send_header("ETag", etag)
        self.end_headers()
        if body:
            self.wfile.write(data[:1] if server.endless else data)
            self.wfile.flush()
            if server.endless:
                server.done.wait(60)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A server of `tmp_path/www`; `url` is its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as found:
        found.folder, found.asked, found.failures, found.ranges = tmp_path / "www", [], 0, True
        found.folder.mkdir()
        found.endless, found.done = False, threading.Event()
        found.url = f"http://127.0.0.1:{found.server_port}"
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.done.set()
        found.shutdown()


@pytest.fixture(params=["disk", "memory", "http"])
def shard(request, tmp_path):
    """The name of BYTES on a disk, in fsspec's memory, and behind a server."""
    if request.param == "memory":
        fsspec.filesystem("memory").pipe("/shards/a.tar", BYTES)
        return "memory://shards/a.tar"
    folder = tmp_path
    if request.param == "http":
        folder = request.getfixturevalue("server").folder
    (folder / "a.tar").write_bytes(BYTES)
    return (
        str(folder / "a.tar")
        if request.param == "disk"
        else (request.getfixturevalue("server").url + "/a.tar")
    )


def test_a_shard_is_read_alike_wherever_it_lies(shard):
    assert size(shard) == len(BYTES)
    assert identity(shard) == identity(shard)
    assert identity(shard).mark
    assert read_span(shard, (300, 1000)) == BYTES[300:1300]
    assert read_span(shard, (300, 0)) == b""
    with open_shard(shard) as file:
        assert (file.read(10), file.tell()) == (BYTES[:10], 10)
        assert file.read() == BYTES[10:]
        assert file.seek(-5, os.SEEK_END) == len(BYTES) - 5
        assert file.read(100) == BYTES[-5:]


def test_bytes_that_are_not_there_are_refused(shard):
    with pytest.raises(OSError, match=r"a\.tar: .*10 bytes at 102395"):
        read_span(shard, (len(BYTES) - 5, 10))


def test_a_claimed_size_allocates_nothing(tmp_path):
    (tmp_path / "a.tar").write_bytes(BYTES)
    with pytest.raises(OSError, match=r"10000000000000000 bytes at 0 requested, 102400 available"):
        read_span(str(tmp_path / "a.tar"), (0, 10**16))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_a_local_shard_is_opened_once_and_read_by_forked_processes_too(tmp_path):
    paths = [tmp_path / f"{i}.tar" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * 1000)
    store.forget()
    open_before = descriptors()
    for at in range(300):
        assert read_span(str(paths[at % 3]), (at, 7)) == bytes([at % 3]) * 7
    assert descriptors() == open_before + 3
    child = os.fork()
    if child == 0:
        good = all(read_span(str(paths[i % 3]), (i, 7)) == bytes([i % 3]) * 7 for i in range(500))
        os._exit(0 if good else 1)
    assert all(read_span(str(paths[i % 3]), (i, 7)) == bytes([i % 3]) * 7 for i in range(500))
    assert os.waitpid(child, 0)[1] == 0
    store.forget()
    assert descriptors() == open_before


def test_a_replaced_shard_is_seen_when_its_index_is_asked_for(tmp_path, write_shard, make_clips):
    shard = str(write_shard(tmp_path / "a.tar", make_clips(1)))
    (path,) = ensure_index([shard], depth="probe")
    assert read_span(shard, caption(path)) == b"caption 0"
    write_shard(tmp_path / "new", make_clips(1, first=7)).replace(shard)
    (path,) = ensure_index([shard], depth="probe")
    assert read_span(shard, caption(path)) == b"caption 7"


def caption(path, row=0):
    line = pq.read_table(path).to_pylist()[row]
    return line["caption_offset"], line["caption_size"]


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("pipe:curl http://x/a.tar", "would execute a command"),
        ("pipe:cat a.tar", "would execute a command"),
        ("simplecache::http://x/a.tar", "would execute a command"),
        ("zip://a.tar::s3://bucket/a.zip", "would execute a command"),
        ("reference://x/a.tar", "the scheme reference:// is not allowed"),
        ("github://x/a.tar", "the scheme github:// is not allowed"),
        ("pipe:curl://x/a.tar", "would execute a command"),
        ("/no/such/a.tar", "no tar file at"),
    ],
)
def test_what_runs_refers_or_is_not_there_is_refused(spec, said):
    with pytest.raises(ValueError, match=said):
        find_shards(spec)


def test_what_is_no_shard_is_refused_with_the_way_to_make_some(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.MP4").write_bytes(b"")
    (tmp_path / "list.csv").write_text("path,caption\n")
    with pytest.raises(ValueError, match=r"such as sub/a\.MP4; make shards .* FROM='.*' TO="):
        find_shards(tmp_path)
    for name in ("list.csv", "sub/a.MP4"):
        with pytest.raises(ValueError, match=r"if it lists videos or images: make shards FROM='"):
            find_shards(tmp_path / name)
    (tmp_path / "0.TAR").write_bytes(b"")
    assert find_shards(tmp_path) == [str(tmp_path / "0.TAR")]


def test_ways_to_name_local_shards(shards, tmp_path):
    both = [str(shards / "00000.tar"), str(shards / "00001.tar")]
    assert find_shards(str(shards)) == find_shards(f"{shards}/*.tar") == both
    assert find_shards(f"{shards}/{{00000..00001}}.tar") == find_shards(both) == both
    assert find_shards([shards, both[0]]) == both
    assert find_shards(f"file://{both[0]}") == both[:1]
    for name, target in (("x", both[0]), ("y", both[1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "link.tar").symlink_to(target)
    links = find_shards(tmp_path / "?" / "link.tar")
    assert len({index_path(one, tmp_path) for one in links}) == 2
    with pytest.raises(ValueError, match="1 of the 3 in .* are missing: .*00002"):
        find_shards(f"{shards}/{{00000..00002}}.tar")
    with pytest.raises(ValueError, match="no tar file at"):
        find_shards(tmp_path)


def test_ways_to_name_remote_shards(server):
    memory = fsspec.filesystem("memory")
    for name in ("08", "09", "10"):
        memory.pipe(f"/many/{name}.tar", BYTES)
        (server.folder / f"{name}.tar").write_bytes(BYTES)
    memory.pipe("/many/notes.txt", b"")
    for base in ("memory://many", server.url):
        named = find_shards(f"{base}/{{08..10}}.tar")
        assert [name.rpartition("/")[2] for name in named] == ["08.tar", "09.tar", "10.tar"]
        assert server.asked == []  # ranges are not looked for
        assert {size(name) for name in named} == {len(BYTES)}
        listed = find_shards(f"{base}/*.tar")
        assert listed == find_shards(f"{base}/")
        assert [identity(name) for name in listed] == [identity(name) for name in named]
        server.asked.clear()
    assert find_shards("http://x/a.tar?token=1") == ["http://x/a.tar?token=1"]
    assert store.name("http://x/b/a.tar?token=1") == "a"
    assert store.folder("http://x/b/a.tar?token=1") == "http://x/b"


def test_a_server_that_fails_now_and_then_is_asked_again(server, monkeypatch):
    monkeypatch.setattr(remote, "_RETRIES_S", (0.01, 0.01))
    (server.folder / "a.tar").write_bytes(BYTES)
    url = f"{server.url}/a.tar"
    server.failures = 2
    assert read_span(url, (5, 5)) == BYTES[5:10]
    server.failures = 4  # a look is two requests
    assert size(url) == len(BYTES)
    for ask in (lambda: read_span(url, (5, 5)), lambda: size(url)):
        server.failures = 99
        with pytest.raises(OSError, match=r"a\.tar: 503"):
            ask()


def test_a_server_that_is_not_there_is_not_taken_for_a_missing_shard(monkeypatch):
    monkeypatch.setattr(remote, "_RETRIES_S", (0.01,))
    with pytest.raises(OSError, match=r"a\.tar: .*onnect"):
        size("http://127.0.0.1:9/a.tar")


def test_a_server_without_ranges_is_refused_by_its_header_not_by_its_body(server):
    """The body never ends: only who does not wait for it can refuse."""
    (server.folder / "a.tar").write_bytes(BYTES)
    server.ranges, server.endless = False, True
    for read in (lambda url: open_shard(url), lambda url: read_span(url, (300, 10))):
        with pytest.raises(OSError, match="does not support byte ranges"):
            read(f"{server.url}/a.tar")


def test_a_server_without_ranges_and_a_missing_shard_are_refused(server, tmp_path):
    (server.folder / "a.tar").write_bytes(BYTES)
    server.ranges = False
    with pytest.raises(
        ValueError, match=r"1 of 1 shards cannot be read.*does not support byte ranges"
    ):
        ensure_index([f"{server.url}/a.tar"], cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"1 of 2 shards cannot be read: .*b\.tar: no such"):
        ensure_index([f"{server.url}/a.tar", f"{server.url}/b.tar"], cache_dir=tmp_path)


def test_a_remote_shard_is_indexed_like_a_local_one_by_few_requests(
    server, tmp_path, write_shard, make_clips
):
    local = write_shard(server.folder / "a.tar", make_clips(40))
    (beside,) = ensure_index([str(local)], depth="probe", index_dir=tmp_path / "local")
    server.asked.clear()
    with contextlib.chdir(tmp_path):
        (cached,) = ensure_index([f"{server.url}/a.tar"], depth="probe", cache_dir=tmp_path / "far")
    assert cached.is_relative_to(tmp_path / "far")
    a, b = read_about(beside), read_about(cached)
    assert {n for n in a if a[n] != b[n]} == {"mark"}
    assert pq.read_table(beside).to_pylist() == pq.read_table(cached).to_pylist()
    assert len([one for one in server.asked if one[0] == "GET"]) == 2
    server.asked.clear()
    ensure_index([f"{server.url}/a.tar"], depth="probe", cache_dir=tmp_path / "far")
    assert {command for command, _, _ in server.asked} == {"HEAD"}
    assert read_span(f"{server.url}/a.tar", caption(cached, 3)) == b"caption 3"

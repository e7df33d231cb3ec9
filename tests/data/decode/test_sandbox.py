"""Work in the sandbox may crash, hang or eat memory; its parent goes on, and never leaves it."""

import ctypes
import json
import multiprocessing
import operator
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from cascade.media.reason import DecodeError
from data.decode.sandbox import Sandbox, SandboxError, beat


@pytest.fixture
def sandbox():
    box = Sandbox()
    yield box
    box.close()


def works(box):
    return box.call(operator.add, 1, 2, deadline_s=20) == 3


def test_a_function_runs_in_another_process_that_stays(sandbox):
    child = sandbox.call(os.getpid, deadline_s=20)
    assert child != os.getpid()
    assert sandbox.call(os.getpid, deadline_s=20) == child
    assert works(sandbox)


def test_it_raises_what_the_function_raised_and_goes_on(sandbox):
    child = sandbox.call(os.getpid, deadline_s=20)
    with pytest.raises(ValueError, match=r"^invalid literal for int.*'x'"):
        sandbox.call(int, "x", deadline_s=20)
    with pytest.raises(FileNotFoundError):
        sandbox.call(os.stat, "/nowhere", deadline_s=20)
    with pytest.raises(json.JSONDecodeError, match="Expecting value"):
        sandbox.call(json.loads, "x", deadline_s=20)
    with pytest.raises(TypeError, match="pickle"):
        sandbox.call(threading.Lock, deadline_s=20)
    assert sandbox.call(os.getpid, deadline_s=20) == child


HANGS = {
    "sleeps": (time.sleep, 100),
    "loops in C": (pow, 3, 10**10),
    "holds the interpreter": (exec, "import ctypes; ctypes.PyDLL(None).pause()"),
}


@pytest.mark.parametrize("hang", HANGS)
def test_a_hang_ends_at_its_deadline_and_the_next_call_works(sandbox, hang):
    assert works(sandbox)
    start = time.monotonic()
    with pytest.raises(SandboxError, match=r"^exceeded the deadline of 0\.5 s$"):
        sandbox.call(*HANGS[hang], deadline_s=0.5)
    assert time.monotonic() - start < 2
    assert works(sandbox)


def test_a_beat_starts_the_deadline_again(sandbox):
    beat()  # outside it is nothing
    busy = "import time\nfrom data.decode.sandbox import beat\n"
    busy += "for _ in range(6): time.sleep(.25); beat()"
    sandbox.call(exec, busy, deadline_s=1)
    with pytest.raises(SandboxError, match="deadline"):
        sandbox.call(exec, busy.replace(".25", "2"), deadline_s=1)


def test_a_crash_is_an_error_that_names_its_signal_and_the_next_call_works(sandbox):
    with pytest.raises(DecodeError, match=r"^crashed \(SIGSEGV\)$"):
        sandbox.call(ctypes.string_at, 8, deadline_s=20)
    assert works(sandbox)
    with pytest.raises(SandboxError, match=r"^crashed \(SIGABRT\)$"):
        sandbox.call(os.abort, deadline_s=20)
    with pytest.raises(SandboxError, match="ended its process with status 3"):
        sandbox.call(os._exit, 3, deadline_s=20)
    assert works(sandbox)


def test_a_bomb_is_an_error_and_takes_no_memory():
    box = Sandbox(memory_bytes=2**29)
    assert works(box)
    with pytest.raises(SandboxError, match="exceeded the memory limit of 536870912 bytes"):
        box.call(bytearray, 2**30, deadline_s=20)
    assert works(box)
    box.close()


def test_memory_is_shared_both_ways_and_grows(sandbox):
    file = sandbox.share("video")
    for data in (b"a video", b"x" * 100_000, b"short"):
        file.write(data)
        assert sandbox.call(Path.read_bytes, Path(file.path), deadline_s=20) == data
    for size in (10, 1_000_000):
        frames = np.frombuffer(sandbox.share("frames").view(size), dtype=np.uint8)
        write = "import numpy as n; n.memmap(path, 'u1', 'r+')[:] = 7"
        path = sandbox.share("frames").path
        sandbox.call(exec, write, {"path": path}, deadline_s=20)
        assert len(frames) == size
        assert (frames == 7).all()


def test_it_belongs_to_one_process(sandbox):
    """A copy by pickle and a copy by fork have children and memory of their own."""
    child = sandbox.call(os.getpid, deadline_s=20)
    mine = sandbox.share("video")
    mine.write(b"mine")
    copy = pickle.loads(pickle.dumps(sandbox))
    assert copy.call(os.getpid, deadline_s=20) != child
    copy.close()
    child = sandbox.call(os.getpid, deadline_s=20)
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    if (forked := os.fork()) == 0:
        sandbox.share("video").write(b"theirs")
        theirs.send(sandbox.call(os.getpid, deadline_s=20))
        sandbox.close()
        os._exit(0)
    os.waitpid(forked, 0)
    assert ours.recv() != child
    assert sandbox.call(os.getpid, deadline_s=20) == child
    assert sandbox.call(Path.read_bytes, Path(mine.path), deadline_s=20) == b"mine"


class Children(Dataset):
    """Each sample is the process of its worker and of that one's sandbox."""

    def __init__(self):
        self.sandbox = Sandbox()

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return os.getpid(), self.sandbox.call(os.getpid, deadline_s=20)


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid, within_s=10.0):
    end = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


def test_it_works_in_the_workers_of_a_loader_and_ends_with_them():
    from_a_clean_process = {"num_workers": 2, "multiprocessing_context": "forkserver"}
    loader = DataLoader(Children(), batch_size=None, **from_a_clean_process)
    pairs = [tuple(map(int, pair)) for pair in loader]
    assert len(pairs) == 4
    assert len({worker for worker, _ in pairs}) == len({child for _, child in pairs}) == 2
    assert all(gone(child) for _, child in pairs)


@pytest.mark.parametrize("busy", ["idle", "time.sleep(100)", "ctypes.PyDLL(None).pause()"])
def test_it_dies_when_its_parent_is_killed(busy):
    """Also where its interpreter is held, so that no thread of its own could see the end."""
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(
            f"""
            import os, time
            from data.decode.sandbox import Sandbox
            box = Sandbox()
            print(box.call(os.getpid, deadline_s=60), flush=True)
            if {busy!r} == "idle":
                time.sleep(100)
            box.call(exec, "import ctypes, time; {busy}", deadline_s=100)
            """
        )],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    assert alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(child)


def test_signals_to_the_whole_job_are_for_the_parent(sandbox):
    """A scheduler warns every process of a job; the child must not die of it."""
    child = sandbox.call(os.getpid, deadline_s=20)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(child, number)
    time.sleep(0.1)
    assert sandbox.call(os.getpid, deadline_s=20) == child


def test_an_interrupted_call_leaves_no_answer_for_the_next(sandbox):
    assert works(sandbox)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        sandbox.call(time.sleep, 1, deadline_s=20)
    assert works(sandbox)


def test_a_child_that_was_killed_while_idle_is_replaced(sandbox):
    child = sandbox.call(os.getpid, deadline_s=20)
    os.kill(child, signal.SIGKILL)
    assert gone(child)
    assert works(sandbox)


def test_closing_ends_the_child_and_so_does_forgetting_it():
    box = Sandbox()
    child = box.call(os.getpid, deadline_s=20)
    box.close()
    assert not alive(child)
    child = box.call(os.getpid, deadline_s=20)
    del box
    assert not alive(child)

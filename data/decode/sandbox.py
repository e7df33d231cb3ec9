"""A child process for work on untrusted bytes.

Decoders written in C crash and hang on damaged files, and no signal handler or thread can stop
them. So they run in a child: it is killed at a deadline, its crash becomes an error with a reason,
its memory is limited, and it ends with its parent. The child is a new interpreter, not a fork of a
process with threads; it also works in a daemonic worker of a DataLoader, and it imports only what
its functions need.
"""

import contextlib
import ctypes
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from cascade.media.reason import DecodeError
from data.decode.shared_memory import SharedFile

MEMORY_BYTES = 4 * 2**30
_START_S = 120.0
_CHILDREN = 3
# The parent handles signals that are sent to the whole job; the child ends with the parent.
_FOR_THE_PARENT = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}

R = TypeVar("R")

_pipe: Connection | None = None  # in a child: the connection to its parent


class SandboxError(DecodeError):
    """The work crashed, exceeded its deadline or its memory limit; the text is the reason."""


class Sandbox:
    """Runs functions in a child process, which starts at the first call, and again after a kill.

    It belongs to the thread that calls it: on Linux the child ends with that thread, and the next
    call starts another. `memory_bytes` limits what the child may allocate; None: no limit.
    """

    def __init__(self, *, memory_bytes: int | None = MEMORY_BYTES) -> None:
        self.memory_bytes = memory_bytes
        self._owner = os.getpid()
        self._files: dict[str, SharedFile] = {}
        self._child: _Child | None = None
        self._end_child: Callable[[], object] = _nothing

    def __reduce__(self) -> tuple[Callable[[], "Sandbox"], tuple[()]]:
        """A copy in another process starts its own child."""
        return partial(Sandbox, memory_bytes=self.memory_bytes), ()

    def share(self, name: str) -> SharedFile:
        """The memory of this name, shared with the child; created if it does not exist.

        A running child cannot map new memory, so it is ended and its state is lost.
        """
        self._disown_after_fork()
        if name not in self._files:
            self.close()
            self._files[name] = SharedFile()
            weakref.finalize(self, self._files[name].close)
        return self._files[name]

    def call(
        self,
        function: Callable[..., R],
        /,
        *args: Any,
        deadline_s: float,
        **kwargs: Any,
    ) -> R:
        """Run a function in the child and return its result; it must be importable by its name.

        Raises:
            SandboxError: it crashed, or exceeded its deadline or the memory limit.
            Exception: the exception that the function raised.
        """
        self._disown_after_fork()
        try:
            kind, value = self._hand_over((function, args, kwargs)).receive(deadline_s)
        except BaseException:
            self.close()
            raise
        if kind == "error":
            if isinstance(value, SandboxError):
                self.close()
            raise value
        result: R = value
        return result

    def close(self) -> None:
        """End the child; a later call starts another."""
        self._end_child()
        self._child, self._end_child = None, _nothing

    def _hand_over(self, work: object) -> "_Child":
        """Send work to the child and return it; a child that was killed while idle is replaced."""
        for _ in range(_CHILDREN):
            child = self._running()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, EOFError):
                child.hand_over(work)
                return child
            self.close()
        raise RuntimeError(
            f"sandbox: {_CHILDREN} processes in a row ended before they did any work"
        )

    def _running(self) -> "_Child":
        if self._child is None or self._child.process.poll() is not None:
            self.close()
            self._child = _Child(self.memory_bytes, [f.descriptor for f in self._files.values()])
            self._end_child = weakref.finalize(self, self._child.end)
        return self._child

    def _disown_after_fork(self) -> None:
        """In a forked process, forget the parent's child and memory."""
        if self._owner != os.getpid():
            self.close()
            self._owner, self._files = os.getpid(), {}


def _nothing() -> None:
    """Do nothing: there is no child to end."""


class _Child:
    """A running child and the connection to it."""

    def __init__(self, memory_bytes: int | None, descriptors: list[int]) -> None:
        self.owner = os.getpid()
        self.pipe, theirs = Pipe()
        start = (
            f"import sys; sys.path[:] = {sys.path!r}; from data.decode.sandbox import serve; "
            f"serve({theirs.fileno()}, {self.owner}, {memory_bytes!r})"
        )
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_PARENT)  # the child inherits it
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=os.environ | _ONE_THREAD,
                pass_fds=[theirs.fileno(), *descriptors],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
        try:
            self.receive(_START_S)
        except SandboxError as error:
            self.end()
            raise RuntimeError(f"sandbox: its process does not start: {error}") from error

    def hand_over(self, work: object) -> None:
        """Send work and wait for the acknowledgement.

        Raises:
            OSError, EOFError: the child has ended.
        """
        self.pipe.send(work)
        self.pipe.recv()

    def receive(self, deadline_s: float) -> tuple[str, Any]:
        """The child's answer: ("result", value) or ("error", exception)."""
        end = time.monotonic() + deadline_s
        while True:
            try:
                if not self.pipe.poll(max(end - time.monotonic(), 0)):
                    raise SandboxError(f"exceeded the deadline of {deadline_s:g} s")
                kind, value = self.pipe.recv()
            except (EOFError, ConnectionResetError) as error:
                raise SandboxError(self._how_it_ended()) from error
            if kind != "beat":
                return kind, value
            end = time.monotonic() + deadline_s

    def _how_it_ended(self) -> str:
        status = self.process.wait()
        if status >= 0:
            return f"ended its process with status {status}"
        return f"crashed ({signal.Signals(-status).name})"

    def end(self) -> None:
        """Kill the child and wait for its end; a child of another process is left alone."""
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
        else:
            self.process.returncode = 0  # else Popen warns about a child that is not ours
        self.pipe.close()
        if self.process.stdin is not None:
            self.process.stdin.close()


def beat() -> None:
    """Report progress from inside a sandbox, which restarts the deadline; elsewhere do nothing."""
    if _pipe is not None:
        _pipe.send(("beat", None))


def serve(descriptor: int, parent: int, memory_bytes: int | None) -> None:
    """Main loop of the child: run requests and send answers until the parent ends."""
    global _pipe
    _die_with(parent)
    _bound_memory(memory_bytes)
    _pipe = Connection(descriptor)
    _pipe.send(("ready", None))
    while True:
        try:
            request = _pipe.recv_bytes()
        except EOFError:
            return
        _pipe.send(("taken", None))
        _pipe.send_bytes(_answer(request, memory_bytes))


def _answer(request: bytes, memory_bytes: int | None) -> bytes:
    try:
        function, args, kwargs = pickle.loads(request)
        return pickle.dumps(("result", function(*args, **kwargs)))
    except MemoryError:
        error: Exception = SandboxError(f"exceeded the memory limit of {memory_bytes} bytes")
    except Exception as raised:
        if not isinstance(raised, DecodeError):
            raised.add_note(traceback.format_exc())
        error = raised
    answer = pickle.dumps(("error", RuntimeError(f"{type(error).__name__}: {error}")))
    with contextlib.suppress(Exception):  # an error that cannot be pickled is sent as text
        whole = pickle.dumps(("error", error))
        pickle.loads(whole)
        answer = whole
    return answer


def _die_with(parent: int) -> None:
    """End this process with its parent: by the kernel on Linux, elsewhere by watching stdin."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)
    threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()


def _exit_at_end_of_stdin() -> None:
    os.read(0, 1)
    os._exit(0)


def _bound_memory(memory_bytes: int | None) -> None:
    """Limit the memory of this process: on Linux private memory only, without mapped files."""
    if memory_bytes is None:
        return
    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    hard = resource.getrlimit(kind)[1]
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS has the limit but may refuse to set it
        resource.setrlimit(kind, (limit, limit))

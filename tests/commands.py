"""The product's commands as processes forked from one that has imported everything.

A command spends seconds on importing torch and Lightning. The server of `multiprocessing` that its
children are forked from imports them once for each pytest worker. A forked command is a process of
its own: it has its own pid, environment, folder and output, takes signals and ends by itself.
"""

import atexit
import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.imported"])


class Command:
    """A running `python -m module arguments`, with the interface of `subprocess.Popen`.

    Args:
        env: variables that it has in addition to this process's own.
        merged: its errors go to its output, in order.
        session: it leads a session of its own, so that `os.killpg(pid, …)` ends its children too.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        merged: bool = False,
        session: bool = False,
    ) -> None:
        self.args = [module, *map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory(prefix="command-")
        self.out = Path(self._folder.name, "out")
        self.err = self.out if merged else Path(self._folder.name, "err")
        for path in (self.out, self.err):
            path.touch()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        where = str(cwd or Path.cwd())
        self._process = FORKS.Process(
            target=_run, args=(self.args, environment, where, self.out, self.err, session)
        )
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.out.read_text(errors="replace")

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout, self.output)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; its output, and its errors unless they are merged."""
        self.wait(timeout)
        merged = self.err == self.out
        return self.output, "" if merged else self.err.read_text(errors="replace")

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    module: str, *arguments: object, timeout: float = 300, **options
) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    command = Command(module, *arguments, **options)
    try:
        out, err = command.communicate(timeout)
    except BaseException:
        command.kill()
        raise
    return subprocess.CompletedProcess(command.args, command.returncode, out, err)


def _run(
    words: list[str], env: dict[str, str], cwd: str, out: Path, err: Path, session: bool
) -> None:
    """In the forked process: become the command."""
    if session:
        os.setsid()
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(cwd)
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), line_buffering=True)
        for number in (1, 2)
    )
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [cwd, *paths]
    sys.argv = words
    if "coverage" in sys.modules and (measured := sys.modules["coverage"].Coverage.current()):
        atexit.unregister(measured._atexit)  # the parent's, whose collector this process has not
    os._exit(_code(words[0]))


def _code(module: str) -> int:
    """The exit status of a module that is run as `python -m` does."""
    sys.modules.pop(module, None)  # it becomes `__main__`
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code

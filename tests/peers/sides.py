"""The sides of a comparison as processes: started, asked alternately, ended."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from environment import ensure

HERE = Path(__file__).resolve().parent


class Process:
    """One side as a process, which answers requests over its standard streams."""

    def __init__(self, python: Path, script: str, *, log: Path, threads: int) -> None:
        self.log = log
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONWARNINGS": "ignore",
        }
        # -P: the script's folder has a file with the name of a package, which it must not shadow.
        self._process = subprocess.Popen(
            [str(python), "-P", str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environment,
            cwd=HERE.parents[1],
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to a request; without one it raises an error with the end of the log."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            end = "\n".join(self.log.read_text().splitlines()[-12:])
            raise RuntimeError(f"{self.log.stem}: no answer to {do}; the end of {self.log}:\n{end}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Kill the process; it has no state to save."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def processes(
    sides: dict[str, str], *, venv: Path, out: Path, threads: int
) -> Iterator[dict[str, Process]]:
    """Running sides by name, from scripts by name; each writes its log to `out`."""
    pythons = {"ours.py": Path(sys.executable), "theirs.py": ensure(venv)}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, script in sides.items():
            log = out / f"{name.replace(' ', '-')}.log"
            one = Process(pythons[script], script, log=log, threads=threads)
            stack.callback(one.close)
            running[name] = one
        yield running

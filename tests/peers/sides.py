"""The sides of a comparison as processes: started, asked in turn, ended."""

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
    """One side, asked over its standard streams."""

    def __init__(self, python: Path, script: str, *, log: Path, threads: int) -> None:
        self.log = log
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONWARNINGS": "ignore",
        }
        # -P: a script's own folder must not hide the package that this file is named after.
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
        """The answer to a request; raises with the end of the log where there is none."""
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
        """End the side; it holds nothing worth keeping."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def processes(
    sides: dict[str, str], *, venv: Path, out: Path, threads: int
) -> Iterator[dict[str, Process]]:
    """Name → a running side, for name → script; each keeps its log in `out`."""
    pythons = {"ours.py": Path(sys.executable), "theirs.py": ensure(venv)}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, script in sides.items():
            log = out / f"{name.replace(' ', '-')}.log"
            one = Process(pythons[script], script, log=log, threads=threads)
            stack.callback(one.close)
            running[name] = one
        yield running

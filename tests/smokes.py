"""`make smoke` of shipped stages, in processes forked from a warm one: `python -m tests.smokes`.

Two steps of training take less time than the imports of a process of their own.
"""

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import commands

ROOT = Path(__file__).resolve().parents[1]


def stages() -> list[str]:
    """Every shipped stage, as <cascade>/<stage>."""
    paths = sorted((ROOT / "conf/stage").glob("*/[a-z]*.yaml"))
    return [f"{path.parent.name}/{path.stem}" for path in paths]


def words(stage: str) -> list[str]:
    """The module and the arguments that `make smoke` of a stage gives to Python."""
    cascade, _, name = stage.partition("/")
    command = ["make", "--no-print-directory", "-n", "smoke", "ARGS=logger=csv"]
    command += [f"CASCADE={cascade}", f"STAGE={name}"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in printed.splitlines() if " -m cascade.train " in line)
    typed = shlex.split(line)
    return typed[typed.index("-m") + 1 :]


def smoke(stage: str) -> str:
    """Run it; why it failed, or nothing."""
    sys.stdout.write(f"smoke: {stage}\n")
    sys.stdout.flush()
    done = commands.run(*words(stage), cwd=ROOT, merged=True)
    tail = "\n".join(done.stdout.splitlines()[-40:])
    return (
        f"smoke: {stage} failed, exit status {done.returncode}\n{tail}" if done.returncode else ""
    )


def main(chosen: list[str]) -> int:
    """Smoke the chosen stages or all; the exit status."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        failed = [text for text in pool.map(smoke, chosen or stages()) if text]
    sys.stdout.write("".join(f"{text}\n" for text in failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

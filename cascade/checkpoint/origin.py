"""What made a file: the code's commit, the libraries' versions, the device."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def commit() -> str | None:
    """The commit of the code that runs, `+` behind it where it was changed; none outside git."""
    here = Path(__file__).resolve().parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def versions() -> dict[str, str]:
    """Of the libraries that the numbers and the files' form come from."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": version("pytorch-lightning"),
    }


def device(kind: torch.device) -> str:
    """What computes, as far as its arithmetic may differ: a GPU's name, or a CPU's instructions."""
    if kind.type == "cuda":
        return torch.cuda.get_device_name(kind)
    if kind.type == "cpu":
        level = torch.backends.cpu.get_cpu_capability()
        return f"cpu {platform.machine()} {level} × {torch.get_num_threads()}"
    return kind.type

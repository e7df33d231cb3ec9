"""The origin of a file: the code's commit, the libraries' versions, the device."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def commit() -> str | None:
    """The commit of the running code, with `+` if it has changes; None outside a git repository."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of the libraries that determine the numbers and the file formats."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": version("pytorch-lightning"),
    }


def device(kind: torch.device) -> str:
    """The device, as far as its arithmetic may differ: a GPU's name, or a CPU's instruction set."""
    if kind.type == "cuda":
        return torch.cuda.get_device_name(kind)
    if kind.type == "cpu":
        level = torch.backends.cpu.get_cpu_capability()
        return f"cpu {platform.machine()} {level} × {torch.get_num_threads()}"
    return kind.type

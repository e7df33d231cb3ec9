"""The peer's own virtual environment, made by pip once and separate from Cascade's."""

import subprocess
import sys
from pathlib import Path

PEER = "imagen-pytorch==2.1.0"
TORCH = "torch==2.13.0"
#: The peer's dependencies that the comparison needs; `standins` says why the others are left out.
NEEDS = (
    "accelerate==1.15.0",
    "beartype==0.23.1",
    "einops==0.8.2",
    "ema-pytorch==0.8.3",
    "kornia==0.9.0",
    "numpy==2.4.6",
    "pillow",
    "pydantic==2.14.3",
    "pytorch-warmup==0.2.0",
)


def ensure(folder: Path) -> Path:
    """The environment's python; the first call installs all packages.

    torch is installed first and alone, so that no other package can choose another build of it. The
    index with a CPU build is pip's own setting.
    """
    python, ready = folder / "bin" / "python", folder / ".ready"
    wanted = "\n".join((TORCH, *NEEDS, PEER))
    if not ready.is_file() or ready.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, TORCH], check=True)
        subprocess.run([*pip, TORCH, *NEEDS], check=True)
        subprocess.run([*pip, "--no-deps", PEER], check=True)
        ready.write_text(wanted)
    return python

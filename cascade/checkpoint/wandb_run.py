"""The W&B run of a run: its id is drawn once and kept in the run's folder, for every resume."""

import netrc
import os
import secrets
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from cascade.checkpoint.checkpoint_folder import manifests
from cascade.files.atomic import write_atomic
from cascade.parallel.ranks import is_first

LETTERS = string.ascii_lowercase + string.digits


def has_key() -> bool:
    """Whether this machine has a W&B API key, in the environment or in netrc."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    return known or bool(os.environ.get("WANDB_API_KEY"))


def one_run(loggers: Mapping[str, Mapping[str, Any]], run: Path) -> list[dict[str, Any]]:
    """The loggers' configs; W&B's gets the id of this run, unless its config sets one."""
    found = [dict(logger) for logger in loggers.values()]
    for logger in found:
        if str(logger["_target_"]).endswith(".WandbLogger") and not logger.get("id"):
            logger["id"] = known(run) or _draw(run)
    return found


def known(run: Path) -> str | None:
    """The id drawn before: from the run's folder, else from its newest checkpoint."""
    path = _file(run)
    if path.is_file():
        return path.read_text().strip()
    return next((m.wandb_id for m in manifests(run) if m.wandb_id), None)


def _draw(run: Path) -> str:
    drawn = "".join(secrets.choice(LETTERS) for _ in range(8))
    if is_first():
        write_atomic(_file(run), f"{drawn}\n".encode())
    return drawn


def _file(run: Path) -> Path:
    return run / "wandb" / "id"

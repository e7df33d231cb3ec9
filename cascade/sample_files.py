"""The files of sampled videos: a folder that can be written, and names that tell requests apart."""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.bundle import CARD, STAGE

#: Bytes of a prompt in a file name; a name has 255 at most.
SLUG_BYTES = 120
#: The values of a request on which its videos depend, besides the bundles and the sources' content.
VALUES = (
    *("prompt", "negative_prompt", "num_inference_steps", "guidance_scale"),
    *("frames", "height", "width", "way", "indices", "strength", "share", "dtype"),
)


def check_folder(folder: Path) -> None:
    """Make the folder of the videos, before they are sampled.

    Raises:
        ValueError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"out={folder}: cannot be written ({error.strerror}); set out= to another folder"
        ) from error


def slug(prompt: str) -> str:
    """The start of a prompt in any language as a part of a file name."""
    name = re.sub(r"[^\w]+", "-", prompt).strip("-")[:60]
    return name.encode()[:SLUG_BYTES].decode(errors="ignore").rstrip("-") or "untitled"


def request_id(
    values: Mapping[str, Any],
    *,
    bundles: Sequence[str | Path],
    sampling: Sequence[Mapping[str, Any]],
    sources: Sequence[str],
) -> str:
    """Eight letters that differ for requests with different videos.

    They depend on the values, the stages' bundles and the cascade's settings for sampling, and the
    content of the files named by `sources`.
    """
    digest = hashlib.blake2b(digest_size=4)
    settings = [[values[name] for name in VALUES], list(sampling)]
    digest.update(json.dumps(settings, default=str).encode())
    for path in (Path(folder) / part for folder in bundles for part in (STAGE, CARD)):
        if path.is_file():
            digest.update(path.read_bytes())
    for name in sources:
        path = values[name]
        if isinstance(path, str) and Path(path).is_file():
            with Path(path).open("rb") as file:
                content = hashlib.file_digest(file, "blake2b").hexdigest()
            digest.update(f"{name}={content}".encode())
    return digest.hexdigest()


def file_name(values: Mapping[str, Any], number: int, request: str) -> str:
    """The file of video `number` of a request; another request has another name."""
    return f"{slug(values['prompt'])}-{values['seed']}-{number}-{request}.{values['format']}"

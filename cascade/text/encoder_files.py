"""The files of a frozen text encoder: their folder, the encoder's config and its fingerprint.

This module never loads the encoder, so a training rank can check cheaply which one made its
embeddings.
"""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

_TOKENIZER = (
    "added_tokens.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
)
#: Keys of config.json that depend on the writer, not on the encoder.
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_BLOCKS, _BLOCK_BYTES = 64, 4096


class NoEncoderError(ValueError):
    """The files of an encoder are not on this machine."""


def find_encoder(name: str, *, download: bool = False) -> Path:
    """The folder of an encoder: `name` itself, or this machine's cached copy of a hub model.

    With `download` a hub model that is not cached is downloaded.

    Raises:
        NoEncoderError: the encoder is in neither place.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    reason = f"{name!r} is not a folder with a config.json"
    try:
        found = _from_hub(name, download=download)
        if (found / "config.json").is_file():
            return found
    except ImportError:
        pass
    except (OSError, ValueError) as error:  # the hub's errors are of these kinds
        reason = str(error).partition("\n")[0]
    raise NoEncoderError(
        f"no T5 encoder and tokenizer at {name!r} on this machine ({reason}); name a folder that "
        "has them, or allow the download: stage.text.download=true (make embeddings: download=true)"
    )


def _from_hub(name: str, *, download: bool) -> Path:
    hub = importlib.import_module("huggingface_hub")
    if not download:
        return Path(hub.snapshot_download(name, local_files_only=True))
    # A repository may hold the weights several times: for other frameworks, and as pickles.
    folder = Path(
        hub.snapshot_download(name, allow_patterns=["*.json", "*.model", "*.safetensors"])
    )
    if not list(folder.glob("*.safetensors")):
        hub.snapshot_download(name, allow_patterns=["pytorch_model*.bin"])
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The encoder's config.json.

    Raises:
        ValueError: it is not valid JSON, or has no width.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("d_model"), int):
        raise ValueError(f"{path}: has no d_model, so this is not the config of a T5")
    return config


def fingerprint(folder: Path) -> str:
    """A hash of the config, tokenizer and weights of the encoder in a folder.

    Of each weights file it reads the size and 64 blocks of 4 KiB spread over the file: 20 GB take
    milliseconds. Other weights of the same shapes differ in all blocks.

    Raises:
        NoEncoderError: the folder has no weights.
    """
    config = {k: v for k, v in read_config(folder).items() if k not in _VOLATILE}
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
    for name in _TOKENIZER:
        path = folder / name
        digest.update(f"/{name}:".encode())
        if path.is_file():
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise NoEncoderError(f"{folder}: has no *.safetensors and no pytorch_model*.bin")
    for path in weights:
        size = path.stat().st_size
        digest.update(f"/{size}:".encode())
        with path.open("rb") as file:
            for i in range(_BLOCKS):
                file.seek(i * max(size - _BLOCK_BYTES, 0) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()

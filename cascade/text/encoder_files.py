"""The files of a frozen text encoder: where they are, how wide it is, and which encoder it is.

Nothing here loads the encoder, so a training rank can check what its captions were encoded with.
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
#: Keys of config.json that say by whom it was written, not what the encoder is.
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_BLOCKS, _BLOCK_BYTES = 64, 4096


class NoEncoderError(ValueError):
    """The files of an encoder are not on this machine."""


def find_encoder(name: str, *, download: bool = False) -> Path:
    """The folder of an encoder: `name` itself, or the copy of a hub's name that this machine keeps.

    Raises:
        NoEncoderError: neither is there; the network is asked only with `download`.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    reason = f"{name!r} is no folder with a config.json"
    try:
        found = _from_hub(name, download=download)
        if (found / "config.json").is_file():
            return found
    except ImportError:
        pass
    except (OSError, ValueError) as error:  # the hub's errors are of these kinds
        reason = str(error).partition("\n")[0]
    raise NoEncoderError(
        f"no T5 encoder and tokenizer at {name!r} on this machine; name a folder that has them, or "
        f"allow it with download=true ({reason})"
    )


def _from_hub(name: str, *, download: bool) -> Path:
    hub = importlib.import_module("huggingface_hub")
    if not download:
        return Path(hub.snapshot_download(name, local_files_only=True))
    # A repository may hold the weights many times over: for other frameworks, and as pickles.
    folder = Path(
        hub.snapshot_download(name, allow_patterns=["*.json", "*.model", "*.safetensors"])
    )
    if not list(folder.glob("*.safetensors")):
        hub.snapshot_download(name, allow_patterns=["pytorch_model*.bin"])
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The encoder's config.json.

    Raises:
        ValueError: it does not parse, or states no width.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: does not parse: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("d_model"), int):
        raise ValueError(f"{path}: states no d_model, so it is no T5")
    return config


def fingerprint(folder: Path) -> str:
    """Which encoder lies in a folder: a hash of its config, its tokenizer and its weights.

    Of each file of weights its size and 64 blocks of 4 KiB spread over it are read, so that 20 GB
    cost milliseconds; other weights of the same shapes differ in all of them.

    Raises:
        NoEncoderError: the folder holds no weights.
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
        raise NoEncoderError(f"{folder}: holds no *.safetensors and no pytorch_model*.bin")
    for path in weights:
        size = path.stat().st_size
        digest.update(f"/{size}:".encode())
        with path.open("rb") as file:
            for i in range(_BLOCKS):
                file.seek(i * max(size - _BLOCK_BYTES, 0) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()

"""The only definition of the shard format: the members of a sample, and the keys of a batch.

A shard is plain WebDataset: `key.mp4` (or an image), `key.txt`, `key.json`. The key ends at the
first dot of the file name, as in the shards of video2dataset and img2dataset.
"""

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import Float, Float16, Int64, UInt8
from torch import Tensor

from cascade.files.text import read_text
from cascade.media.kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES

#: The keys of a batch that a stage computes with on its device.
ON_DEVICE = frozenset(("video", "videos", "fps", "zoom", "text"))

Role = Literal["video", "image", "caption", "state"]

ROLES: dict[str, Role] = {
    **dict.fromkeys(VIDEO_SUFFIXES, "video"),
    **dict.fromkeys(IMAGE_SUFFIXES, "image"),
    "txt": "caption",
    "json": "state",
}


class Sample(TypedDict):
    """One training clip; `state` is its json, `position` is its number in the run."""

    video: UInt8[Tensor, "c f h w"]
    fps: float
    zoom: float
    caption: str
    text: Float16[Tensor, "l d"] | None
    """The stored embedding of the caption, if there is one."""
    key: str
    position: int
    state: dict[str, Any]


class Beside(TypedDict):
    """Everything in a batch except pixels; `position` is each sample's global number in the run."""

    fps: Float[Tensor, " b"]
    zoom: Float[Tensor, " b"]
    caption: list[str]
    text: list[Float16[Tensor, "_l d"] | None]
    key: list[str]
    position: Int64[Tensor, " b"]
    state: list[dict[str, Any]]


class Batch(Beside):
    """Clips of one shape."""

    video: UInt8[Tensor, "b c f h w"]


class PackedBatch(Beside):
    """Clips of any shapes, which the network packs into sequences."""

    videos: list[UInt8[Tensor, "c _f _h _w"]]
    weight: float
    """Weight of each sample's loss, so that the mean over parts is the mean over all samples."""


def split_name(name: str) -> tuple[str, str]:
    """(key, extension) of a tar member; the extension is in lower case, or ''.

    The key includes the folders and ends at the first dot of the file name.
    """
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    key = stem if path.parent == PurePosixPath(".") else f"{path.parent}/{stem}"
    return key, extension.lower()


def role(extension: str) -> Role | None:
    """The role of a member with this extension in its sample; None: it is not read."""
    return ROLES.get(extension)


def read_state(data: bytes) -> dict[str, Any]:
    """Parse the json of a sample.

    Raises:
        ValueError: it is invalid, or is not an object.
    """
    try:
        state = json.loads(read_text(data))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"invalid JSON: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"JSON must be an object, got {type(state).__name__}")
    return state


def collate(samples: Sequence[Sample]) -> Batch:
    """The batch of samples that share a shape."""
    return {"video": torch.stack([s["video"] for s in samples]), **_beside(samples)}


def collate_packed(samples: Sequence[Sample], *, weight: float) -> PackedBatch:
    """The packed batch of samples of any shapes."""
    return {"videos": [s["video"] for s in samples], "weight": weight, **_beside(samples)}


def _beside(samples: Sequence[Sample]) -> Beside:
    return {
        "fps": torch.tensor([s["fps"] for s in samples], dtype=torch.float32),
        "zoom": torch.tensor([s["zoom"] for s in samples], dtype=torch.float32),
        "caption": [s["caption"] for s in samples],
        "text": [s["text"] for s in samples],
        "key": [s["key"] for s in samples],
        "position": torch.tensor([s["position"] for s in samples], dtype=torch.int64),
        "state": [s["state"] for s in samples],
    }

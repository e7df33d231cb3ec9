"""A checkpoint's manifest: its origin, and the size and checksum of every file in it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

FORMAT = 1


class ManifestError(ValueError):
    """A manifest is missing, damaged or of an unknown format."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Describes a checkpoint without its state.

    Args:
        step: completed optimizer steps.
        files: `[bytes, sha256]` by path inside the folder.
        stage: the stage's name.
        shapes: shapes of the stage's weights, by name.
        data: seed, plan, position and fingerprint, as the data module reports them.
        config: the run's resolved config.
        commit: commit of the code that wrote it.
        versions: versions of the libraries.
        world: number of processes.
        strategy: class of the trainer's strategy.
        precision: the trainer's precision.
        device: the device that trained.
        wandb_id: id of the W&B run, the same after every resume.
        probe: the `loss` of the fixed probe batch, and its `samples`; None without a probe.
        validated: step of the last completed validation.
        figures: metrics of this step's validation.
        save_s: seconds that the save took until the manifest was written.
    """

    step: int
    files: Mapping[str, tuple[int, str]]
    stage: str
    shapes: Mapping[str, list[int]]
    data: Mapping[str, Any]
    config: Mapping[str, Any]
    commit: str | None
    versions: Mapping[str, str]
    world: int
    strategy: str
    precision: str
    device: str
    wandb_id: str | None = None
    probe: Mapping[str, float] | None = None
    validated: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    save_s: float = 0.0

    def dumps(self) -> bytes:
        """As JSON, with its own checksum."""
        content = json.loads(json.dumps(asdict(self), ensure_ascii=False))  # keys become strings
        document = {"format": FORMAT, "sha256": _digest(content), "manifest": content}
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def loads(cls, text: bytes) -> "Manifest":
        """Parse a manifest.

        Raises:
            ManifestError: it was changed, or has another format.
        """
        try:
            document = json.loads(text)
            stated, content = document["sha256"], document["manifest"]
        except (ValueError, TypeError, KeyError) as error:
            raise ManifestError(f"is not a manifest ({error!r})") from error
        if document.get("format") != FORMAT:
            raise ManifestError(
                f"has format {document.get('format')!r}, but this version reads format {FORMAT}"
            )
        if _digest(content) != stated:
            raise ManifestError(f"has checksum {_digest(content)[:12]}, but states {stated!r:.14}")
        known = {one.name for one in fields(cls)}
        if not isinstance(content, dict) or set(content) != known:
            raise ManifestError(f"must have the entries {sorted(known)}, has {sorted(content)}")
        content["files"] = {name: (int(n), str(h)) for name, (n, h) in content["files"].items()}
        return cls(**content)


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()

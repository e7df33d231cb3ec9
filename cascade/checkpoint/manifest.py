"""The label on a checkpoint: what it is of, and the size and checksum of every file in it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

FORMAT = 1


class ManifestError(ValueError):
    """A manifest that is not one, or not as it was written."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known of a checkpoint without reading its state.

    Args:
        step: optimizer steps behind it.
        files: by path inside the folder, `[bytes, sha256]`.
        stage: its name.
        shapes: of the stage's weights, by name.
        data: seed, plan, position and fingerprint, as the data module states them.
        config: the run's, resolved.
        commit: of the code that wrote it.
        versions: of the libraries.
        world: processes.
        strategy: the class that spread them.
        precision: as the trainer has it.
        device: what computed.
        wandb_id: of the run at W&B, the same in all legs.
        probe: the `loss` of the fixed probe batch, and its `samples`; none without a probe.
        validated: the step of the last validation that was finished.
        figures: this step's validation's.
        save_s: seconds that the save took up to here.
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
        """As JSON, with a checksum of its own."""
        content = json.loads(json.dumps(asdict(self), ensure_ascii=False))  # keys as they are read
        whole = {"format": FORMAT, "sha256": _digest(content), "manifest": content}
        return (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def loads(cls, text: bytes) -> "Manifest":
        """Read one back.

        Raises:
            ManifestError: it was changed, or is of another format.
        """
        try:
            whole = json.loads(text)
            stated, content = whole["sha256"], whole["manifest"]
        except (ValueError, TypeError, KeyError) as error:
            raise ManifestError(f"is no manifest ({error!r})") from error
        if whole.get("format") != FORMAT:
            raise ManifestError(f"has format {whole.get('format')!r}, this Cascade reads {FORMAT}")
        if _digest(content) != stated:
            raise ManifestError(f"has checksum {_digest(content)[:12]}, but states {stated!r:.14}")
        known = {one.name for one in fields(cls)}
        if not isinstance(content, dict) or set(content) != known:
            raise ManifestError(f"has other entries than {sorted(known)}")
        content["files"] = {name: (int(n), str(h)) for name, (n, h) in content["files"].items()}
        return cls(**content)


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()

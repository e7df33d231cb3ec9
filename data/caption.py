"""Which of its captions a sample is trained with: drawn by weight among those it has."""

from collections.abc import Mapping
from typing import Any

from cascade.keyed import uniform

TEXT = "txt"


class Captions:
    """Weights of the sources: `txt` is the text beside the video, others are keys of its json.

    Where a sample has none of them, its text or the json's `caption` is taken.
    """

    def __init__(self, **weights: float) -> None:
        self.weights = weights or {TEXT: 1.0}
        if min(self.weights.values()) < 0 or not sum(self.weights.values()) > 0:
            raise ValueError(f"data.captions: weights must be positive, got {weights}")

    def __call__(self, text: str, state: Mapping[str, Any], *, seed: int, position: int) -> str:
        """The caption at this position."""
        found = {n: self._read(n, text, state) for n, w in self.weights.items() if w > 0}
        found = {n: caption for n, caption in found.items() if caption}
        if not found:
            return self._read(TEXT, text, state) or self._read("caption", text, state)
        left = uniform(seed, position, "caption") * sum(self.weights[n] for n in found)
        for name, caption in found.items():
            left -= self.weights[name]
            if left <= 0:
                return caption
        return caption

    @staticmethod
    def _read(name: str, text: str, state: Mapping[str, Any]) -> str:
        if name == TEXT:
            return text.strip()
        value = state.get(name)
        return value.strip() if isinstance(value, str) else ""

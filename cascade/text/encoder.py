"""The interface of a text encoder.

The result for a caption never depends on the other captions of its batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float16
from torch import Tensor, nn

Known = Sequence[Float[Tensor, "_l d"] | None]
Fetch = Callable[[str], Float16[np.ndarray, "l d"] | None]


class TextFeatures(NamedTuple):
    """Encoded captions; `mask` is true for tokens and false for padding."""

    tokens: Float[Tensor, "b l d"]
    mask: Bool[Tensor, "b l"]


class TextEncoder(nn.Module, ABC):
    """Encodes captions as tokens of `width`; `truncated` counts truncated captions in training."""

    width: int
    truncated: int = 0

    @abstractmethod
    def forward(self, captions: Sequence[str], known: Known | None = None) -> TextFeatures:
        """Encode the captions; those over the encoder's limit are truncated and counted.

        `known` holds, per caption, the embedding that the loader prefetched, (l, width), or None.
        """

    @abstractmethod
    def check(self, prompt: str) -> None:
        """Refuse a prompt over the encoder's limit.

        Raises:
            ValueError: the prompt is too long.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Load the files that encoding needs, so that a missing one fails before the first step."""

    def ahead(self) -> Fetch | None:
        """A function by which loader processes prefetch an embedding; None if there is none."""
        return None

    def identity(self) -> dict[str, str]:
        """Arguments that a bundle records to identify the encoder of its stage."""
        return {}

    def shared_key(self) -> Hashable | None:
        """A key that is equal for encoders with equal features, so that stages can share one.

        None: the encoder is trained with its stage and cannot be shared.
        """
        return None

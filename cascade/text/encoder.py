"""The interface of a text encoder.

The result for one caption never depends on the others in its batch.
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
    """Encoded captions; `mask` is true where a token is."""

    tokens: Float[Tensor, "b l d"]
    mask: Bool[Tensor, "b l"]


class TextEncoder(nn.Module, ABC):
    """Turns captions into tokens of `width`; `truncated` counts the captions cut in training."""

    width: int
    truncated: int = 0

    @abstractmethod
    def forward(self, captions: Sequence[str], known: Known | None = None) -> TextFeatures:
        """Encode; what is longer than the encoder reads is cut, and counted.

        `known` holds, per caption, the embedding that was fetched ahead, (l, width), or None.
        """

    @abstractmethod
    def check(self, prompt: str) -> None:
        """Refuse a prompt longer than the encoder reads.

        Raises:
            ValueError: with both lengths and the way out.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Load what encoding needs, so that a missing file fails before the first step."""

    def ahead(self) -> Fetch | None:
        """What loader processes may call to fetch an embedding ahead; None: they need not."""
        return None

    def identity(self) -> dict[str, str]:
        """The arguments by which a bundle records the encoder that its stage was trained with."""
        return {}

    def shared_key(self) -> Hashable | None:
        """Equal for encoders that give equal features, so that stages may share one.

        None: the encoder is trained with its stage, which alone may use it.
        """
        return None

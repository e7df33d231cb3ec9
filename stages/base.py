"""The first stage of a cascade: text (and given frames) to a small, slow video."""

from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor

from stages.stage import Stage


@final
class BaseStage(Stage):
    """Makes video from text alone; there is no stage before it."""

    scalars: ClassVar[tuple[str, ...]] = ("fps", "zoom", "height", "width")

    def check_scale(self) -> None:
        """A base starts the chain, so it scales nothing."""
        if (self.scale.time, self.scale.space) != (1, 1):
            raise ValueError(f"{self.name}: a base stage scales nothing, but has {self.scale}")
        if self.augment is not None:
            raise ValueError(f"{self.name}: a base has no stage before it, so augment must be null")

    def reduce(self, x: Float[Tensor, "b c f h w"]) -> None:  # noqa: ARG002 (there is nothing before a base)
        """Nothing comes before a base."""
        return

    def expand(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """Refused: nothing comes before a base."""
        raise ValueError(f"{self.name}: a base takes no video to expand, got {tuple(low.shape)}")

    def measure(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, " b"]]:  # noqa: ARG002 (clips tell nothing)
        """None: how well a base follows its prompts is measured on its samples, not on clips."""
        return {}

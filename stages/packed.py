"""A training step on clips of several shapes, packed into one sequence."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.text import TextFeatures
from stages.condition import Condition, take

if TYPE_CHECKING:
    from stages.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Noised:
    """Clips on their way to the network, and what it should say of them."""

    z: Float[Tensor, "b c f h w"]
    logsnr: Float[Tensor, "b f"]
    condition: Condition
    target: Float[Tensor, "b c f h w"]
    drawn: Float[Tensor, " b"]


def packed_losses(
    stage: "Stage", batch: dict[str, Any], text: TextFeatures, *, purpose: str
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The loss and log-SNR of each clip of a packed batch: those that it would have alone.

    Raises:
        ValueError: the stage's network cannot pack.
    """
    forward_packed = getattr(stage.net, "forward_packed", None)
    if forward_packed is None:
        raise ValueError(
            f"stage {stage.name}: its network {type(stage.net).__name__} does not pack clips of "
            "several shapes; take data.batching=buckets"
        )
    beside = {name: batch[name] for name in ("fps", "zoom", "position")}
    parts = [
        stage.noised(
            stage.clip(video.unsqueeze(0)),
            take(beside, [i]),
            TextFeatures(text.tokens[i : i + 1], text.mask[i : i + 1]),
            purpose=purpose,
        )
        for i, video in enumerate(batch["videos"])
    ]
    outs = forward_packed(
        [stage.inputs(part.z, part.condition)[0] for part in parts],
        [part.logsnr[0] for part in parts],
        [part.condition.text.tokens[0, part.condition.text.mask[0]] for part in parts],
        torch.cat([part.condition.scalars for part in parts]),
    )
    losses = [stage.weighed(out.unsqueeze(0), part) for out, part in zip(outs, parts, strict=True)]
    return torch.cat(losses), torch.cat([part.drawn for part in parts])

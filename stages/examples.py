"""Turns a loader's batch into examples: clips on the latent grid, each with its condition.

Every draw is keyed by (seed, position, purpose), so an example does not depend on its batch.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cascade import keyed
from cascade.grid import Grid
from cascade.stage import Batch, Example, TrainableStage
from cascade.text.encoder import TextFeatures


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """The samples of a batch with these numbers."""
    return {
        name: value[list(rows)] if isinstance(value, Tensor) else [value[i] for i in rows]
        for name, value in batch.items()
    }


def examples(stage: TrainableStage, batch: Batch, *, purpose: str) -> list[Example]:
    """One example for a batch of one shape; one per clip for a packed batch."""
    text, captions = _read(stage, batch, purpose=purpose)
    if "videos" not in batch:
        return [_example(stage, stage.clip(batch["video"]), batch, text, captions, purpose)]
    columns = {name: batch[name] for name in ("fps", "zoom", "position")}
    return [
        _example(
            stage,
            stage.clip(video.unsqueeze(0)),
            take(columns, [i]),
            TextFeatures(text.tokens[i : i + 1], text.mask[i : i + 1]),
            captions[i : i + 1],
            purpose,
        )
        for i, video in enumerate(batch["videos"])
    ]


def _read(stage: TrainableStage, batch: Batch, *, purpose: str) -> tuple[TextFeatures, list[str]]:
    """The encoded captions; a share of them is dropped, which guidance needs."""
    recipe = stage.recipe
    positions = batch["position"].tolist()
    dropped = [
        keyed.uniform(recipe.seed, p, f"{purpose}/text") < recipe.text_dropout for p in positions
    ]
    captions = ["" if d else c for c, d in zip(batch["caption"], dropped, strict=True)]
    stored = batch.get("text")
    known = None
    if stored is not None and any(one is not None for one in stored):
        known = [None if d else one for one, d in zip(stored, dropped, strict=True)]
    features: TextFeatures = stage.text(captions, known)
    return features, captions


def _example(
    stage: TrainableStage,
    video: Float[Tensor, "b 3 f h w"],
    batch: Batch,
    text: TextFeatures,
    captions: list[str],
    purpose: str,
) -> Example:
    recipe = stage.recipe
    seed, positions, device = recipe.seed, batch["position"].tolist(), video.device
    _, _, frames, height, width = video.shape
    low = stage.kind.reduce(video)
    level = None
    if low is not None and stage.augment is not None:
        level = stage.augment.level(keyed.uniforms(seed, positions, f"{purpose}/augment", device))
    condition = stage.conditioner(
        grid=Grid(frames=frames, height=height, width=width, fps=stage.target.fps),
        text=text,
        given=recipe.modes.draw(video, seed=seed, positions=positions),
        fps=batch["fps"].to(video),
        zoom=batch["zoom"].to(video),
        low=low,
        level=level,
        noise=lambda shape: keyed.normals(seed, positions, f"{purpose}/low", shape, device),
    )
    with torch.no_grad():
        x = stage.codec.encode(video)
    ways = recipe.modes.names(frames, seed=seed, positions=positions)
    return Example(x=x, condition=condition, captions=captions, ways=ways, positions=positions)

"""Plan the files that a run writes: their sizes in bytes."""

import math
from collections.abc import Mapping
from typing import Any

from cascade.doctor.dry import DryStage, Execution
from cascade.doctor.figure import Figure
from cascade.doctor.findings import Findings
from cascade.doctor.text_cost import FrozenEncoder
from cascade.grid import Grid

#: Bytes per pixel and frame of the sample videos (H.264 of small clips).
VIDEO_BYTES = 0.15


def run_files(
    callbacks: Mapping[str, Mapping[str, Any]],
    *,
    steps: int,
    weights: int,
    optimizer: int,
    averages: int,
    grid: Grid,
    wandb: bool,
) -> dict[str, Figure]:
    """The sizes of a run's files by name.

    Args:
        callbacks: the callbacks' config.
        steps: the run's length.
        weights: bytes of the module's state.
        optimizer: bytes of the optimizer's state.
        averages: bytes of the EMA weights.
        grid: the grid of the sample videos.
        wandb: whether W&B keeps a copy of the samples.
    """
    one = weights + optimizer + averages
    files = {"one checkpoint": Figure(one, "counted", "bytes", "weights, optimizer, EMA weights")}
    checkpoint = _of(callbacks, "Checkpoints")
    if checkpoint is not None:
        kept, rule = _kept(checkpoint, steps)
        files["checkpoints"] = Figure(one * (kept + 1), "counted", "bytes", rule)
    files["bundle"] = Figure(weights, "counted", "bytes", "EMA weights, at the run's end")
    samples = _of(callbacks, "Samples")
    if samples is not None:
        times = steps // samples["every_n_steps"] + (steps % samples["every_n_steps"] > 0)
        videos = times * samples["count"]
        size = videos * grid.frames * grid.height * grid.width * VIDEO_BYTES
        note = f"{videos:,} videos of {grid}, {VIDEO_BYTES} bytes per pixel"
        if wandb:
            size, note = 2 * size, note + "; W&B keeps a copy"
        files["samples"] = Figure(round(size), "estimated", "bytes", note)
    return files


def _of(callbacks: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    found = (c for c in callbacks.values() if str(c.get("_target_", "")).endswith(f".{name}"))
    return next(found, None)


def _kept(checkpoint: Mapping[str, Any], steps: int) -> tuple[int, str]:
    """The number of checkpoints kept, and the rule in words; one more exists during a save."""
    often, keep = checkpoint["every_n_steps"], checkpoint["keep"]
    written = max(1, -(-steps // often))
    last, every, best = keep.get("last", 2), keep.get("every"), keep.get("best") or {}
    further = 0 if every is None else steps // math.lcm(every, often)
    kept = min(written, last + further + (best.get("k", 1) if best else 0))
    which = [f"the newest {last}"]
    which += [] if every is None else [f"those at multiples of {every:,}"]
    which += [f"the best {best.get('k', 1)} by {best['metric']}"] if best else []
    rule = f"one every {often:,} steps; kept: {', '.join(which)}, and one more during a save"
    return kept, rule


def embeddings_file(samples: int, tokens: float, width: int) -> Figure:
    """The size of a frozen encoder's stored embeddings, without padding, in half precision."""
    note = f"{samples:,} captions of about {tokens:.0f} tokens, half precision"
    return Figure(round(samples * tokens * width * 2), "estimated", "bytes", note)


def plan_files(
    record: Findings,
    config: dict[str, Any],
    dry: DryStage,
    survey: Any,
    encoder: FrozenEncoder | None,
    execution: Execution,
) -> None:
    """Add the sizes of the run's files and caches."""
    stage = dry.stage
    weights = sum(p.numel() * p.element_size() for p in stage.state_dict().values())
    trained = sum(p.numel() for p in dry.module.parameters() if p.requires_grad)
    record.add(
        "files",
        run_files(
            config["callbacks"],
            steps=stage.recipe.steps,
            weights=weights,
            optimizer=dry.optimizer_bytes(),
            averages=4 * trained * len(execution.sigma_rels),
            grid=stage.target,
            wandb="wandb" in (config.get("logger") or {}),
        ),
    )
    if survey is not None:
        for name, size in survey.cache_bytes.items():
            note = "" if size else "not kept: more than data.loading.cache_bytes"
            record.add("files", {name: Figure(size, "counted", "bytes", note)})
        if encoder is not None:
            tokens = config["plan"]["text_tokens"]
            file = embeddings_file(survey.train + survey.held, tokens, dry.text.width)
            record.add("files", {"text embeddings": file})

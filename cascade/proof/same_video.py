"""The claims that a bundle gives the same video after a reload, and in any batch."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from cascade.bundle import load_stage, read_stage, save_bundle
from cascade.checkpoint.checkpoint_folder import STATE, folder_of
from cascade.checkpoint.state_file import StateFile
from cascade.proof.found import ClaimPictures, Found, Table, judged
from cascade.proof.subject import Subject, grid_of, taken
from cascade.report import Cell
from cascade.stage import Stage, Video

#: The videos of the batch that are also sampled alone.
ALONE = (0, -1)


@torch.no_grad()
def check_bundle(subject: Subject) -> Found:
    """The claim's figures: the largest difference of a pixel, and of an averaged weight."""
    videos = {"the stage as it trains": _videos(subject, subject.trained, range(2))}
    videos["the bundle"] = _videos(subject, subject.bundled, range(2))
    with tempfile.TemporaryDirectory() as folder:
        copy = save_bundle(
            Path(folder) / "bundle",
            stage=read_stage(subject.run / "bundle"),
            weights=subject.bundled.state_dict(),
            card=subject.card,
        )
        stages = {
            "the bundle, loaded twice": load_stage(subject.run / "bundle"),
            "saved and loaded again": load_stage(copy),
        }
    for name, stage in stages.items():
        moved = cast(Stage, stage)
        moved.to(subject.device)
        videos[name] = _videos(subject, moved, range(2))
    wanted = videos["the bundle"]
    off = {name: float((video - wanted).abs().max()) for name, video in videos.items()}
    weights, about = _averages(subject)
    wrong = [
        f"{name}: its videos differ from the bundle's by up to {value:.3g}"
        for name, value in off.items()
        if value > 0
    ]
    if weights is not None and weights > 0:
        wrong.append(f"the bundle's weights differ from the run's averages by up to {weights:.3g}")
    rows: list[Sequence[object]] = [
        (name, Cell(value, "bad" if value else "good")) for name, value in off.items()
    ]
    rows.append((about, None if weights is None else Cell(weights, "bad" if weights else "good")))
    return judged(
        wrong,
        figure=f"videos differ by {max(off.values()):g} at most; "
        + ("the averages were not compared" if weights is None else f"weights by {weights:g}"),
        tolerance="exact, bit by bit",
        notes=[about] if weights is None else [],
        tables=[Table(columns=["compared with the bundle", "largest difference"], rows=rows)],
    )


@torch.no_grad()
def check_batch(subject: Subject) -> Found:
    """The claim's figure: the largest difference of a pixel, alone and in a batch."""
    size = subject.settings.batch
    together = _videos(subject, subject.bundled, range(size))
    allowed = float(subject.settings.tolerances["batch"])
    rows, off, pictures = [], [], []
    for place in (i % size for i in ALONE):
        alone = _videos(subject, subject.bundled, [place], of=size)
        off.append(float((alone[0] - together[place]).abs().max()))
        rows.append((f"video {place}", Cell(off[-1], "good" if off[-1] <= allowed else "bad")))
        pictures.append((f"video {place}", [together[place].cpu(), alone[0].cpu()]))
    worst = max(off)
    return judged(
        [f"a video sampled alone differs from the same in a batch of {size} by {worst:.3g}"]
        if not worst <= allowed
        else [],
        figure=f"videos differ by {worst:.2g} at most, in [-1, 1]",
        tolerance=f"{allowed:g}: another batch size changes the order of sums",
        tables=[Table(columns=["sampled alone", "largest difference"], rows=rows)],
        pictures=[ClaimPictures(columns=[f"in a batch of {size}", "alone"], rows=pictures)],
    )


def _videos(subject: Subject, stage: Stage, rows: Sequence[int], *, of: int = 0) -> Video:
    """Videos of few sampler steps: those numbered `rows` in a batch of `of` captions."""
    few = taken(subject.few(of or len(rows)), rows)
    clip = subject.trained.clip(few["video"])
    return stage.sample(
        few["caption"],
        grid=grid_of(clip, subject.bundled.target.fps),
        seeds=list(rows),
        low=stage.kind.reduce(clip),
        steps=subject.settings.steps,
    )


def _averages(subject: Subject) -> tuple[float | None, str]:
    """The largest difference between the bundle's weights and its checkpoint's averages."""
    steps, sigma = subject.card["steps"], subject.card["sigma_rel"]
    found = next((one for one in subject.saved if one.step == steps), None)
    if found is None:
        return None, f"no checkpoint of step {steps} is left to compare the bundle's weights with"
    file = folder_of(subject.run, steps) / STATE
    state = StateFile().load_checkpoint(file)
    averages = _of_width(state["callbacks"], sigma)
    weights = subject.bundled.state_dict()
    wanted: dict[str, Tensor] = {**state["state_dict"], **averages}
    if wanted.keys() != weights.keys():
        return float(
            "inf"
        ), f"the averages of step {steps} and the bundle have different parameters"
    off = [float((wanted[n].cpu() - weights[n].cpu()).abs().max()) for n in weights]
    return max(off), f"the averages (width {sigma:g}) of the checkpoint at step {steps}"


def _of_width(callbacks: dict[str, Any], sigma: float) -> dict[str, Tensor]:
    """The averages of one width among the states of a checkpoint's callbacks."""
    for state in callbacks.values():
        if isinstance(state, dict) and {"sigma_rels", "averages"} <= state.keys():
            place = list(state["sigma_rels"]).index(sigma)
            found: dict[str, Tensor] = state["averages"][place]
            return found
    raise ValueError("the checkpoint has no averages")

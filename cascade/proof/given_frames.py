"""Given frames come back: sampled under every way to prompt, the given pixels are unchanged."""

import torch

from cascade.conditioning import Given, bring
from cascade.proof.found import Found, Pictures, Table, judged
from cascade.proof.practised_ways import NOTHING, forced, suiting
from cascade.proof.subject import Subject, grid_of, taken
from cascade.report import Cell
from cascade.stage import Video


@torch.no_grad()
def check(subject: Subject) -> Found:
    """The claim's figures: the largest change of a given pixel, by way."""
    held = subject.clips()
    ways = [way for way in suiting(held["video"].shape[2]) if way != NOTHING]
    one = taken(held, [0])
    clip = subject.trained.clip(one["video"])
    rows, pictures, wrong = [], [], []
    for way in ways:
        given = _given(subject, clip, way, one["position"].tolist())
        made = _sampled(subject, given, clip, one["caption"], float(one["fps"][0]))
        known = given.mask.expand_as(made) > 0
        off = float((made - given.frames)[known].abs().max()) if known.any() else float("nan")
        share = float(given.mask.mean())
        if not off == 0:
            wrong.append(f"{way}: a given pixel comes back changed by {off:.3g}")
        if not made.isfinite().all():
            wrong.append(f"{way}: the video is not finite")
        rows.append((way, f"{100 * share:.1f} %", Cell(off, "bad" if off else "good")))
        pictures.append((way, [given.frames[0].cpu(), made[0].cpu(), clip[0].cpu()]))
    worst = max((float(str(row[2].value)) for row in rows), default=0.0)
    return judged(
        wrong,
        figure=f"a given pixel changes by {worst:g} at most ({len(ways)} ways)",
        tolerance="exact, bit by bit",
        tables=[
            Table(columns=["way to prompt", "pixels given", "largest change"], rows=rows),
        ],
        pictures=[
            Pictures(
                columns=["given", "made", "the clip"],
                rows=pictures,
                caption=f"Frame by frame, by {subject.settings.steps} steps; grey is not given.",
            )
        ],
    )


def _given(subject: Subject, clip: Video, way: str, positions: list[int]) -> Given:
    drawn = forced(way).draw(clip, seed=subject.trained.recipe.seed, positions=positions)
    return bring(drawn, grid_of(clip, subject.bundled.target.fps), subject.device)


def _sampled(
    subject: Subject, given: Given, clip: Video, captions: list[str], fps: float
) -> Video:
    return subject.bundled.sample(
        captions,
        grid=grid_of(clip, fps),
        seeds=[0],
        low=subject.bundled.kind.reduce(clip),
        given=given,
        steps=subject.settings.steps,
    )

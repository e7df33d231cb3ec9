"""The claim that given frames are unchanged, for every way to prompt and in every sampler step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cascade.conditioning import Given, to_grid
from cascade.proof.found import ClaimPictures, Found, Table, judged
from cascade.proof.network_inputs import Inputs, watched
from cascade.proof.subject import Subject, grid_of, taken
from cascade.proof.trained_ways import forced, giving
from cascade.report import Cell
from cascade.stage import Batch, Video


@dataclass(frozen=True, kw_only=True)
class SampledWay:
    """A video sampled under one way to prompt, and all inputs of its network."""

    way: str
    given: Given
    video: Video
    calls: list[Inputs]

    @property
    def change(self) -> float:
        """The largest change of a given pixel; NaN if no pixel was given."""
        known = self.given.mask.expand_as(self.video) > 0
        changes = (self.video - self.given.frames)[known].abs()
        return float(changes.max()) if len(changes) else float("nan")


@torch.no_grad()
def check(subject: Subject) -> Found:
    """The claim's figures: the largest change of a given pixel, by way."""
    held = subject.clips()
    ways = giving(subject.trained, held["video"].shape[2])
    one = taken(held, [0])
    clip = subject.trained.clip(one["video"])
    samples = [_sampled(subject, one, clip, way) for way in ways]
    clean = subject.bundled.diffusion.schedule.logsnr_max
    wrong = [f"{one.way}: {line}" for one in samples for line in _wrong(one, clean)]
    rows = [
        (
            one.way,
            f"{100 * float(one.given.mask.mean()):.1f} %",
            Cell(one.change, "good" if one.change == 0 else "bad"),
            len(one.calls),
        )
        for one in samples
    ]
    shown = [
        (one.way, [v[0].cpu() for v in (one.given.frames, one.video, clip)]) for one in samples
    ]
    columns = ["way to prompt", "pixels given", "largest change", "network calls"]
    caption = f"Frame by frame, after {subject.settings.steps} steps. Grey pixels were not given."
    worst = max((one.change for one in samples), default=0.0)
    return judged(
        wrong,
        figure=f"a given pixel changes by {worst:g} at most ({len(ways)} ways)",
        tolerance="exact, bit by bit",
        tables=[Table(columns=columns, rows=rows)],
        pictures=[
            ClaimPictures(columns=["given", "sampled", "the clip"], rows=shown, caption=caption)
        ],
    )


def _sampled(subject: Subject, one: Batch, clip: Video, way: str) -> SampledWay:
    stage, seed = subject.bundled, subject.trained.recipe.seed
    drawn = forced(subject.trained, way).draw(clip, seed=seed, positions=one["position"].tolist())
    grid = grid_of(clip, float(one["fps"][0]))
    given = to_grid(drawn, grid, subject.device)
    with watched(stage) as calls:
        video = stage.sample(
            one["caption"],
            grid=grid,
            seeds=[0],
            low=stage.kind.reduce(clip),
            given=given,
            steps=subject.settings.steps,
        )
    return SampledWay(way=way, given=given, video=video, calls=calls)


def _wrong(sample: SampledWay, clean: float) -> list[str]:
    """The errors in the video and in the sampler's steps."""
    found = []
    if sample.change != 0:
        found.append(f"a given pixel changes by {sample.change:.3g}")
    if not sample.video.isfinite().all():
        found.append("the video is not finite")
    for number, call in enumerate(sample.calls):
        place = f"network call {number + 1} of {len(sample.calls)}"
        found += [f"{place}: {line}" for line in _moved(call, sample.calls[0], clean)]
    return found[:3]


def _moved(call: Inputs, first: Inputs, clean: float) -> Sequence[str]:
    """The errors of a call: given frames must be those of the first call, clean, and marked so."""
    found = [
        f"{name} differs from the first call"
        for name in ("given", "mask")
        if not torch.equal(call[name], first[name])
    ]
    whole = (call["mask"] > 0).all(dim=4).all(dim=3).all(dim=1)
    z, given = (call[name].transpose(1, 2)[whole] for name in ("z", "given"))
    if not torch.equal(z, given):
        found.append("z differs from the given frame in a fully given frame")
    if not (call["logsnr"][whole] == clean).all():
        found.append("logsnr is not the highest in a fully given frame")
    return found

"""Measure every way to prompt on held-out clips of a trained cascade: figures of RESULTS.md.

    python tests/measure/ways.py OUT --runs runs [--cases 32] [--ways image loop …] [--sheets DIR]

OUT is JSON and is written after every way; what it has of the same cases and weights is kept. Per
way: PSNR of the network's own last x̂ at what is given, before that is put back, and of the free
frames next to it; the change of given pixels in the video; prompts followed, by the parser; motion
at a joint; steps between frames at a seam; how far restyled videos are from their input.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from prompted import Cases, Made, Measured, make, psnr_at
from torch import Tensor
from ways_shown import tables, write_sheet

from cascade.checkpoint.origin import commit
from cascade.conditioning import Given, ways
from cascade.eval.following import following
from cascade.generate import fingerprint
from cascade.pipeline import Cascade
from data.worlds.parse import parse

LEVELS = 127.5  # of 8 bits, per unit of a pixel in [-1, 1]
STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
Figures = dict[str, Any]


def quartiles(values: Tensor) -> list[float]:
    """Quartile, median, quartile."""
    kept = values[~values.isnan()].double()
    return [round(float(kept.quantile(q)), 3) for q in (0.25, 0.5, 0.75)]


def followed(videos: Tensor, measured: Measured, shift: int = 0) -> Figures:
    """Share of prompts right in %, with its interval; video i is of prompt i + `shift`."""
    words = turned(measured.cases.attributes, shift)
    found = following(
        videos, [one.to_dict() for one in words], parse, fps=measured.cases.grid.fps
    ).shares()
    return {
        name: [round(100 * value, 1) for value in (share.value, *share.interval)]
        for name, share in found.items()
    }


def turned(values: Sequence[Any], shift: int) -> list[Any]:
    return [*values[shift:], *values[:shift]]


def steps(video: Tensor) -> Tensor:
    """Mean change of a pixel from each frame to the next one, and of the last to the first."""
    return (video.roll(-1, 2) - video).abs().mean(dim=(1, 3, 4)) * LEVELS


def against(seam: Tensor, own: Tensor) -> Figures:
    """Steps at a seam against the other steps of the same videos, (b, s) and (b, f)."""
    median, largest = own.nanmedian(dim=1).values, own.nan_to_num(0).max(dim=1).values
    worst = seam.max(dim=1).values
    return {
        "seam": quartiles(worst),
        "median step": quartiles(median),
        "largest step": quartiles(largest),
        "seam / median step": quartiles(worst / median.clamp(min=1e-3)),
        "seam at most the largest step": int((worst <= largest).sum()),
    }


def joints(given: Given) -> list[int]:
    """The frames t where frame t is given and t + 1 is not, or the other way round."""
    known = given.mask[0].amax(dim=(0, 2, 3)) > 0
    return [t for t in range(len(known) - 1) if known[t] != known[t + 1]]


def own_frames(measured: Measured, made: Made, given: Given) -> Figures:
    """PSNR of each stage's own x̂: what is given, and the free frames or pixels next to it."""
    without, found = measured.without(made), {}
    for name, own in made.own.items():
        here = measured.on(given, name)
        truth = measured.clips_on(name)
        known = here.mask[0, 0].amax(dim=(1, 2)) > 0
        beside = torch.zeros_like(here.mask)
        for t in joints(here):
            beside[:, :, t + int(known[t])] = 1
        beside = beside if beside.any() else 1 - here.mask  # a region
        wanted = {"given": (here.frames, here.mask), "beside": (truth, beside)}
        if ((here.frames - truth) * here.mask).abs().max() > 1e-3:
            del wanted["beside"]  # given at other times than in the clip, so that is no answer
        found[name] = {
            place: {
                "with": quartiles(psnr_at(own, frames, mask)),
                "without": quartiles(psnr_at(without[name], frames, mask)),
            }
            for place, (frames, mask) in wanted.items()
        }
    return found


def motion(measured: Measured, video: Tensor, given: Given) -> Figures:
    """Error of the object's velocity, in pixels per frame, at the joint and in the new part."""
    centres = measured.cases.centres(video)
    true = measured.cases.centres(measured.cases.clips)
    velocity = (true[:, -1] - true[:, 0]) / (true.shape[1] - 1)
    error = (centres.diff(dim=1) - velocity[:, None]).norm(dim=2)
    known = given.mask[0, 0].amax(dim=(1, 2)) > 0
    free = [t for t in range(len(known) - 1) if not known[t] and not known[t + 1]]
    (joint,) = joints(given)
    inside, at = error[:, free], error[:, joint]
    return {
        "joint": quartiles(at),
        "inside": quartiles(inside.nanmean(dim=1)),
        "mean at the joint": round(float(at.nanmean()), 3),
        "mean inside": round(float(inside.nanmean()), 3),
        "largest inside": quartiles(inside.nan_to_num(0).max(dim=1).values),
        "of the clips themselves": quartiles(
            (true.diff(dim=1) - velocity[:, None]).norm(dim=2).mean(dim=1)
        ),
        "speed of the clips": quartiles(velocity.norm(dim=1)),
        "unseen": int(at.isnan().sum()),
    }


def giving(measured: Measured, way: str, sheet: Callable[..., None]) -> Figures:
    """The figures of a way that gives frames or regions."""
    cases, given = measured.cases, measured.cases.given(way)
    made = make(measured.cascade, cases.prompts, given=given)
    final = [*made.stages.values()][-1]
    shown = final if given.end is None else final[:, :, : given.end]
    sheet(way, [cases.clips, given.frames, final])
    figures: Figures = {
        "x̂": own_frames(measured, made, given),
        "change of a given pixel /255": float(
            ((final - given.frames) * given.mask).abs().max() * LEVELS
        ),
        "prompts followed": followed(shown, measured),
    }
    if way.startswith("extend"):
        figures["motion"] = motion(measured, final, given)
    if way in ("loop", "connect"):
        figures["joints"] = jumps(measured, made, given, of_the_clip=way == "connect")
    return figures


def jumps(measured: Measured, made: Made, given: Given, *, of_the_clip: bool) -> Figures:
    """Steps at joints beside those of the clip or of the video: in levels, and of the centre."""
    found = {}
    for name, video in made.stages.items():
        places = joints(measured.on(given, name))
        other = measured.clips_on(name) if of_the_clip else video
        found[name] = against(steps(video)[:, places], steps(other)[:, :-1])
    final, clips = [*made.stages.values()][-1], measured.cases.clips
    moved, other = (
        measured.cases.centres(each).diff(dim=1).norm(dim=2)
        for each in (final, clips if of_the_clip else final)
    )
    return {**found, "the object's centre": against(moved[:, joints(given)], other)}


def text(measured: Measured, sheet: Callable[..., None]) -> Figures:
    """Prompts followed by text alone, and by the clips themselves."""
    final = [*measured.text.stages.values()][-1]
    sheet("text", [measured.cases.clips, final])
    clips = followed(measured.cases.clips, measured)
    return {"prompts followed": followed(final, measured), "the clips": clips}


def closed(measured: Measured, sheet: Callable[..., None]) -> Figures:
    """The seam of loops (`loop=true`) beside that of text alone, at every stage."""
    made = make(measured.cascade, measured.cases.prompts, loop=True)
    final = [*made.stages.values()][-1]
    sheet("loop=true", [torch.cat([final, final[:, :, :4]], dim=2)])
    figures: Figures = {"prompts followed": followed(final, measured), "seam": {}}
    for name in made.stages:
        pair = (made.stages[name], measured.text.stages[name])
        changes = [steps(video) for video in pair]
        looped, alone = (against(each[:, -1:], each[:, :-1]) for each in changes)
        figures["seam"][name] = {**looped, "text alone": alone["seam / median step"]}
    return figures


def restyle(measured: Measured, sheet: Callable[..., None]) -> Figures:
    """Videos restyled by the next case's prompt: their distance to the input, by strength."""
    cases = measured.cases
    prompts = turned(cases.prompts, 1)
    alone = [*make(measured.cascade, prompts).stages.values()][-1]
    figures: Figures = {"strength": {}}
    distances, shown = [], [cases.clips]
    for strength in STRENGTHS:
        made = make(measured.cascade, prompts, start=cases.clips, strength=strength)
        final = [*made.stages.values()][-1]
        shown.append(final)
        distances.append((final - cases.clips).square().mean(dim=(1, 2, 3, 4)).sqrt() * LEVELS)
        figures["strength"][strength] = {
            "RMS distance to the input": round(float(distances[-1].mean()), 3),
            "to the input /255": float((final - cases.clips).abs().max() * LEVELS),
            "to text alone /255": float((final - alone).abs().max() * LEVELS),
            "prompts followed": followed(final, measured, shift=1),
        }
    rising = torch.stack(distances).diff(dim=0) >= 0
    figures["cases that rise from each strength to the next"] = rising.sum(dim=1).tolist()
    sheet("restyle", shown)
    return figures


def main() -> None:
    """The command line."""
    known = ["text", *(name for name, way in ways.items() if way.gives_frames)]
    known += ["loop=true", "restyle"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--ways", nargs="+", choices=known, default=known)
    parser.add_argument("--sheets", type=Path)
    args = parser.parse_args()
    chain = {"name": "demo", "stages": ["base", "tsr1", "ssr1"]}
    cascade = Cascade.from_runs(args.runs, chain)
    measured = Measured(cascade=cascade, cases=Cases.of(cascade, args.cases))
    weights = fingerprint(cascade, measured.cases.prompts, 0)
    found = json.loads(args.out.read_text()) if args.out.is_file() else {}
    if found.get("weights") != weights:
        found = {"weights": weights, "commit": commit(), "cases": args.cases, "ways": {}}

    def sheet(name: str, videos: Sequence[Tensor]) -> None:
        write_sheet(args.sheets, name, videos)

    special = {"text": text, "loop=true": closed, "restyle": restyle}
    for way in args.ways:
        if way not in found["ways"]:
            one = special.get(way)
            figures = giving(measured, way, sheet) if one is None else one(measured, sheet)
            found["ways"][way] = figures
            args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        print(way, "is measured", flush=True)  # noqa: T201
    print(tables(found["ways"]))  # noqa: T201


if __name__ == "__main__":
    main()

"""The demo's page: videos after each stage side by side, metrics, and training curves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from cascade.checkpoint.origin import commit
from cascade.curves import read_curves
from cascade.eval.measure import Generated, Report
from cascade.evaluation_page import add_evaluation
from cascade.files.atomic import read_json
from cascade.report import chart
from cascade.report.page import Page
from cascade.report.sections import Cell, Film
from cascade.video import to_float


@dataclass(frozen=True, kw_only=True)
class Result:
    """The finished demo's videos, their scores beside those of right videos, and its times."""

    made: Generated
    report: Report
    truth: Report
    times: Mapping[str, float]


def write_page(cfg: DictConfig, result: Result | None = None) -> Path:
    """Write the page with the training so far; with `result` also the videos and metrics."""
    facts = {"cascade": cfg.cascade.name, "stages": " → ".join(cfg.cascade.stages)}
    facts["commit"] = commit() or "outside git"
    if result is not None:
        facts["minutes"] = f"{sum(result.times.values()) / 60:.1f}"
    page = Page(
        f"Cascade: {cfg.cascade.name}",
        lead="A text-to-video cascade trained from scratch on this machine, each stage separately. "
        "The prompts below are held out of training.",
        facts=facts,
    )
    if result is not None:
        _figures(page, cfg, result)
        _films(page, cfg, result)
        add_evaluation(page, result.report, result.truth, result.made)
    _training(page, cfg)
    if result is not None:
        page.section("Time")
        rows = [(name, round(seconds)) for name, seconds in result.times.items()]
        page.table(("step", "seconds"), rows)
    return page.write(cfg.page)


def _figures(page: Page, cfg: DictConfig, result: Result) -> None:
    last = cfg.cascade.stages[-1]
    measure, stages = next(iter(result.report.items()))
    page.section(
        "In short",
        f"{len(result.made.prompts)} prompts with combinations held out of training, one video "
        f"each, by the measure “{measure}”.",
    )
    page.figures(
        (f"{figure.value:.0%}", name, "after " + last)
        for name, figure in stages[last].figures.items()
        if figure.share
    )


def _films(page: Page, cfg: DictConfig, result: Result) -> None:
    page.section("Videos", "The video after each stage, from left to right; all play in sync.")
    made = result.made
    count = len(made.prompts)
    spread = range(0, count, max(1, count // cfg.shown))
    rows = [
        (made.prompts[n], [_film(result, stage, n) for stage in made.videos])
        for n in list(spread)[: cfg.shown]
    ]
    page.films([*made.videos], rows)


def _film(result: Result, stage: str, number: int) -> Film:
    """A video with the shares that it misses, by the first measure, if that has shares."""
    figures = next(iter(result.report.values()))[stage].figures
    right = {name: one.each[number] == 1 for name, one in figures.items() if one.share}
    wrong = [name for name, one in right.items() if not one]
    note = Cell("wrong: " + ", ".join(wrong), "bad") if wrong else Cell("as asked", "good")
    video = to_float(result.made.videos[stage][number])
    return Film(video, fps=result.made.grids[stage].fps, note=note if right else "")


def _training(page: Page, cfg: DictConfig) -> None:
    for stage in cfg.cascade.stages:
        run = Path(cfg.paths.runs) / cfg.cascade.name / stage / cfg.run
        curves = read_curves(run)
        if not curves:
            continue
        page.section(f"Training {stage}")
        losses: dict[str, chart.Points] = {
            n: curves[n] for n in ("train/loss", "val/loss") if n in curves
        }
        if losses:
            page.lines(losses, log_y=True)
        _baseline(page, {name: curve[-1][1] for name, curve in curves.items()})
        folders = sorted(path.parent for path in run.glob("samples/*/captions.json"))
        if folders:
            captions = read_json(folders[-1] / "captions.json")
            page.text(
                f"Samples at step {int(folders[-1].name):,} for held-out clips. Panels from left "
                "to right: low (the input, of super-resolution alone), made (the sample), real."
            )
            page.gallery((text, Film(folders[-1] / name)) for name, text in captions.items())


#: The low-resolution input of each measurement.
INPUTS = {"true": "true low resolution", "made": "low resolution as at sampling"}


def _baseline(page: Page, last: Mapping[str, float]) -> None:
    """Add PSNR and SSIM of a super-resolution stage beside the baseline's, if measured."""
    rows = [
        (
            f"{measure.upper()}, {described}",
            Cell(round(last[own], 3), "good" if last[own] > last[baseline] else "bad"),
            round(last[baseline], 3),
        )
        for given, described in INPUTS.items()
        for measure in ("psnr", "ssim")
        if (own := f"val/{given}/{measure}") in last
        and (baseline := f"val/{given}/plain_{measure}") in last
    ]
    if rows:
        columns = ("held-out clips", "this stage", "baseline: bicubic / linear interpolation")
        page.table(columns, rows)

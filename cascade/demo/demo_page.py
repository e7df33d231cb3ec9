"""The demo's page: videos after each stage side by side, metrics, and training curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from omegaconf import DictConfig
from torch import Tensor

from cascade.checkpoint.origin import commit
from cascade.curves import read_curves
from cascade.eval.following import Following
from cascade.eval.long_video import LongVideos
from cascade.files.atomic import read_json
from cascade.long_page import add_sections
from cascade.report import chart
from cascade.report.page import Page
from cascade.report.sections import Cell, Film
from cascade.video import to_float


@dataclass(frozen=True, kw_only=True)
class Result:
    """The finished demo's videos and readings per stage, and its times."""

    prompts: Sequence[str]
    videos: Mapping[str, UInt8[Tensor, "n 3 _f _h _w"]]
    report: Mapping[str, Following]
    ceiling: Mapping[str, Following]
    long: Mapping[str, LongVideos]
    fps: Mapping[str, float]
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
        if result.long:
            add_sections(page, result.long)
        _films(page, cfg, result)
    _training(page, cfg)
    if result is not None:
        page.section("Time")
        rows = [(name, round(seconds)) for name, seconds in result.times.items()]
        page.table(("step", "seconds"), rows)
    return page.write(cfg.page)


def _figures(page: Page, cfg: DictConfig, result: Result) -> None:
    last = cfg.cascade.stages[-1]
    shares = result.report[last].shares()
    page.section(
        "How well the videos follow their prompts",
        f"{len(result.prompts)} prompts with combinations held out of training, one video each. A "
        "parser reads the attributes from the pixels; intervals are 95 %. The ceiling is the "
        "parser's reading of the ground truth.",
    )
    page.figures((f"{share.value:.0%}", name, "after " + last) for name, share in shares.items())
    rows = {
        name: {
            **{stage: _interval(result.report[stage], name) for stage in cfg.cascade.stages},
            "ceiling": _interval(result.ceiling[last], name),
        }
        for name in shares
    }
    page.intervals(rows, caption="Share of right prompts after each stage, and the ceiling.")


def _interval(following: Following, name: str) -> tuple[float, float, float]:
    share = following.share(name)
    return share.value, *share.interval


def _films(page: Page, cfg: DictConfig, result: Result) -> None:
    page.section("Videos", "The video after each stage, from left to right; all play in sync.")
    spread = range(0, len(result.prompts), max(1, len(result.prompts) // cfg.shown))
    rows = []
    for i in list(spread)[: cfg.shown]:
        films: list[Film | None] = []
        for stage in cfg.cascade.stages:
            reading = result.report[stage].readings[i]
            wrong = [f"{n}: {reading.read.get(n)}" for n in reading.wanted if not reading.right(n)]
            note = Cell(", ".join(wrong), "bad") if wrong else Cell("as asked", "good")
            video = to_float(result.videos[stage][i])
            films.append(Film(video, fps=result.fps[stage], note=note))
        rows.append((result.prompts[i], films))
    page.films(cfg.cascade.stages, rows)


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

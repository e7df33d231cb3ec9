"""The demo's page: the videos, each stage's part side by side, curves, figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from omegaconf import DictConfig
from torch import Tensor

from cascade.checkpoint.origin import commit
from cascade.curves import read_curves
from cascade.eval.following import Following
from cascade.report import chart
from cascade.report.page import Page
from cascade.report.sections import Cell, Film
from cascade.video import to_float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the finished demo knows: videos and readings per stage, and where the time went."""

    prompts: Sequence[str]
    videos: Mapping[str, UInt8[Tensor, "n 3 _f _h _w"]]
    report: Mapping[str, Following]
    ceiling: Mapping[str, Following]
    fps: Mapping[str, float]
    times: Mapping[str, float]


def write_page(cfg: DictConfig, result: Result | None = None) -> Path:
    """Write the page with what there is so far; whole once there is a `result`."""
    facts = {"cascade": cfg.cascade.name, "stages": " → ".join(cfg.cascade.stages)}
    facts["commit"] = commit() or "outside git"
    if result is not None:
        facts["minutes"] = f"{sum(result.times.values()) / 60:.1f}"
    page = Page(
        f"Cascade: {cfg.cascade.name}",
        lead="A text-to-video cascade trained from nothing on this machine, each stage on its own; "
        "the prompts below were never trained on.",
        facts=facts,
    )
    if result is not None:
        _figures(page, cfg, result)
        _films(page, cfg, result)
    _training(page, cfg)
    if result is not None:
        page.section("Where the time went")
        rows = [(name, round(seconds)) for name, seconds in result.times.items()]
        page.table(("step", "seconds"), rows)
    return page.write(cfg.page)


def _figures(page: Page, cfg: DictConfig, result: Result) -> None:
    last = cfg.cascade.stages[-1]
    shares = result.report[last].shares()
    page.section(
        "How well the videos follow",
        f"{len(result.prompts)} prompts of combinations held out of training, one video each, read "
        "back from pixels alone; intervals of 95 %. The ceiling is the same reading of the ground "
        "truth.",
    )
    page.figures((f"{share.value:.0%}", name, "after " + last) for name, share in shares.items())
    rows = {
        name: {
            **{stage: _interval(result.report[stage], name) for stage in cfg.cascade.stages},
            "ceiling": _interval(result.ceiling[last], name),
        }
        for name in shares
    }
    page.intervals(rows, caption="Share of prompts right, after each stage, beside the ceiling.")


def _interval(following: Following, name: str) -> tuple[float, float, float]:
    share = following.share(name)
    return share.value, *share.interval


def _films(page: Page, cfg: DictConfig, result: Result) -> None:
    page.section("The videos", "What each stage adds, from left to right; the frames play in step.")
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
        _plain(page, {name: curve[-1][1] for name, curve in curves.items()})
        folders = sorted(run.glob("samples/*/captions.json"))
        if folders:
            newest = folders[-1].parent
            films = [(f"step {int(newest.name)}", Film(p)) for p in sorted(newest.glob("*.mp4"))]
            page.gallery(films)


def _plain(page: Page, last: Mapping[str, float]) -> None:
    """PSNR and SSIM beside the plain way, where a super-resolution stage has measured them."""
    rows = [
        (
            f"{measure.upper()} on {given} input",
            Cell(round(last[own], 3), "good" if last[own] > last[plain] else "bad"),
            round(last[plain], 3),
        )
        for given in ("true", "made")
        for measure in ("psnr", "ssim")
        if (own := f"val/{given}/{measure}") in last
        and (plain := f"val/{given}/plain_{measure}") in last
    ]
    if rows:
        page.table(("on held-out clips", "this stage", "the plain way"), rows)

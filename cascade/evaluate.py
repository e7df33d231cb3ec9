"""Evaluate a trained cascade on held-out prompts, after each stage, by the measures of its world.

`python -m cascade.evaluate cascade=demo` generates a video per prompt, measures them all and writes
`evaluation.json` and a page. A stopped evaluation resumes at the batch where it was.
"""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from cascade.bundle import read_card
from cascade.entry import check_choices, command
from cascade.eval.measure import Generated, Measure, Report, apply, check
from cascade.evaluation_page import add_evaluation
from cascade.files.atomic import write_atomic
from cascade.generate import generate, to_generate
from cascade.opening import bundles_named, open_cascade
from cascade.pipeline import Cascade
from cascade.report.page import Page

log = logging.getLogger(__name__)


def check_world(bundles: Sequence[str | Path], world: str | None) -> None:
    """Check that stages were trained on the world whose prompts are scored; None: do not check.

    Raises:
        ValueError: one was trained on other clips.
    """
    for folder in bundles if world is not None else ():
        found = read_card(Path(folder)).get("world")
        if found != world:
            raise ValueError(
                f"{folder}: was trained on {found or 'clips that no world made'}, but the prompts "
                f"are of the world {world}; name runs that were trained on it, or set world=null "
                "to score these all the same"
            )


def measures_of(cfg: DictConfig) -> dict[str, Measure]:
    """The measures of the config, or those that `only` names.

    Raises:
        ValueError: `only` names one that the config does not have, or none is left.
    """
    known = {name: one for name, one in cfg.measures.items() if one is not None}
    only = [*known] if cfg.only is None else [*cfg.only]
    if not only or any(name not in known for name in only):
        raise ValueError(
            f"evaluate: only must name measures of {', '.join(known)}, got {', '.join(only)}"
        )
    return {name: hydra.utils.instantiate(known[name]) for name in only}


def generated(cfg: DictConfig, cascade: Cascade) -> Generated:
    """The videos for the config's prompts, after all measures are checked.

    Raises:
        ValueError: a measure cannot measure them.
    """
    made = to_generate(
        cascade,
        hydra.utils.instantiate(cfg.prompts),
        render=hydra.utils.instantiate(cfg.truth),
        given=cfg.given,
        joints=cfg.joints,
    )
    check(measures_of(cfg), made)
    return generate(cascade, made, folder=Path(cfg.out), seed=cfg.seed, batch_size=cfg.batch_size)


def evaluate(cfg: DictConfig, made: Generated) -> tuple[Report, Report]:
    """The scores of every stage, and those of right videos on the last stage's grid; written too.

    The second are the measures' own ceilings and floors.
    """
    measures, last = measures_of(cfg), [*made.videos][-1]
    report = apply(measures, made)
    right = torch.stack([made.truth(last, n) for n in range(len(made.prompts))])
    truth = apply(measures, replace(made, videos={last: right}))
    write_report(Path(cfg.out) / "evaluation.json", report)
    write_report(Path(cfg.out) / "truth.json", truth)
    return report, truth


def write_report(path: Path, report: Report) -> None:
    """Write every figure with its 95 % interval and every score, as stage → measure → scores."""
    content: dict[str, dict[str, Any]] = {}
    for name, stages in report.items():
        for stage, scores in stages.items():
            content.setdefault(stage, {})[name] = scores.to_json()
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """The command line."""
    check_world(bundles_named(cfg)[0], cfg.world)
    cascade = open_cascade(cfg)
    made = generated(cfg, cascade)
    report, truth = evaluate(cfg, made)
    for name, stages in report.items():
        for stage, scores in stages.items():
            shown = "  ".join(f"{each} {figure}" for each, figure in scores.figures.items())
            log.info("%s, %s: %s", stage, name, shown)
    page = Page(f"{cfg.cascade.name}: evaluation", lead=f"{len(made.prompts)} held-out prompts.")
    path = add_evaluation(page, report, truth, made).write(Path(cfg.out) / "index.html")
    log.info("page: %s", path)


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()

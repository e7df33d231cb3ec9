"""Sample videos from a trained cascade: `python -m cascade.sample prompt='…'`.

Besides text, a prompt may have the sources `image= last= video= to= mask= indices= strength=`; the
way to prompt, `way=`, reads them (conf/sample.yaml lists the sources of each way).
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress

from cascade import conditioning
from cascade.chain import per_stage
from cascade.conditioning import Prompt, source_names, unseen
from cascade.diffusion.sampler import Step
from cascade.entry import check_choices, command
from cascade.grid import Grid
from cascade.opening import bundles_named, open_cascade
from cascade.sample_files import check_folder, file_name, request_id
from cascade.video import write_video

log = logging.getLogger(__name__)


def prompted(cfg: Mapping[str, Any], grids: Mapping[str, Grid]) -> Prompt:
    """The prompt from the sources in `cfg`, for stages with these grids.

    Raises:
        ValueError: sources that no way takes together, or that cannot be read.
    """
    base, last = next(iter(grids.values())), [*grids.values()][-1]
    stride = last.frames // base.frames
    sources = {name: cfg[name] for name in source_names()}
    prompt = conditioning.prompt(last, stride=stride, way=cfg["way"], share=cfg["share"], **sources)
    given = prompt.given
    if given is not None and given.end is not None:
        log.info(
            "last frame placed at %d: the base generates every %s frame; the video has %d frames",
            given.end - 1,
            _ordinal(stride),
            given.end,
        )
    for name, grid in grids.items():
        if given is not None and (late := unseen(given, grid.frames)):
            log.warning(
                "stage %s generates only frames 0, %d, …, so it ignores the given frames %s; "
                "later stages use them. If it should use them too, give frames at its own times",
                name,
                last.frames // grid.frames,
                late,
            )
    return prompt


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


@command("sample")
def main(cfg: DictConfig) -> None:
    """The command line."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    given = [name for name in source_names() if values[name] is not None]
    conditioning.choose(values["way"], given)
    check_folder(Path(cfg.out))
    bundles, sampling = bundles_named(cfg)
    for name in ("num_inference_steps", "guidance_scale"):
        per_stage(name, values[name], len(bundles))
    request = request_id(values, bundles=bundles, sampling=sampling, sources=given)
    cascade = open_cascade(cfg, offload=cfg.offload)
    grids = cascade.grids(frames=cfg.frames, height=cfg.height, width=cfg.width)
    names = [stage.name for stage in cascade.stages]
    prompt = prompted(values, dict(zip(names, grids, strict=True)))
    with Progress() as progress:
        tasks = {s.name: progress.add_task(s.name, total=None) for s in cascade.stages}

        def on_step(name: str, step: Step) -> None:
            progress.update(tasks[name], completed=step.index + 1, total=step.count)

        out = cascade(
            [cfg.prompt] * cfg.num_videos,
            cfg.negative_prompt,
            num_inference_steps=cfg.num_inference_steps,
            guidance_scale=cfg.guidance_scale,
            generator=torch.Generator().manual_seed(cfg.seed),
            frames=cfg.frames,
            height=cfg.height,
            width=cfg.width,
            on_step=on_step,
            **prompt.arguments(cfg.num_videos),
        )
    for i, video in enumerate(out.videos):
        path = Path(cfg.out) / file_name(values, i, request)
        write_video(path, video, fps=out.grid.fps)
        log.info("%s (%s)", path, out.grid)


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()

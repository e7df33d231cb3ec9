"""Sample videos from a trained cascade: `python -m cascade.sample prompt='…'`.

Besides text, a prompt may have the sources `image= last= video= to= mask= indices= strength=`; the
way to prompt, `way=`, reads them (conf/sample.yaml lists the sources of each way).
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress

from cascade import conditioning
from cascade.chain import per_stage
from cascade.conditioning import Prompt, source_names, unseen
from cascade.diffusion.sampler import Step
from cascade.entry import check_choices, command
from cascade.grid import Grid
from cascade.opening import bundles_named, open_cascade
from cascade.sample_files import check_folder, check_space, file_name, request_id, to_make
from cascade.sample_record import check_same, generators, record_of, restored
from cascade.video import check_format, write_video

log = logging.getLogger(__name__)


def prompted(cfg: Mapping[str, Any], grids: Mapping[str, Grid]) -> Prompt:
    """The prompt from the sources in `cfg`, for stages with these grids.

    Raises:
        ValueError: sources that no way takes together, or that cannot be read.
    """
    base, last = next(iter(grids.values())), [*grids.values()][-1]
    stride = last.frames // base.frames
    sources = {name: cfg[name] for name in source_names()}
    settings = {name: cfg[name] for name in ("way", "share", "fit")}
    prompt = conditioning.prompt(last, stride=stride, **settings, **sources)
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


@command("sample", before=restored)
def main(cfg: DictConfig) -> None:
    """The command line."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    given = [name for name in source_names() if values[name] is not None]
    conditioning.choose(values["way"], given)
    check_folder(Path(cfg.out))
    bundles, sampling = bundles_named(cfg)
    for name in ("num_inference_steps", "guidance_scale"):
        per_stage(name, values[name], len(bundles))
    record = record_of(values, bundles=bundles, sampling=sampling)
    check_same(values, record)
    out_folder, name = Path(cfg.out), file_name(values, request_id(record))
    records = {n: {**record, "number": n} for n in range(cfg.first, cfg.first + cfg.num_videos)}
    paths = to_make(out_folder, records, name=name, overwrite=cfg.overwrite)
    if not paths:
        return
    cascade = open_cascade(cfg, offload=cfg.offload)
    grids = cascade.grids(frames=cfg.frames, height=cfg.height, width=cfg.width)
    check_format(name, grids[-1])
    check_space(out_folder, grids[-1], len(paths))
    names = [stage.name for stage in cascade.stages]
    prompt = prompted(values, dict(zip(names, grids, strict=True)))
    with Progress() as progress:
        tasks = {s.name: progress.add_task(s.name, total=None) for s in cascade.stages}

        def on_step(name: str, step: Step) -> None:
            progress.update(tasks[name], completed=step.index + 1, total=step.count)

        out = cascade(
            [values["prompt"]] * len(paths),
            values["negative_prompt"],
            num_inference_steps=cfg.num_inference_steps,
            guidance_scale=cfg.guidance_scale,
            generator=generators(cfg.seed, [*paths]),
            frames=cfg.frames,
            height=cfg.height,
            width=cfg.width,
            on_step=on_step,
            **prompt.arguments(len(paths)),
        )
    for (number, path), video in zip(paths.items(), out.videos, strict=True):
        write_video(path, video, fps=out.grid.fps, metadata={"cascade": records[number]})
        log.info("%s (%s)", path, out.grid)


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()

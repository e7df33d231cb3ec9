"""Videos from a trained cascade: `python -m cascade.sample prompt='…'`.

Besides text, files may say what is given: `image=` a first frame, `last=` a last one, `video=` a
clip to go on from (`way=` extend_forward, extend_backward, loop, or connect with `to=`).
"""

import logging
import re
import sys
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig
from rich.progress import Progress

from cascade import conditioning
from cascade.conditioning import Given
from cascade.diffusion.sampler import Step
from cascade.entry import CONF, check_choices, explained, open_cascade
from cascade.grid import Grid
from cascade.video import load_clip, write_video

log = logging.getLogger(__name__)
WAYS = ("extend_forward", "extend_backward", "loop", "connect")


def given_files(cfg: DictConfig, grid: Grid) -> Given | None:
    """What the files of `cfg` fix, on the last stage's grid; none where only text leads.

    Raises:
        ValueError: files that do not go together, or an unknown way.
    """
    still = Grid(frames=1, height=grid.height, width=grid.width, fps=grid.fps)
    if cfg.video is not None:
        if cfg.image is not None or cfg.last is not None:
            raise ValueError("give image= and last=, or video=, not both")
        return given_video(cfg, grid)
    if cfg.image is None and cfg.last is None:
        return None
    first, last = (
        None if path is None else load_clip(path, still)[None] for path in (cfg.image, cfg.last)
    )
    if first is not None and last is not None:
        return conditioning.first_last(first, last, grid.frames)
    if first is not None:
        return conditioning.image(first, grid.frames)
    assert last is not None
    return conditioning.extend_backward(last, grid.frames)


def given_video(cfg: DictConfig, grid: Grid) -> Given:
    """What a video (and `to`, a second) fixes, `share` of the new clip's frames in all."""
    if cfg.way not in WAYS:
        raise ValueError(f"way={cfg.way}: must be one of {', '.join(WAYS)}")
    known = min(max(round(grid.frames * cfg.share), 1), grid.frames - 1)
    source = Grid(frames=known, height=grid.height, width=grid.width, fps=grid.fps)
    video = load_clip(cfg.video, source, from_end=cfg.way in ("extend_forward", "connect"))[None]
    if cfg.way == "extend_forward":
        return conditioning.extend_forward(video, grid.frames)
    if cfg.way == "extend_backward":
        return conditioning.extend_backward(video, grid.frames)
    overlap = max(known // 2, 1)
    if cfg.way == "loop":
        both = torch.cat([video, load_clip(cfg.video, source, from_end=True)[None]], dim=2)
        return conditioning.loop(both, grid.frames, overlap)
    if cfg.to is None:
        raise ValueError("way=connect joins two videos: name the second with to=…")
    return conditioning.connect(video, load_clip(cfg.to, source)[None], grid.frames, overlap)


def file_name(prompt: str) -> str:
    """A short file name from a prompt in any language."""
    return re.sub(r"[^\w]+", "-", prompt).strip("-")[:60] or "untitled"


@hydra.main(version_base="1.3", config_path=CONF, config_name="sample")
@explained()
def main(cfg: DictConfig) -> None:
    """The command line."""
    if cfg.format not in ("mp4", "gif"):
        raise ValueError(f"format={cfg.format}: videos are written as mp4 or gif")
    cascade = open_cascade(cfg, offload=cfg.offload)
    grids = cascade.grids(frames=cfg.frames, height=cfg.height, width=cfg.width)
    given = given_files(cfg, grids[-1])
    if given is not None:
        rows = (cfg.num_videos, -1, -1, -1, -1)
        given = Given(given.frames.expand(*rows), given.mask.expand(*rows))
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
            given=given,
            on_step=on_step,
        )
    for i, video in enumerate(out.videos):
        path = Path(cfg.out) / f"{file_name(cfg.prompt)}-{cfg.seed}-{i}.{cfg.format}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, video, fps=out.grid.fps)
        log.info("%s (%s)", path, out.grid)


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()

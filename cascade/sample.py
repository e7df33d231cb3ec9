"""Sample videos from a trained cascade: `python -m cascade.sample prompt='…'`.

Besides text, a prompt may have the sources `image= last= video= to= mask= indices= strength=`; the
way to prompt, `way=`, reads them (conf/sample.yaml lists the sources of each way).
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from cascade import conditioning
from cascade.call import CascadeRequest
from cascade.chain import per_stage
from cascade.conditioning import Prompt, source_names, unseen
from cascade.entry import check_choices, command
from cascade.grid import Grid
from cascade.opening import bundles_named, open_cascade
from cascade.sample_files import check_folder, check_space, file_name, request_id, to_make
from cascade.sample_record import check_same, generators, record_of, restored
from cascade.sample_run import PER_STAGE, batches, make, windows_of
from cascade.stage import Stage, Video
from cascade.timeline import load_timeline, read_timeline
from cascade.video import check_format, frame_size, load_clip, video_length

log = logging.getLogger(__name__)
#: The keys of the final video's grid.
SIZES = ("num_frames", "seconds", "fps", "height", "width")


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


def beginning(values: Mapping[str, Any], stage: Stage, count: int) -> Video | None:
    """The video with which the first stage of a request begins; None if it is a base.

    It is the whole of `video`, at the frame rate and the nearest smaller size that the stage takes.

    Raises:
        ValueError: there is no such video, or other sources besides it.
    """
    if not stage.kind.takes_low:
        return None
    others = [name for name in source_names() if name != "video" and values[name] is not None]
    if values["video"] is None or others or values["way"] is not None:
        raise ValueError(
            f"stages: {stage.name} is the first stage, so the request needs video=…, which it "
            f"begins with, and takes no other source or way; got "
            f"{', '.join(f'{name}=…' for name in others) or 'none'}"
        )
    scale, (height, width) = stage.kind.scale, frame_size(values["video"])
    steps = [
        max(multiple // factor, 1)
        for multiple, factor in zip(
            stage.multiple, (scale.time, scale.space, scale.space), strict=True
        )
    ]
    fps = stage.low_grid.fps
    frames = video_length(values["video"], fps)
    grid = Grid(
        frames=max(frames // steps[0], 1) * steps[0],
        height=max(height // steps[1], 1) * steps[1],
        width=max(width // steps[2], 1) * steps[2],
        fps=fps,
    )
    log.info("stage %s begins with %s, read as %s", stage.name, values["video"], grid)
    return load_clip(values["video"], grid)[None].expand(count, -1, -1, -1, -1)


def text_of(values: Mapping[str, Any]) -> tuple[str, list[tuple[float, str]]]:
    """The first prompt of a request, and those that replace it on the way.

    Raises:
        ValueError: there is neither a prompt nor a timeline, or both.
    """
    if (values["prompt"] is None) == (values["timeline"] is None):
        raise ValueError(
            "prompt and timeline: give one of them: make sample PROMPT='…', or "
            "PROMPT= ARGS='timeline=file.yaml'"
        )
    if values["timeline"] is None:
        return values["prompt"], []
    (_, first), *later = read_timeline(values["timeline"])
    return first, later


@command("sample", before=restored)
def main(cfg: DictConfig) -> None:
    """The command line."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    if isinstance(values["timeline"], str):  # its content makes the video, not its name
        values["timeline"] = load_timeline(values["timeline"])
    text, timeline = text_of(values)
    given = [name for name in source_names() if values[name] is not None]
    check_folder(Path(cfg.out))
    bundles, sampling = bundles_named(cfg)
    record = record_of(values, bundles=bundles, sampling=sampling)
    check_same(values, record)
    name = file_name({**values, "prompt": text}, request_id(record))
    records = {n: {**record, "number": n} for n in range(cfg.first, cfg.first + cfg.num_videos)}
    paths = to_make(Path(cfg.out), records, name=name, overwrite=cfg.overwrite)
    if not paths:
        return
    cascade = open_cascade(cfg, offload=cfg.offload)
    stages = cascade.named(values["stages"])
    for key in PER_STAGE:
        per_stage(key, values[key], len(stages))
    low = beginning(values, stages[0], 1)
    if low is None:
        conditioning.choose(values["way"], given)
    sizes = {key: values[key] for key in SIZES}
    shape = None if low is None else low.shape[2:]
    grids = cascade.grids(**sizes, stages=values["stages"], low=shape)
    check_format(name, grids[-1])
    check_space(Path(cfg.out), grids[-1], len(paths))
    by_name = {stage.name: grid for stage, grid in zip(stages, grids, strict=True)}
    prompt = prompted(values, by_name) if low is None else Prompt()
    windows = windows_of(cascade, stages, grids, values)
    for numbers in batches([*paths], cfg.batch_size):
        request: dict[str, Any] = {
            **{key: values[key] for key in (*SIZES, "zoom", "loop", *PER_STAGE)},
            **prompt.arguments(len(numbers)),
            "timeline": timeline,
            "stages": [stage.name for stage in stages],
            "windows": windows,
            "generator": generators(cfg.seed, numbers),
            "low": None if low is None else low.expand(len(numbers), -1, -1, -1, -1),
        }
        make(
            cascade,
            ([text] * len(numbers), values["negative_prompt"]),
            cast(CascadeRequest, request),
            grids=by_name,
            files={paths[n]: records[n] for n in numbers},
            keep=values["keep"],
        )


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()

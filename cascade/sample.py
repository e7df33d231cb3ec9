"""Sample videos from a trained cascade: `python -m cascade.sample prompt='…'`.

Besides text, a prompt may have the sources `image= last_image= video= connect= mask= indices=
strength=`; the way to prompt, `way=`, reads them (conf/sample.yaml lists the sources of each way).
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from cascade.call import CascadeRequest
from cascade.chain import per_stage
from cascade.conditioning import Prompt
from cascade.entry import check_choices, command
from cascade.opening import bundles_named, open_cascade
from cascade.sample_files import check_folder, check_space, file_name, request_id, to_make
from cascade.sample_record import check_same, generators, record_of, restored
from cascade.sample_run import PER_STAGE, batches, make, windows_of
from cascade.sources import Sources
from cascade.timeline import load_timeline, read_timeline
from cascade.video import check_format

log = logging.getLogger(__name__)
#: The keys of the final video's grid.
SIZES = ("num_frames", "seconds", "fps", "height", "width")


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
    sources = Sources.of(values)
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
    low = sources.beginning(stages[0], 1)
    sizes = {key: values[key] for key in SIZES}
    shape = None if low is None else low.shape[2:]
    grids = cascade.grids(**sizes, stages=values["stages"], low=shape)
    check_format(name, grids[-1])
    check_space(Path(cfg.out), grids[-1], len(paths))
    by_name = {stage.name: grid for stage, grid in zip(stages, grids, strict=True)}
    prompt = sources.prompt(by_name) if low is None else Prompt()
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

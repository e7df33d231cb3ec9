"""A sampling request: its values, checked first alone and then against its cascade, before a step.

`ask` opens no network, so what is wrong with the values is said at once.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cascade.call_checks import check_loop, end_of
from cascade.chain import Settings, per_stage
from cascade.conditioning import Prompt, choose
from cascade.final_grid import final_multiple
from cascade.grid import Grid
from cascade.opening import bundles_named
from cascade.pipeline import Cascade
from cascade.prompts import Prompts
from cascade.request import Windows
from cascade.sample_files import check_folder, check_space, file_name, request_id, to_make
from cascade.sample_record import check_same, record_of
from cascade.sources import Sources
from cascade.stage import Stage, Video, receptive_field
from cascade.timeline import load_timeline, read_timeline
from cascade.video import check_format
from cascade.windows import GIB, available, windows_for

log = logging.getLogger(__name__)

#: The keys of the final video's grid.
SIZES = ("num_frames", "seconds", "fps", "height", "width")

#: Keys with one value per stage.
PER_STAGE = ("num_inference_steps", "guidance_scale")
#: The share of the free memory that sampling may use unless the user says how much.
SHARE = 0.5
#: The most pixels of all frames that are sampled at once without counting their memory, which
#: imports torch's compiler and takes seconds.
SMALL = 2**18


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request whose values are checked, but not yet against its cascade."""

    cfg: DictConfig
    values: Mapping[str, Any]
    text: str
    timeline: Sequence[tuple[float, str]]
    """Prompts that replace `text` from a time on, in seconds."""
    end: float | None
    """When the timeline ends, in seconds; None without one."""
    bundles: Sequence[str | Path]
    sampling: Settings
    record: Mapping[str, Any]

    @cached_property
    def name(self) -> str:
        """The name of its files, with `{}` for a video's number."""
        return file_name({**self.values, "prompt": self.text}, request_id(self.record))

    @property
    def records(self) -> dict[int, dict[str, Any]]:
        """The record of each video, by its number."""
        numbers = range(self.cfg.first, self.cfg.first + self.cfg.num_videos)
        return {number: {**self.record, "number": number} for number in numbers}

    @property
    def paths(self) -> list[Path]:
        """The files of all its videos."""
        return [Path(self.cfg.out) / self.name.replace("{}", str(n)) for n in self.records]

    @cached_property
    def missing(self) -> dict[int, Path]:
        """The files to make, by number (see `to_make`)."""
        folder, overwrite = Path(self.cfg.out), self.cfg.overwrite
        return to_make(folder, self.records, name=self.name, overwrite=overwrite)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that its cascade can run."""

    asked: Asked
    cascade: Cascade
    grids: Mapping[str, Grid]
    """The grids of the stages to run, by name."""
    prompt: Prompt
    low: Video | None
    """The video with which the first stage begins, unless it is a base."""
    windows: Sequence[Windows]


def ask(cfg: DictConfig) -> Asked:
    """A request, as far as it can be checked without its cascade.

    Raises:
        ValueError: values contradict each other, a file cannot be read, or the folder of the videos
            cannot be written.
        BundleError: a bundle is missing.
    """
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    if isinstance(values["timeline"], str):  # its content makes the video, not its name
        values["timeline"] = load_timeline(values["timeline"])
    text, timeline, end = text_of(values)
    if end is not None and values["num_frames"] is None and values["seconds"] is None:
        values["seconds"] = end
    values["format"] = values["format"] or ("png" if values["num_frames"] == 1 else "mp4")
    check_folder(Path(cfg.out))
    bundles, sampling = bundles_named(cfg)
    sources = Sources.of(values)
    if values["stages"] is None:  # the first is a base
        choose(sources.way, sources.named)
    for key in PER_STAGE:
        per_stage(key, values[key], len(values["stages"] or bundles))
    record = record_of(values, bundles=bundles, sampling=sampling)
    check_same(values, record)
    return Asked(
        cfg=cfg,
        values=values,
        text=text,
        timeline=timeline,
        end=end,
        bundles=bundles,
        sampling=sampling,
        record=record,
    )


def check(asked: Asked, cascade: Cascade) -> Request:
    """A request, checked against its cascade.

    Raises:
        ValueError: a stage cannot run as requested, a prompt is too long, a source cannot be read,
            or the disk is full.
    """
    values = asked.values
    stages = cascade.named(values["stages"])
    sources = Sources.of(values)
    low = sources.beginning(stages[0], 1)
    sizes = {key: values[key] for key in SIZES}
    shape = None if low is None else low.shape[2:]
    for text in (asked.text, *(later for _, later in asked.timeline)):
        Prompts.of(text, values["negative_prompt"], None, None).check(stages)
    grids = cascade.grids(**sizes, stages=values["stages"], low=shape)
    check_end(asked.end, stages, grids)
    if values["loop"]:
        check_loop(None, values["num_frames"])
    frames = end_of(grids[-1].frames, None, values["num_frames"])
    check_format(asked.paths[0], replace(grids[-1], frames=frames))
    check_space(Path(asked.cfg.out), grids[-1], len(asked.records))
    by_name = {stage.name: grid for stage, grid in zip(stages, grids, strict=True)}
    return Request(
        asked=asked,
        cascade=cascade,
        grids=by_name,
        prompt=sources.prompt(by_name) if low is None else Prompt(),
        low=low,
        windows=windows_of(cascade, stages, grids, values),
    )


def windows_of(
    cascade: Cascade, stages: Sequence[Stage], grids: Sequence[Grid], values: Mapping[str, Any]
) -> list[Windows]:
    """Each stage's windows: those of the request, else the largest that fit into the memory.

    Raises:
        ValueError: a stage does not fit in any windows.
    """
    if values["memory"] is None:
        memory = SHARE * available(cascade.device)
    else:
        memory = values["memory"] * GIB
    found = []
    for stage, grid in zip(stages, grids, strict=True):
        local = receptive_field(stage) is not None
        if local and not (values["window"] is None and values["tile"] is None):
            windows = Windows(frames=values["window"], tile=values["tile"])
        elif not local and values["base_window"] is not None:
            windows = Windows(frames=values["base_window"])
        elif values["memory"] is None and values["batch_size"] * math.prod(grid.shape) <= SMALL:
            windows = Windows()
        else:
            windows = windows_for(stage, grid, videos=values["batch_size"], memory=memory)
        if windows != Windows():
            log.info("stage %s: %s in %s", stage.name, grid, windows)
        found.append(windows)
    return found


def text_of(values: Mapping[str, Any]) -> tuple[str, list[tuple[float, str]], float | None]:
    """The first prompt, those that replace it from a time on, and when a timeline ends.

    Raises:
        ValueError: there is neither a prompt nor a timeline, or both.
    """
    prompt, timeline = values["prompt"], values["timeline"]
    if (prompt is None) == (timeline is None):
        raise ValueError(
            "prompt and timeline: give one of them: make sample PROMPT='…', or "
            "make sample ARGS='timeline=file.yaml'"
        )
    if timeline is None:
        return prompt, [], None
    (_, end, first), *later = read_timeline(timeline)
    return first, [(start, text) for start, _, text in later], later[-1][1] if later else end


def check_end(end: float | None, stages: Sequence[Stage], grids: Sequence[Grid]) -> None:
    """Check that a timeline ends with the video, as far as the stages can generate that length.

    Raises:
        ValueError: it does not.
    """
    last = grids[-1]
    if end is not None and abs(end - last.duration) > final_multiple(stages)[0] / last.fps / 2:
        raise ValueError(
            f"timeline: ends at {end:g} s, but the video lasts {last.duration:g} s; leave out "
            "num_frames and seconds, or let the timeline end with the video"
        )

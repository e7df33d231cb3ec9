"""The run of a checked sampling request: frames to disk and to the files as they are made."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import Progress
from torch import Tensor

from cascade.call import CascadeRequest
from cascade.files.atomic import remove_parts
from cascade.grid import Grid
from cascade.pipeline import Cascade
from cascade.sample_files import check_left
from cascade.sample_record import generators
from cascade.sample_request import PER_STAGE, SIZES, Request
from cascade.stage_frames import StageFrames
from cascade.video import Mp4Writer, write_video

log = logging.getLogger(__name__)
#: The folder beside the videos that holds the frames of stages.
STAGES = ".stages"
#: Keys of a request that the stages' names and grids have.
IN_GRIDS = ("stages", "num_frames", "seconds", "height", "width", "fps")


def batches(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """The numbers in order, `size` at a time."""
    return (list(numbers[first : first + size]) for first in range(0, len(numbers), size))


def run(request: Request) -> None:
    """Sample the videos of a checked request that are not made yet."""
    asked, values = request.asked, request.asked.values
    files, records = asked.missing, asked.records
    for numbers in batches([*files], values["batch_size"]):
        call: dict[str, Any] = {
            **{key: values[key] for key in (*SIZES, "zoom", "loop", *PER_STAGE)},
            **request.prompt.arguments(len(numbers)),
            "timeline": asked.timeline,
            "stages": [*request.grids],
            "windows": request.windows,
            "generator": generators(values["seed"], numbers),
            "low": None
            if request.low is None
            else request.low.expand(len(numbers), -1, -1, -1, -1),
        }
        make(
            request.cascade,
            ([asked.text] * len(numbers), values["negative_prompt"]),
            cast(CascadeRequest, call),
            grids=request.grids,
            files={files[n]: records[n] for n in numbers},
            keep=values["keep"],
        )


def make(
    cascade: Cascade,
    prompts: tuple[Sequence[str], str],
    request: CascadeRequest,
    *,
    grids: Mapping[str, Grid],
    files: Mapping[Path, Mapping[str, Any]],
    keep: bool,
) -> None:
    """Sample videos to files with their records; what an earlier run had made is read from disk.

    The frames of all stages but the last stay on disk if `keep`, for requests that change a later
    stage alone.
    """
    records = list(files.values())
    store = StageFrames(
        next(iter(files)).parent / STAGES,
        grids=grids,
        depends=_depends(records[0], [stage.name for stage in cascade.stages], [*grids]),
        videos=[[record["named"]["seed"], record["number"]] for record in records],
    )
    check_left(next(iter(files)).parent, store.left)
    done = store.done()
    for name, frames in done.items():
        log.info("stage %s: %d of %s were made before", name, frames.shape[2], grids[name])
    last = [*grids][-1]
    fps = grids[last].fps
    with _progress(grids, done) as (on_step, advance), contextlib.ExitStack() as stack:

        def on_frames(name: str, first: int, frames: Tensor) -> None:
            store.append(name, first, frames)
            advance(name, frames.shape[2])

        request = {**request, "done": done, "on_frames": on_frames, "callback_on_step_end": on_step}
        stream = cascade.stream(*prompts, **request)
        for path in files:
            remove_parts(path)
        if next(iter(files)).suffix == ".mp4":
            writers = [
                stack.enter_context(Mp4Writer(path, fps=fps, metadata={"cascade": record}))
                for path, record in files.items()
            ]
            for part in stream:
                for writer, video in zip(writers, part, strict=True):
                    writer.write(video)
        else:
            whole = torch.cat(list(stream), dim=2)
            for (path, record), video in zip(files.items(), whole, strict=True):
                write_video(path, video, fps=fps, metadata={"cascade": record})
    for path in files:
        log.info("%s (%s)", path, grids[last])
    for name in grids if not keep else [last]:
        store.remove(name)
    if store.size:
        log.info(
            "%s: frames of the earlier stages (%.3g MB) stay for other settings of a later one; "
            "keep=false removes them",
            next(iter(files)).parent / STAGES,
            store.size / 1e6,
        )


def _depends(
    record: Mapping[str, Any], names: Sequence[str], used: Sequence[str]
) -> list[list[Any]]:
    """What the frames of each used stage depend on, besides the stages before it.

    `names` are all stages of the cascade, for which the record has bundles and settings.
    """
    common = {k: v for k, v in record["request"].items() if k not in (*PER_STAGE, *IN_GRIDS)}
    chosen = [record["request"][name] for name in PER_STAGE]
    return [
        [
            common,
            [value[place] if isinstance(value, list) else value for value in chosen],
            record["sources"],
            *(record[part][names.index(name)] for part in ("bundles", "sampling")),
        ]
        for place, name in enumerate(used)
    ]


@contextlib.contextmanager
def _progress(grids: Mapping[str, Grid], done: Mapping[str, Tensor]) -> Iterator[Any]:
    """Progress bars in frames; a stage that is sampled at once advances by its steps."""
    with Progress() as progress:
        made = {name: float(done[name].shape[2]) if name in done else 0.0 for name in grids}
        tasks = {
            name: progress.add_task(name, total=grid.frames, completed=int(made[name]))
            for name, grid in grids.items()
        }

        def on_step(_: Cascade, index: int, _time: float, where: Mapping[str, Any]) -> None:
            name, share = where["stage"], (index + 1) / where["step"].count
            frames = (grids[name].frames - made[name]) * share if made[name] == 0 else 0
            progress.update(tasks[name], completed=max(made[name], frames))

        def advance(name: str, frames: int) -> None:
            made[name] += frames
            progress.update(tasks[name], completed=made[name])

        yield on_step, advance

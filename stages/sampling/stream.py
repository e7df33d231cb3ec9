"""A stage's videos, window by window: which parts, and how a network runs on them.

A local network runs as a wave front of windows (`wave.py`), and its frames in tiles (`tiles.py`);
together they equal the whole. A network that reads all frames runs on the whole video, or continues
it window by window (`continuation.py`).
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.diffusion.guidance import Guidance
from cascade.diffusion.sampler import Step
from cascade.request import Captions, SampleRequest, Windows
from cascade.stage import Condition, Stage, Video, receptive_field
from stages.sampling.continuation import continued
from stages.sampling.inputs import VideoInputs
from stages.sampling.part import Predict, Run
from stages.sampling.tiles import Tiles
from stages.sampling.wave import Layout, Wave

#: Its multiples are spread evenly modulo 1, however many there are (the golden ratio less 1).
GOLDEN = 0.6180339887498949


@torch.no_grad()
def stream(stage: Stage, captions: Captions, request: SampleRequest) -> Iterator[Video]:
    """The videos of a request, window by window; the arguments are those of `Stage.stream`.

    Raises:
        ValueError: a grid or `low` that does not fit the stage, or windows that it cannot have.
    """
    stage.check_grid(request["grid"])
    guidance = stage.sampling.guidance
    if (scale := request.get("guidance_scale")) is not None:
        guidance = guidance.with_scale(scale)
    windows, loop = request.get("windows") or Windows(), request.get("loop", False)
    check_windows(stage, windows, guidance, loop=loop)
    inputs = VideoInputs(stage, captions, request)
    if (start := request.get("start")) is not None and start[1] == 0:
        whole = inputs.given(range(inputs.frames)).paste(start[0].to(stage.device))
        return iter([whole[:, :, request.get("first", 0) :]])
    run = Run(
        stage=stage,
        inputs=inputs,
        request=request,
        guidance=guidance,
        predict=_predict(stage, windows, loop=loop),
    )
    factor, total = stage.codec.factor[0], inputs.frames
    size = total if windows.frames is None else min(windows.frames // factor, total)
    first = request.get("first", 0) // factor
    if receptive_field(stage) is None and size < total:
        return continued(run, size=size, overlap=overlap_of(stage, windows) // factor, first=first)
    return _whole(run, size=size, loop=loop, first=first)


def overlap_of(stage: Stage, windows: Windows) -> int:
    """The frames that two windows of a network that is not local share, by default a quarter."""
    assert windows.frames is not None
    multiple = stage.multiple[0]
    shared = windows.frames // 4 if windows.overlap is None else windows.overlap
    return max(shared // multiple, 1) * multiple


def check_windows(stage: Stage, windows: Windows, guidance: Guidance, *, loop: bool) -> None:
    """Refuse windows in which a stage cannot be sampled.

    Raises:
        ValueError: the stage, its rule and the way out.
    """
    who, frames = f"stage {stage.name}", stage.multiple[0]
    for name in ("frames", "overlap"):
        value = getattr(windows, name)
        if value is not None and value % frames:
            raise ValueError(
                f"{who}: {name} of its windows must be a multiple of {frames}, got {value}"
            )
    local = receptive_field(stage) is not None
    if windows.frames is not None and not stage.codec.cellwise:
        raise ValueError(
            f"{who}: {type(stage.codec).__name__} encodes frames together, so the stage cannot be "
            "sampled in windows of frames; leave them out"
        )
    if windows.frames is not None and local and guidance.over_video:
        raise ValueError(
            f"{who}: {', '.join(guidance.over_video)} of its guidance takes a statistic of the "
            "whole video, so windows would not equal it; set "
            "stage.sampling.guidance.statistics=frame, or leave the windows out"
        )
    if windows.tile is not None and not local:
        raise ValueError(
            f"{who}: {type(stage.net).__name__} reads whole frames, so it cannot be sampled in "
            "tiles; leave them out"
        )
    if not local and windows.frames is not None:
        shared = overlap_of(stage, windows)
        if shared >= windows.frames:
            raise ValueError(
                f"{who}: the overlap of its windows, a multiple of {frames}, must be less than "
                f"their {windows.frames} frames, got {shared}"
            )
        if loop:
            raise ValueError(
                f"{who}: {type(stage.net).__name__} reads all frames, so a loop is sampled as a "
                "whole; leave the windows of this stage out"
            )


def _whole(run: Run, *, size: int, loop: bool, first: int) -> Iterator[Float[Tensor, "b 3 f h w"]]:
    """A video whose parts equal the whole."""
    radius = receptive_field(run.stage)
    local = radius is not None and (loop or size < run.inputs.frames)
    reach = radius[0] if radius is not None and local else 0
    layout = Layout(total=run.inputs.frames, size=size, reach=reach, loop=loop and local)
    wave = Wave(
        layout,
        begin=lambda part: run.part(layout.read(part), layout.own(part)),
        denoise=run.denoise,
    )
    start = first // size
    for part, x in enumerate(wave.results(start), start):
        own = layout.own(part)
        yield run.video(x, own)[:, :, run.skipped(own) :]
        run.inputs.drop_low(layout.read(wave.earliest).start)


def _predict(stage: Stage, windows: Windows, *, loop: bool) -> Predict:
    """The network's prediction on what a part reads: in tiles, or shifted in a loop."""

    def predict(z: Tensor, logsnr: Tensor, cond: Condition, _: Step) -> Tensor:
        return stage.predict(z, logsnr, cond)

    radius = receptive_field(stage)
    if radius is None:
        return _shifted(stage, predict) if loop else predict
    if windows.tile is None:
        return predict
    (_, *cells), (_, *factors) = stage.multiple, stage.codec.factor
    return Tiles(
        predict=predict,
        size=max(windows.tile // factors[0], 1),
        radius=radius[1],
        cell=(cells[0] // factors[0], cells[1] // factors[1]),
    )


def _shifted(stage: Stage, predict: Predict) -> Predict:
    """A prediction in which the video's seam is at another frame in every step of the sampler.

    So a network with absolute positions in time closes a loop: each pair of consecutive frames,
    the last and the first among them, is inside the video in most steps (latent shift of Mobius, Bi
    et al. 2025).
    """
    patch = stage.multiple[0] // stage.codec.factor[0]

    def shifted(z: Tensor, logsnr: Tensor, cond: Condition, step: Step) -> Tensor:
        places = z.shape[2] // patch
        shift = round(step.index * GOLDEN * places) % places * patch
        out = predict(z.roll(shift, 2), logsnr.roll(shift, 1), cond.shifted(shift), step)
        return out.roll(-shift, 2)

    return shifted

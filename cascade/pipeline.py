"""A cascade of trained stages, run as one pipeline from a prompt to a video.

    cascade = Cascade.from_pretrained("runs/demo/cascade")
    video = cascade("a small red circle moves left", generator=torch.Generator().manual_seed(0))

Video i depends on its own prompt and seed alone, not on the rest of the batch.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cascade.bundle import CASCADE, SAMPLING, BundleError, load_stage, read_cascade
from cascade.conditioning import Given, to_grid
from cascade.diffusion.sampler import Step
from cascade.grid import Grid
from cascade.prompts import Encoded, Prompts, share_encoders
from cascade.stage import Stage, Video, as_module
from cascade.text.encoder import TextEncoder, TextFeatures
from cascade.video import every, resize, to_uint8

OutputType = Literal["pt", "np", "uint8"]


@dataclass(frozen=True)
class CascadeOutput:
    """The videos, and the output of each stage (in [-1, 1], `b c f h w`, by stage name)."""

    videos: Any
    grid: Grid
    stages: Mapping[str, Float[Tensor, "b c f h w"]] = field(repr=False)


class Cascade:
    """An ordered chain of stages; `from_pretrained` loads one from bundles."""

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        sampling: Sequence[Mapping[str, Any]] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        offload: bool = False,
    ) -> None:
        """Connect stages.

        Args:
            stages: in order, a base first.
            sampling: per stage, `steps`, `guidance_scale` and `low_logsnr`, if the cascade sets
                other values than the stage.
            device: where the stages run.
            dtype: float32, or bfloat16/float16 for autocast.
            offload: keep each stage, and each text encoder, on the CPU except while it runs.

        Raises:
            ValueError: the stages do not match, or `sampling` has a setting that does not exist.
        """
        self.stages: list[Stage] = list(stages)
        self.sampling = list(sampling or [{} for _ in stages])
        self.device, self.dtype, self.offload = torch.device(device), dtype, offload
        check_chain(self.stages)
        _check_sampling(self.stages, self.sampling)
        share_encoders(self.stages)
        for stage in self.stages:
            stage.eval().to("cpu" if offload else self.device)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | Sequence[str | Path],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        offload: bool = False,
    ) -> "Cascade":
        """A cascade from a cascade bundle, or from bundles in order.

        Raises:
            BundleError: a bundle is damaged, unknown or was never trained.
            ValueError: the stages do not match.
        """
        sampling: list[dict[str, Any]]
        if isinstance(source, str | Path) and (Path(source) / CASCADE).is_file():
            entries = read_cascade(Path(source))
            paths = [entry.pop("bundle") for entry in entries]
            sampling = entries
        else:
            paths = [source] if isinstance(source, str | Path) else list(source)
            sampling = [{} for _ in paths]
        if not paths:
            raise BundleError(f"{source}: a cascade needs at least a base stage, got none")
        stages = [_load(path) for path in paths]
        return cls(stages, sampling=sampling, device=device, dtype=dtype, offload=offload)

    @classmethod
    def from_runs(
        cls,
        runs: str | Path,
        chain: Mapping[str, Any],
        *,
        run: str | Mapping[str, str] = "default",
        **options: Any,
    ) -> "Cascade":
        """The cascade `chain` (name, stages, sampling) from the bundles of its training runs.

        `run` is the name of the run of all stages, or a mapping from stage to run; a stage that is
        not in it uses the run `default`.

        Raises:
            ValueError: `run` names a stage that the cascade does not have.
            BundleError: a stage has no bundle yet; the message has the command that trains it.
        """
        names = list(chain["stages"])
        check_run(run)
        if not isinstance(run, str) and (unknown := sorted({*run} - {*names})):
            raise ValueError(
                f"run: cascade {chain['name']} has no stage {', '.join(unknown)}; "
                f"its stages are {', '.join(names)}"
            )
        paths = []
        for name in names:
            one = run if isinstance(run, str) else run.get(name, "default")
            path = Path(runs) / chain["name"] / name / one / "bundle"
            if not path.is_dir():
                raise BundleError(
                    f"stage {name} of cascade {chain['name']} is not trained: {path} is missing; "
                    f"make train STAGE={name} CASCADE={chain['name']} NAME={one}"
                )
            paths.append(path)
        settings = chain.get("sampling") or {}
        if unknown := sorted({*settings} - {*names}):
            raise ValueError(
                f"sampling: cascade {chain['name']} has no stage {', '.join(unknown)}; "
                f"its stages are {', '.join(names)}"
            )
        sampling = [dict(settings.get(name) or {}) for name in names]
        return cls([_load(path) for path in paths], sampling=sampling, **options)

    def grids(self, *, frames: int | None, height: int | None, width: int | None) -> list[Grid]:
        """Each stage's grid if the *base* generates frames × height × width, by default its target.

        Raises:
            ValueError: a stage cannot run on its grid.
        """
        target = self.stages[0].target
        grid = Grid(
            frames=target.frames if frames is None else frames,
            height=target.height if height is None else height,
            width=target.width if width is None else width,
            fps=target.fps,
        )
        grids = []
        for stage in self.stages:
            scale = stage.kind.scale
            grid = grid.scaled(time=scale.time, space=scale.space)
            stage.check_grid(grid)
            grids.append(grid)
        return grids

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        prompt_embeds: TextFeatures | None = None,
        negative_prompt_embeds: TextFeatures | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: OutputType = "pt",
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        given: Given | None = None,
        start: Video | None = None,
        strength: float | None = None,
        batch_size: int | None = None,
        on_step: Callable[[str, Step], None] | None = None,
    ) -> CascadeOutput:
        """Generate videos for prompts.

        Each distinct text encoder encodes a prompt once, for all stages that use it.

        Args:
            prompt: one, or one per video; the empty prompt is unconditional.
            negative_prompt: the negative prompt of guidance, one for all or one per video.
            prompt_embeds: encoded prompts instead of `prompt`, for stages that share an encoder.
            negative_prompt_embeds: encoded negative prompts, one per video.
            num_inference_steps: one number, or one per stage; the bundle's by default.
            guidance_scale: one number, or one per stage; the bundle's by default.
            generator: one for all videos, or one per video. A single one draws the videos' seeds in
                order, so video i is the same in a batch of any size.
            output_type: "pt" float `b c f h w` in [-1, 1]; "np" float `b f h w c` in [0, 1];
                "uint8" tensor `b f h w c`.
            frames: frames of the *base*; its target's by default.
            height: height of the base; its target's by default.
            width: width of the base; its target's by default.
            given: given frames and regions, on the last stage's grid; videos are cut at
                `given.end`.
            start: videos to restyle, on the last stage's grid: the base starts from them, noised
                (SDEdit).
            strength: the diffusion time in (0, 1] to which `start` is noised; 1 keeps none of it.
            batch_size: the number of videos generated at once; all by default.
            on_step: called with the stage's name and the step.

        Raises:
            ValueError: a prompt is longer than the text encoder's limit, a grid does not fit, or
                the numbers of prompts, negative prompts and generators differ.
        """
        check_output(output_type)
        prompts = Prompts.of(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        prompts.check(self.stages)
        total = len(prompts)
        grids = self.grids(frames=frames, height=height, width=width)
        if given is not None:
            given.check((total, 3, *grids[-1].shape))
        _check_start(start, strength, (total, 3, *grids[-1].shape))
        seeds = _seeds(generator, total)
        steps = self._settings(num_inference_steps, "steps")
        scales = self._settings(guidance_scale, "guidance_scale")
        count = total if batch_size is None else batch_size
        if count < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        encoded = prompts.encode(self.stages, self._on_device)
        parts: list[dict[str, Tensor]] = []
        for first in range(0, total, count):
            rows = slice(first, first + count)
            parts.append(
                self._run(
                    encoded.rows(rows),
                    seeds[rows],
                    grids=grids,
                    given=given and _rows(given, rows),
                    start=None if start is None else (start[rows], strength or 1.0),
                    steps=steps,
                    scales=scales,
                    on_step=on_step,
                )
            )
        outputs = {s.name: torch.cat([part[s.name] for part in parts]) for s in self.stages}
        grid = grids[-1]
        if given is not None and given.end is not None:
            grid = replace(grid, frames=given.end)
        last = outputs[self.stages[-1].name][:, :, : grid.frames]
        return CascadeOutput(videos=_output(last, output_type), grid=grid, stages=outputs)

    def _run(
        self,
        text: Encoded,
        seeds: Sequence[int],
        *,
        grids: Sequence[Grid],
        given: Given | None,
        start: tuple[Video, float] | None,
        steps: Sequence[int | None],
        scales: Sequence[float | None],
        on_step: Callable[[str, Step], None] | None,
    ) -> dict[str, Tensor]:
        low: Tensor | None = None
        outputs = {}
        for i, (stage, grid) in enumerate(zip(self.stages, grids, strict=True)):
            with self._on_device(stage):
                low = stage.sample(
                    text.texts[i],
                    grid=grid,
                    seeds=seeds,
                    negative=text.negatives[i],
                    low=low,
                    given=given and to_grid(given, grid, stage.device),
                    start=None if start is None or i else (_to_grid(start[0], grid), start[1]),
                    steps=steps[i],
                    guidance_scale=scales[i],
                    low_logsnr=self.sampling[i].get("low_logsnr"),
                    on_step=None if on_step is None else functools.partial(on_step, stage.name),
                )
            outputs[stage.name] = low.cpu()
        return outputs

    @contextlib.contextmanager
    def _on_device(self, module: Stage | TextEncoder) -> Iterator[None]:
        """A context with a stage or encoder on its device and autocast; offloaded afterwards."""
        if self.offload:
            _move(module, self.device)
        cast = torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32
        )
        try:
            with cast:
                yield
        finally:
            if self.offload:
                _move(module, "cpu")

    def _settings(self, value: Any, name: str) -> list[Any]:
        """One value per stage: the call's, else the cascade's, else None (the stage's own)."""
        if value is None:
            return [entry.get(name) for entry in self.sampling]
        values = list(value) if _several(value) else [value] * len(self.stages)
        if len(values) != len(self.stages):
            raise ValueError(
                f"{name}: {len(self.stages)} stages, but {len(values)} values; give one or "
                f"{len(self.stages)}"
            )
        for one in values:
            check_setting(name, one)
        return values


def check_run(run: Any) -> None:
    """Check that `run` from a user names runs: YAML reads run=5 as a number.

    Raises:
        ValueError: it is neither a name nor a mapping to names.
    """
    names = list(run.values()) if isinstance(run, Mapping) else [run]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"run must be the name of a run, or a mapping from stage to name, got {run!r}; a "
            "name that is a number needs quotes: run=\"'…'\""
        )


def check_chain(stages: Sequence[Stage]) -> None:
    """Check that stages form a cascade.

    Raises:
        ValueError: the first is not a base, a later one is, two have the same name, or frame rates
            do not match.
    """
    if not stages or stages[0].kind.takes_low:
        raise ValueError("the first stage of a cascade must be a base")
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ValueError(
            f"the stages of a cascade must have different names, got {', '.join(names)}"
        )
    for before, after in itertools.pairwise(stages):
        if not after.kind.takes_low:
            raise ValueError(f"{after.name} is a base and can only be the first stage")
        if after.low_grid.fps != before.target.fps:
            raise ValueError(
                f"{before.name} and {after.name} do not match: {before.name} generates "
                f"{before.target.fps:g} frames per second, {after.name} takes "
                f"{after.low_grid.fps:g} (it generates {after.target} with {after.kind.scale})"
            )


def _move(module: Stage | TextEncoder, device: torch.device | str) -> None:
    """Move an encoder, or a stage without its text encoder, which stages may share."""
    if isinstance(module, TextEncoder):
        module.to(device)
        return
    modules = as_module(module)
    encoder = module.text
    modules.register_module("text", None)  # a stage reads encoded prompts here
    try:
        modules.to(device)
    finally:
        modules.register_module("text", encoder)


def _several(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _check_sampling(stages: Sequence[Stage], sampling: Sequence[Mapping[str, Any]]) -> None:
    """Check the cascade's own sampling settings.

    Raises:
        ValueError: a setting does not exist or has an invalid value, or there is not one mapping
            per stage.
    """
    if len(sampling) != len(stages):
        raise ValueError(f"sampling: {len(stages)} stages, but settings of {len(sampling)}")
    for stage, settings in zip(stages, sampling, strict=True):
        for name, value in settings.items():
            if name not in SAMPLING:
                raise ValueError(
                    f"sampling.{stage.name}.{name}: no such setting; a cascade may set "
                    f"{', '.join(SAMPLING)}"
                )
            check_setting(name, value)


def check_setting(name: str, value: Any) -> None:
    """Check a sampling setting; None is the stage's own.

    Raises:
        ValueError: it is not a finite number or, for steps, not an integer of at least 1.
    """
    kind, wanted = (int, "an integer") if name == "steps" else (int | float, "a finite number")
    number = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if value is not None and not (number and (name != "steps" or value >= 1)):
        least = " of at least 1" if name == "steps" else ""
        raise ValueError(f"{name} must be {wanted}{least}, got {value!r}")


def check_output(output_type: Any) -> None:
    """Check a call's `output_type` before the videos are generated.

    Raises:
        ValueError: it is unknown.
    """
    known = get_args(OutputType)
    if output_type not in known:
        raise ValueError(f"output_type must be one of {', '.join(known)}, got {output_type!r}")


def _rows(given: Given, rows: slice) -> Given:
    return Given(given.frames[rows], given.mask[rows])


def _load(path: str | Path) -> Stage:
    """The stage of a bundle.

    Raises:
        BundleError: the bundle is not of a stage.
    """
    stage = load_stage(path)
    if not isinstance(stage, Stage):
        raise BundleError(f"{path}: is a {type(stage).__name__}, not a stage of a cascade")
    return stage


def _check_start(start: Tensor | None, strength: float | None, shape: tuple[int, ...]) -> None:
    """Check the arguments for restyling.

    Raises:
        ValueError: `start` has another shape, one of both is missing, or `strength` is not in
            (0, 1].
    """
    if (start is None) != (strength is None):
        raise ValueError(
            "restyle: start (a video) and strength must be given together; give both or neither"
        )
    if start is None or strength is None:
        return
    if tuple(start.shape) != shape:
        raise ValueError(
            f"restyle: the video must be on the last stage's grid, {shape}, "
            f"got {tuple(start.shape)}"
        )
    if not 0 < strength <= 1:
        raise ValueError(f"restyle: strength must lie in (0, 1], got {strength}")


def _to_grid(video: Video, grid: Grid) -> Float[Tensor, "b 3 f2 h2 w2"]:
    """A video on the last stage's grid, resampled to the grid of an earlier stage."""
    video = every(video, video.shape[2] // grid.frames)
    return resize(video, grid.height, grid.width)


def _seeds(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """One seed per video, drawn from its generator."""
    if isinstance(generator, Sequence):
        if len(generator) != count:
            raise ValueError(f"{count} prompts, {len(generator)} generators; give one or {count}")
        each = list(generator)
    else:
        if generator is None:
            generator = torch.Generator()
            generator.seed()
        each = [generator] * count
    return [
        int(torch.randint(2**62, (1,), generator=one, device=one.device).item()) for one in each
    ]


def _output(videos: Float[Tensor, "b c f h w"], output_type: OutputType) -> Any:
    if output_type == "pt":
        return videos
    channels_last = videos.permute(0, 2, 3, 4, 1)
    if output_type == "np":
        return np.asarray((channels_last / 2 + 0.5).clamp(0, 1))
    return to_uint8(channels_last)

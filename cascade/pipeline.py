"""A cascade of trained stages, run as one pipeline from a prompt to a video.

    cascade = Cascade.from_pretrained("runs/demo/cascade")
    video = cascade("a small red circle moves left", generator=torch.Generator().manual_seed(0))
    longer = cascade("it stops", video=video.videos[0], extend="forward")

Video i depends on its own prompt and seed alone, not on the rest of the batch.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from cascade.call import (
    CallInterruptedError,
    CascadeOutput,
    CascadeRequest,
    OutputType,
    as_type,
    draw_seeds,
)
from cascade.call_checks import (
    check_count,
    check_done,
    check_loop,
    check_low,
    check_output,
    check_sources,
    check_start,
    check_timeline,
    check_windows,
    end_of,
)
from cascade.chain import (
    bundles_of,
    check_chain,
    check_sampling,
    open_stage,
    per_stage,
    runs_of,
)
from cascade.diffusion.sampler import Step
from cascade.final_grid import grids_of
from cascade.generation import Generation
from cascade.grid import Grid
from cascade.prompts import Prompts, share_encoders
from cascade.stage import Stage, Video
from cascade.text.encoder import TextEncoder


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
        #: Set to True by a call's `callback_on_step_end`, it ends the call after that step.
        self.interrupt = False
        check_chain(self.stages)
        check_sampling(self.stages, self.sampling)
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
        paths, sampling = bundles_of(source)
        stages = [open_stage(path) for path in paths]
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
        paths, sampling = runs_of(runs, chain, run)
        return cls([open_stage(path) for path in paths], sampling=sampling, **options)

    def grids(
        self,
        *,
        num_frames: int | None = None,
        seconds: float | None = None,
        fps: float | None = None,
        height: int | None = None,
        width: int | None = None,
        stages: Sequence[str] | None = None,
        low: Sequence[int] | None = None,
    ) -> list[Grid]:
        """Each stage's grid for a final video of these sizes; see `final_grid.grids_of`."""
        return grids_of(
            self.named(stages),
            sizes={"num_frames": num_frames, "height": height, "width": width},
            seconds=seconds,
            fps=fps,
            low=low,
        )

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        output_type: OutputType = "pt",
        batch_size: int | None = None,
        **request: Unpack[CascadeRequest],
    ) -> CascadeOutput:
        """Generate videos for prompts.

        Each distinct text encoder encodes a prompt once, for all stages that use it.

        Args:
            prompt: one, or one per video; the empty prompt is unconditional.
            negative_prompt: the negative prompt of guidance, one for all or one per video.
            output_type: "pt" float `b c f h w` in [-1, 1]; "np" float `b f h w c` in [0, 1];
                "uint8" tensor `b f h w c`.
            batch_size: the number of videos generated at once; all by default.
            request: the arguments that `CascadeRequest` describes.

        Raises:
            ValueError: a prompt is longer than the text encoder's limit, a grid does not fit, the
                numbers of prompts, negative prompts and generators differ, or sources contradict
                each other or cannot be read.
            CallInterruptedError: `callback_on_step_end` has set `interrupt`.
        """
        check_output(output_type)
        call = self._prepare(prompt, negative_prompt, request)
        count = call.total if batch_size is None else batch_size
        if count < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        parts: list[dict[str, Tensor]] = []
        for first in range(0, call.total, count):
            kept: dict[str, list[Tensor]] = {stage.name: [] for stage in call.stages}
            try:
                deque(call.frames(slice(first, first + count), keep=kept), maxlen=0)
            except CallInterruptedError as stop:
                stop.finished = {
                    name: torch.cat(each, dim=2) for name, each in kept.items() if each
                }
                raise
            # A stage that no later one needed has no frames.
            parts.append({name: torch.cat(each, dim=2) for name, each in kept.items() if each})
        outputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        grid = replace(call.grids[-1], frames=call.end)
        last = outputs[call.stages[-1].name][:, :, : grid.frames]
        return CascadeOutput(videos=as_type(last, output_type), grid=grid, stages=outputs)

    def stream(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        **request: Unpack[CascadeRequest],
    ) -> Iterator[Video]:
        """The videos of a call, in parts, each as soon as its last stage has finished it.

        The arguments are those of a call. With `windows`, every stage takes the frames of the stage
        before as they are made, so memory does not grow with the videos' length. (With `offload`,
        a stage is finished before the next begins.) The arguments are checked at once.
        """
        call = self._prepare(prompt, negative_prompt, request)

        def parts() -> Iterator[Video]:
            left = call.end
            for part in call.frames(slice(0, call.total)):
                if left > 0:
                    yield part[:, :, :left]
                left -= part.shape[2]

        return parts()

    def _prepare(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        request: CascadeRequest,
    ) -> Generation:
        """A call, checked; its prompts are encoded."""
        prompts = Prompts.of(
            prompt,
            negative_prompt,
            request.get("prompt_embeds"),
            request.get("negative_prompt_embeds"),
        )
        prompts = prompts.repeated(check_count(request.get("num_videos_per_prompt", 1)))
        stages, total = self.named(request.get("stages")), len(prompts)
        sources = check_sources(request)
        low = request.get("low")
        if low is None and request.get("given") is None and request.get("start") is None:
            low = sources.beginning(stages[0], total)
        check_low(stages[0], low, total)
        grids = self.grids(
            num_frames=request.get("num_frames"),
            seconds=request.get("seconds"),
            fps=request.get("fps"),
            height=request.get("height"),
            width=request.get("width"),
            stages=request.get("stages"),
            low=None if low is None else low.shape[2:],
        )
        if sources.named and low is None:
            named = {stage.name: grid for stage, grid in zip(stages, grids, strict=True)}
            read: Any = sources.prompt(named).arguments(total)
            request = cast(CascadeRequest, {**request, "strength": None, **read})
        request = {**request, "low": low}
        shape = (total, 3, *grids[-1].shape)
        if (given := request.get("given")) is not None:
            given.check(shape)
        start = check_start(request.get("start"), request.get("strength"), shape)
        timeline = check_timeline(request.get("timeline") or (), grids[-1].duration)
        settings = {
            name: self._settings(stages, request.get(key), name)
            for name, key in (
                ("steps", "num_inference_steps"),
                ("guidance_scale", "guidance_scale"),
                ("low_logsnr", "low_logsnr"),
            )
        }
        windows = check_windows(request.get("windows"), stages)
        check_done(request.get("done") or {}, stages, grids, total)
        if request.get("loop"):
            check_loop(given, request.get("num_frames"))
        later = [
            (second, Prompts.of([text] * total, None, None, None)) for second, text in timeline
        ]
        for each in (prompts, *(one for _, one in later)):
            each.check(stages)
        return Generation(
            on_device=self._on_device,
            offload=self.offload,
            stages=stages,
            grids=grids,
            total=total,
            seeds=draw_seeds(request.get("generator"), total),
            texts=prompts.encode(stages, self._on_device),
            later=[(second, one.encode(stages, self._on_device)) for second, one in later],
            settings=settings,
            windows=windows,
            end=end_of(grids[-1].frames, given, request.get("num_frames")),
            given=given,
            start=start,
            request=request,
            on_step=self._reported(request.get("callback_on_step_end")),
        )

    def _reported(
        self, callback: Callable[[Any, int, float, dict[str, Any]], Any] | None
    ) -> Callable[[str, Step, Tensor], None] | None:
        """What a call does after a step: its callback, which may interrupt it."""
        if callback is None:
            return None

        def on_step(stage: str, step: Step, x: Tensor) -> None:
            callback(self, step.index, step.t, {"stage": stage, "step": step, "x": x})
            if self.interrupt:
                raise CallInterruptedError(stage, step)

        self.interrupt = False
        return on_step

    def named(self, names: Sequence[str] | None) -> list[Stage]:
        """The stages of these names, all by default.

        Raises:
            ValueError: they are not consecutive stages of the cascade.
        """
        own = [stage.name for stage in self.stages]
        if names is None:
            return self.stages
        names = list(names)
        first = own.index(names[0]) if names and names[0] in own else 0
        if not names or own[first : first + len(names)] != names:
            raise ValueError(
                f"stages: must be consecutive stages of {', '.join(own)}, got {', '.join(names)}"
            )
        return self.stages[first : first + len(names)]

    def _settings(self, stages: Sequence[Stage], value: Any, name: str) -> list[Any]:
        """One value per stage: the call's, else the cascade's, else None (the stage's own)."""
        if value is None:
            return [self.sampling[self.stages.index(stage)].get(name) for stage in stages]
        return per_stage(name, value, len(stages))

    @contextlib.contextmanager
    def _on_device(self, module: Stage | TextEncoder) -> Iterator[None]:
        """A context with a stage or encoder on its device and autocast; offloaded afterwards."""
        if self.offload:
            module.to(self.device)
        cast = torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32
        )
        try:
            with cast:
                yield
        finally:
            if self.offload:
                module.to("cpu")

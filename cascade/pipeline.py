"""A cascade of trained stages, run as one pipeline from a prompt to a video.

    cascade = Cascade.from_pretrained("runs/demo/cascade")
    video = cascade("a small red circle moves left", generator=torch.Generator().manual_seed(0))

Video i depends on its own prompt and seed alone, not on the rest of the batch.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.call import CascadeOutput, OutputType, as_type, check_output, check_start, draw_seeds
from cascade.chain import (
    bundles_of,
    check_chain,
    check_sampling,
    open_stage,
    per_stage,
    runs_of,
)
from cascade.conditioning import Given, to_grid
from cascade.diffusion.sampler import Step
from cascade.grid import Grid
from cascade.prompts import Encoded, Prompts, share_encoders
from cascade.stage import Stage, Video
from cascade.text.encoder import TextEncoder, TextFeatures
from cascade.video import every, resize


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
        restyled = check_start(start, strength, (total, 3, *grids[-1].shape))
        seeds = draw_seeds(generator, total)
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
                    start=restyled and (restyled[0][rows], restyled[1]),
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
        return CascadeOutput(videos=as_type(last, output_type), grid=grid, stages=outputs)

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

    def _settings(self, value: Any, name: str) -> list[Any]:
        """One value per stage: the call's, else the cascade's, else None (the stage's own)."""
        if value is None:
            return [entry.get(name) for entry in self.sampling]
        return per_stage(name, value, len(self.stages))


def _rows(given: Given, rows: slice) -> Given:
    return Given(given.frames[rows], given.mask[rows])


def _to_grid(video: Video, grid: Grid) -> Float[Tensor, "b 3 f2 h2 w2"]:
    """A video on the last stage's grid, resampled to the grid of an earlier stage."""
    video = every(video, video.shape[2] // grid.frames)
    return resize(video, grid.height, grid.width)

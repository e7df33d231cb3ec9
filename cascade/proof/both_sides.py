"""The network inputs of one clip in training, and in sampling with the same random draws."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cascade import keyed
from cascade.conditioning import to_grid
from cascade.diffusion.schedule import Schedule
from cascade.proof.diagnosis import Components
from cascade.proof.found import NotCheckedError
from cascade.proof.network_inputs import Inputs, recorded
from cascade.proof.subject import PURPOSE, Subject, grid_of
from cascade.proof.trained_ways import forced, training_ways
from cascade.stage import Batch, TrainableStage


def training(
    stage: TrainableStage, one: Batch, way: str, *, packed: bool, text_dropout: float = 0.0
) -> tuple[Inputs, Components]:
    """The inputs that the training loss feeds the network, and their components."""
    batch = {**one, "videos": list(one["video"])} if packed else one
    with training_ways(stage, [way], text_dropout=text_dropout):
        with recorded(stage) as calls:
            stage.losses(batch, purpose=PURPOSE)
        noised = stage.noise(one, purpose=PURPOSE)
    clip = stage.clip(one["video"])
    reduced = stage.kind.reduce(clip)
    low = None if reduced is None else stage.codec.encode(stage.kind.expand(reduced))
    eps = None if low is None else _draw(stage, one, "low", low.shape[1:])
    return calls[0], Components(x=noised.example.x, eps=noised.eps, low=low, low_eps=eps)


def sampling(subject: Subject, one: Batch, way: str, *, steps: int = 1) -> list[Inputs]:
    """The inputs that the sampler feeds the network, one per call, with training's random draws.

    The last call of a step has the caption; if the step is guided, the call before it has none.
    """
    stage, trained = subject.bundled, subject.trained
    clip, positions = trained.clip(one["video"]), one["position"].tolist()
    grid = grid_of(clip, float(one["fps"][0]))
    reduced, level = stage.kind.reduce(clip), None
    low = None if reduced is None else reduced.clamp(-1, 1)  # as the output of every stage is
    if stage.augment is not None:
        u = keyed.uniforms(trained.recipe.seed, positions, f"{PURPOSE}/augment")
        level = float(stage.augment.level(u))
    given = forced(trained, way).draw(clip, seed=trained.recipe.seed, positions=positions)
    drawn = float(trained.noise(one, purpose=PURPOSE).drawn)
    purposes = {"start": "eps", "low": "low"}  # the sampler's names → training's
    with recorded(stage) as calls:
        stage.sample(
            one["caption"],
            grid=grid,
            seeds=positions,
            low=low,
            given=to_grid(given, grid, subject.device),
            steps=steps,
            low_logsnr=level,
            start=(clip, time_of(stage.diffusion.schedule, drawn)),
            noise=lambda purpose, frames, shape: _draw(
                trained, one, purposes.get(purpose, purpose), (shape[0], len(frames), *shape[1:])
            ),
        )
    return calls


def time_of(schedule: Schedule, logsnr: float) -> float:
    """The diffusion time t for which λ(t), rounded to float32, is exactly `logsnr`.

    Raises:
        NotCheckedError: there is no such time.
    """
    wanted = torch.tensor(logsnr, dtype=torch.float32)
    first = schedule.time(wanted.double())
    for step in range(64):
        for sign in (1, -1):
            t = first * (1 + sign * step * 2.0**-52)
            if schedule.logsnr(t).float() == wanted and 0 < t <= 1:
                return float(t)
    raise NotCheckedError(f"no diffusion time has log-SNR {logsnr!r} under {schedule}")


def _draw(
    stage: TrainableStage, one: Batch, purpose: str, shape: Sequence[int]
) -> Float[Tensor, "b ..."]:
    """The normal noise that training draws for a clip."""
    positions, seed = one["position"].tolist(), stage.recipe.seed
    return keyed.normals(seed, positions, f"{PURPOSE}/{purpose}", shape, stage.device)

"""The seam of objectives: a student and a preference train without another stage class."""

import copy
from dataclasses import replace

import pytest
import torch

from cascade.grid import Grid
from cascade.stage import Losses
from stages.examples import examples
from stages.noised import noised, weighted


class Imitate:
    """Toy distillation: the student's prediction is regressed on a frozen teacher's."""

    def __init__(self, teacher):
        self.teacher = [teacher]  # a list keeps it out of the student's weights

    def check(self, stage):
        if self.teacher[0].diffusion.target != stage.diffusion.target:
            raise ValueError(f"{stage.name}: the teacher predicts another target")

    def losses(self, stage, batch, *, purpose):
        (example,) = examples(stage, batch, purpose=purpose)
        one = noised(example, stage.diffusion, seed=stage.recipe.seed, purpose=purpose)
        with torch.no_grad():
            wanted = self.teacher[0].predict(one.z, one.logsnr, one.condition)
        out = stage.predict(one.z, one.logsnr, one.condition)
        loss = weighted(out, replace(one, target=wanted), stage.diffusion)
        return _losses(loss, one, batch)

    def figures(self, stage, batch):
        one = stage.noise(batch, purpose="val")
        gap = stage.predict(one.z, one.logsnr, one.condition) - self.teacher[0].predict(
            one.z, one.logsnr, one.condition
        )
        return {"gap": gap.square().mean(dim=(1, 2, 3, 4))}


class Prefer:
    """Toy direct preference: batches hold a better and a worse clip for one caption."""

    def __init__(self, reference):
        self.reference = [reference]

    def check(self, stage):
        if stage.kind.takes_low:
            raise ValueError(f"{stage.name}: preferences are trained on a base alone")

    def losses(self, stage, batch, *, purpose):
        gains = []
        for name in ("better", "worse"):
            one = stage.noise({**batch, "video": batch[name]}, purpose=purpose)
            own, before = (
                weighted(s.predict(one.z, one.logsnr, one.condition), one, stage.diffusion)
                for s in (stage, self.reference[0])
            )
            gains.append(before.detach() - own)
        loss = -torch.nn.functional.logsigmoid(gains[0] - gains[1])
        return _losses(loss, one, {**batch, "video": batch["better"]})

    def figures(self, stage, batch):
        return {}


def _losses(loss, one, batch):
    shapes = [tuple(video.shape[1:]) for video in batch["video"]]
    zero = loss.detach().clone()
    return Losses(loss, one.drawn, zero, one.example.ways, shapes)


def train(stage, batches, steps=8):
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.05)
    found = []
    for i in range(steps):
        loss = stage.training_step(batches[i % len(batches)], i)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


@pytest.mark.parametrize("choice", ["demo/base", "demo/tsr1", "demo/ssr1"])
def test_a_student_of_any_kind_nears_its_teacher(build, batch, choice):
    student = build(choice)
    teacher = copy.deepcopy(student).requires_grad_(False)
    for parameter in student.net.parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape))
    student.objective = Imitate(teacher)
    student.setup("fit")
    clips = batch([0, 1])
    before = student.measure(clips)["gap"].mean()
    losses = train(student, [clips])
    assert losses[-1] < losses[0]
    assert student.measure(clips)["gap"].mean() < before
    assert not any("teacher" in name for name in student.state_dict())


def test_a_preference_moves_the_losses_of_both_clips_apart(build, batch):
    base = build("demo/base")
    base.objective = Prefer(copy.deepcopy(base).requires_grad_(False))
    base.setup("fit")
    clips = batch([0, 1])
    pairs = {**clips, "better": clips["video"], "worse": 255 - clips["video"]}
    losses = train(base, [pairs])
    assert losses[-1] < losses[0]


def test_an_objective_that_a_kind_cannot_have_is_refused_before_the_first_step(build):
    stage = build("demo/ssr1")
    stage.objective = Prefer(stage)
    with pytest.raises(ValueError, match="ssr1: preferences are trained on a base alone"):
        stage.setup("fit")
    stage.objective = None
    with pytest.raises(ValueError, match=r"stage ssr1: nothing to train; set stage\.objective"):
        stage.setup("fit")


def test_a_stage_without_an_objective_still_samples(build):
    stage = build("demo/base")
    stage.objective = None
    grid = Grid(frames=4, height=16, width=16, fps=4)
    assert stage.sample(["a"], grid=grid, seeds=[0], steps=1).shape == (1, 3, 4, 16, 16)

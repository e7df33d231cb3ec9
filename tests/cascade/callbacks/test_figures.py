"""A run's metrics: loss by kind of clip, worth of conditions, speed, samples, and their files."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch

from cascade.callbacks import names
from cascade.callbacks.diagnostics import WAYS, Diagnostics
from cascade.callbacks.verdict import NotLearningError
from cascade.callbacks.worth import Worth
from cascade.curves import last_step, read_curves
from cascade.flops import forward_flops
from cascade.loggers.csv_logger import AtomicCSVLogger
from cascade.posthoc import reconstruct
from stages.noised import weighted


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A base and an SSR under every callback."""
    folders = {}
    for choice in ("demo/base", "demo/ssr1"):
        folder = tmp_path_factory.mktemp("run")
        data = tiny.Clips(batches=4, slow_s=0.05)
        tiny.fit(
            tiny.tiny_stage(choice), folder, callbacks=tiny.all_callbacks(), steps=4, data=data
        )
        folders[choice] = folder
    return folders


def test_figures_are_named_alike_in_all_stages_and_all_names_are_listed(runs):
    listed = re.findall(r"^    ((?:train|val|throughput)/\S+)", names.__doc__, re.MULTILINE)
    patterns = [re.sub(r"<[^>]*>", ".+", name) for name in listed]
    logged = {choice: set(read_curves(folder)) for choice, folder in runs.items()}
    for found in logged.values():
        assert [n for n in found if not any(re.fullmatch(p, n) for p in patterns)] == []
    own = r"val/(worth|worth_nothing|true|made)/.*|train/loss_(mode|logsnr)/.*"
    one, other = ({n for n in found if not re.fullmatch(own, n)} for found in logged.values())
    assert one == other
    assert {names.LOSS, names.RELATIVE, names.LR, names.GRAD_NORM, names.SKIPPED} <= one
    assert {*names.THROUGHPUT} <= one


def test_the_means_of_the_bins_make_up_the_mean(tiny, tmp_path):
    seen = []

    class Seen(tiny.pl.Callback):
        def on_train_batch_end(self, _trainer, _module, outputs, *_):
            seen.append(outputs["losses"])

    watching = Diagnostics(logsnr_edges=[-2.0, 2.0])
    options = {"log_every_n_steps": 3, "val_check_interval": 3}
    tiny.fit(tiny.tiny_stage(), tmp_path, callbacks=[Seen(), watching], **options)
    curves = {name: dict(points) for name, points in read_curves(tmp_path).items()}
    loss = torch.cat([one.loss for one in seen[:3]])
    zero = torch.cat([one.zero for one in seen[:3]])
    assert curves[names.LOSS][2] == pytest.approx(float(seen[2].loss.mean()))
    assert curves[names.RELATIVE][2] == pytest.approx(float(loss.sum() / zero.sum()))
    logsnr = torch.cat([one.logsnr for one in seen[:3]])
    ways = [way for one in seen[:3] for way in one.ways]
    middle = (logsnr > -2) & (logsnr <= 2)
    assert middle.any()
    assert curves["train/loss_logsnr/-2_2"][2] == pytest.approx(float(loss[middle].mean()))
    for way in set(ways):
        mean = torch.stack([v for v, w in zip(loss, ways, strict=True) if w == way]).mean()
        assert curves[names.by_mode(way)][2] == pytest.approx(float(mean))
    rows = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    first = [row for row in rows if row["step"] == 3]
    assert sum(row["clips"] for row in first) == len(loss)
    whole = sum(row["clips"] * row["loss"] for row in first)
    assert whole == pytest.approx(float(loss.sum()), rel=1e-5)
    assert {row["mode"] for row in first} == set(ways) <= set(WAYS)


def test_a_network_that_answers_zero_has_a_relative_loss_of_one(tiny):
    losses = tiny.tiny_stage().losses(tiny.clips(range(8)), purpose="train")
    torch.testing.assert_close(losses.loss, losses.zero)


def test_a_run_with_a_loss_above_that_of_zero_outputs_ends(tiny, tmp_path):
    stage = tiny.tiny_stage()
    stage.predict = lambda z, _logsnr, _cond: 9 * z + stage.net.out.bias.sum()
    callbacks = [Diagnostics(logsnr_edges=[0.0], patience=4)]
    with pytest.raises(NotLearningError, match="for 4 steps the loss was higher than that of a"):
        tiny.fit(stage, tmp_path, callbacks=callbacks, limit_val_batches=0)


def test_a_condition_that_the_network_uses_has_worth_and_an_unused_one_has_none(
    tiny, tmp_path, caplog
):
    stage = tiny.tiny_stage("demo/ssr1")
    stage.predict = lambda z, _logsnr, cond: cond.low + 0 * z * stage.net.out.bias.sum()
    options = {"steps": 3, "val_check_interval": 1}
    worth = Worth(conditions=["text", "low", "given"], clips=8, patience=2)
    stage.recipe = replace(stage.recipe, text_dropout=0.0)
    tiny.fit(stage, tmp_path, callbacks=[worth], **options)
    curves = read_curves(tmp_path)
    assert len(curves["val/worth/low"]) == 3
    assert all(value > 0.5 for _, value in curves["val/worth/low"])
    assert all(value == 0 for _, value in curves["val/worth/text"])
    warnings = [r.getMessage() for r in caplog.records if "has no effect" in r.getMessage()]
    assert ["`text`" in line for line in warnings] == [True, True]
    assert "step 2: `text` has no effect on the loss in 2 validations in a row" in warnings[0]
    required = Worth(conditions=["text"], clips=8, patience=1, required=["text"])
    with pytest.raises(NotLearningError, match="check that it matches the clips"):
        tiny.fit(stage, tmp_path, callbacks=[required], **options)


def test_without_given_frames_the_same_frames_are_counted_and_all_are_noisy(tiny):
    stage = tiny.tiny_stage(train={"modes": {"only": "first_last"}})
    noised = stage.noise(tiny.clips([0, 1]), purpose="val")
    seen = {}

    def spy(z, logsnr, cond):
        seen.update(z=z, logsnr=logsnr, cond=cond)
        return torch.zeros_like(z)

    stage.predict = spy
    own = weighted(torch.zeros_like(noised.z), noised, stage.diffusion)
    without, differs = stage.loss_without(noised, noised.rolled(), "given")
    assert differs.all()
    torch.testing.assert_close(own, without)  # zero outputs have one loss on the same frames
    assert (seen["logsnr"] == noised.drawn[:, None]).all()
    assert not seen["cond"].mask.any()
    torch.testing.assert_close(seen["z"][:, :, 1:-1], noised.z[:, :, 1:-1])
    assert (seen["z"][:, :, 0] - noised.z[:, :, 0]).abs().max() > 0.01


def test_waiting_for_data_is_logged_and_the_flops_are_those_of_the_network(tiny, runs):
    curves = read_curves(runs["demo/base"])
    waited = 4 * 0.05
    share = [value for _, value in curves["throughput/wait_share"]]
    assert all(0 < value < 1 for value in share)
    spent = sum(1 / value for _, value in curves["throughput/steps_per_s"])
    logged = sum(s / r for s, (_, r) in zip(share, curves["throughput/steps_per_s"], strict=True))
    assert waited * 0.7 <= logged <= spent
    for choice in ("demo/base", "demo/ssr1"):
        stage = tiny.tiny_stage(choice)
        batch = tiny.clips([0])
        real = forward_flops(lambda stage=stage, b=batch: stage.losses(b, purpose="train"))
        assert forward_flops(stage.dry_forward(tiny.SHAPE)) == pytest.approx(real, rel=0.25)
    clips = [value for _, value in curves["throughput/clips_per_s"]]
    steps = [value for _, value in curves["throughput/steps_per_s"]]
    assert clips == pytest.approx([4 * value for value in steps])


def test_samples_stand_beside_what_they_were_made_from_and_the_real_clip(runs):
    for choice, panels in (("demo/base", "made | real"), ("demo/ssr1", "low | made | real")):
        folder = runs[choice] / "samples/00000004"
        captions = json.loads((folder / "captions.json").read_text())
        texts = ("a red circle", "two blue bars")
        assert captions == {f"{i}.mp4": f"{panels}: {text}" for i, text in enumerate(texts)}
        with av.open(str(folder / "0.mp4")) as video:
            frames = [(frame.height, frame.width) for frame in video.decode(video=0)]
        assert frames == [(16, 16 * len(panels.split(" | ")))] * 4


def test_rows_survive_a_new_column_and_a_kill(tmp_path):
    logger = AtomicCSVLogger(str(tmp_path), "metrics", flush_logs_every_n_steps=1)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.log_metrics({"a": 2.0, "b": 0.125}, step=1)
    path = tmp_path / "metrics/version_0/metrics.csv"
    with path.open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"step": "0", "a": "1.0", "b": ""},
            {"step": "1", "a": "2.0", "b": "0.125"},
        ]
    assert [p.name for p in path.parent.iterdir()] == ["metrics.csv"]
    path.write_bytes(path.read_bytes() + b"2,3.0,0.1")  # of 0.125
    assert read_curves(tmp_path) == {"a": [(0, 1.0), (1, 2.0)], "b": [(1, 0.125)]}
    assert last_step(tmp_path) == 1


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_decide_alike_and_make_their_share(tiny, tmp_path, strategy):
    script = Path(__file__).with_name("tiny.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, script, strategy, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"rank-{r}.json").read_text())["guard"] for r in (0, 1))
    assert one == two
    assert one["skipped"] == [3]
    row = json.loads((tmp_path / "spikes.jsonl").read_text())
    assert {key for key, _ in row["samples"]} == {f"clip-{i}" for i in range(12, 16)}
    folder = tmp_path / "samples/00000004"
    captions = json.loads((folder / "captions.json").read_text())
    assert [text.rpartition(": ")[2] for text in captions.values()] == [
        "a red circle",
        "two blue bars",
    ]
    assert all((folder / name).stat().st_size > 500 for name in captions)
    assert {"val/worth/text", "val/loss", "train/loss"} <= set(read_curves(tmp_path))
    averages, _ = reconstruct(tmp_path / "ema", 0.1, 6)  # whole, though the ranks' are sharded
    expected = dict(tiny.tiny_stage().named_parameters())
    shapes = {name: value.shape for name, value in averages.items()}
    assert shapes == {name: p.shape for name, p in expected.items() if p.requires_grad}

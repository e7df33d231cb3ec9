"""Laws of the proof: it holds for a sound run, and each thing that is broken is found and named."""

import copy
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file

import cascade.prove
from cascade.checkpoint.checkpoint_folder import manifests
from cascade.conditioning import Given
from cascade.entry import CONF
from cascade.nn.hourglass import Hourglass
from cascade.proof import parity, proof_page
from cascade.proof.claims import CLAIMS, check_claims
from cascade.proof.conditions import WorthEstimate
from cascade.proof.found import ClaimResult, Proof
from cascade.proof.subject import ProofSettings, config_of, find, open_run
from cascade.prove import check_overrides, with_overrides, write
from cascade.shrink import resolved
from cascade.train import train
from data.worlds.world_shards import make_shapes
from stages.stage import Stage

_spec = importlib.util.spec_from_file_location(
    "prove_faults", Path(__file__).parents[1] / "measure" / "prove_faults.py"
)
prove_faults = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(prove_faults)

NEED_DATA = {"same inputs", "conditions count", "given frames", "exact resume", "same data"}
FEW = ["prove.clips=8", "prove.draws=1", "prove.few=1", "prove.steps=2", "prove.batch=4"]


def config(*overrides: str, root: str = "prove") -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        return compose(root, overrides=["stage=demo/ssr1", "debug=smoke", "logger=csv", *overrides])


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run of three steps, and the config of its proof."""
    folder = tmp_path_factory.mktemp("prove")
    make_shapes(folder / "shards", clips=20, shard_size=10)
    run = folder / "demo/ssr1/sound"
    overrides = [
        *(f"paths.runs={folder}", f"data.shards={folder}/shards", "data.make=null", "name=sound"),
        *("shrink.steps=3", "data.validation.share=0.5", "trainer.enable_progress_bar=false"),
        *(f"logger.csv.save_dir={run}", "~callbacks.samples"),
    ]
    train(config(*overrides, root="train"), run)
    return run, resolved(config(*overrides, *FEW))


@pytest.fixture
def run(sound, tmp_path) -> Path:
    """A copy of the run, to break."""
    return shutil.copytree(sound[0], tmp_path / "demo/ssr1/sound")


def opened(run: Path, plain: dict[str, Any], **data: Any) -> Any:
    settings = ProofSettings(**{k: v for k, v in plain["prove"].items() if k != "only"})
    own = config_of(run, plain, manifests(run))
    own["data"] |= data
    return open_run(run, own, find(run, train="make train"), settings)


@pytest.fixture(scope="module")
def subject(sound):
    return opened(*sound)


def one(subject: Any, name: str) -> ClaimResult:
    (result,) = check_claims(subject, only=(name,))
    return result


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_all_claims_hold_for_a_sound_run_and_nothing_else_is_written(sound):
    run, plain = sound
    plain = copy.deepcopy(plain)
    plain["prove"]["clips"] = 4  # three steps of training are worth nothing on more
    before = files(run)
    proof = cascade.prove.prove(plain, run, stage="demo/ssr1", overrides=[])
    page = write(proof, run / "prove")
    assert {one.name: one.found.verdict for one in proof.results} == {
        claim.name: "holds" for claim in CLAIMS
    }
    assert proof.status == 0
    after = files(run)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("prove/") for name in after.keys() - before.keys())
    record = json.loads((run / "prove/prove.json").read_text())
    text = page.read_text()
    assert record["status"] == 0
    assert all(claim.statement.replace("'", "&#x27;") in text for claim in CLAIMS)
    (inputs,) = (c for c in record["claims"] if c["claim"] == "same inputs")
    names = {"z", "low", "given", "mask", "logsnr", "text", "text_mask", "augment", "fps"}
    names |= {"baseline"}
    assert set(inputs["tables"][0][0]) == {"way to prompt", *names}
    assert {cell for row in inputs["tables"][0] for k, cell in row.items() if k in names} == {
        "equal"
    }
    assert text.count("<img") >= 3 * 4 + 3 * 8  # inputs side by side; given frames by way


@pytest.mark.parametrize("name", prove_faults.FAULTS)
def test_a_fault_between_training_and_sampling_is_found_and_named(subject, name, monkeypatch):
    monkeypatch.setattr(parity, "suitable", lambda *_: ["text", "first_last"])
    fault = prove_faults.FAULTS[name]
    with fault.plant():
        found = one(subject, "same inputs").found
    assert found.verdict == "fails"
    assert re.search(fault.named, found.notes[0]), found.notes


def test_a_condition_that_is_dropped_in_a_later_step_is_found(subject, monkeypatch):
    inputs, calls = Stage.inputs, []

    def forgetful(self, z, cond):
        calls.append(z)
        return inputs(self, z, replace(cond, low=cond.low * (len(calls) % 2)))

    sample = Stage.sample

    @functools.wraps(sample)
    def fresh(self, *arguments, **named):
        calls.clear()
        return sample(self, *arguments, **named)

    monkeypatch.setattr(parity, "suitable", lambda *_: ["text"])
    monkeypatch.setattr(Stage, "sample", fresh)
    monkeypatch.setattr(Stage, "inputs", forgetful)
    found = one(subject, "same inputs").found
    assert any(
        "low: the sampler feeds another value in a later step" in note for note in found.notes
    )


def test_a_condition_that_the_network_does_not_read_is_named(subject, monkeypatch):
    forward = Hourglass.forward
    monkeypatch.setattr(
        Hourglass,
        "forward",
        lambda self, x, logsnr, text, mask, scalars: forward(
            self, x, logsnr, text * 0, mask, scalars
        ),
    )
    found = one(subject, "conditions count").found
    assert found.verdict == "fails"
    assert any(note.startswith("text: does not change") for note in found.notes)


def test_a_worth_is_judged_by_its_interval():
    least = 0.001
    for clips, mean, half, verdict in (
        (64, 0.2, 0.1, "effect"),
        (64, 0.0, 0.0005, "no effect"),
        (64, 0.0, 0.01, "undecided on 64 clips"),
        (3, 0.2, 0.1, "not tested: it differs on 3 held-out clips, but 8 are needed"),
    ):
        assert (
            WorthEstimate(name="text", clips=clips, mean=mean, half=half).verdict(least) == verdict
        )


def test_given_frames_that_do_not_come_back_are_named(subject, monkeypatch):
    monkeypatch.setattr(Given, "paste", lambda self, x: x * 0.99)
    found = one(subject, "given frames").found
    assert found.verdict == "fails"
    assert any(re.match("image: a given pixel changes by", n) for n in found.notes)


def test_weights_that_are_not_the_runs_averages_are_found(sound, run):
    path = run / "bundle/model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    weights[name] = weights[name] + 0.25
    save_file(weights, path)
    card = json.loads((run / "bundle/card.json").read_text())
    card["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (run / "bundle/card.json").write_text(json.dumps(card))
    found = one(opened(run, sound[1]), "same video").found
    assert found.verdict == "fails"
    assert "differ from the run's averages by up to 0.25" in found.notes[0]


def test_a_video_that_depends_on_its_batch_is_found(subject, monkeypatch):
    predict = Stage.predict
    monkeypatch.setattr(
        Stage,
        "predict",
        lambda self, z, logsnr, cond: predict(self, z - z.mean(0), logsnr, cond),
    )
    assert one(subject, "any batch").found.verdict == "fails"


def test_a_loss_that_a_resume_does_not_give_again_is_found(sound, run):
    path = next(run.glob("metrics/version_0/metrics.csv"))
    lines = path.read_text().splitlines()
    place = lines[0].split(",").index("train/loss")
    for i, line in enumerate(lines[1:], 1):
        cells = line.split(",")
        if cells[0] == "2" and cells[place]:
            cells[place] = str(float(cells[place]) * (1 + 1e-6))
            lines[i] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    found = one(opened(run, sound[1]), "exact resume").found
    assert found.verdict == "fails"
    assert found.notes[0].startswith("step 3: the logged loss is")


def test_a_receptive_field_that_is_larger_than_stated_is_found(subject, monkeypatch):
    frames, pixels = subject.bundled.net.receptive_field
    monkeypatch.setattr(Hourglass, "receptive_field", (frames - 1, pixels))
    found = one(subject, "receptive field").found
    assert found.verdict == "fails"
    assert (
        found.notes[0]
        == f"frames: a change reaches {frames} positions far, but {frames - 1} are declared"
    )


def test_other_data_is_found(sound, run, tmp_path):
    make_shapes(tmp_path / "other", clips=8, shard_size=8, seed=1)
    other = opened(run, sound[1], shards=str(tmp_path / "other"))
    found = one(other, "same data").found
    assert found.verdict == "fails"
    assert "samples, captions or the depth of the index have changed" in found.notes[0]


def test_a_held_out_clip_that_no_longer_decodes_is_named(sound, subject, tmp_path):
    shards = shutil.copytree(sound[0].parents[2] / "shards", tmp_path / "shards")
    key = subject.held["key"][0]
    for path in shards.glob("*.tar"):
        before, data = path.stat(), bytearray(path.read_bytes())
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name == f"{key}.mp4":
                    start, end = member.size // 4, member.size
                    data[member.offset_data + start : member.offset_data + end] = bytes(end - start)
        path.write_bytes(bytes(data))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # no reason to index it again
    found = one(opened(*sound, shards=str(shards)), "same data").found
    assert found.verdict == "fails"
    assert found.notes[0].startswith(f"1 held-out clips do not decode: {key} of {path} (")


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_without_its_data_a_run_is_not_proved_and_not_disproved(sound, run, tmp_path, damage):
    shards = tmp_path / "gone"
    if damage == "empty":
        shards.mkdir()
        (shards / "a.tar").write_bytes(b"no tar" * 100)
    missing = opened(run, sound[1], shards=str(shards))
    results = [
        *(one(missing, "same inputs"), one(missing, "any batch"), one(missing, "same data")),
        *(one(missing, "exact resume"), one(missing, "same video")),
    ]
    for result in results:
        wanted = "not checked" if result.name in NEED_DATA else "holds"
        assert result.found.verdict == wanted, result
        if wanted == "not checked":
            assert str(shards) in result.found.notes[0]
    proof = Proof(stage="demo/ssr1", run="sound", facts={}, results=results)
    assert proof.status == 2
    proof_page.write(proof, tmp_path / "page/index.html")


def test_a_run_without_a_bundle_is_refused_with_the_way_out(run):
    shutil.rmtree(run / "bundle")
    with pytest.raises(
        ValueError, match=r"has no bundle: the run is stopped at step 3.*make train"
    ):
        find(run, train="make train STAGE=ssr1")
    with pytest.raises(ValueError, match=r"no run in .*nowhere; train one: make train"):
        find(run / "nowhere", train="make train STAGE=ssr1")


def test_overrides_that_a_proof_would_not_heed_are_refused():
    check_overrides(["stage=demo/base", "name=a", "data=shapes", "data.shards=/a", "prove.few=1"])
    with pytest.raises(ValueError, match=r"trainer, stage\.sampling\.steps cannot be set"):
        check_overrides(["trainer=cpu", "stage.sampling.steps=3", "name=a"])


def test_the_shards_may_lie_elsewhere_and_all_else_is_the_runs_own():
    own = {"shards": "/there", "validation": {"share": 0.5}, "captions": None}
    composed = {"shards": "/here", "validation": {"share": 0.02}, "captions": {"long": 1.0}}
    assert with_overrides(own, composed, ["name=a"]) == own
    assert with_overrides(own, composed, ["data=shards"]) == own | {"shards": "/here"}
    assert with_overrides(own, composed, ["data.shards=/here"]) == own | {"shards": "/here"}

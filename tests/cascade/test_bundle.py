"""Bundles: what is saved comes back; what is damaged, foreign or untrained is refused."""

import errno
import json
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cascade import parts
from cascade.bundle import (
    BundleError,
    check_values,
    final_loss,
    load_stage,
    load_weights,
    read_stage,
    save_bundle,
    stage_parts,
    start_from,
)
from cascade.launch import local_launcher, slurm_launcher
from cascade.nn.dit import DiT
from cascade.nn.hourglass import Hourglass

FILES = ("model.safetensors", "stage.yaml", "card.json")
NET = {
    "_target_": "cascade.nn.hourglass.Hourglass",
    "in_channels": 4,
    "out_channels": 3,
    "text_width": 64,
    "num_scalars": 1,
    "widths": [64],
    "depths": [1],
}


def save(folder, *, steps=7, stage=NET):
    torch.manual_seed(0)
    net = Hourglass(**{name: value for name, value in NET.items() if name != "_target_"})
    card = {"steps": steps, "commit": "abc"}
    return save_bundle(folder, stage=stage, weights=net.state_dict(), card=card), net


def test_a_stage_comes_back_as_it_was(tmp_path):
    folder, net = save(tmp_path / "bundle")
    again = load_stage(folder)
    assert not again.training
    for name, value in net.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    assert sorted(p.name for p in folder.iterdir()) == [
        "card.json",
        "model.safetensors",
        "stage.yaml",
    ]


@pytest.mark.parametrize(
    ("figures", "wanted"),
    [
        ({"val/loss": 0.5}, 0.5),
        ({"val/loss": 1}, 1.0),
        ({}, None),
        ({"val/loss": float("nan")}, None),
        ({"val/loss": float("inf")}, None),
    ],
)
def test_every_launcher_tells_the_same_loss_of_a_finished_run(tmp_path, figures, wanted):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/card.json").write_text(json.dumps({"figures": figures}))
    by_slurm = slurm_launcher._outcome(
        slurm_launcher.SlurmRun(run=tmp_path, overrides=[], job="1"), "COMPLETED", "train"
    )
    by_hand = local_launcher.outcome(local_launcher.LocalRun(overrides=[], folder=tmp_path))
    assert [final_loss(tmp_path), by_slurm.return_value, by_hand.return_value] == [wanted] * 3


def test_a_bundle_that_cannot_take_its_place_leaves_the_one_before(tmp_path, monkeypatch):
    folder, _ = save(tmp_path / "bundle")
    replace = Path.replace

    def fails_once(path, target):
        if path.suffix == ".part":
            raise OSError(errno.EIO, "Input/output error")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails_once)
        with pytest.raises(OSError, match="Input/output"):
            save(folder, steps=8)
    assert json.loads((folder / "card.json").read_text())["steps"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_next_save_clears_what_a_kill_left_and_nothing_else(tmp_path):
    folder, _ = save(tmp_path / "bundle")
    folder.replace(tmp_path / ".bundle.abcd_123.old")  # a kill between the renames …
    (tmp_path / ".bundle.abcd_123.part").mkdir()
    others = {".bundle.b.abcd_123.part", ".other.abcd_123.part"}
    for name in others:
        (tmp_path / name).mkdir()
    with pytest.raises(BundleError):
        save(folder, stage={"_target_": "os.system"})
    assert (tmp_path / ".bundle.abcd_123.old").exists()  # … costs nothing before one is whole
    save(folder)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", *others}


def test_a_bundle_holds_no_training_and_no_path(tmp_path):
    folder, _ = save(tmp_path / "bundle", stage={**NET, "train": {"seed": 0}})
    text = (folder / "stage.yaml").read_text()
    assert "train" not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "save_bundle",
        "cascade.bundle.save_bundle",
        "cascade.nn.dit.DiT",
        "pl.Trainer",
        "_TextBlock",
        "modulated",
        3,
    ],
)
@pytest.mark.parametrize("key", ["part", "_target_"])
def test_a_bundle_builds_nothing_but_parts_of_a_stage(tmp_path, target, key):
    folder, _ = save(tmp_path / "bundle")
    path = folder / "stage.yaml"
    content = yaml.safe_load(path.read_text())
    content["stage"]["head_width"] = [{key: target, "command": f"touch {tmp_path}/done"}]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(BundleError, match="no part named|a class must be named by `part`"):
        load_stage(folder)
    assert not (tmp_path / "done").exists()


def test_a_bundle_may_not_interpolate(tmp_path):
    with pytest.raises(BundleError, match="must not interpolate"):
        check_values({"name": "${oc.env:HOME}"}, where="stage.yaml")
    with pytest.raises(BundleError, match="must not interpolate"):
        save(tmp_path / "bundle", stage={**NET, "patch": "${oc.env:HOME}"})


def test_yaml_tags_run_nothing(tmp_path):
    folder, _ = save(tmp_path / "bundle")
    (folder / "stage.yaml").write_text(
        f"format: 2\nstage: !!python/object/apply:os.system ['touch {tmp_path}/done']\n"
    )
    with pytest.raises(BundleError, match=r"stage.yaml is damaged"):
        read_stage(folder)
    assert not (tmp_path / "done").exists()


def test_an_untrained_stage_is_refused(tmp_path):
    folder, _ = save(tmp_path / "bundle", steps=0)
    with pytest.raises(BundleError, match="was never trained"):
        load_stage(folder)


def test_another_width_is_refused_with_both(tmp_path):
    folder, _ = save(tmp_path / "bundle")
    content = yaml.safe_load((folder / "stage.yaml").read_text())
    content["stage"]["widths"] = [128]
    (folder / "stage.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(BundleError, match=r"\(64,\) in the bundle, \(128,\) in the net|64.*128"):
        load_stage(folder)


def test_sizes_that_the_weights_do_not_have_take_no_memory(tmp_path):
    folder, _ = save(tmp_path / "bundle")
    content = yaml.safe_load((folder / "stage.yaml").read_text())
    for change, message in (
        ({"widths": [2**20 * 64]}, r"\(64,\) in the bundle, \(67108864,\) in the net|67108864"),
        ({"depths": [10**9]}, "more than .* weights"),
    ):
        changed = {**content, "stage": {**content["stage"], **change}}
        (folder / "stage.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(BundleError, match=message):
            load_stage(folder)


def test_missing_and_unknown_weights_are_named(tmp_path):
    folder, net = save(tmp_path / "bundle")
    weights = load_file(folder / "model.safetensors")
    weights["surplus"] = weights.pop("out.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BundleError, match=r"out\.bias: missing.*surplus: unknown"):
        load_weights(net, folder)


def test_one_changed_byte_of_the_weights_is_found(tmp_path):
    folder, net = save(tmp_path / "bundle")
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"damaged, or another bundle's: its SHA-256 is"):
        load_weights(net, folder)


def test_the_weights_of_another_bundle_are_refused(tmp_path):
    folder, net = save(tmp_path / "bundle")
    other, _ = save(tmp_path / "other")
    weights = {name: value + 1 for name, value in load_file(other / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BundleError, match=r"damaged, or another bundle's: its SHA-256 is"):
        load_weights(net, folder)


def test_a_card_without_the_checksum_is_named(tmp_path):
    folder, net = save(tmp_path / "bundle")
    card = json.loads((folder / "card.json").read_text())
    del card["weights_sha256"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(BundleError, match=r"card.json: has no weights_sha256, .* copy it again"):
        load_weights(net, folder)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="is not a bundle: it has no model.safetensors"):
        load_stage(tmp_path)


def test_another_format_is_refused(tmp_path):
    folder, _ = save(tmp_path / "bundle")
    content = yaml.safe_load((folder / "stage.yaml").read_text())
    (folder / "stage.yaml").write_text(yaml.safe_dump({**content, "format": 99}))
    with pytest.raises(BundleError, match="format 99.*reads format 2; train the stage again"):
        load_stage(folder)


def test_saving_again_replaces_whole(tmp_path):
    save(tmp_path / "bundle", steps=1)
    folder, _ = save(tmp_path / "bundle", steps=2)
    assert json.loads((folder / "card.json").read_text())["steps"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_names_its_parts_by_public_names_alone(tmp_path, bundle_of):
    text = (bundle_of("demo/ssr1", tmp_path / "bundle") / "stage.yaml").read_text()
    content = yaml.safe_load(text)["stage"]
    assert "_target_" not in text
    assert "objective" not in content
    names = [content[name]["part"] for name in ("kind", "net", "codec", "augment")]
    assert [content["part"], *names] == [
        "Stage",
        "SpatialSR",
        "Hourglass",
        "Pixels",
        "NoiseAugment",
    ]


def test_a_bundle_comes_back_though_the_file_of_a_part_has_moved(tmp_path, bundle_of, monkeypatch):
    folder = bundle_of("demo/base", tmp_path / "bundle")
    elsewhere = types.ModuleType("elsewhere")
    elsewhere.DiT = type("DiT", (DiT,), {})
    monkeypatch.setitem(sys.modules, "elsewhere", elsewhere)
    monkeypatch.setitem(parts.modules(), "DiT", "elsewhere")
    assert type(load_stage(folder).net) is elsewhere.DiT


#: Names that bundles out there hold: whoever renames a class must keep them readable.
PUBLIC = """
Grid Pixels ByteText T5Text DiT Hourglass NoiseAugment Diffusion Sampling Guidance Oscillate
ZeroStar DynamicThreshold Uniform MinSNR Sigmoid Ancestral DDIM Euler Heun DPMSolverPP2M CosineVP
RectifiedFlow UniformTime LogitNormalTime Stage Base SpatialSR TemporalSR
"""


def test_a_part_that_no_bundle_can_record_is_refused_without_weights():
    with pytest.raises(BundleError, match="a class must be named by `part`"):
        stage_parts({**NET, "kind": {"_target_": "elsewhere.Kind"}})


def test_public_names_are_kept():
    assert set(PUBLIC.split()) <= set(parts.modules())


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
COPY = "copy it again, or train the stage again"
#: The content of a damaged file (a number: it is cut to so many bytes), and what is said of it.
DAMAGES: list[tuple[str, bytes | int, str]] = [
    *((name, POINTER, "is only a pointer of git-lfs; .*git lfs pull") for name in FILES),
    ("model.safetensors", b"cut", f"is damaged: .*{COPY}"),
    ("model.safetensors", b"", f"is damaged: .*{COPY}"),
    ("model.safetensors", 1000, f"is damaged: .*{COPY}"),
    ("model.safetensors", b"\xff" * 4000, f"is damaged: .*{COPY}"),
    ("stage.yaml", b"stage: [", f"is damaged: .*{COPY}"),
    ("stage.yaml", b"stage: \xff", f"is damaged: .*{COPY}"),
    ("stage.yaml", b"", "has format None"),
    ("card.json", b"{", f"is damaged: .*{COPY}"),
    ("card.json", b"\xff", f"is damaged: .*{COPY}"),
    ("card.json", b"[1]", f"is damaged: {COPY}"),
]


def initial(folder: Path) -> None:
    """Take a bundle's weights as `init_from` does."""
    start_from(Hourglass(**{k: v for k, v in NET.items() if k != "_target_"}), folder)


@pytest.mark.parametrize("load", [load_stage, initial])
@pytest.mark.parametrize(("file", "content", "said"), DAMAGES)
def test_a_damaged_file_of_a_bundle_is_named_with_the_way_out(tmp_path, load, file, content, said):
    folder, _ = save(tmp_path / "bundle")
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:content] if isinstance(content, int) else content)
    with pytest.raises(BundleError, match=rf"{file}:? {said}") as refused:
        load(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("stage.yaml", b"format: 2\nstage: {part: Base}\n", "is of a Base, not of a stage"),
        ("stage.yaml", b"format: 2\nstage: {part: DiT, foo: 1}\n", "cannot build its config"),
    ],
)
def test_a_foreign_file_of_a_bundle_is_refused(tmp_path, file, content, message):
    folder, _ = save(tmp_path / "bundle")
    (folder / file).write_bytes(content)
    with pytest.raises(BundleError, match=message):
        load_stage(folder)

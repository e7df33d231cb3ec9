"""A checkpoint is complete or absent; a damaged one is found and skipped."""

import errno
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cascade.checkpoint.checkpoint_folder import (
    CheckpointError,
    clear_parts,
    damages,
    describe,
    folder_of,
    folders,
    newest,
    publish,
    read_manifest,
    remove,
    write_manifest,
)
from cascade.checkpoint.keep import Best, Keep
from cascade.checkpoint.manifest import Manifest, ManifestError
from cascade.checkpoint.state_file import StateFile


def manifest(step: int, **values) -> Manifest:
    known = {
        **{"step": step, "files": {}, "stage": "base", "shapes": {"net.a": [2]}, "data": {}},
        **{"config": {}, "commit": None, "versions": {}, "world": 1, "strategy": "one"},
        **{"precision": "32-true", "device": "cpu"},
    }
    return Manifest(**(known | values))


def save(run: Path, step: int, **values) -> Path:
    target = folder_of(run, step)
    part = target.with_name(f".{target.name}.part")
    part.mkdir(parents=True)
    io = StateFile()
    io.save_checkpoint({"x": torch.arange(1000.0) + step}, part / "state")
    publish(part, target, manifest(step, files=describe(part, io.written), **values))
    return target


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_step(path: Path) -> None:
    write_manifest(path.parent, replace(read_manifest(path.parent), step=7))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("state", cut, "state has 5,5"),
        ("state", flip, "state has checksum"),
        ("state", Path.unlink, "state is missing"),
        ("manifest.json", flip, "manifest.json"),
        ("manifest.json", cut, "manifest.json is not a manifest"),
        ("manifest.json", Path.unlink, "manifest.json cannot be read"),
    ],
)
def test_a_damaged_newest_is_reported_and_skipped(tmp_path, caplog, name, damage, message):
    save(tmp_path, 2)
    path = save(tmp_path, 4) / name
    assert newest(tmp_path).step == 4
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path).step == 2
    assert "00000004 is damaged" in caplog.text
    assert message in caplog.text
    # It is renamed, so that it does not affect later saves.
    assert [path.name for path in folders(tmp_path)] == ["00000002"]
    assert [path.name for path in tmp_path.glob("checkpoints/*.damaged")]


def test_a_config_with_numbers_for_keys_is_read_as_it_was_written(tmp_path):
    save(tmp_path, 2, config={"shards": {256: "a.tar", 1024: "b.tar", "c": "c.tar"}})
    assert newest(tmp_path).step == 2


def test_every_bit_of_a_checkpoint_counts(tmp_path):
    folder = save(tmp_path, 3)
    assert damages(folder) == []
    for name in ("state", "manifest.json"):
        whole = (folder / name).read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 60)):
            changed = bytearray(whole)
            changed[at] ^= 4
            (folder / name).write_bytes(changed)
            if name == "state" or json_differs(whole, bytes(changed)):
                assert damages(folder), (name, at)
        (folder / name).write_bytes(whole)


def json_differs(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) != json.loads(other)
    except ValueError:
        return True


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_from_step_0(tmp_path):
    for step in (2, 4):
        flip(save(tmp_path, step) / "state")
    with pytest.raises(CheckpointError, match=r"00000002, 00000004 is intact.*remove"):
        newest(tmp_path)
    assert newest(tmp_path / "other") is None


def test_a_manifest_of_another_step_or_format_is_refused(tmp_path):
    folder = save(tmp_path, 3)
    other_step(folder / "manifest.json")
    assert damages(folder) == ["manifest.json is of step 7, but the folder is named 00000003"]
    text = manifest(3).dumps().replace(b'"format": 1', b'"format": 2')
    with pytest.raises(ManifestError, match="has format 2, but this version reads format 1"):
        Manifest.loads(text)
    assert Manifest.loads(manifest(3).dumps()) == manifest(3)


def test_incomplete_folders_of_a_kill_are_not_checkpoints_and_are_removed(tmp_path):
    target = save(tmp_path, 2)
    (target.parent / ".00000004.part").mkdir()
    (target.parent / ".00000001.ab.gone").mkdir()
    assert folders(tmp_path) == [target]
    clear_parts(tmp_path)
    assert list(target.parent.iterdir()) == [target]


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_saved_again(tmp_path):
    flip(save(tmp_path, 2) / "state")
    assert damages(folder_of(tmp_path, 2))
    save(tmp_path, 2)
    assert damages(folder_of(tmp_path, 2)) == []


def test_a_state_executes_nothing(tmp_path):
    class Runs:
        def __reduce__(self):
            return (print, ("it ran",))

    torch.save({"x": Runs()}, tmp_path / "state")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        StateFile().load_checkpoint(tmp_path / "state", weights_only=False)


def test_a_full_disk_is_an_oserror():
    with pytest.raises(OSError, match="No space") as caught:
        StateFile().save_checkpoint({"x": torch.zeros(1 << 20)}, "/dev/full")
    assert caught.value.errno == errno.ENOSPC


def test_last_every_and_best_are_kept_and_nothing_else(tmp_path):
    losses = {2: 5.0, 4: 1.0, 6: 3.0, 8: 2.0, 10: 4.0, 12: 6.0}
    known = [manifest(s, figures={"val/loss": loss}) for s, loss in losses.items()]
    assert Keep(last=2).unwanted(known) == {2, 4, 6, 8}
    assert Keep(last=1, every=4).unwanted(known) == {2, 6, 10}
    best = Best(metric="val/loss", k=2)
    assert Keep(last=1, best=best).unwanted(known) == {2, 6, 10}
    assert best.takes({"val/loss": 1.5}, known)
    assert not best.takes({"val/loss": 2.5}, known)
    assert not best.takes({}, known)
    most = Best(metric="val/loss", mode="max")
    assert Keep(last=1, best=most).unwanted(known) == {2, 4, 6, 8, 10}
    for step in losses:
        save(tmp_path, step)
    remove(folder_of(tmp_path, s) for s in (2, 6))
    assert [p.name[-2:] for p in folders(tmp_path)] == ["12", "10", "08", "04"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_metric_that_is_not_finite_is_never_the_best(mode):
    best = Best(metric="val/loss", mode=mode)
    spoiled = [
        manifest(step, figures={"val/loss": float(value)})
        for step, value in enumerate(("nan", "inf", "-inf"))
    ]
    good = manifest(5, figures={"val/loss": 1.0})
    for known in ([*spoiled, good], [good, *spoiled]):
        assert best.of(known) == {5}
    assert best.of(spoiled) == set()
    assert best.takes({"val/loss": 1.0}, spoiled)
    assert not any(best.takes(m.figures, known) for m in spoiled for known in ([], [good]))


@pytest.mark.parametrize("wrong", [{"last": 0}, {"every": 0}])
def test_a_rule_that_keeps_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        Keep(**wrong)

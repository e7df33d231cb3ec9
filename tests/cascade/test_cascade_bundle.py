"""A cascade's bundle keeps the order and the sampling of its stages, and is replaced whole."""

import pytest
from torch import nn

from cascade.bundle import BundleError, load_stage
from cascade.cascade_bundle import read_cascade, save_cascade


def test_a_cascade_bundle_keeps_order_and_sampling(tmp_path, bundle_of):
    one = bundle_of("demo/base", tmp_path / "one")
    other = bundle_of("demo/base", tmp_path / "other")
    folder = save_cascade(
        tmp_path / "cascade",
        bundles={"ssr1": one, "base": other},
        sampling={"base": {"steps": 4}},
    )
    entries = read_cascade(folder)
    assert [entry["bundle"].name for entry in entries] == ["ssr1", "base"]
    assert entries[1]["steps"] == 4
    assert isinstance(load_stage(entries[0]["bundle"]), nn.Module)


def test_a_cascade_bundle_is_written_whole_or_not_at_all(tmp_path, bundle_of, monkeypatch):
    one = bundle_of("demo/base", tmp_path / "one")
    folder = save_cascade(tmp_path / "cascade", bundles={"base": one, "old": one}, sampling={})
    copies = []

    def full(source, target):
        copies.append(target)
        if len(copies) == 2:
            raise OSError(28, "No space left on device")
        target.mkdir()

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(OSError, match="No space"):
        save_cascade(folder, bundles={"base": one, "new": one}, sampling={})
    monkeypatch.undo()
    assert [entry["bundle"].name for entry in read_cascade(folder)] == ["base", "old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cascade", "one"]
    save_cascade(folder, bundles={"base": one}, sampling={})
    assert sorted(path.name for path in folder.iterdir()) == ["base", "cascade.yaml"]


def test_a_cascade_bundle_names_only_folders_beside_it(tmp_path):
    (tmp_path / "cascade.yaml").write_text("format: 2\nstages:\n- bundle: ../elsewhere\n")
    with pytest.raises(BundleError, match="must be the name of a folder beside it"):
        read_cascade(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"stages: [", "cascade.yaml is damaged"),
        (b"format: 2\nstages: 5\n", "stages must be a list"),
    ],
)
def test_a_foreign_cascade_file_is_refused(tmp_path, content, message):
    (tmp_path / "cascade.yaml").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        read_cascade(tmp_path)

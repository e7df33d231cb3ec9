"""Timelines: what is read, and what is refused."""

import json

import pytest

from cascade.timeline import load_timeline, read_timeline

GOOD = [{"from": 0, "to": 4, "prompt": "a"}, {"from": 4, "to": 8.5, "prompt": "b"}]


@pytest.mark.parametrize("name", ["t.yaml", "t.json"])
def test_a_timeline_is_read_from_yaml_and_json(tmp_path, name):
    path = tmp_path / name
    path.write_text(json.dumps(GOOD))
    assert load_timeline(str(path)) == GOOD
    assert read_timeline(GOOD) == [(0, 4, "a"), (4, 8.5, "b")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[1].update({"from": 5}), r"entry 2 begins at 5 s and leaves a gap.* 4 s"),
        (lambda t: t[1].update({"from": 3}), r"entry 2 begins at 3 s and overlaps .* 4 s"),
        (lambda t: t[0].update({"from": 1}), r"entry 1 begins at 1 s and leaves a gap.*from: 0"),
        (lambda t: t[1].update(to=4), r"entry 2 ends at 4 s, but begins at 4 s"),
        (lambda t: t[0].update(prompt=5), r"entry 1: prompt must be text, got 5"),
        (lambda t: t[0].update(to="4 s"), r"entry 1: to must be seconds, at least 0, got '4 s'"),
        (lambda t: t[0].update(to=True), r"entry 1: to must be seconds"),
        (lambda t: t[0].update(fps=3), r"entry 1: must have the keys from, to, prompt, got .*fps"),
        (lambda t: t.clear(), r"must be a list of entries"),
    ],
)
def test_a_timeline_with_a_fault_is_refused_with_its_entry(change, message):
    timeline = [dict(entry) for entry in GOOD]
    change(timeline)
    with pytest.raises(ValueError, match=message):
        read_timeline(timeline)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"{", b"5"])
def test_a_file_that_is_no_timeline_is_refused_by_name(tmp_path, content):
    path = tmp_path / "t.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"timeline=.*t\.yaml: (cannot be read|must be a list)"):
        load_timeline(str(path))

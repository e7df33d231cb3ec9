"""Atomic files: complete or absent; what killed processes leave is removed."""

from cascade.files.atomic import remove_parts, replacing


def test_parts_of_killed_processes_are_removed_and_those_in_use_stay(tmp_path):
    path = tmp_path / "a [1].mp4"
    left = tmp_path / ".a [1].mp4.0123abcd.part"
    other = tmp_path / ".b.mp4.0123abcd.part"
    for one in (left, other):
        one.touch()
    with replacing(path) as part:
        part.write_bytes(b"whole")
        remove_parts(path)
        assert part.exists()
        assert not left.exists()
    assert path.read_bytes() == b"whole"
    assert sorted(tmp_path.iterdir()) == [other, path]

"""What control groups leave of the memory."""

from cascade.control_groups import left, limits


def test_what_is_left_of_every_limited_control_group_counts(tmp_path):
    member = tmp_path / "member"
    member.write_text("9:name=systemd:/other\n0::/job/step\n")
    for group, limit, used, cached in (("job", "1000", 900, 300), ("job/step", "max", 800, 0)):
        folder = tmp_path / "groups" / group
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
    assert [*left(tmp_path / "groups", member)] == [400]
    assert [*limits(tmp_path / "groups", member)] == [(tmp_path / "groups/job", 1000)]
    assert [*left(tmp_path / "none", tmp_path / "none")] == []

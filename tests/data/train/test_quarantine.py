"""What failed in training stays known, in the run's folder and in its checkpoints."""

from data.train.quarantine import Failure, Quarantine


def failure(key, position=3):
    return Failure(key=key, position=position, reason="cut short", replacement="b")


def test_a_checkpoint_has_the_failures_of_all_ranks_and_gives_back_a_lost_file(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    one, other = Quarantine(path), Quarantine(path)
    one.add(failure("a"))
    other.add(failure("c"))
    state = one.state_dict()
    assert [known["key"] for known in state] == ["a", "c"]
    path.unlink()
    reader, writer = Quarantine(path), Quarantine(path)
    reader.load_state_dict(state, write=False)
    assert not path.exists()
    writer.load_state_dict(state, write=True)
    assert reader.keys == writer.keys == Quarantine(path).keys == {"a", "c"}
    writer.load_state_dict(state, write=True)
    assert len([line for line in path.read_text().splitlines() if line]) == 2


def test_failures_in_memory_alone_are_told_too():
    quarantine = Quarantine()
    quarantine.add(failure("a"))
    assert quarantine.state_dict()[0]["key"] == "a"

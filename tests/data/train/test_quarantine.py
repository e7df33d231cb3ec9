"""What failed in training stays known, in the run's folder and in its checkpoints."""

from data.train.quarantine import Failure, Quarantine


def failure(row, position=3):
    return Failure(
        row=row, shard="0.tar", key="0", position=position, reason="cut short", replacement="b"
    )


def test_a_checkpoint_has_the_failures_of_all_ranks_and_gives_back_a_lost_file(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    one, other = Quarantine(path), Quarantine(path)
    one.add(failure(1))
    other.add(failure(3))
    state = one.state_dict()
    assert [known["row"] for known in state] == [1, 3]
    path.unlink()
    reader, writer = Quarantine(path), Quarantine(path)
    reader.load_state_dict(state, write=False)
    assert not path.exists()
    writer.load_state_dict(state, write=True)
    assert reader.rows == writer.rows == Quarantine(path).rows == {1, 3}
    writer.load_state_dict(state, write=True)
    assert len([line for line in path.read_text().splitlines() if line]) == 2


def test_failures_in_memory_alone_are_told_too():
    quarantine = Quarantine()
    quarantine.add(failure(1))
    assert quarantine.state_dict()[0]["row"] == 1

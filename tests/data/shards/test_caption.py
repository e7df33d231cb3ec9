"""Laws of captions: drawn by weight, keyed by position, kept beside the index."""

import pytest

from data.shards.caption import Captions, captions_path, read_captions, read_note, write_captions

MADE = {"long": "a long caption", "short": "a short one"}


def share(drawn: Captions, wanted: str, *, made=MADE, count: int = 4000) -> float:
    texts = [drawn("text", {"alt": "from json"}, made, seed=1, position=p) for p in range(count)]
    return texts.count(wanted) / count


def test_long_and_short_are_drawn_95_to_5():
    assert share(Captions(), MADE["long"]) == pytest.approx(0.95, abs=0.015)
    assert share(Captions(), MADE["short"]) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("weights", [{"txt": 1, "alt": 2, "long": 5}, {"txt": 0.2, "short": 0.6}])
def test_sources_are_drawn_by_their_weights(weights):
    said = {"txt": "text", "alt": "from json", **MADE}
    for name, weight in weights.items():
        wanted = weight / sum(weights.values())
        assert share(Captions(**weights), said[name]) == pytest.approx(wanted, abs=0.03)


def test_the_draw_is_keyed_by_seed_and_position_alone():
    drawn = Captions(long=1, short=1)
    once = [drawn("", {}, MADE, seed=3, position=p) for p in range(200)]
    again = [
        Captions(long=1, short=1)("", {}, MADE, seed=3, position=p) for p in range(199, -1, -1)
    ]
    assert once == again[::-1]
    assert once != [drawn("", {}, MADE, seed=4, position=p) for p in range(200)]


@pytest.mark.parametrize(
    ("text", "state", "made", "expected"),
    [
        (" text ", {"caption": "c"}, {}, "text"),
        ("", {"caption": " c "}, {}, "c"),
        ("text", {}, {"short": "s"}, "s"),
        ("text", {"long": "of the json"}, {"short": ""}, "of the json"),
        ("text", {"long": "of the json"}, {"long": "new"}, "new"),
        ("text", {"long": ["no", "text"]}, {}, "text"),
        (" ", {}, {}, ""),
    ],
)
def test_a_sample_without_the_names_falls_back(text, state, made, expected):
    # Only one of the names is there, so whatever is drawn is that one.
    assert Captions()(text, state, made, seed=0, position=5) == expected
    assert set(Captions().found(text, state, made)) == ({expected} if expected else set())


def test_all_that_may_be_drawn_is_found():
    found = Captions(txt=1, long=2, short=0).found("text", {}, MADE)
    assert found == {"text": 1, "a long caption": 2}
    drawn = {
        Captions(txt=1, long=2, short=0)("text", {}, MADE, seed=0, position=p) for p in range(99)
    }
    assert drawn == set(found)


def test_weights_below_zero_are_refused():
    with pytest.raises(ValueError, match="weights must not be negative"):
        Captions(long=-1.0)


def test_captions_come_back_from_their_file(tmp_path):
    path = captions_path(tmp_path / "00000.index.parquet")
    assert path.name == "00000.captions.parquet"
    assert read_captions(path) == {}
    assert read_note(path) == {}
    captions = {"a/b": MADE, "c": {"long": "长 \n“é”"}, "d": {"other": "x"}}
    write_captions(path, captions, note={"by": "m"})
    assert read_captions(path) == captions
    assert read_note(path) == {"by": "m"}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_that_does_not_read_is_named(tmp_path):
    path = tmp_path / "00000.captions.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"00000.captions.parquet cannot be read"):
        read_captions(path)

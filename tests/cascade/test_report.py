import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from cascade.report import Cell, Film, Page
from cascade.report.chart import histogram, lines, log_ticks, percent, thin, ticks
from cascade.report.html import VOID, Html, tag, text

NASTY = '<script>alert("1")</script> & \'"'


class Reader(HTMLParser):
    """Holds every element against its end, and gathers tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"{tag} names an attribute twice: {attrs}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


def read(document: str) -> Reader:
    reader = Reader()
    reader.feed(document)
    reader.close()
    assert reader.open == []
    return reader


def film(value: float = 0.0, frames: int = 4, size: int = 8) -> Film:
    return Film(torch.full((3, frames, size, size), value), 4)


def full(folder: Path) -> Page:
    page = Page(NASTY, lead=NASTY, facts={NASTY: NASTY})
    page.section("One " + NASTY, NASTY).code(NASTY)
    page.figures([(NASTY, NASTY, NASTY), (0.123456, "share", "")])
    page.table([NASTY, "n"], [[NASTY, 1], ["b", None]], caption=NASTY)
    page.lines({NASTY: [(0, 1.0), (1, 0.5)]}, x_label=NASTY, y_label=NASTY, caption=NASTY)
    page.intervals({NASTY: {NASTY: (0.5, 0.4, 0.6)}}, caption=NASTY)
    page.histogram([1.0, 2.0], label=NASTY, unit=NASTY, marks={NASTY: 1.5}, caption=NASTY)
    page.section("Two")
    page.films([NASTY, "b"], [(NASTY, [film(), None])], caption=NASTY)
    page.gallery([(NASTY, film(0.5)), ("still", film(frames=1))])
    return page


def test_a_page_is_well_formed_and_every_text_is_escaped(tmp_path: Path):
    document = full(tmp_path).html()
    reader = read(document)
    assert len(reader.all("script")) == 1
    assert NASTY.split("&")[0].strip() in "".join(reader.words)
    assert document.count('alert("1")') == 0
    assert [attrs["id"] for attrs in reader.all("section")] == ["s1", "s2"]
    assert [attrs["href"] for attrs in reader.all("a")] == ["#s1", "#s2"]


def test_a_page_needs_no_network_and_all_its_files_are_there(tmp_path: Path):
    path = full(tmp_path).write(tmp_path / "report" / "index.html")
    document = path.read_text()
    assert not re.search(r"(https?:)?//[a-z]", document.split("<body>")[1].split("<script>")[0])
    assert "@import" not in document
    assert "url(" not in document
    reader = read(document)
    sources = [attrs["src"] for name in ("video", "img") for attrs in reader.all(name)]
    assert len(sources) == 3
    for source in sources:
        assert source is not None
        assert source.startswith("index.files/")
        assert (path.parent / source).is_file()


def test_videos_loop_silently_and_have_a_name(tmp_path: Path):
    path = full(tmp_path).write(tmp_path / "index.html")
    video = read(path.read_text()).all("video")[0]
    assert {"loop", "muted", "preload", "playsinline", "src", "aria-label"} <= video.keys()
    assert read(path.read_text()).all("button")[0]["id"] == "pause"
    with av.open(str(tmp_path / str(video["src"]))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (128, 128)
        assert stream.pix_fmt == "yuv420p"
        assert len(list(container.decode(stream))) == 4


def test_every_chart_says_what_it_shows():
    page = full(Path())
    charts = [a for a in read(page.html()).all("svg") if a.get("role") == "img"]
    assert len(charts) == 3
    assert "50 % (40 % to 60 %)" in str(charts[1]["aria-label"])
    assert "ends at 0.5" in str(charts[0]["aria-label"])


def test_writing_again_replaces_the_page_and_drops_what_it_no_longer_shows(tmp_path: Path):
    path = tmp_path / "index.html"
    Page("one").section("a").gallery([("x", film(-1.0))]).write(path)
    first = {each.name for each in (tmp_path / "index.files").iterdir()}
    Page("two").section("a").gallery([("x", film(1.0))]).write(path)
    second = {each.name for each in (tmp_path / "index.files").iterdir()}
    assert len(first) == len(second) == 1
    assert first != second
    Page("three").section("a").text("no films").write(path)
    assert [each.name for each in tmp_path.iterdir()] == ["index.html"]


def test_the_same_page_is_the_same_bytes(tmp_path: Path):
    one, two = (full(tmp_path).write(tmp_path / name / "index.html") for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_a_file_is_shown_as_it_is(tmp_path: Path):
    source = tmp_path / "some.gif"
    source.write_bytes(b"GIF89a")
    path = Page("p").section("a").gallery([("x", Film(source))]).write(tmp_path / "index.html")
    shown = read(path.read_text()).all("img")[0]
    assert (tmp_path / str(shown["src"])).read_bytes() == b"GIF89a"


def test_numbers_are_set_for_reading():
    assert text(0.1234567) == "0.1235"
    assert text(2610432) == "2,610,432"
    assert text(None) == "–"
    assert text(Html("<b>")) == "<b>"
    assert text("<b>") == "&lt;b&gt;"
    assert tag("td", Cell(3, "bad").html()) == '<td><span class="tone bad">✗ 3</span></td>'
    table = Page("p").section("a").table(["k", "n", "w"], [["a", 1, "x"], ["b", None, "y"]])
    heads = read(table.html()).all("th")[:3]
    assert [attrs.get("class") for attrs in heads] == [None, "number", None]


def test_ticks_are_round_and_inside():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(3, 3) == [3]
    assert log_ticks(0.02, 1.2) == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    assert [percent(0.5), percent(0.1234), percent(1)] == ["50 %", "12.3 %", "100 %"]


def test_a_histogram_counts_every_value_once_between_round_edges():
    values = [*np.random.default_rng(0).gamma(2.0, 3.0, size=1000).tolist(), 0.0, float("nan")]
    drawn = histogram(values, label="length", unit="s", bins=20, marks={"least": 1.5})
    bars = re.findall(r"<title>([-0-9.e]+) to ([-0-9.e]+): (\d+)</title>", drawn)
    edges = [float(a) for a, _, _ in bars] + [float(bars[-1][1])]
    expected, _ = np.histogram([v for v in values if v == v], edges)
    assert [int(count) for _, _, count in bars] == expected.tolist()
    assert sum(expected) == 1001
    assert 8 < len(bars) <= 22
    assert "1001 values" in drawn
    assert "1 non-finite; least at 1.5" in drawn


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [-2.0, -2.0], [1e-9, 2e-9], [5, 5_000_000]])
def test_a_histogram_holds_values_of_any_size(values):
    drawn = histogram(values, label="x")
    counts = [int(n) for n in re.findall(r": (\d+)</title>", drawn)]
    assert sum(counts) == len(values)
    assert "nan" not in drawn
    assert 'width="-' not in drawn


def test_a_histogram_of_nothing_says_so():
    assert "Nothing was recorded" in histogram([float("nan")], label="x", marks={"limit": 1})


def test_long_curves_are_thinned_to_means():
    points = [(float(i), float(i % 2)) for i in range(3000)]
    light = thin(points, 300)
    assert len(light) == 300
    assert all(y == pytest.approx(0.5) for _, y in light)
    assert thin(points[:10]) == points[:10]


def test_curves_without_points_say_so_and_bad_values_are_left_out():
    assert "Nothing was recorded" in lines({"a": []}, x_label="step", y_label="loss")
    bad = [(0, float("nan")), (1, 1.0), (2, float("inf")), (3, -1.0), (4, 0.5)]
    drawn = lines({"a": bad}, x_label="step", y_label="loss", log_y=True)
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert "a ends at 0.5" in drawn
    assert "ends at 2" in lines({"a": [(1, 2.0)]}, x_label="step", y_label="loss")


def test_what_does_not_fit_is_refused():
    page = Page("p")
    with pytest.raises(ValueError, match="begin a section"):
        page.text("x")
    page.section("a")
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        page.table(["a", "b"], [["x"]])
    with pytest.raises(ValueError, match="1 films for 2 columns in 'row'"):
        page.films(["a", "b"], [("row", [film()])])

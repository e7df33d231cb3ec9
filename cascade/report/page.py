"""A page: sections of text, figures, tables, charts and videos, written to one folder.

`index.html` needs no network and no server; its videos are in `index.files/` beside it.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from cascade.files.atomic import write_atomic
from cascade.report import chart
from cascade.report.html import Html, join, tag, text
from cascade.report.sections import IMAGES, Film, cell, datum, numeric, scrolled


class Page:
    """A page of sections in the order in which they are added; all text is escaped."""

    def __init__(
        self, title: str, *, lead: str = "", facts: Mapping[str, object] | None = None
    ) -> None:
        self.title = title
        self.lead = lead
        self.facts = dict(facts or {})
        self._sections: list[tuple[str, str, list[Html]]] = []
        self._assets: dict[str, bytes] = {}
        self._files = f"files-{secrets.token_hex(8)}"

    def section(self, title: str, lead: str = "") -> "Page":
        """Begin a section and list it in the page's contents."""
        self._sections.append((f"s{len(self._sections) + 1}", title, []))
        return self.text(lead) if lead else self

    def text(self, *paragraphs: str) -> "Page":
        """Paragraphs of plain text."""
        return self._add(*(tag("p", paragraph) for paragraph in paragraphs))

    def code(self, command: str) -> "Page":
        """A command to copy."""
        return self._add(tag("pre", tag("code", command), tabindex="0"))

    def figures(self, figures: Iterable[tuple[object, str, str]]) -> "Page":
        """Large figures side by side: (value, name, a small note)."""
        tiles = [
            tag("div", tag("dt", name), tag("dd", value, tag("small", note) if note else ""))
            for value, name, note in figures
        ]
        return self._add(tag("dl", *tiles, class_="figures"))

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = ""
    ) -> "Page":
        """A table whose first column names the rows; numbers are right-aligned.

        Raises:
            ValueError: a row has more or fewer cells than there are columns.
        """
        rows, body = list(rows), []
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(
                    f"page {self.title!r}: {len(row)} cells for {len(columns)} columns: {row!r}"
                )
            head, *cells = row
            body.append(tag("tr", tag("th", cell(head), scope="row"), *map(datum, cells)))
        heads = [
            tag(
                "th",
                name,
                scope="col",
                class_="number" if numeric(row[i] for row in rows) else None,
            )
            for i, name in enumerate(columns)
        ]
        return self._add(
            scrolled(
                tag(
                    "table",
                    tag("caption", caption) if caption else "",
                    tag("thead", tag("tr", *heads)),
                    tag("tbody", *body),
                ),
                caption or "table",
            )
        )

    def lines(
        self,
        series: Mapping[str, chart.Points],
        *,
        x_label: str = "step",
        y_label: str = "loss",
        log_y: bool = False,
        marks: Sequence[float] = (),
        caption: str = "",
    ) -> "Page":
        """Curves in one chart, with their last values in the legend; `marks` as vertical lines."""
        drawn = chart.lines(series, x_label=x_label, y_label=y_label, log_y=log_y, marks=marks)
        return self._figure(drawn, caption)

    def intervals(
        self, rows: Mapping[str, Mapping[str, tuple[float, float, float]]], *, caption: str = ""
    ) -> "Page":
        """Shares with their intervals: row → series → (share, low, high)."""
        return self._figure(chart.intervals(rows), caption)

    def histogram(
        self,
        values: Sequence[float],
        *,
        label: str,
        unit: str = "",
        bins: int = 24,
        marks: Mapping[str, float] | None = None,
        caption: str = "",
    ) -> "Page":
        """A histogram of values; `marks` are named values, such as a threshold."""
        drawn = chart.histogram(values, label=label, unit=unit, bins=bins, marks=marks)
        return self._figure(drawn, caption)

    def films(
        self,
        columns: Sequence[str],
        rows: Iterable[tuple[object, Sequence[Film | None]]],
        *,
        size: int = 128,
        caption: str = "",
    ) -> "Page":
        """Rows of videos side by side, (label, a film per column); those in view play in sync.

        Raises:
            ValueError: a row has more or fewer films than there are columns.
        """
        body = []
        for label, row in rows:
            if len(row) != len(columns):
                raise ValueError(
                    f"page {self.title!r}: {len(row)} films for {len(columns)} columns in {label!r}"
                )
            cells = [
                tag("td", self._film(film, f"{column}: {label}", size) if film else text(None))
                for column, film in zip(columns, row, strict=True)
            ]
            body.append(tag("tr", tag("th", cell(label), scope="row"), *cells))
        names = [tag("th", name, scope="col") for name in ("", *columns)]
        return self._add(
            scrolled(
                tag(
                    "table",
                    tag("caption", caption) if caption else "",
                    tag("thead", tag("tr", *names)),
                    tag("tbody", *body),
                    class_="films",
                ),
                caption or "videos",
            )
        )

    def gallery(self, films: Iterable[tuple[str, Film]], *, size: int = 128) -> "Page":
        """A grid of videos, each with its title below."""
        items = [
            tag("li", self._film(film, title, size), tag("span", title, class_="title"))
            for title, film in films
        ]
        return self._add(tag("ul", *items, class_="gallery", style=f"--size:{size}px"))

    def html(self, *, files_at: str = "index.files") -> str:
        """The document; its links to videos point to the folder `files_at`."""
        contents = [tag("a", title, href=f"#{anchor}") for anchor, title, _ in self._sections]
        facts = [
            tag("div", tag("dt", name), tag("dd", value)) for name, value in self.facts.items()
        ]
        header = tag(
            "header",
            tag("h1", self.title),
            tag("p", self.lead, class_="lead") if self.lead else "",
            tag("dl", *facts, class_="facts") if facts else "",
            tag("nav", *contents, aria_label="Contents") if len(contents) > 1 else "",
        )
        sections = [
            tag(
                "section",
                tag("h2", title, id=f"{anchor}-h"),
                *parts,
                id=anchor,
                aria_labelledby=f"{anchor}-h",
            )
            for anchor, title, parts in self._sections
        ]
        button = tag("button", "Pause videos", id="pause", type="button", hidden=True)
        body = tag("body", header, tag("main", *sections), button, tag("script", _part("page.js")))
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", self.title),
            tag("style", _part("page.css")),
        )
        document = "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"
        return document.replace(self._files, text(files_at))

    def write(self, path: str | Path) -> Path:
        """Write the page and its files; a reader sees the complete old page or the new one."""
        path = Path(path)
        folder = path.with_name(f"{path.stem}.files")
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self._assets.items():
            if not (folder / name).exists():
                write_atomic(folder / name, data)
        write_atomic(path, self.html(files_at=folder.name).encode())
        for old in folder.iterdir():
            if old.name not in self._assets and old.is_file():
                old.unlink(missing_ok=True)
        if not self._assets:
            folder.rmdir()
        return path

    def _add(self, *parts: Html) -> "Page":
        if not self._sections:
            raise ValueError(f"page {self.title!r}: begin a section before adding to it")
        self._sections[-1][2].extend(parts)
        return self

    def _figure(self, drawn: Html, caption: str) -> "Page":
        return self._add(tag("figure", drawn, tag("figcaption", caption) if caption else ""))

    def _film(self, film: Film, label: str, size: int) -> Html:
        data, suffix = film.data(size)
        name = hashlib.blake2b(data, digest_size=8).hexdigest() + suffix
        self._assets[name] = data
        source, style = f"{self._files}/{name}", f"--size:{size}px"
        if suffix in IMAGES:
            shown = tag("img", src=source, alt=label, style=style, loading="lazy")
        else:  # page.js loads and plays it while it is in view
            options = {"preload": "none", **dict.fromkeys(("loop", "muted", "playsinline"), True)}
            shown = tag("video", src=source, aria_label=label, style=style, **options)
        note = cell(film.note)
        return join((shown, tag("span", note, class_="note") if note else ""))


def _part(name: str) -> Html:
    """The content of a file of this package."""
    return Html(files("cascade.report").joinpath(name).read_text(encoding="utf-8"))

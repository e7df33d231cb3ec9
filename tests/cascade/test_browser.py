"""Pages as a browser shows them: whole without a network, nothing wider than the window."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from cascade.report import Page

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="left out: no chromium on the PATH")


def browse(page: Path, folder: Path, *options: str) -> str:
    command = [
        BROWSER,
        *OPTIONS,
        f"--user-data-dir={folder / 'profile'}",
        *options,
        page.absolute().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def example(folder: Path) -> Path:
    page = Page("A page", lead="with everything", facts={"clips": 3})
    page.section("Figures").figures([(3, "clips", "kept"), ("4 s", "kept", "")])
    page.table(["reason", "count"], [["too short " * 30, 3]], caption="dropped")
    page.histogram([1, 2, 2, 3], label="duration", unit="s", marks={"min_s": 1.5})
    page.lines({"loss": [(0, 1.0), (10, 0.5)]})
    return page.write(folder / "index.html")


def test_a_page_is_drawn_and_asks_for_nothing_else(tmp_path):
    page = example(tmp_path)
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page.read_text())
    shot = tmp_path / "shot.png"
    browse(page, tmp_path, f"--screenshot={shot}", "--window-size=1000,1400")
    with Image.open(shot) as image:
        assert image.size == (1000, 1400)
        colours = image.convert("RGB").getcolors(1 << 20)
    assert len(colours) > 50
    assert max(count for count, _ in colours) < 0.97 * 1000 * 1400


@pytest.mark.parametrize("width", [1200, 420])
def test_nothing_is_wider_than_the_window(tmp_path, width):
    page = example(tmp_path)
    script = "document.title = document.documentElement.scrollWidth + ' of ' + innerWidth"
    text = page.read_text().replace("</body>", f"<script>{script}</script></body>")
    page.write_text(text)
    shown = browse(page, tmp_path, "--dump-dom", f"--window-size={width},900")
    found = re.search(r"<title>(\d+) of (\d+)</title>", shown)
    assert found
    assert int(found[1]) <= int(found[2])

"""The report as a browser shows it: pictures decode, nothing sticks out, and there is something to see."""

import csv
import json
import re
import shutil
import subprocess
import sys
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest

matplotlib_image = pytest.importorskip("matplotlib.image")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=20000",
)  # fmt: skip
# the page stands in a frame of the probe's own origin, at two widths, where a script may measure what it became
PROBE = """<!DOCTYPE html><body><pre id="found"></pre><script>
const found = [];
function measure(frame) {
  const page = frame.contentDocument;
  found.push({
    width: frame.clientWidth, needed: page.documentElement.scrollWidth, height: page.documentElement.scrollHeight,
    images: [...page.images].map(image => [image.complete, image.naturalWidth, image.naturalHeight, image.width]),
    headings: [...page.querySelectorAll("h1, h2")].map(heading => heading.textContent),
    figures: [...page.querySelectorAll("figure")].map(figure => figure.getBoundingClientRect().top),
    font: page.defaultView.getComputedStyle(page.querySelector("td")).fontVariantNumeric,
  });
  document.getElementById("found").textContent = JSON.stringify(found);
}
</script>
<iframe style="width: 1200px; height: 900px; border: 0" onload="measure(this)" srcdoc="PAGE"></iframe>
<iframe style="width: 380px; height: 700px; border: 0" onload="measure(this)" srcdoc="PAGE"></iframe>
</body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The report on the examples, twenty of each, so that elements have enough of them."""
    files = sorted((ROOT / "examples").iterdir())
    rows = [
        [f"{file.name} {copy}", file.read_text(), 0.4 * number, 30 + 9 * number]
        for copy in range(20)
        for number, file in enumerate(files)
    ]
    folder = tmp_path_factory.mktemp("report")
    table = folder / "a rather long name of a table of crystals.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "structure", "band_gap", "K_VRH"], *rows, ["broken", "data_x", 1, 1]])
    command = [sys.executable, "-m", "crystalpredict", "evaluate", "-q", table, "--report", folder / "report.html"]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=300, check=True)
    return folder / "report.html"


def browser(folder: Path, *arguments: str) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def test_pictures_decode_and_nothing_sticks_out_on_a_screen_or_a_telephone(page, tmp_path) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.replace("PAGE", escape(page.read_text(encoding="utf-8"))), encoding="utf-8")
    dom = browser(tmp_path, "--dump-dom", probe.as_uri())
    found = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1]))
    wide, narrow = sorted(found, key=lambda frame: -frame["width"])
    assert (wide["width"], narrow["width"]) == (1200, 380)
    for frame in (wide, narrow):
        assert frame["needed"] <= frame["width"]
        assert len(frame["images"]) == 8  # four of the gap, four of the modulus
        for complete, width, height, shown in frame["images"]:
            assert complete
            assert min(width, height) > 500
            assert 300 < shown <= frame["width"]
        assert frame["headings"][1:] == ["Errors", "Band gap", "Bulk modulus", "Rows without a prediction"]
        assert "tabular-nums" in frame["font"]  # the style is in force
    assert wide["figures"][0] == wide["figures"][1]  # side by side
    assert narrow["figures"][0] < narrow["figures"][1]  # one below the other


def test_a_reader_sees_text_and_pictures(page, tmp_path) -> None:
    shot = tmp_path / "shot.png"
    browser(tmp_path, f"--screenshot={shot}", "--window-size=1200,1800", page.as_uri())
    pixels = matplotlib_image.imread(shot)[..., :3]
    assert pixels.shape == (1800, 1200, 3)
    assert np.allclose(pixels[:, :8], 1)  # a white margin
    assert np.allclose(pixels[:, -8:], 1)
    coloured = np.ptp(pixels, axis=2) > 0.2
    assert 0.02 < coloured.mean() < 0.5  # pictures, and not over everything
    assert coloured.any(axis=1).sum() > 500  # rows of pixels
    dark = pixels.max(axis=2) < 0.3
    assert dark[:250].any(axis=1).sum() > 30  # lines of text at the top

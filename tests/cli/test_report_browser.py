"""The page of a screen in a real browser: what a person sees, clicks and types, also on a telephone."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crystalpredict.evaluation.screen_page import screen_report
from crystalpredict.prediction.predictions import Predictions
from crystalpredict.prediction.rows import Prediction
from tests.chromium import CHROMIUM, Browser
from tests.evaluation.test_screen import HOSTILE, PROPERTIES, bounds_of, good

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
READY = "!byId('explore').hidden"
FORMULAS = ("NaCl", "MgO", "Fe2O3", "LiFeO2", "CsPbBr3")
ROWS = 400


def rows_of(count: int) -> list[Prediction]:
    """Rows of random values; one in forty has failed, one in ten has a warning."""
    random = np.random.default_rng(3)
    gaps, hulls = random.uniform(0.1, 6, count), random.exponential(0.05, count)
    rows = []
    for number in range(count):
        name = f"run/{number:05}.cif"
        if number % 40 == 7:
            rows.append(Prediction(name, 0, "", None, error=f"label '{number}' of site 3 names no element"))
            continue
        warnings = ("unlike the training data: a layer",) if number % 10 == 3 else ()
        gap, hull = round(float(gaps[number]), 4), round(float(hulls[number]), 4)
        rows.append(good(name, FORMULAS[number % 5], gap, hull, 2 + number % 30, warnings))
    values = {"bandgap_eV": 2.0, "e_above_hull_eV_per_atom": 0.0}
    rows[0] = Prediction(str(EXAMPLES / "NaCl.cif"), 0, "NaCl", 8, values, bounds=bounds_of(values))
    rows[1] = good(HOSTILE, HOSTILE, 1.0, 0.02, warnings=(HOSTILE,))
    return rows


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "screen.html"
    screen_report(Predictions(rows_of(ROWS), PROPERTIES, intervals=True), path, cells=3)
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser, page: Path) -> Browser:
    """A browser that has just opened the page on a wide screen."""
    chromium.requests.clear()
    chromium.trouble.clear()
    chromium.size(1200, 900)
    chromium.open("about:blank")
    chromium.open(page.as_uri(), READY)
    return chromium


def cells(browser: Browser, column: int) -> list[str]:
    found: list[str] = browser.value(f"[...byId('rows').tBodies[0].rows].map(row => row.cells[{column}].textContent)")
    return found


def count(browser: Browser) -> str:
    return str(browser.value("byId('count').textContent"))


def test_nothing_is_fetched_and_nothing_goes_wrong(browser: Browser, page: Path) -> None:
    assert [each for each in browser.requests if not each.startswith("about:")] == [page.as_uri()]
    assert browser.trouble == []
    assert count(browser) == f"{ROWS} of {ROWS} rows shown"
    assert browser.value("document.querySelectorAll('.hits li').length") == 3
    assert browser.value("document.querySelector('svg.cell').getBoundingClientRect().width") > 150
    assert browser.value("document.querySelectorAll('.chart').length") == 2


FAILED = Prediction("gone.cif", 0, "", None, error="no such file: check the path")


@pytest.mark.parametrize("rows", [[], [FAILED] * 2, [good("a.cif", "NaCl", 5.0, 0.01)]], ids=["none", "failed", "one"])
def test_a_page_of_few_rows_has_no_empty_chart(chromium: Browser, tmp_path: Path, rows: list[Prediction]) -> None:
    chromium.trouble.clear()
    screen_report(Predictions(rows, PROPERTIES, intervals=True), tmp_path / "few.html")
    chromium.open((tmp_path / "few.html").as_uri(), READY if rows else "document.readyState === 'complete'")
    assert chromium.value("document.querySelectorAll('.chart').length") == 0
    assert chromium.value("byId('map-section').hidden")
    assert chromium.value("byId('rows').tBodies[0].rows.length") == len(rows)
    assert chromium.value("byId('table-section').hidden") == (not rows)
    assert chromium.trouble == []


def test_texts_of_the_table_are_texts(browser: Browser) -> None:
    shown = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    assert cells(browser, 6)[1] == shown
    assert browser.value("document.scripts.length") == 2
    browser.click("#rows tbody tr:nth-child(2) button")
    assert shown in browser.value("byId('detail').textContent")
    assert browser.value("document.querySelectorAll('#detail b, #rows b').length") == 0
    assert browser.trouble == []


def test_another_script_is_not_run(browser: Browser) -> None:
    inserted = "const it = document.createElement('script'); it.text = 'window.wrong = 1'; document.body.append(it)"
    browser.value(f"(() => {{ {inserted} }})()")
    browser.value("document.body.setAttribute('onclick', 'window.wrong = 1'); document.body.click()")
    assert browser.value("window.wrong") is None
    assert len(browser.trouble) == 2
    assert all("Content Security Policy" in each for each in browser.trouble)


def test_the_table_sorts_and_turns_its_pages(browser: Browser) -> None:
    browser.click("#rows th:nth-child(4) button")  # the band gap
    assert browser.value("document.querySelector('#rows th:nth-child(4)').ariaSort") == "ascending"
    values = [float(text) for text in cells(browser, 3)]
    assert values == sorted(values)
    browser.click("#rows th:nth-child(4) button")
    values = [float(text) for text in cells(browser, 3)]
    assert values == sorted(values, reverse=True)
    assert len(values) == 50
    browser.click("#last")
    assert cells(browser, 3)[-10:] == ["–"] * 10  # failures come last
    browser.click("#rows th:nth-child(4) button")
    browser.click("#last")
    assert cells(browser, 3)[-10:] == ["–"] * 10  # in both orders
    browser.click("#before")
    assert browser.value("byId('page').value") == str(ROWS // 50 - 1)
    browser.click("#wide")
    assert " to " in cells(browser, 3)[0]


def test_rows_are_filtered_by_text_elements_limits_and_kind(browser: Browser) -> None:
    browser.click("#query")
    browser.type("fe2o3")
    browser.wait("shown.length < N")
    assert set(cells(browser, 1)) == {"Fe2O3"}
    browser.click("#reset")
    assert count(browser) == f"{ROWS} of {ROWS} rows shown"
    browser.click('.el[data-symbol="Fe"]')
    assert {"Fe2O3", "LiFeO2"} == set(cells(browser, 1))
    browser.click('.el[data-symbol="Li"]')
    assert {"LiFeO2"} == set(cells(browser, 1))
    browser.click('.el[data-symbol="Li"]')  # and now without it
    assert {"Fe2O3"} == set(cells(browser, 1))
    assert browser.value("byId('chosen').textContent") == "with Fe ×without Li ×"
    browser.click("#reset")
    browser.click('.el[data-symbol="Fe"]')
    browser.click('.el[data-symbol="O"]')
    browser.value("byId('mode').value = 'only'; byId('mode').dispatchEvent(new Event('change'))")
    assert {"Fe2O3"} == set(cells(browser, 1))
    browser.click("#reset")
    browser.value("document.querySelector('.limits input').focus()")
    browser.type("5")
    browser.key("Tab")
    assert min(float(text) for text in cells(browser, 3)) >= 5
    assert browser.value("document.querySelector('.chart .soft').textContent").startswith("median 5.")
    browser.click("#reset")
    browser.click('.choose[data-kind="reason"]')
    assert count(browser) == f"{ROWS // 40} of {ROWS} rows shown"
    assert all("names no element" in text for text in cells(browser, 5))
    browser.click("#reset")
    browser.value("byId('status').value = 'clean'; byId('status').dispatchEvent(new Event('change'))")
    assert browser.value("shown.every(row => D.error[row] < 0 && !D.warning[row].length)")
    assert browser.trouble == []


def test_a_row_of_the_map_is_shown_by_the_mouse_and_by_keys(browser: Browser) -> None:
    browser.place("#over")
    x, y, row = browser.value(
        "(() => { const box = byId('over').getBoundingClientRect(); const [x, y, row] = map.points[5];"
        "return [box.x + x, box.y + y, row]; })()"
    )
    assert browser.value("byId('tip').hidden")
    browser.move(x, y)
    tip = browser.value("byId('tip').textContent")
    assert browser.value(f"nameOf({row})") in tip
    assert "band gap" in tip
    assert " to " in tip  # the interval, on demand
    assert coloured(browser, "over") > 90  # and drawn: a disc has 64
    browser.click_at(x, y)
    assert browser.value("byId('detail').open")
    browser.key("Escape")
    assert not browser.value("byId('detail').open")
    browser.value("byId('over').focus()")
    browser.key("ArrowRight")
    browser.key("ArrowRight")
    assert browser.value("map.current === map.along[1] && !byId('tip').hidden")
    browser.key("Enter")
    assert browser.value("byId('detail').open")
    assert browser.trouble == []


def coloured(browser: Browser, layer: str = "points") -> int:
    """Pixels of a layer of the map that are drawn."""
    pixels = f"byId('{layer}').getContext('2d').getImageData(0, 0, 2000, 1000).data"
    return int(browser.value(f"{pixels}.filter((value, place) => place % 4 === 3 && value).length"))


def test_intervals_are_drawn_on_demand(browser: Browser) -> None:
    browser.value("byId('query').value = 'MgO'; chosen.query = 'MgO'; update()")
    before = coloured(browser)
    browser.click("#intervals")
    assert coloured(browser) > before + 1000
    browser.value("chosen.query = ''; update()")
    assert "at most 250 points" in browser.value("byId('map-note').textContent")


def test_links_and_addresses_lead_to_rows(browser: Browser, page: Path) -> None:
    browser.click(".hits h3 a")
    browser.wait("byId('detail').open")
    assert browser.value("byId('detail-title').textContent") == "NaCl"
    link = browser.value("document.querySelector('#detail-body a').href")
    assert link == (EXAMPLES / "NaCl.cif").as_uri()
    browser.open("about:blank")
    browser.open(f"{page.as_uri()}#row=4", READY)
    browser.wait("byId('detail').open")
    assert "row 4," in browser.value("byId('detail-body').textContent")


def test_elements_are_reached_by_arrow_keys(browser: Browser) -> None:
    browser.value("document.querySelector('.el[data-symbol=H]').focus()")
    browser.key("ArrowDown")
    browser.key("ArrowDown")
    assert browser.value("document.activeElement.dataset.symbol") == "Na"
    browser.key("ArrowRight")
    browser.key("ArrowRight")
    assert browser.value("document.activeElement.dataset.symbol") == "Al"
    browser.key("Enter")
    assert browser.value("document.activeElement.ariaPressed") == "true"
    assert browser.value("document.querySelectorAll('.el[tabindex=\"0\"]').length") == 1


def test_the_rows_shown_can_be_saved(browser: Browser, tmp_path: Path) -> None:
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.value("chosen.query = 'MgO'; update()")
    browser.click("#save")
    file = tmp_path / "rows.csv"
    for _ in range(200):
        if file.exists() and file.read_text(encoding="utf-8").endswith("\n"):
            break
        browser.value("new Promise(done => setTimeout(done, 50))")
    with file.open(newline="", encoding="utf-8") as table:
        saved = list(csv.DictReader(table))
    assert {row["formula"] for row in saved} == {"MgO"}
    assert len(saved) == browser.value("shown.length")
    assert "bandgap_eV_lo90" in saved[0]
    assert browser.trouble == []


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_nothing_sticks_out_and_text_is_large_enough(browser: Browser, width: int, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    browser.size(width, 800, phone=width == 360)
    browser.value("new Promise(done => setTimeout(done, 300))")
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("byId('points').getBoundingClientRect().right") <= width
    small = (
        "[...document.querySelectorAll('body *:not(svg *)')].filter(each => each.offsetParent && each.childNodes.length"
    )
    assert browser.value(f"Math.min(...{small}).map(each => parseFloat(getComputedStyle(each).fontSize)))") >= 10
    low = (
        "[...document.querySelectorAll('button, select, input:not([type=checkbox])')].filter(each => each.offsetParent)"
    )
    assert browser.value(f"Math.min(...{low}.map(each => each.getBoundingClientRect().height))") >= 24
    browser.picture(tmp_path / "page.png")
    pixels = image.imread(tmp_path / "page.png")[..., :3]
    assert pixels.shape[1] == width
    assert 0.005 < (np.ptp(pixels, axis=2) > 0.2).mean() < 0.6


def test_dark_colours_where_they_are_preferred(browser: Browser) -> None:
    def background() -> str:
        return str(browser.value("getComputedStyle(document.body).backgroundColor"))

    assert background() == "rgb(255, 255, 255)"
    browser.dark()
    assert background() == "rgb(18, 22, 27)"
    browser.dark(on=False)
    assert browser.trouble == []


def test_many_rows_are_counted_in_squares(chromium: Browser, tmp_path: Path) -> None:
    path = tmp_path / "many.html"
    screen_report(Predictions(rows_of(10_000), PROPERTIES, intervals=True), path, cells=0)
    assert path.stat().st_size < 1.5e6
    chromium.open(path.as_uri(), READY)
    assert count(chromium) == "10,000 of 10,000 rows shown"
    assert "rows in each square" in chromium.value("byId('map-note').textContent")
    assert chromium.value("document.querySelectorAll('#rows tbody tr').length") == 50

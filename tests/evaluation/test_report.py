"""The page is well-formed and self-contained, has all numbers, and escapes all text."""

import re
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest

from crystalpredict.data.labels import Dropped
from crystalpredict.evaluation.evaluate import evaluate
from crystalpredict.evaluation.report import fraction, number, render_report, span
from tests.scored import BULK, GAP, labelled, said

HOSTILE = '<script>alert("1")</script> & Co'
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects what a browser would; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


@pytest.fixture
def report(tmp_path):
    random = np.random.default_rng(5)
    labels = random.uniform(0.5, 5, (40, 2))
    dropped = [Dropped("t", 50 + row, "", f"{HOSTILE} {row}") for row in range(35)]
    table = labelled(tmp_path, labels, [GAP, BULK], dropped=dropped)
    models = [said(labels * factor, name, properties=2) for name, factor in ((HOSTILE, 1.1), ("two", 1.2))]
    return evaluate(table, models)


def test_the_page_is_well_formed_and_loads_nothing(report) -> None:
    png = b"\x89PNG not really"
    text = render_report(report, {"bandgap": {"parity": png}})
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    sources = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert [source.split(",")[0] for source in sources] == ["data:image/png;base64"]
    assert b64decode(sources[0].split(",")[1]) == png
    assert "url(" not in text
    assert "@import" not in text
    assert HOSTILE in page.text
    (policy,) = (attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")


def test_the_page_holds_the_scores_of_every_model(report) -> None:
    page = Page(render_report(report, {}))
    for score in report.scores:
        row, *beside = (
            cells for cells in page.cells if cells[:3] == [score.prop.label, score.unit, score.model]
        )  # fmt: skip
        assert row[3:5] == ["40", number(score.metrics.mae)]
        assert len(beside) == (score.model == "two")
        if score.difference:
            assert beside[0][3:] == [number(score.difference[0], "+"), span(*score.difference[1:], "+")]
    worst = report.scores[0].worst[0]
    assert [HOSTILE, worst.id, worst.formula, str(worst.row)] in [cells[:4] for cells in page.cells]
    assert "Metal or not" in page.text
    assert "By element" in page.text


def test_reasons_are_listed_up_to_a_number_and_the_rest_counted(report) -> None:
    page = Page(render_report(report, {}))
    assert sum(HOSTILE in cells[0] and cells[1:2] == ["1"] for cells in page.cells if cells) == 30
    assert "5 other reasons, 5 rows" in page.text


def test_the_page_of_a_report_without_scores_says_so(tmp_path) -> None:
    nothing = evaluate(labelled(tmp_path, [1.0]), [said([np.nan], reasons=["broken"])])
    page = Page(render_report(nothing, {}))
    assert "No crystal with a label was predicted" in page.text
    assert ["broken", "1", "1"] in page.cells


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.037649, "0.0376"), (0.2, "0.200"), (12.345, "12.3"), (123.45, "123"), (12345.6, "12,300"), (0, "0"),
        (-0.5, "-0.500"), (float("nan"), "-"), (float("inf"), "-"), (3.2e-9, "3.2e-09"), (9.999e-4, "0.00100"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value, text) -> None:
    assert number(value) == text


def test_signs_intervals_and_fractions() -> None:
    assert number(0.25, "+") == "+0.250"
    assert span(-0.1, 0.25, "+") == "-0.100 to +0.250"
    assert span(float("nan"), 1.0) == "-"
    assert (fraction(0.98765), fraction(float("nan"))) == ("0.988", "-")


def test_a_page_is_the_same_whenever_it_is_made(report) -> None:
    assert render_report(report, {}) == render_report(report, {})
    assert not re.search(r"20\d\d-\d\d-\d\d", render_report(report, {}))

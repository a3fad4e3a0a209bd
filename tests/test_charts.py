"The chart of a table of scores: the same numbers, in the right places, by pointer and by keyboard."

import re
import shutil
from html import escape
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("websocket")
from browser import CHROMIUM, Browser  # noqa: E402

ROOT = Path(__file__).parents[1]


def table() -> list[list[str]]:
    "The table of the full comparison."
    nb = nbformat.read(ROOT / "nbs/results/01_full.ipynb", as_version=4)
    texts = [o["data"].get("text/markdown", "") for c in nb.cells for o in c.get("outputs", []) if "data" in o]
    lines = next(text for text in texts if " ± " in text).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in [lines[0], *lines[2:]]]


def as_html(rows: list[list[str]]) -> str:
    def cell(text: str, tag: str) -> str:
        inside = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(text))
        return f"<{tag}>{inside.replace('`', '')}</{tag}>"

    head, *body = ["".join(cell(text, "td" if k else "th") for text in row) for k, row in enumerate(rows)]
    lines = "".join(f"<tr>{row}</tr>" for row in body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


@pytest.fixture
def page(tmp_path) -> Browser:
    if not CHROMIUM:
        pytest.skip("needs chromium")
    (tmp_path / "results").mkdir()
    for name in ("charts.js", "site.css"):
        shutil.copy(ROOT / "docs/static" / name, tmp_path / "results")
    plain = as_html([["file", "what"], ["a.csv", "numbers"], ["b.csv", "more"]])
    body = f"<article class=bd-article>{plain}{as_html(table())}</article>"
    tags = '<link rel="stylesheet" href="site.css"><script type="module" src="charts.js"></script>'
    (tmp_path / "results/page.html").write_text(f"<!doctype html><meta charset=utf-8>{tags}{body}", encoding="utf-8")
    browser = Browser(tmp_path)
    browser.open("results/page.html")
    yield browser
    browser.close()


SHOWN = """[...document.querySelectorAll(".chart-row")].slice(1, -1).map(row => [...row.querySelectorAll(".chart-cell")]
    .map(cell => cell.children.length && {
        text: cell.querySelector(".chart-value").textContent,
        seen: getComputedStyle(cell.querySelector(".chart-value")).visibility,
        best: !!cell.querySelector(".chart-best"),
        dot: parseFloat(cell.querySelector(".chart-dot").style.left),
        from: parseFloat(cell.querySelector(".chart-bar").style.left),
        width: parseFloat(cell.querySelector(".chart-bar").style.width)}))"""


def check(shown: list[list[dict]], rows: list[list[str]], left_out: set[int] = frozenset()) -> None:
    for m in range(1, len(rows[0])):
        texts = {k: row[m].strip("*") for k, row in enumerate(rows[1:]) if row[m]}
        scores = {k: [float(x) for x in (text + " ± 0").split(" ± ")[:2]] for k, text in texts.items()}
        of_shown = [score for k, score in scores.items() if k not in left_out]
        low, high = min(a - b for a, b in of_shown), max(a + b for a, b in of_shown)
        scale = 88 / (high - low)  # percent of a panel, between margins of 6
        for k, cells in enumerate(shown):
            if k not in texts:
                assert cells[m - 1] == 0
                continue
            mean, half = scores[k]
            found = cells[m - 1]
            assert found["text"] == texts[k] and found["best"] == rows[k + 1][m].startswith("**")
            assert abs(found["dot"] - 6 - scale * (mean - low)) < 1e-3
            assert abs(found["from"] - 6 - scale * (mean - half - low)) < 1e-3
            assert abs(found["width"] - 2 * scale * half) < 1e-3


def test_a_chart_shows_its_table(page):
    rows = table()
    assert page.run("document.querySelectorAll('.chart').length") == 1  # not of the other table
    assert page.run("document.querySelector('.chart').open")
    names = page.run("[...document.querySelectorAll('.chart button')].map(button => button.textContent)")
    assert names == [row[0].replace("`", "") for row in rows[1:]]
    check(page.run(SHOWN), rows)

    page.run("document.querySelectorAll('.chart button')[1].focus()")  # by keyboard
    seen = [{cell["seen"] for cell in cells if cell} for cells in page.run(SHOWN)]
    assert seen[1] == {"visible"} and seen[0] == seen[2] == {"hidden"}
    page.press(" ", 32)
    assert page.run("document.querySelectorAll('.chart button')[1].ariaPressed") == "false"
    check(page.run(SHOWN), rows, {1})  # the others take the room

    x, y = page.run(
        "(box => [box.x + 5, box.y + 5])(document.querySelectorAll('.chart-cell')[0].getBoundingClientRect())"
    )
    page("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert {cell["seen"] for cell in page.run(SHOWN)[0] if cell} == {"visible"}

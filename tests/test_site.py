"""The site: `make docs` makes it without a warning, everything is on it, and every link leads somewhere."""

import functools
import http.server
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_docs/html"
NOTEBOOKS = sorted(ROOT.glob("nbs/**/*.ipynb"))
MODULES = [
    f"sie.{found[1]}"
    for p in NOTEBOOKS
    if (found := re.search(r"#\| *default_exp ([\w.]+)", p.read_text(encoding="utf-8")))
]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site() -> dict[str, BeautifulSoup]:
    "The pages, by path; made as `make docs` makes them."
    for command in (
        ["docs/build.py", "site"],
        ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", "docs", "_docs/source", "_docs/html"],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return {
        p.relative_to(HTML).as_posix(): BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser")
        for p in HTML.rglob("*.html")
        if "_static" not in p.parts
    }


def page_of(path: Path) -> str:
    return "index.html" if path.stem == "index" else path.relative_to(ROOT).with_suffix(".html").as_posix()


def test_every_notebook_has_a_page(site):
    for path in NOTEBOOKS:
        nb, page = nbformat.read(path, as_version=4), site[page_of(path)]
        heading = re.search(r"^# +(.+)$", nb.cells[0].source, re.M)[1]
        assert page.h1.get_text().startswith(heading)
        pictures = sum(
            "image/png" in o.get("data", {})
            for c in nb.cells
            if "#| hide\n" not in c.source
            for o in c.get("outputs", [])
        )
        assert len(page.article.select("img")) >= pictures, f"{path.name} has pictures that its page lacks"


def test_lists_say_what_each_run_was(site):
    listed = site["runs.html"].article.select("tr")
    rows = {row.a.get_text(): row.select("td")[1].get_text() for row in listed if row.td}
    assert rows["Report: full"] == "the default with every method of the paper and four seeds"
    assert rows["Report: large_200_epochs"] == (
        "large with methods sie, sie_matrix, vicreg, equi_only, supervised, random, pretrain.seeds 0, "
        "pretrain.invariant_share 0.5, pretrain.epochs 200"
    )


def test_every_exported_name_has_its_signature(site):
    for module in MODULES:
        mod, page = importlib.import_module(module), site[f"reference/{module}.html"]
        for name in mod.__all__:
            entry = page.find(id=f"{module}.{name}")
            assert entry, f"{module}.{name} is not on its page"
            obj = getattr(mod, name)
            if inspect.isfunction(obj) and obj.__module__ == module:
                shown = [re.match(r"\**(\w*)", p.get_text())[1] for p in entry.select("em.sig-param")]
                assert [p for p in shown if p] == list(inspect.signature(obj).parameters), (
                    f"{module}.{name}: its signature shows {shown}"
                )


def test_no_markup_shows(site):
    for path, page in site.items():
        if not page.article or path.startswith("_modules"):
            continue
        for leaked in ("#|", ":::", "show_doc(", "{py:", "```"):
            assert leaked not in page.article.get_text(), f"{path} shows {leaked}"


def test_every_link_leads_somewhere(site):
    ids = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in site.items()}
    for path, page in site.items():
        for tag in page.find_all(["a", "img", "link", "script"]):
            url = urlsplit(tag.get("href") or tag.get("src") or "")
            if url.scheme or url.netloc:
                assert tag.name == "a" or url.scheme == "data", f"{path} needs {url.geturl()} from the network"
                continue
            target = (HTML / path).parent / unquote(url.path) if url.path else HTML / path
            assert target.is_file(), f"{path} leads to {url.path}"
            name = target.resolve().relative_to(HTML.resolve()).as_posix()
            if url.fragment and name in ids:
                assert unquote(url.fragment) in ids[name], f"{path} leads to {url.geturl()}"


def test_search_index_knows_every_name(site):
    index = json.loads(
        (HTML / "searchindex.js").read_text(encoding="utf-8").removeprefix("Search.setIndex(").removesuffix(")")
    )
    known = {
        f"{module}.{entry[4] if len(entry) > 4 else ''}"
        for module, entries in index["objects"].items()
        for entry in entries
    }
    for module in MODULES:
        assert {f"{module}.{name}" for name in importlib.import_module(module).__all__} <= known


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_search_in_a_browser(site, tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/search.html?q=euler_to_quaternion"
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split()
        done = subprocess.run(
            [CHROMIUM, *flags, f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom", url],
            capture_output=True,
            text=True,
            timeout=120,
        )
        server.shutdown()
    found = [a["href"] for a in BeautifulSoup(done.stdout, "html.parser").select("#search-results a[href]")]
    assert any(
        href.startswith("reference/sie.method.rotations.html#sie.method.rotations.euler_to_quaternion")
        for href in found
    ), found

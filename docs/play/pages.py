"""The pages of docs/play for docs/build.py: their text, and the scripts and data that lie beside them on the site."""

import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from play.objects import SHEET_COLUMNS, file_name, write_objects

from sie.objects.classes import CLASSES

HERE = Path(__file__).parent
PAGES = ("predictor", "gallery")
#: What lies beside the pages: patterns in docs/play.
BESIDE = ("*.js", "*.css", "*.json", "*.jpg", "vendor/three.js", "vendor/LICENSE")


def object_links() -> str:
    "A picture of each family that leads to its model."
    items = []
    for k, c in enumerate(CLASSES):
        row, column = divmod(k, SHEET_COLUMNS)
        name = file_name(c)
        items.append(
            f'<a href="objects/{name}.glb" data-object="{name}" download>'
            f'<span style="--column: {column}; --row: {row}"></span>{html.escape(c.name)}</a>'
        )
    return "\n".join(['<div id="objects">', *items, "</div>"])


def scripted(name: str) -> str:
    "The end of a page: its style and its script, which lie beside it on the site."
    return f'\n<link rel="stylesheet" href="play.css">\n<script type="module" src="{name}.js"></script>\n'


def write_play(extra: Path, relinked: Callable[[str], str]) -> dict[str, str]:
    """Write what lies beside the pages to `extra`/play, which Sphinx copies to the site.

    `relinked` makes links between sources those of the site. Returns the Markdown of each page by its name."""
    folder = extra / "play"
    for path in (path for pattern in BESIDE for path in HERE.glob(pattern)):
        target = folder / path.relative_to(HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    write_objects(folder / "objects")
    texts = {name: relinked((HERE / f"{name}.md").read_text(encoding="utf-8")) + scripted(name) for name in PAGES}
    if not (HERE / "training.json").exists():  # made by train.py and record.py: without it there is no third figure
        texts["predictor"] = re.sub(r"\n## How it is learnt\n.*?(?=\n<link )", "", texts["predictor"], flags=re.S)
    texts["gallery"] = texts["gallery"].replace("<!-- objects -->", object_links())
    return texts

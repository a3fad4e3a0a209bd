"""README.md and the site's pages, both made from notebooks: `python docs/build.py readme` and `python docs/build.py site`.

The site's sources (_docs/source) are nbdev's processed library notebooks, the executed stage notebooks of results/, and a reference page for each module.
Sphinx then makes the HTML (`make docs`). README.md and the site's front page are nbs/index.ipynb, with links that fit where the page stands.
"""
import re
import sys
from pathlib import Path
from posixpath import normpath

import nbformat
from nbconvert import MarkdownExporter
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r'(\]\(|src="|href=")(?!\w+:|#|/)([^)"\s]+)')
DIRECTIVE = re.compile(r"^[ \t]*#\|[ \t]*(\S.*?)[ \t]*\n?$", re.M)


def relink(text: str, folder: str) -> str:
    "Relative links of a Markdown text that stands in `folder`, as seen from the top of the repository."
    return LINK.sub(lambda m: m[1] + normpath(f"{folder}/{m[2]}"), text)


def directives(cell) -> set[str]:
    "nbdev's and Quarto's `#|` directives of a code cell: {'hide', 'echo: false'}."
    return {re.sub(r"\s+", " ", d) for d in DIRECTIVE.findall(cell.source)} if cell.cell_type == "code" else set()


def without_noise(nb):
    "Only what a reader is meant to see: no hidden cells, no directives; a cell whose input is hidden is tagged `remove-input`."
    shown = []
    for cell in nb.cells:
        found = directives(cell)
        if cell.cell_type == "raw" or found & {"hide", "include: false"} or any(d.startswith("default_exp") for d in found): continue
        cell.source = DIRECTIVE.sub("", cell.source).strip()
        tags = {tag for tag, when in {"remove-input": {"echo: false", "hide_input"}, "remove-output": {"output: false", "hide_output"}}.items() if found & when}
        cell.metadata = {"tags": sorted({*cell.metadata.get("tags", []), *tags})}
        if cell.source or cell.get("outputs"): shown.append(cell)
    nb.cells = shown
    return nb


def readme(root: Path = ROOT) -> str:
    "The text of README.md: nbs/index.ipynb as Markdown."
    nb = without_noise(nbformat.read(root / "nbs/index.ipynb", as_version=4))
    for cell in nb.cells:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            raise ValueError(f"nbs/index.ipynb, cell {cell.id}: an output is a picture; README.md can only link one: ![caption](../results/...png)")
    exporter = MarkdownExporter(config={
        "NbConvertBase": {"display_data_priority": ["text/markdown", "text/plain"]},
        "TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"remove-input"}, "remove_all_outputs_tags": {"remove-output"}},
    })
    text, _ = exporter.from_notebook_node(nb)
    return relink(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", "nbs")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["readme"]: (ROOT / "README.md").write_text(readme(), encoding="utf-8")
        case _: sys.exit(__doc__)

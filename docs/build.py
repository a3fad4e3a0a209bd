"""README.md and the site's pages, both made from notebooks: `python docs/build.py readme` and `python docs/build.py site`.

The site's sources (_docs/source) are nbdev's processed library notebooks, the reports of comparisons/, and a reference page for each module;
Sphinx makes the HTML of them (`make docs`). README.md and the site's front page are nbs/index.ipynb, with links that fit where the page stands.
"""

import ast
import importlib
import inspect
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from copy import copy
from functools import cache
from pathlib import Path
from posixpath import normpath

import nbformat
from fastcore.docments import docments
from nbconvert import MarkdownExporter
from nbdev.serve import proc_nbs
from nbformat.v4 import new_markdown_cell
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "_docs/source"
LINK = re.compile(r'(\[[^\]]*\]\(|src="|href=")(?!\w+:|#|/)([^)"#\s]+)(#[^)"\s]*)?')
DIRECTIVE = re.compile(r"^[ \t]*#\|[ \t]*(\S.*?)[ \t]*$\n?", re.M)


# ---- notebooks, for both


def directives(cell) -> set[str]:
    "nbdev's and Quarto's `#|` directives of a code cell: {'hide', 'echo: false'}."
    return set(DIRECTIVE.findall(cell.source)) if cell.cell_type == "code" else set()


def for_readers(nb):
    "The notebook without hidden cells and directives; where only the input is to be hidden, the cell is tagged so."
    shown = []
    for cell in nb.cells:
        found = directives(cell)
        if (
            cell.cell_type == "raw"
            or found & {"hide", "include: false"}
            or any(d.startswith("default_exp") for d in found)
        ):
            continue
        tags = {
            tag
            for tag, when in {
                "remove-input": {"echo: false", "hide_input"},
                "remove-output": {"output: false", "hide_output"},
            }.items()
            if found & when
        }
        cell.metadata = {"tags": sorted({*cell.metadata.get("tags", []), *tags})}
        cell.source = DIRECTIVE.sub("", cell.source).strip()
        if cell.source or cell.get("outputs"):
            shown.append(cell)
    nb.cells = shown
    return nb


def relink(text: str, folder: str, target: Callable[[str], str]) -> str:
    "The Markdown `text`, which stands in `folder`, with `target(path from the top of the repository)` in place of each relative link."
    return LINK.sub(lambda m: m[1] + target(normpath(f"{folder}/{m[2]}")) + (m[3] or ""), text)


# ---- README.md


def readme(root: Path = ROOT) -> str:
    "The text of README.md: nbs/index.ipynb as Markdown."
    nb = for_readers(nbformat.read(root / "nbs/index.ipynb", as_version=4))
    nb.metadata["language_info"] = {"name": "python"}  # nbdev_clean takes it out, and the exporter writes it after ```
    for cell in nb.cells:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            raise ValueError(
                f"nbs/index.ipynb, cell {cell.id}: an output is a picture, which README.md cannot hold; link a committed file: ![caption](../docs/static/NAME.png)"
            )
    exporter = MarkdownExporter(
        config={
            "NbConvertBase": {"display_data_priority": ["text/markdown", "text/plain"]},
            "TagRemovePreprocessor": {
                "enabled": True,
                "remove_input_tags": {"remove-input"},
                "remove_all_outputs_tags": {"remove-output"},
            },
        }
    )
    text, _ = exporter.from_notebook_node(nb)
    return relink(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", "nbs", str)


# ---- the site: names, signatures and what the comments say


def parameters(args: ast.arguments) -> str:
    "The parameters in brackets, without self; a default that is more than a value or a name is written `...`."

    def brief(default):
        return (
            ast.Constant(...)
            if default and any(isinstance(n, (ast.comprehension, ast.Lambda)) for n in ast.walk(default))
            else default
        )

    args = copy(args)
    args.defaults, args.kw_defaults = [brief(d) for d in args.defaults], [brief(d) for d in args.kw_defaults]
    return (
        f"({ast.unparse(args)})".replace("(self, ", "(")
        .replace("(cls, ", "(")
        .replace("(self)", "()")
        .replace("(cls)", "()")
    )


def signature(node: ast.AST) -> str:
    "What stands in the source: annotations and defaults as they were written there."
    match node:
        case ast.FunctionDef():
            return parameters(node.args) + (f" -> {ast.unparse(node.returns)}" if node.returns else "")
        case ast.ClassDef():
            init = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
            fields = [
                ast.unparse(n)
                for n in node.body
                if isinstance(n, ast.AnnAssign)
                and not n.target.id.startswith("_")
                and "init=False" not in ast.unparse(n)
            ]
            return parameters(init[0].args) if init else f"({', '.join(fields)})" if fields else ""


def directive(kind: str, name: str, options: dict, body: str, fence: int) -> str:
    lines = [f":{k}: {v}".rstrip() for k, v in options.items()]
    return "\n".join([":" * fence + f"{{py:{kind}}} {name}", *lines, "", body, ":" * fence])


def described(obj) -> str:
    "Docstring, and what the comments beside the parameters say of them."
    comments = {name: " ".join(text.split()) for name, text in docments(obj).items() if text}
    fields = [f":return: {text}" if name == "return" else f":param {name}: {text}" for name, text in comments.items()]
    doc = obj.__doc__ or ""  # a dataclass without a docstring has its signature there
    return "\n".join(
        ["" if inspect.isclass(obj) and doc.startswith(obj.__name__ + "(") else inspect.cleandoc(doc), "", *fields]
    )


@cache
def definitions(module: str) -> dict[str, ast.AST]:
    "Where each name of a module is defined, in the order of the source."
    found = {}
    for node in ast.parse(ModuleAnalyzer.for_module(module).code).body:
        match node:
            case ast.FunctionDef(name=own) | ast.ClassDef(name=own) | ast.AnnAssign(target=ast.Name(id=own)):
                found[own] = node
            case ast.Assign(targets=targets):
                found |= {n.id: node for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


def whole_class(module: str, node: ast.ClassDef) -> ast.ClassDef:
    "A class with the members of its private bases in the same module: the parts that it is built up from."
    members = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id.startswith("_") and base.id in definitions(module):
            part = whole_class(module, definitions(module)[base.id])
            members |= {getattr(n, "name", n): n for n in part.body}
    whole = copy(node)
    whole.body = list((members | {getattr(n, "name", n): n for n in node.body}).values())
    return whole


def reference(module: str, name: str, **options) -> str:
    "MyST for one exported name: signature, docstring, parameters; for a class its public methods too."
    node, obj, options = (
        definitions(module)[name],
        getattr(importlib.import_module(module), name),
        {"module": module, **options},
    )
    if isinstance(node, ast.FunctionDef):
        return directive("function", name + signature(node), options, described(obj), 3)
    if isinstance(node, ast.ClassDef):
        node = whole_class(module, node)
        methods = []
        for n in node.body:
            if not isinstance(n, ast.FunctionDef) or n.name.startswith("_"):
                continue
            member = inspect.getattr_static(obj, n.name)
            kind = "property" if isinstance(member, property) else "method"
            flags = {
                k: ""
                for k, t in {"classmethod": classmethod, "staticmethod": staticmethod}.items()
                if isinstance(member, t)
            }
            head = n.name if kind == "property" else f"{n.name}{signature(n)}"
            if kind == "property" and n.returns:
                flags["type"] = ast.unparse(n.returns)
            methods.append(
                directive(
                    kind,
                    head,
                    {**flags, **{k: v for k, v in options.items() if k == "no-index"}},
                    described(getattr(member, "fget", None) or getattr(obj, n.name)),
                    3,
                )
            )
        return directive("class", name + signature(node), options, "\n\n".join([described(obj), *methods]), 4)
    value = (
        repr(obj)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)
        else ast.unparse(node.value)
    )
    end = value[0] if value[:1] in ("'", '"') else ""  # of a text, which YAML wants closed
    options |= {"value": value if len(value) < 80 else f"{value[:76]} ...{end}"}
    if isinstance(node, ast.AnnAssign):
        options |= {"type": ast.unparse(node.annotation)}
    return directive(
        "data", name, options, "\n".join(ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name), [])), 3
    )


# ---- the site: pages


def title(nb) -> tuple[str, str]:
    "Heading and one-line description of a notebook: the first two lines of its first cell."
    head, lead = re.match(r"# +(.+)\n+(?:> *)?(.+)", nb.cells[0].source).groups()
    return head, lead


#: Folders of the repository -> the page of the site that lists what is in them.
SECTION_PAGES = {
    "nbs/tutorials": "tutorials.md",
    "nbs/method": "method.md",
    "nbs/evaluation": "evaluation.md",
    "nbs/data": "data.md",
    "nbs/results": "results.md",
    "docs/how-to": "how-to.md",
    "sie": "reference/index.md",
}


def site_target(path: str) -> str:
    "Where a link to a file or folder of the repository leads on the site: to its page, or to a copy of the file."
    if path in SECTION_PAGES:
        return "/" + SECTION_PAGES[path]
    if path.startswith("docs/how-to/"):
        return "/" + path.removeprefix("docs/")  # `how_to` writes it
    if path == "nbs/index.ipynb":
        return "/index.ipynb"
    file = ROOT / path
    if file.is_file() and file.suffix != ".ipynb":
        write(path, file.read_bytes())
    return "/" + path


def write(path: str, content: bytes) -> None:
    (SOURCE / path).parent.mkdir(parents=True, exist_ok=True)
    (SOURCE / path).write_bytes(content)


def write_page(nb, path: str, folder: str, names: dict[str, str]) -> tuple[str, str]:
    "Write a notebook as a page of the site, its links and the names in its prose leading to other pages; returns its title and description."

    def named(match):
        return f"{{py:obj}}`{match[1]} <{names[match[2]]}>`" if match[2] in names else match[0]

    for cell in for_readers(nb).cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r"(?<![`\[}])`(([\w.]+)(?:\(\))?)`(?!`)", named, relink(cell.source, folder, site_target)
            )
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                data["text/markdown"] = relink(data["text/markdown"], folder, site_target)
    nb.metadata.pop("widgets", None)
    (SOURCE / path).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, SOURCE / path)
    return title(nb)


def with_references(nb, module: str):
    "A processed library notebook with references, in the order of the source, for its `show_doc` calls, and the folded source below them."
    cells, shown = [], []
    for cell in [*nb.cells, None]:
        call = re.search(r"^show_doc\((\w+)\)", cell.source or "", re.M) if cell and cell.cell_type == "code" else None
        if call:
            shown.append(call[1])
        elif shown:
            source = [cells.pop()] if "hide-input" in cells[-1].metadata.get("tags", []) else []
            cells += [
                new_markdown_cell(reference(module, name, **{"no-index": ""}))
                for name in sorted(shown, key=list(definitions(module)).index)
            ] + source
            shown = []
        if cell and not call:
            cells.append(cell)
    nb.cells = cells
    return nb


def processed(folder: Path) -> dict[str, object]:
    "nbdev's processed notebooks of a folder, by file name. Unlike nbdev, keep exported constants in sight and exported definitions folded."
    if not any(folder.glob("*.ipynb")):
        return {}
    with tempfile.TemporaryDirectory() as copies:
        for path in folder.glob("*.ipynb"):
            nb = nbformat.read(path, as_version=4)
            for cell in nb.cells:
                if "export" not in directives(cell):
                    continue
                defines = re.search(r"^(def|class) ", cell.source, re.M)
                if defines:
                    cell.metadata["tags"] = ["hide-input"]
                if defines or re.search(r"^[A-Za-z]\w*(:.*)? =", cell.source, re.M):
                    cell.source = re.sub(r"#\| *export$", "#| exports", cell.source, count=1, flags=re.M)
            nbformat.write(nb, Path(copies) / path.name)
        made = proc_nbs(copies, n_workers=0, force=True)
        return {path.name: nbformat.read(made / path.name, as_version=4) for path in sorted(folder.glob("*.ipynb"))}


def listing(head: str, intro: str, kind: str, entries: list[tuple[str, str, str]]) -> str:
    "A page that lists pages: (path, title, description)."
    rows = [f"| [{name}](/{path}) | {text} |" for path, name, text in entries]
    tree = ["/" + path.rsplit(".", 1)[0] for path, _, _ in entries]
    return "\n".join(
        [
            f"# {head}",
            "",
            intro,
            "",
            f"| {kind} | |",
            "|---|---|",
            *rows,
            "",
            "```{toctree}",
            ":hidden:",
            "",
            *tree,
            "```",
            "",
        ]
    )


def value_text(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def about(report: Path) -> str:
    "What a kept run is: in the words of presets.yaml, or its preset and what was changed in it."
    from sie.pipeline.params import changes, load_params

    presets, given = ROOT / "presets.yaml", report.with_name("params.yaml")
    described = re.search(rf"^{re.escape(report.parent.name)}:.*?# (.+)", presets.read_text(encoding="utf-8"), re.M)
    if described:
        return described[1]
    preset = load_params(given).preset
    changed = changes(preset, given, ROOT / "params.yaml", presets)
    # without those that there were not yet when it was made
    texts = [f"{key} {value_text(value)}" for key, value in changed.items() if value is not None]
    return f"`{preset}` with {', '.join(texts)}"


def report_page(path: Path):
    "A kept run's report; its title names the run, and its code is folded."
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.metadata["tags"] = ["hide-input"]
    nb.cells[0].source = re.sub(r"^(# .+)$", rf"\1: {path.parent.name}", nb.cells[0].source, count=1, flags=re.M)
    return nb


PARTS = {  # folder of nbs/: heading of its section, what is in it
    "tutorials": ("Tutorials", "To read and run in one sitting each."),
    "method": ("Method", "Split, hypernetwork, losses and training, in the order in which one understands them."),
    "evaluation": ("Evaluation", "What is measured of a trained model, and how it is shown."),
    "data": ("Data", "From objects to a data set on disk: storage, renderer, import and export, models from files."),
    "objects": ("Objects", "The 55 families of generated objects."),
    "results": ("Results", "A page for each comparison, the most important first."),
    "pipeline": ("Pipeline", "What configures a run, and the stages."),
}
HOW_TO = ("gpus-and-clusters", "own-data", "own-method", "reading-a-run", "presets")


def how_to() -> list[tuple[str, str, str]]:
    "Copy the guides, which are Markdown; returns their paths, titles and first lines."
    entries = []
    for name in HOW_TO:
        source = ROOT / f"docs/how-to/{name}.md"
        if not source.exists():
            continue
        text = relink(source.read_text(encoding="utf-8"), "docs/how-to", site_target)
        write(f"how-to/{name}.md", text.encode())
        head, lead = re.match(r"# +(.+)\n+(.+)", text).groups()
        entries.append((f"how-to/{name}.md", head, lead))
    return entries


def site() -> None:
    "Write _docs/source, with nothing left of an older site."
    shutil.rmtree(SOURCE.parent, ignore_errors=True)
    (SOURCE / "reference").mkdir(
        parents=True
    )  # after "nbs" in the alphabet: Sphinx takes the page it reads last as the one that documents a name
    notebooks = {f"{part}/{name}": nb for part in PARTS for name, nb in processed(ROOT / "nbs" / part).items()}
    modules = {}
    for name in notebooks:
        exported = re.search(r"#\| *default_exp ([\w.]+)", (ROOT / "nbs" / name).read_text(encoding="utf-8"))
        if exported:
            modules[name] = "sie." + exported[1]
    exports = {module: importlib.import_module(module).__all__ for module in modules.values()}
    names = {}  # what is linked where prose names it: a full path, or a name that no ordinary word looks like
    for module, public in exports.items():
        names |= (
            {module: module}
            | {f"{module}.{n}": f"{module}.{n}" for n in public}
            | {n: f"{module}.{n}" for n in public if "_" in n or n[0].isupper()}
        )

    sections = {part: [] for part in PARTS}
    for name, nb in notebooks.items():
        part = name.split("/")[0]
        if name in modules:
            nb = with_references(nb, modules[name])
        sections[part].append((f"nbs/{name}", *write_page(nb, f"nbs/{name}", f"nbs/{part}", names)))
    runs = []
    for path in sorted(ROOT.glob("comparisons/*/report.ipynb")):
        page = path.relative_to(ROOT).as_posix()
        name, _ = write_page(report_page(path), page, "nbs/pipeline", names)
        runs.append((page, name, about(path)))
    references = []
    for name, module in sorted(modules.items(), key=lambda item: list(PARTS).index(item[0].split("/")[0])):
        doc = importlib.import_module(module).__doc__ or ""
        text = [
            f"# {module}",
            doc,
            f"Explained in [{title(notebooks[name])[0]}](/nbs/{name}).",
            f":::{{py:module}} {module}\n:::",
            *(reference(module, n) for n in exports[module]),
        ]
        (SOURCE / f"reference/{module}.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
        references.append((f"reference/{module}.md", module, doc))

    lists = {
        "tutorials": (*PARTS["tutorials"], "Notebook", sections["tutorials"]),
        "method": (*PARTS["method"], "Notebook", sections["method"]),
        "evaluation": (*PARTS["evaluation"], "Notebook", sections["evaluation"]),
        "data": (*PARTS["data"], "Notebook", sections["data"] + sections["objects"]),
        "results": (
            *PARTS["results"],
            "Comparison",
            sections["results"] + [("runs.md", "Reports", "The whole report of each committed run.")],
        ),
        "how-to": ("How-to", "Guides to a task each.", "Guide", how_to() + sections["pipeline"]),
        "reference/index": ("API", "Every exported name with its signature, module by module.", "Module", references),
        "runs": (
            "Reports",
            "The whole report of each committed run, with all tables and figures.",
            "Notebook",
            runs,
        ),
    }
    lists = {name: entries for name, entries in lists.items() if entries[3]}
    for name, (head, intro, kind, entries) in lists.items():
        (SOURCE / f"{name}.md").write_text(listing(head, intro, kind, entries), encoding="utf-8")
    index = processed(ROOT / "nbs")["index.ipynb"]
    tree = [name for name in lists if name != "runs"]
    linked = ["benchmarks/README", "CHANGELOG", "CONTRIBUTING"]  # the index links to them, so they are copied with it
    index.cells.append(new_markdown_cell("\n".join(["```{toctree}", ":hidden:", "", *tree, *linked, "```"])))
    write_page(index, "index.ipynb", "nbs", names)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["readme"]:
            (ROOT / "README.md").write_text(readme(), encoding="utf-8")
        case ["site"]:
            site()
        case _:
            sys.exit(__doc__)

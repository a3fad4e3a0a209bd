"""Make README.md and the sources of the site: `python docs/build.py readme`, `python docs/build.py site [MODEL ...]`.

README.md and the front page of the site are nbs/index.ipynb. The other sources (_docs/source) are the notebooks as
nbdev processes them, the reports of comparisons/, the guides of docs/how-to, a reference page for each module, and the
steering page, with the models given (names in the package, or folders) or else all of the package.
Sphinx makes HTML of them (`make docs`).
"""

import ast
import importlib
import inspect
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from copy import copy
from functools import cache
from pathlib import Path
from posixpath import normpath

import nbformat
from fastcore.docments import docments
from nbconvert import MarkdownExporter
from nbdev.serve import proc_nbs
from nbformat.v4 import new_markdown_cell
from play.pages import write_play
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "_docs/source"
EXTRA = ROOT / "_docs/extra"  # files that the site has as they are
LINK = re.compile(r'(\[[^\]]*\]\(|src="|href=")(?!\w+:|#|/)([^)"#\s]+)(#[^)"\s]*)?')
DIRECTIVE = re.compile(r"^[ \t]*#\|[ \t]*(\S.*?)[ \t]*$\n?", re.M)


# ---- notebooks, for README.md and the site


def directives(cell) -> set[str]:
    "The `#|` directives of a code cell, for nbdev and Quarto, such as {'hide', 'echo: false'}."
    return set(DIRECTIVE.findall(cell.source)) if cell.cell_type == "code" else set()


TAGS = {"remove-input": {"echo: false", "hide_input"}, "remove-output": {"output: false", "hide_output"}}


def is_hidden(cell) -> bool:
    "Whether readers are not to see a cell at all."
    found = directives(cell)
    exports_to = any(d.startswith("default_exp") for d in found)
    return cell.cell_type == "raw" or bool(found & {"hide", "include: false"}) or exports_to


def for_readers(nb):
    "The notebook without hidden cells and directives. Cells whose input or output is to be hidden get a tag."
    shown = []
    for cell in nb.cells:
        if is_hidden(cell):
            continue
        tags = {tag for tag, asked_by in TAGS.items() if directives(cell) & asked_by}
        cell.metadata = {"tags": sorted({*cell.metadata.get("tags", []), *tags})}
        cell.source = DIRECTIVE.sub("", cell.source).strip()
        if cell.source or cell.get("outputs"):
            shown.append(cell)
    nb.cells = shown
    return nb


def relink(text: str, folder: str, target: Callable[[str], str]) -> str:
    """Markdown with its relative links replaced by `target(path)`.

    `folder` is where the text stands, and paths are relative to the top of the repository."""
    return LINK.sub(lambda m: m[1] + target(normpath(f"{folder}/{m[2]}")) + (m[3] or ""), text)


# ---- README.md


def readme(root: Path = ROOT) -> str:
    "The text of README.md: nbs/index.ipynb as Markdown."
    nb = for_readers(nbformat.read(root / "nbs/index.ipynb", as_version=4))
    nb.metadata["language_info"] = {"name": "python"}  # nbdev_clean removes it, and the exporter writes it after ```
    for cell in nb.cells:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            raise ValueError(
                f"nbs/index.ipynb, cell {cell.id}: an output is a picture, which README.md cannot hold; "
                "link a committed file: ![caption](../docs/static/NAME.png)"
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


# ---- the site: reference of names


def brief(default: ast.expr | None) -> ast.expr | None:
    "A default value, or `...` for a lambda or comprehension, which would be too long in a signature."
    if default and any(isinstance(n, (ast.comprehension, ast.Lambda)) for n in ast.walk(default)):
        return ast.Constant(...)
    return default


def parameters(args: ast.arguments) -> str:
    "The parameters in brackets, without `self` and `cls`."
    args = copy(args)
    if args.args and args.args[0].arg in ("self", "cls"):
        args.args = args.args[1:]
    args.defaults = [brief(d) for d in args.defaults]
    args.kw_defaults = [brief(d) for d in args.kw_defaults]
    return f"({ast.unparse(args)})"


def is_field(node: ast.stmt) -> bool:
    "Whether a statement of a class declares a public field that `__init__` takes."
    if not isinstance(node, ast.AnnAssign):
        return False
    return not node.target.id.startswith("_") and "init=False" not in ast.unparse(node)


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    "Parameters with annotations and defaults as in the source; of a class, those of `__init__` or its fields."
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return parameters(node.args) + returns
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return parameters(member.args)
    fields = [ast.unparse(member) for member in node.body if is_field(member)]
    return f"({', '.join(fields)})" if fields else ""


def directive(kind: str, name: str, options: dict, body: str, fence: int) -> str:
    "A MyST directive of Sphinx's Python domain, between fences of so many colons."
    lines = [f":{k}: {v}".rstrip() for k, v in options.items()]
    return "\n".join([":" * fence + f"{{py:{kind}}} {name}", *lines, "", body, ":" * fence])


def described(obj) -> str:
    "The docstring, with a field for each parameter that has a comment."
    comments = {name: " ".join(text.split()) for name, text in docments(obj).items() if text}
    fields = [f":return: {text}" if name == "return" else f":param {name}: {text}" for name, text in comments.items()]
    doc = obj.__doc__ or ""
    if inspect.isclass(obj) and doc.startswith(obj.__name__ + "("):
        doc = ""  # a dataclass without a docstring has its signature there
    return "\n".join([inspect.cleandoc(doc), "", *fields])


@cache
def definitions(module: str) -> dict[str, ast.AST]:
    "The statement that defines each name of a module, in the order of the source."
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


def method_reference(node: ast.FunctionDef, obj: type, options: dict) -> str:
    "MyST for a public method or property of a class."
    member = inspect.getattr_static(obj, node.name)
    if isinstance(member, property):
        if node.returns:
            options = {"type": ast.unparse(node.returns), **options}
        return directive("property", node.name, options, described(member.fget), 3)
    for kind in (classmethod, staticmethod):
        if isinstance(member, kind):
            options = {kind.__name__: "", **options}
    return directive("method", node.name + signature(node), options, described(getattr(obj, node.name)), 3)


def data_reference(module: str, name: str, options: dict) -> str:
    "MyST for a constant: its value, shortened, its type and the comment above it."
    node = definitions(module)[name]
    value = ast.unparse(node.value)
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
        value = repr(getattr(importlib.import_module(module), name))
    if len(value) >= 80:
        quote = value[0] if value[0] in "'\"" else ""  # YAML wants a quoted text to be closed
        value = f"{value[:76]} ...{quote}"
    options = {**options, "value": value}
    if isinstance(node, ast.AnnAssign):
        options["type"] = ast.unparse(node.annotation)
    comment = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name), [])
    return directive("data", name, options, "\n".join(comment), 3)


def reference(module: str, name: str, **options) -> str:
    "MyST for an exported name: signature, docstring and parameters; for a class its public methods too."
    node = definitions(module)[name]
    obj = getattr(importlib.import_module(module), name)
    of_methods = {k: v for k, v in options.items() if k == "no-index"}
    options = {"module": module, **options}
    if isinstance(node, ast.FunctionDef):
        return directive("function", name + signature(node), options, described(obj), 3)
    if not isinstance(node, ast.ClassDef):
        return data_reference(module, name, options)
    node = whole_class(module, node)
    methods = [
        method_reference(member, obj, of_methods)
        for member in node.body
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_")
    ]
    return directive("class", name + signature(node), options, "\n\n".join([described(obj), *methods]), 4)


# ---- the site: pages


def title(nb) -> tuple[str, str]:
    "Heading and one-line description of a notebook, from its first cell."
    head, lead = re.match(r"# +(.+)\n+(?:> *)?(.+)", nb.cells[0].source).groups()
    return head, lead


#: Folders of the repository, and the pages of the site that list their contents.
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
    "The target on the site of a link to a file or folder of the repository: its page, or a copy of the file."
    if path in SECTION_PAGES:
        return "/" + SECTION_PAGES[path]
    if re.fullmatch(r"docs/(how-to|play)/[\w-]+\.md", path):
        return "/" + path.removeprefix("docs/")
    if path == "nbs/index.ipynb":
        return "/index.ipynb"
    if path == "docs/steering/page.md":
        return "/steering.md"
    file = ROOT / path
    if file.is_file() and file.suffix != ".ipynb":
        write(path, file.read_bytes())
    return "/" + path


def write(path: str, content: bytes) -> None:
    (SOURCE / path).parent.mkdir(parents=True, exist_ok=True)
    (SOURCE / path).write_bytes(content)


def write_page(nb, path: str, folder: str, names: dict[str, str]) -> tuple[str, str]:
    """Write a notebook as a page of the site. Its links, and the names of `names` in its prose, lead to other pages.

    Returns its title and description."""

    def named(match):
        return f"{{py:obj}}`{match[1]} <{names[match[2]]}>`" if match[2] in names else match[0]

    for cell in for_readers(nb).cells:
        if cell.cell_type == "markdown":
            text = relink(cell.source, folder, site_target)
            cell.source = re.sub(r"(?<![`\[}])`(([\w.]+)(?:\(\))?)`(?!`)", named, text)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                data["text/markdown"] = relink(data["text/markdown"], folder, site_target)
    nb.metadata.pop("widgets", None)
    write(path, nbformat.writes(nb).encode())
    return title(nb)


def with_references(nb, module: str):
    """A processed library notebook with references in place of its `show_doc` calls.

    nbdev puts these calls after the source; the references go before it, in the order of the source."""
    order = list(definitions(module))
    cells = []
    shown = []
    for cell in [*nb.cells, None]:
        call = re.search(r"^show_doc\((\w+)\)", cell.source, re.M) if cell and cell.cell_type == "code" else None
        if call:
            shown.append(call[1])
            continue
        if shown:
            source = [cells.pop()] if "hide-input" in cells[-1].metadata.get("tags", []) else []
            texts = [reference(module, name, **{"no-index": ""}) for name in sorted(shown, key=order.index)]
            cells += [*map(new_markdown_cell, texts), *source]
            shown = []
        if cell:
            cells.append(cell)
    nb.cells = cells
    return nb


def processed(folder: Path) -> dict[str, object]:
    """The notebooks of a folder as nbdev processes them, by file name.

    Unlike nbdev, this shows exported constants, and the source of exported definitions folded."""
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


def about(report: Path) -> str:
    "The description of a kept run's preset in presets.yaml, and whether the run has other settings than that has now."
    from sie.pipeline.params import changes, load_params

    presets = ROOT / "presets.yaml"
    given = report.with_name("params.yaml")
    params = load_params(given)
    described = re.search(rf"^{re.escape(params.preset)}:.*?# (.+)", presets.read_text(encoding="utf-8"), re.M)
    changed = changes(params.preset, given, ROOT / "params.yaml", presets)
    if params.data.source == "procedural":
        changed.pop("data.input", None)  # the file of the families' code, which was moved since
    text = described[1] if described else f"`{params.preset}`"
    return f"{text}; with earlier settings" if changed else text


def report_page(path: Path):
    "The report of a kept run, with the name of the run in its title and its code folded."
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.metadata["tags"] = ["hide-input"]
    nb.cells[0].source = re.sub(r"^(# .+)$", rf"\1: {path.parent.name}", nb.cells[0].source, count=1, flags=re.M)
    return nb


PARTS = {  # folder of nbs/: heading of its section, description
    "tutorials": ("Tutorials", "Each takes one sitting to read and run."),
    "method": ("Method", "The split, the hypernetwork, the losses and the training, from the ground up."),
    "evaluation": ("Evaluation", "How trained models are measured, and how the results are shown."),
    "data": ("Data", "From objects to a data set on disk: storage, renderer, import and export, models from files."),
    "objects": ("Objects", "The 55 families of generated objects."),
    "results": ("Results", "One page for each comparison, the most important first."),
    "pipeline": ("Pipeline", "The configuration of a run, and the stages."),
}
HOW_TO = ("gpus-and-clusters", "own-data", "own-method", "reading-a-run", "presets", "glossary")


def how_to() -> list[tuple[str, str, str]]:
    "Copy the guides, which are Markdown. Returns their paths, titles and first lines."
    entries = []
    for name in HOW_TO:
        source = ROOT / f"docs/how-to/{name}.md"
        text = relink(source.read_text(encoding="utf-8"), "docs/how-to", site_target)
        write(f"how-to/{name}.md", text.encode())
        head, lead = re.match(r"# +(.+)\n+(.+)", text).groups()
        entries.append((f"how-to/{name}.md", head, lead))
    return entries


def play_pages() -> list[tuple[str, str, str]]:
    "Write the pages of docs/play and the files beside them. Returns their paths, titles and first lines."
    entries = []
    pages = write_play(ROOT / "_docs/extra", lambda text: relink(text, "docs/play", site_target))
    for name, text in pages.items():
        write(f"play/{name}.md", text.encode())
        head, lead = re.match(r"# +(.+)\n+(.+)", text).groups()
        entries.append((f"play/{name}.md", head, lead))
    return entries


def exporting(notebooks: Iterable[str]) -> dict[str, str]:
    "The module that each of these notebooks exports to, if any."
    modules = {}
    for name in notebooks:
        text = (ROOT / "nbs" / name).read_text(encoding="utf-8")
        exported = re.search(r"#\| *default_exp ([\w.]+)", text)
        if exported:
            modules[name] = f"sie.{exported[1]}"
    return modules


def linked_names(modules: Iterable[str]) -> dict[str, str]:
    "What is linked in prose, and its full name: full names, and names that cannot be ordinary words."
    names = {}
    for module in modules:
        names[module] = module
        for name in importlib.import_module(module).__all__:
            full = f"{module}.{name}"
            names[full] = full
            if "_" in name or name[0].isupper():
                names[name] = full
    return names


def write_reference(module: str, notebook: str, heading: str) -> tuple[str, str, str]:
    "Write the reference page of a module. Returns its path, title and description."
    mod = importlib.import_module(module)
    doc = mod.__doc__ or ""
    text = [
        f"# {module}",
        doc,
        f"Explained in [{heading}](/nbs/{notebook}).",
        f":::{{py:module}} {module}\n:::",
        *(reference(module, name) for name in mod.__all__),
    ]
    path = f"reference/{module}.md"
    write(path, ("\n\n".join(text) + "\n").encode())
    return path, module, doc


def write_reports(names: dict[str, str]) -> list[tuple[str, str, str]]:
    "Write the report of each kept run. Returns their paths, titles and descriptions."
    entries = []
    for path in sorted(ROOT.glob("comparisons/*/report.ipynb")):
        page = path.relative_to(ROOT).as_posix()
        name, _ = write_page(report_page(path), page, "nbs/pipeline", names)
        entries.append((page, name, about(path)))
    return entries


def write_steering(models: Iterable[str]) -> None:
    "Write the steering page, and what it loads."
    from steering import PLAYER, make_page  # here and not above: only the site needs the models

    text = relink(make_page(EXTRA / "steering", list(models)), "docs/steering", site_target)
    player = f"```{{raw}} html\n{PLAYER.read_text(encoding='utf-8')}```"
    write("steering.md", text.replace("{player}", player).encode())


def site(models: Iterable[str] = ()) -> None:
    "Write _docs/source anew."
    for made in ("source", "html"):  # beside them are files of the page "The 55 families in 3D" that take long to make
        shutil.rmtree(ROOT / "_docs" / made, ignore_errors=True)
    # Sphinx takes the page it reads last for the definition of a name: `reference` comes after `nbs` in the alphabet.
    notebooks = {f"{part}/{name}": nb for part in PARTS for name, nb in processed(ROOT / "nbs" / part).items()}
    modules = exporting(notebooks)
    names = linked_names(modules.values())
    sections = {part: [] for part in PARTS}
    for name, nb in notebooks.items():
        part = name.split("/")[0]
        if name in modules:
            nb = with_references(nb, modules[name])
        sections[part].append((f"nbs/{name}", *write_page(nb, f"nbs/{name}", f"nbs/{part}", names)))
    reports = ("runs.md", "Reports", "The whole report of each committed run.")
    references = [write_reference(module, name, title(notebooks[name])[0]) for name, module in modules.items()]
    lists = {
        "tutorials": (*PARTS["tutorials"], "Notebook", sections["tutorials"]),
        "method": (*PARTS["method"], "Notebook", sections["method"]),
        "evaluation": (*PARTS["evaluation"], "Notebook", sections["evaluation"]),
        "data": (*PARTS["data"], "Notebook", sections["data"] + sections["objects"]),
        "results": (*PARTS["results"], "Comparison", [*sections["results"], reports]),
        "play": ("Play", "Pages that answer to the mouse and the keyboard.", "Page", play_pages()),
        "how-to": ("How-to", "One guide for each task.", "Guide", how_to() + sections["pipeline"]),
        "reference/index": ("API", "Every exported name with its signature, by module.", "Module", references),
        "runs": ("Reports", "All tables and figures of each committed run.", "Notebook", write_reports(names)),
    }
    for name, page in lists.items():
        write(f"{name}.md", listing(*page).encode())
    write_steering(models)
    index = processed(ROOT / "nbs")["index.ipynb"]
    tree = [name for name in lists if name != "runs"]
    tree.insert(tree.index("play"), "steering")
    linked = ["benchmarks/README", "comparisons/README", "CHANGELOG", "CONTRIBUTING"]  # copied: pages link to them
    index.cells.append(new_markdown_cell("\n".join(["```{toctree}", ":hidden:", "", *tree, *linked, "```"])))
    write_page(index, "index.ipynb", "nbs", names)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["readme"]:
            (ROOT / "README.md").write_text(readme(), encoding="utf-8")
        case ["site", *models]:
            site(models)
        case _:
            sys.exit(__doc__)

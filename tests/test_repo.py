"""The repository itself: generated files are what their sources make, and nothing is in it that does not belong there."""
import ast
import filecmp
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sie.method.methods import METHODS
from sie.pipeline.params import load_params
from sie.evaluation.statistics import ABLATED, READ_OFF, results_table, RETRIEVED

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(ROOT.glob("nbs/**/*.ipynb"))


def settings() -> dict:
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


# ---- generated files

def differences(folder: Path, other: Path) -> set[str]:
    "Files that are not the same, or in one folder only."
    files = {p.relative_to(top) for top in (folder, other) for p in top.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    return {f.as_posix() for f in files if not ((folder / f).exists() and (other / f).exists() and filecmp.cmp(folder / f, other / f, shallow=False))}


def stale(root: Path, scratch: Path) -> set[str]:
    "The generated files under `root` that their sources no longer make, found by making them anew in `scratch`."
    scratch.mkdir()
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(root / name, scratch)
    for name in ("nbs", "docs"): shutil.copytree(root / name, scratch / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    (scratch / "sie").mkdir()
    shutil.copy(root / "sie/py.typed", scratch / "sie")     # this file and the trained models: what no notebook makes
    shutil.copytree(root / "sie/pretrained", scratch / "sie/pretrained")
    for command in ([BIN / "nbdev_export"], [BIN / "nbdev_clean"], [sys.executable, "docs/build.py", "readme"]):
        subprocess.run(command, cwd=scratch, check=True, stdin=subprocess.DEVNULL)
    found = {f"sie/{name}" for name in differences(root / "sie", scratch / "sie")}
    found |= {f"nbs/{p.relative_to(scratch / 'nbs')}" for p in scratch.glob("nbs/**/*.ipynb") if p.read_bytes() != (root / p.relative_to(scratch)).read_bytes()}
    return found | {name for name in ("README.md", "pyproject.toml") if (root / name).read_bytes() != (scratch / name).read_bytes()}


def test_generated_files_are_current(tmp_path):
    assert not stale(ROOT, tmp_path / "made"), "`make export readme` writes sie/, clean notebooks and README.md"


def test_notebooks_hold_no_state_of_widgets():
    for path in NOTEBOOKS:
        nb = nbformat.read(path, as_version=4)
        outputs = [o for cell in nb.cells for o in cell.get("outputs", [])]
        assert "widgets" not in nb.metadata and not any("jupyter.widget" in kind for o in outputs for kind in o.get("data", {})), f"{path.name}: execute it with TQDM_DISABLE=1"


def test_no_notebook_shows_what_went_to_stderr():
    for path in (p for p in tracked() if p.suffix == ".ipynb"):
        outputs = [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]
        assert not [o.text for o in outputs if o.get("name") == "stderr"], path.relative_to(ROOT)


def test_readme_shows_the_committed_results():
    metrics, text = pd.read_csv(ROOT / "comparisons/full/metrics.csv"), (ROOT / "README.md").read_text(encoding="utf-8")
    methods = [m for m in metrics["method"].unique() if m != "chance"]
    contenders = [m for m in methods if m not in ("supervised", "random")]
    tables = [results_table(metrics, columns, [*rows, "chance"], contenders, intervals=True) for columns, rows in ((READ_OFF, methods), (RETRIEVED, [m for m in methods if METHODS[m].predictor]))]
    longer, epochs = pd.read_csv(ROOT / "comparisons/longer/metrics.csv"), load_params(ROOT / "comparisons/longer/params.yaml").pretrain.epochs
    tables.append(results_table(longer, ABLATED, intervals=True).rename(lambda m: m if m == "chance" else f"{m}, {epochs} epochs"))
    tables.append(results_table(pd.read_csv(ROOT / "comparisons/large/metrics.csv"), ABLATED, contenders=contenders, intervals=True))
    for part in ("loss", "predictor", "start", "conditioning"):
        ablated = pd.read_csv(ROOT / f"comparisons/ablations_{part}/metrics.csv")
        tables.append(results_table(ablated, {heading: ABLATED[heading] for heading in ("top-1", "rotation R² all", "MRR")}, [m for m in ablated["method"].unique() if "+" in m], intervals=True).rename(lambda m: f"`{m}`"))
    tables.append(pd.DataFrame({"what it is": {f"`{m}`": METHODS[m].description for m in methods}}))
    hues = pd.read_csv(ROOT / "comparisons/rotcolor/metrics.csv").query("method != 'chance' and metric == 'rotation_r2_pooled' and part == 'all' and split == 'val'")
    for method, r2 in hues.groupby("method")["value"].mean().items(): assert re.search(rf"^\| `{method}` *\|[^|]*\| {r2:.2f} \(", text, re.M), f"README.md has no row of {method} with a rotation R² of {r2:.2f}"
    for cells in ([method, *row] for table in tables for method, row in table.iterrows()):
        assert any([c.strip() for c in line.strip("|").split("|")] == cells for line in text.splitlines()), f"README.md has no row {cells}; execute nbs/index.ipynb, then `make readme`"


def append(path: Path, text: str) -> None:
    path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + text, encoding="utf-8")


def test_stale_files_are_noticed(tmp_path):
    copy = tmp_path / "copy"
    for name in ("nbs", "docs", "sie"): shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    for name in ("settings.ini", "pyproject.toml", "README.md"): shutil.copy(ROOT / name, copy)
    append(copy / "sie/method/rotations.py", "\nedited = True\n")
    append(copy / "sie/from_no_notebook.py", "\n")
    append(copy / "README.md", "\nedited\n")
    path = copy / "nbs/method/00_rotations.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[1].execution_count = 7
    nbformat.write(nb, path)
    assert stale(copy, tmp_path / "made") >= {"sie/method/rotations.py", "sie/from_no_notebook.py", "README.md", "nbs/method/00_rotations.ipynb"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path):
    nb = nbformat.read(path, as_version=4)
    assert nb.metadata.kernelspec == {"name": "python3", "display_name": "python3", "language": "python"}
    assert re.match(r"# \S.*\n+(> )?\S", nb.cells[0].source), "the first cell is a title and a one-line description"
    errors = [cell.id for cell in nb.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert not errors, f"cells {errors} show an error"


# ---- the package

PARTS = ("method", "objects", "data", "evaluation", "pipeline")     # each may import those before it


def modules() -> dict[str, tuple[int, str]]:
    "Module name -> the place of its notebook: part, file name."
    exported = {path: re.search(r"#\| *default_exp ([\w.]+)", path.read_text(encoding="utf-8")) for path in NOTEBOOKS}
    return {found[1]: (PARTS.index(path.parent.name), path.name) for path, found in exported.items() if found}


def imports(path: Path) -> set[str]:
    "Modules that a Python file imports, anywhere in it; those of the package as `sie.part.name`."
    home = ["sie", *path.relative_to(ROOT / "sie").parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*home[:len(home) + 1 - node.level], *filter(None, [node.module])]) if node.level else node.module
            found |= {f"{base}.{alias.name}" for alias in node.names} if base.count(".") < 2 and base.startswith("sie") else {base}
    return found


def test_imports_never_point_forward():
    order = modules()
    assert len(set(order.values())) == len(order)
    checked = 0
    for name, place in order.items():
        for other in imports(ROOT / f"sie/{name.replace('.', '/')}.py"):
            if not other.startswith("sie.") or (name, other) == ("method.pretraining", "sie.data.storage"):
                continue    # the exception is its command line, which opens a data set by its path
            checked += 1
            assert order[other.removeprefix("sie.")] < place, f"sie.{name} imports {other}, which is defined later"
    assert checked > 50


def test_requirements_are_what_the_package_imports():
    distributions = packages_distributions()
    names = {i.split(".")[0] for path in ROOT.glob("sie/**/*.py") for i in imports(path)} - {"sie", *sys.stdlib_module_names}
    providers = {name: {canonicalize_name(d) for d in distributions.get(name, [name])} for name in names}
    declared, optional = ({canonicalize_name(Requirement(r).name) for r in shlex.split(settings()[key])} for key in ("requirements", "blender_requirements"))
    optional |= {"huggingface-hub"}         # extra `hub`
    optional |= {"dvc", "voluptuous"}     # `sie.pipeline.params check` asks DVC whether its files are whole; without DVC there are none
    assert not [name for name, by in providers.items() if not by & (declared | optional)], "imported, but not among the requirements of settings.ini"
    assert not declared - set().union(*providers.values()), "among the requirements of settings.ini, but not imported"


# ---- requirements.txt

def pins() -> list[tuple[Requirement, list[str]]]:
    "What requirements.txt pins, each with its hashes."
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(" --hash=") for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(name), hashes) for name, *hashes in lines]


def test_every_requirement_is_pinned_with_hashes():
    for requirement, hashes in pins():
        assert [s.operator for s in requirement.specifier] == ["=="] and not requirement.url, f"{requirement} is not pinned"
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", h) for h in hashes), f"{requirement} has no hash"


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_requirements_cover_settings(python):
    here = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    pinned = {canonicalize_name(r.name): next(iter(r.specifier)).version for r, _ in pins() if not r.marker or r.marker.evaluate(here)}
    wanted = [Requirement(r) for key in ("requirements", "dev_requirements", "pins") for r in shlex.split(settings()[key])]
    for requirement in wanted:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), f"`make requirements`: {requirement} of settings.ini is not what requirements.txt pins"


# ---- what does not belong

def unwelcome(text: str) -> list[str]:
    "Registry hosts and paths of one machine in a text."
    hosts = "|".join(["py" + "pi", "python" + "hosted", "npm" + "js"])
    return re.findall(rf"\b(?:{hosts})\.(?:org|com)\b|(?<![\w.:/~<-])/(?:work|root|home|Users)/\w[\w./-]*", text)


def test_unwelcome_text_is_noticed():
    assert unwelcome("from https://" + "py" + "pi.org/simple") and unwelcome("open('/" + "root/x')") and not unwelcome("docs/root/x, https://example.org/work/x")


def test_no_registry_hosts_machine_paths_or_large_files():
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        assert path.stat().st_size <= 2_000_000, f"{name} is larger than 2 MB"
        try: text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError: continue
        assert not unwelcome(text), f"{name} names {unwelcome(text)[0]}"


def test_documented_commands_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        commands = re.findall(r"(?:^|`)make ((?:[a-z]+ ?)+)", (ROOT / name).read_text(), re.M)
        assert commands and {c for command in commands for c in command.split()} <= targets, name


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == settings()["version"] and citation["license"] == "Apache-2.0"
    assert [a["family-names"] for a in citation["preferred-citation"]["authors"]] == ["Garrido", "Najman", "LeCun"]
    assert (ROOT / "LICENSE").read_text().split() [:4] == ["Apache", "License", "Version", "2.0,"]

"""The repository: generated files match their sources, and nothing is in it that does not belong there."""

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

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(ROOT.glob("nbs/**/*.ipynb"))


def settings() -> dict:
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


# ---- generated files


def differences(folder: Path, other: Path) -> set[str]:
    "Files that are not the same, or in one folder only."
    files = {
        p.relative_to(top)
        for top in (folder, other)
        for p in top.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    return {
        f.as_posix()
        for f in files
        if not ((folder / f).exists() and (other / f).exists() and filecmp.cmp(folder / f, other / f, shallow=False))
    }


def stale(root: Path, scratch: Path) -> set[str]:
    "The generated files under `root` that their sources no longer make, found by making them anew in `scratch`."
    scratch.mkdir()
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(root / name, scratch)
    for name in ("nbs", "docs"):
        shutil.copytree(root / name, scratch / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    (scratch / "sie").mkdir()
    shutil.copy(root / "sie/py.typed", scratch / "sie")  # this file and what is in two folders: what no notebook makes
    for name in ("pretrained", "static"):
        shutil.copytree(root / "sie" / name, scratch / "sie" / name)
    for command in ([BIN / "nbdev_export"], [BIN / "nbdev_clean"], [sys.executable, "docs/build.py", "readme"]):
        subprocess.run(command, cwd=scratch, check=True, stdin=subprocess.DEVNULL)
    found = {f"sie/{name}" for name in differences(root / "sie", scratch / "sie")}
    found |= {
        f"nbs/{p.relative_to(scratch / 'nbs')}"
        for p in scratch.glob("nbs/**/*.ipynb")
        if p.read_bytes() != (root / p.relative_to(scratch)).read_bytes()
    }
    return found | {
        name for name in ("README.md", "pyproject.toml") if (root / name).read_bytes() != (scratch / name).read_bytes()
    }


def test_generated_files_are_current(tmp_path):
    assert not stale(ROOT, tmp_path / "made"), "`make export readme` writes sie/, clean notebooks and README.md"


def test_notebooks_hold_no_state_of_widgets():
    for path in NOTEBOOKS:
        nb = nbformat.read(path, as_version=4)
        outputs = [o for cell in nb.cells for o in cell.get("outputs", [])]
        assert "widgets" not in nb.metadata and not any(
            "jupyter.widget" in kind for o in outputs for kind in o.get("data", {})
        ), f"{path.name}: execute it with TQDM_DISABLE=1"


def test_no_notebook_shows_what_went_to_stderr():
    for path in (p for p in tracked() if p.suffix == ".ipynb"):
        outputs = [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]
        assert not [o.text for o in outputs if o.get("name") == "stderr"], path.relative_to(ROOT)


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def means(metrics: pd.DataFrame, metric: str, part: str = "all") -> dict[str, float]:
    "Method -> mean over the seeds, on test objects."
    chosen = metrics[(metrics.metric == metric) & (metrics.part == part) & (metrics.split == "test")]
    return chosen.groupby("method")["value"].mean().to_dict()


def test_readme_table_shows_the_committed_results():
    metrics = pd.read_csv(ROOT / "comparisons/default/metrics.csv")
    columns = [means(metrics, "top1")]
    columns += [means(metrics, "rotation_r2_pooled", part) for part in ("all", "invariant", "equivariant")]
    columns += [means(metrics, "mrr", "equivariant")]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in readme().splitlines() if line.startswith("| `")]
    methods = [re.match(r"`(\w+)`", row[0])[1] for row in rows]
    assert methods == ["sie", "sie_matrix", "vicreg", "supervised", "random"]
    for method, row in zip(methods, rows):
        cells = [f"{column[method]:.2f}" if method in column else "" for column in columns]
        assert row[1:] == cells, f"{method}: execute nbs/index.ipynb, then `make readme`"


def test_readme_sentences_show_the_committed_results():
    metrics = pd.read_csv(ROOT / "comparisons/default/metrics.csv")
    params = load_params(ROOT / "comparisons/default/params.yaml")
    section = re.search(r"## What it shows\n(.*?)\n## ", readme(), re.S)[1]
    before, after = section.split("| `")[0], section.rsplit("|\n", 1)[1]
    top1, r2, mrr = means(metrics, "top1"), means(metrics, "rotation_r2_pooled"), means(metrics, "mrr", "equivariant")
    halves = [means(metrics, "rotation_r2_pooled", part)["sie"] for part in ("equivariant", "invariant")]
    said = [top1["vicreg"], r2["vicreg"], r2["random"], r2["supervised"], top1["sie"], r2["sie"], *halves]
    said += [r2["sie_matrix"], mrr["sie"], mrr["sie_matrix"], top1["sie_matrix"]]
    assert re.findall(r"\d\.\d+", after) == [f"{value:.2f}" for value in said]
    assert re.findall(r"chance is (\S+\d)", before) == [f"{r2['chance']:.2f}", f"{mrr['chance']:.2f}"]

    def differences(metric: str, part: str, higher: str, lower: str) -> pd.Series:
        "By seed, on test objects."
        chosen = metrics[(metrics.metric == metric) & (metrics.part == part) & (metrics.split == "test")]
        by_seed = chosen.pivot(index="seed", columns="method", values="value")
        return by_seed[higher] - by_seed[lower]

    # the order is the same with both seeds, except in top-1
    order = ["supervised", "sie_matrix", "sie", "vicreg", "random"]
    for part in ("all", "equivariant"):
        for higher, lower in zip(order[part == "equivariant" :], order[1 + (part == "equivariant") :]):
            assert (differences("rotation_r2_pooled", part, higher, lower) > 0).all(), (part, higher, lower)
    assert (differences("mrr", "equivariant", "sie_matrix", "sie") > 0).all()
    assert differences("top1", "all", "sie", "sie_matrix").agg(["min", "max"]).prod() < 0
    of_sie = metrics[(metrics.metric == "rotation_r2_pooled") & (metrics.method == "sie") & (metrics.split == "test")]
    by_part = of_sie.pivot(index="seed", columns="part", values="value")
    assert (by_part["equivariant"] > by_part["invariant"]).all()  # the split works, with every seed

    data = params.data
    objects = f"{len(data.chosen)} classes of {data.objects_per_class} generated objects"
    assert f"{objects}, {data.views} views of {data.crop} px each" in before
    assert "two seeds" in before and len(params.pretrain.seeds) == 2


def test_readme_is_short():
    assert len(readme().split()) <= 900


def guide(name: str) -> str:
    return (ROOT / f"docs/how-to/{name}.md").read_text(encoding="utf-8")


def test_guide_to_gpus_shows_the_benchmarks():
    rows = pd.read_csv(ROOT / "benchmarks/results.csv")
    text = guide("gpus-and-clusters")

    def value(benchmark: str, unit: str, setting: str) -> float:
        "Of the one row whose setting ends so."
        found = rows[(rows.benchmark == benchmark) & (rows.unit == unit) & rows.setting.str.endswith(setting)]
        assert len(found) == 1, setting
        return found["value"].item()

    for step, end in {
        "float32": "batch 1024, 32-true",
        "float32, `channels_last`": "32-true, channels_last",
        "bf16, `channels_last`": "bf16-mixed, channels_last",
        "bf16, `channels_last`, `torch.compile`": "bf16-mixed, channels_last, torch.compile",
    }.items():
        assert f"| {step} | {value('paper', 'pairs/s', end):,.0f} |" in text
    assert f"and copied, beside the steps | {value('paper_loading', 'pairs/s', 'pinned memory'):,.0f} |" in text
    assert f"(nvJPEG) | {value('paper_loading', 'pairs/s', 'nvJPEG'):,.0f} |" in text
    more = value("paper_scaled", "times", "one with the stride in the first convolution")
    assert f"takes {more:.2f} times the arithmetic" in text

    one, eight = (
        {unit: value("paper_scaled", unit, f"paper's run on {devices}, scaled") for unit in ("h", "$")}
        for devices in ("1 such device", "8 such devices")
    )
    default, presets = (
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8")) for name in ("params.yaml", "presets.yaml")
    )
    methods = presets["paper"].get("methods", default["methods"])
    runs = len(presets["paper"]["pretrain.seeds"]) * len([m for m in methods if METHODS[m].terms])
    assert (
        f"| one seed of one method | {one['h']:.1f} h, ${one['$']:.0f} | {60 * eight['h']:.0f} min, ${eight['$']:.0f} |"
        in text
    )
    cells = [f"{runs * of['h']:.0f} h, ${runs * of['$']:.0f}" for of in (one, eight)]
    assert f"| all {runs} runs of `PRESET=paper` | {cells[0]} | {cells[1]} |" in text


def test_guide_to_presets_has_all_presets():
    presets = list(yaml.safe_load((ROOT / "presets.yaml").read_text(encoding="utf-8")))
    table = re.search(r"## What each changes\n(.*?)\n## ", guide("presets"), re.S)[1]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == {"default", *presets}


def test_guides_are_listed_with_title_and_description():
    listed = re.search(r"^HOW_TO = \((.*?)\)", (ROOT / "docs/build.py").read_text(encoding="utf-8"), re.M | re.S)[1]
    names = re.findall(r'"([\w-]+)"', listed)
    assert sorted(names) == sorted(path.stem for path in ROOT.glob("docs/how-to/*.md"))
    for name in names:
        assert re.match(r"# \S.*\n\n[A-Z].*[.:]\n\n", guide(name)), f"{name}.md begins with a title and one sentence"


def test_glossary_has_the_terms_of_the_tutorials():
    for path in ROOT.glob("nbs/tutorials/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for term in re.findall(r"\*\*([a-z][a-z ]+)\*\*", text):  # bold where they are introduced
            assert term.removesuffix("s") in guide("glossary").lower(), f"{path.name} introduces {term}"


def test_links_of_texts_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/how-to/*.md")]:
        for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} leads to {target}"


def test_pictures_of_the_readme_are_committed_and_small():
    pictures = [ROOT / name for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme())]
    assert [picture.name for picture in pictures] == ["method.svg", "views.png"]
    for picture in pictures:
        assert picture in tracked() and picture.stat().st_size < 300_000, picture.name
    drawing = pictures[0].read_text(encoding="utf-8")
    assert not re.search(r"<script|<image|@import|@font-face|url\((?!#)|href=", drawing), (
        "the drawing must not need anything else"
    )


def append(path: Path, text: str) -> None:
    path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + text, encoding="utf-8")


def test_stale_files_are_noticed(tmp_path):
    copy = tmp_path / "copy"
    for name in ("nbs", "docs", "sie"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    for name in ("settings.ini", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    append(copy / "sie/method/rotations.py", "\nedited = True\n")
    append(copy / "sie/from_no_notebook.py", "\n")
    append(copy / "README.md", "\nedited\n")
    path = copy / "nbs/method/00_rotations.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[1].execution_count = 7
    nbformat.write(nb, path)
    assert stale(copy, tmp_path / "made") >= {
        "sie/method/rotations.py",
        "sie/from_no_notebook.py",
        "README.md",
        "nbs/method/00_rotations.ipynb",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path):
    nb = nbformat.read(path, as_version=4)
    assert nb.metadata.kernelspec == {"name": "python3", "display_name": "python3", "language": "python"}
    assert re.match(r"# \S.*\n+(> )?\S", nb.cells[0].source), "the first cell is a title and a one-line description"
    errors = [cell.id for cell in nb.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert not errors, f"cells {errors} show an error"


# ---- the package

PARTS = ("method", "objects", "data", "evaluation", "pipeline")  # each may import those before it


def modules() -> dict[str, tuple[int, str]]:
    "Module name -> the place of its notebook: part, file name."
    exported = {path: re.search(r"#\| *default_exp ([\w.]+)", path.read_text(encoding="utf-8")) for path in NOTEBOOKS}
    return {found[1]: (PARTS.index(path.parent.name), path.name) for path, found in exported.items() if found}


def imports(path: Path) -> set[str]:
    """Modules that a Python file imports, anywhere in it, or asks for by `needs("module", ...)`.

    Those of the package are `sie.part.name`."""
    home = ["sie", *path.relative_to(ROOT / "sie").parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                above = home[: len(home) + 1 - node.level] if node.level else []
                base = ".".join([*above, *filter(None, [node.module])])
                of_package = base == "sie" or (base.startswith("sie.") and base.count(".") < 2)
                found |= {f"{base}.{alias.name}" for alias in node.names} if of_package else {base}
            case ast.Call(func=ast.Name(id="needs" | "import_module"), args=[ast.Constant(value=str(name)), *_]):
                found.add(name)
    return found


def test_imports_never_point_forward():
    order = modules()
    assert len(set(order.values())) == len(order)
    checked = 0
    for name, place in order.items():
        for other in imports(ROOT / f"sie/{name.replace('.', '/')}.py"):
            if not other.startswith("sie.") or (name, other) == ("method.pretraining", "sie.data.storage"):
                continue  # the exception is its command line, which opens a data set by its path
            checked += 1
            assert order[other.removeprefix("sie.")] < place, f"sie.{name} imports {other}, which is defined later"
    assert checked > 50


PARTS_REQUIREMENTS = [f"{part}requirements" for part in ("", "train_", "data_", "evaluation_", "pipeline_", "hub_")]


def declared(*keys: str) -> set[str]:
    "Names of the distributions that settings.ini lists under these keys."
    return {canonicalize_name(Requirement(r).name) for key in keys for r in shlex.split(settings()[key])}


def test_requirements_are_what_the_package_imports():
    distributions = packages_distributions()
    imported = {i.split(".")[0] for path in ROOT.glob("sie/**/*.py") for i in imports(path)}
    names = imported - {"sie", *sys.stdlib_module_names}
    providers = {name: {canonicalize_name(d) for d in distributions.get(name, [name])} for name in names}
    listed, optional = declared(*PARTS_REQUIREMENTS), declared("blender_requirements") | {"tensorboard"}
    missing = [name for name, by in providers.items() if not by & (listed | optional)]
    assert not missing, "imported, but not among the requirements of settings.ini"
    unused = listed - set().union(*providers.values()) - {"ipykernel", "tabulate"}  # a stage's kernel, pandas' Markdown
    assert not unused, "among the requirements of settings.ini, but not imported"


# ---- requirements.txt


def pins() -> list[tuple[Requirement, list[str]]]:
    "What requirements.txt pins, each with its hashes."
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(" --hash=") for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(name), hashes) for name, *hashes in lines]


def test_ruff_has_nothing_to_say():
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run([BIN / "ruff", *command, "--quiet"], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_requirement_is_pinned_with_hashes():
    for requirement, hashes in pins():
        assert [s.operator for s in requirement.specifier] == ["=="] and not requirement.url, (
            f"{requirement} is not pinned"
        )
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", h) for h in hashes), f"{requirement} has no hash"


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_requirements_cover_settings(python):
    here = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }
    pinned = {
        canonicalize_name(r.name): next(iter(r.specifier)).version
        for r, _ in pins()
        if not r.marker or r.marker.evaluate(here)
    }
    wanted = [
        Requirement(r)
        for key in (*PARTS_REQUIREMENTS, "dev_requirements", "pins")
        for r in shlex.split(settings()[key])
    ]
    for requirement in wanted:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), (
            f"`make requirements`: {requirement} of settings.ini is not what requirements.txt pins"
        )


# ---- what does not belong


def unwelcome(text: str) -> list[str]:
    "Registry hosts and paths of one machine in a text."
    hosts = "|".join(["py" + "pi", "python" + "hosted", "npm" + "js"])
    return re.findall(rf"\b(?:{hosts})\.(?:org|com)\b|(?<![\w.:/~<-])/(?:work|root|home|Users)/\w[\w./-]*", text)


def test_unwelcome_text_is_noticed():
    assert (
        unwelcome("from https://" + "py" + "pi.org/simple")
        and unwelcome("open('/" + "root/x')")
        and not unwelcome("docs/root/x, https://example.org/work/x")
    )


def test_no_registry_hosts_machine_paths_or_large_files():
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        assert path.stat().st_size <= 2_500_000, f"{name} is larger than 2.5 MB"
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
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
    assert (ROOT / "LICENSE").read_text().split()[:4] == ["Apache", "License", "Version", "2.0,"]

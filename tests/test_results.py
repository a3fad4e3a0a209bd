"""The results pages (nbs/results): every number in their prose is what the committed metrics give.

tests/results/PAGE.yaml has an entry for each number of the page's prose, in the page's order: the text as printed,
and where it comes from:

    {text: "0.61", of: sie, column: rotation R² all}                     mean over the seeds
    {text: "0.31 ± 0.11", of: sie, column: MRR}                          with half of the 95 % interval
    {text: "+0.05", of: sie_matrix, minus: sie, column: MRR}             mean of the paired differences
    {text: "+0.05 [+0.05, +0.06]", of: sie_matrix, minus: sie, column: MRR}  with the 95 % interval
    {text: "4.6", of: sie_matrix, column: MRR, over: chance}             ratio of two means
    {text: "76 %", table: ignoring, of: sie, column: constant}           from tables/ignoring.csv of the run
    {text: "100", param: pretrain.epochs}                                from the run's params.yaml
    {text: "0.67", published: SIE, source: ContextSSL, column: top-1}    from sie.evaluation.statistics.PUBLISHED
    {text: "0.771", share: relative}                                     from sie.evaluation.statistics.POOLED_SHARE
    {text: "0.25", where: {method: sie, ...}, column: MRR}               from the row of comparisons/carry_over.csv
    {text: "15", stated: why it is in no committed file}

`column` is a heading of `READ_OFF`, `RETRIEVED` or `ABLATED`, of the test objects, or of the validation objects in runs
that were made with two splits.
`of` and `minus` may be lists of methods: all of them, or all pairs, must give the same text.
`run` names another run of comparisons/ than the page's, `minus_run` that of the method that is subtracted.
`claims` are statements without a number, {of, minus, column, is: higher | lower | not separated}, judged by the
95 % interval of the paired differences.
"""

import ast
import itertools
import re
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from ruamel.yaml import YAML
from scipy import stats

from sie.evaluation.statistics import ABLATED, POOLED_SHARE, PUBLISHED, READ_OFF, RETRIEVED, on_split

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "nbs/results").glob("*.ipynb"))
COLUMNS = {split: on_split(READ_OFF | RETRIEVED | ABLATED, split) for split in ("test", "val")}
NOT_PROSE = re.compile(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|95 % interval")
ONE = r"[+−-]?\d+(?:,\d{3})*(?:\.\d+)?"
NUMBER = re.compile(rf"(?<![\w.,])(?<!\w-)(?:{ONE} \[{ONE}, {ONE}\]|{ONE} ± {ONE}|{ONE}(?: %|°)?)(?![\w-])")
YAML_FILE = YAML(typ="safe")


@cache
def metrics(run: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / f"comparisons/{run}/metrics.csv")


def checks(page: Path) -> dict:
    return YAML_FILE.load((ROOT / f"tests/results/{page.stem}.yaml").read_text(encoding="utf-8"))


def prose(page: Path) -> str:
    "The text of a page without code, formulas and addresses."
    cells = nbformat.read(page, as_version=4).cells
    return NOT_PROSE.sub("", "\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))


def seeds(run: str, method: str, column: str) -> pd.Series:
    "A method's values in one column, by seed."
    reported = "test" if "test" in set(metrics(run)["split"]) else "val"
    metric, part, split = COLUMNS[reported][column]
    found = metrics(run).query("method == @method and metric == @metric and part == @part and split == @split")
    assert len(found), f"{run} has no {column} of {method}"
    return found.set_index("seed")["value"]


def each(entry: dict) -> list[dict]:
    "The entry for each of its methods, where it has lists of them."
    given = {key: entry[key] for key in ("of", "minus") if key in entry}
    given = {key: value if isinstance(value, list) else [value] for key, value in given.items()}
    return [entry | dict(zip(given, methods)) for methods in itertools.product(*given.values())]


def compared(entry: dict, run: str) -> pd.Series:
    "A method's values by seed or, with `minus`, the paired differences."
    run = entry.get("run", run)
    values = seeds(run, entry["of"], entry["column"])
    if "minus" not in entry:
        return values
    return (values - seeds(entry.get("minus_run", run), entry["minus"], entry["column"])).dropna()


def mean_and_interval(values: pd.Series) -> tuple[float, float, float]:
    if len(values) == 1:
        return values.item(), float("nan"), float("nan")
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return values.mean(), low, high


def like(text: str, value: float) -> str:
    "A value written as a text is: as many decimals, a sign where it has one, as percentage where it is one."
    number = re.match(ONE, text)[0]
    places = len(number.partition(".")[2])
    value = 100 * value if text.endswith("%") else value
    return f"{value:{'+' if number[0] in '+−-' else ''},.{places}f}{text[len(number) :]}".replace("-", "−")


def carried_over(entry: dict) -> float:
    "A value of the row of comparisons/carry_over.csv that has the values of `where`, or its ratio to another."
    rows = pd.read_csv(ROOT / "comparisons/carry_over.csv")
    for column, value in entry["where"].items():
        rows = rows[rows[column] == value]
    value = rows[entry["column"]].item()
    return value / rows[entry["over"]].item() if "over" in entry else value


def printed(entry: dict, run: str) -> str:
    "What should be printed for an entry of a page's file."
    text, run = entry["text"], entry.get("run", run)
    if "stated" in entry:
        return text
    if "where" in entry:
        return like(text, carried_over(entry))
    if "share" in entry:
        return like(text, POOLED_SHARE[entry["share"]])
    if "param" in entry:
        value = YAML_FILE.load((ROOT / f"comparisons/{run}/params.yaml").read_text(encoding="utf-8"))
        for key in entry["param"].split("."):
            value = value[key]
        return like(text, value)
    if "table" in entry:
        table = pd.read_csv(ROOT / f"comparisons/{run}/tables/{entry['table']}.csv", index_col="method")
        return like(text, table.loc[entry["of"], entry["column"]])
    if "published" in entry:
        rows = PUBLISHED[PUBLISHED["source"].str.startswith(entry["source"])]
        return rows.loc[entry["published"], entry["column"]].strip("()")
    value, low, high = mean_and_interval(compared(entry, run))
    if "over" in entry:
        value /= seeds(run, entry["over"], entry["column"]).mean()
    if "[" in text:
        first, second, third = re.findall(ONE, text)
        return f"{like(first, value)} [{like(second, low)}, {like(third, high)}]"
    if "±" in text:
        first, second = re.findall(ONE, text)
        return f"{like(first, value)} ± {like(second, high - value)}"
    return like(text, value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_number_in_the_prose_is_in_the_metrics(page):
    given = checks(page)
    listed = [entry["text"] for entry in given["numbers"]]
    assert listed == NUMBER.findall(prose(page)), f"tests/results/{page.stem}.yaml lists other numbers than the page"
    entries = [one for entry in given["numbers"] for one in each(entry)]
    expected = [printed(entry, given.get("run")) for entry in entries]
    wrong = [f"{entry}: {should}" for entry, should in zip(entries, expected) if entry["text"] != should]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_statements_without_a_number(page):
    given = checks(page)
    for claim in itertools.chain(*map(each, given.get("claims", []))):
        _, low, high = mean_and_interval(compared(claim, given.get("run")))
        found = "higher" if low > 0 else "lower" if high < 0 else "not separated"
        assert found == claim["is"], f"{claim}: {found}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_figure_table_and_prose_by_hand(page):
    cells = nbformat.read(page, as_version=4).cells
    outputs = [output.data for cell in cells for output in cell.get("outputs", [])]
    kinds = ["figure" if "image/png" in data else "table" for data in outputs]
    assert kinds == ["figure", "table"], kinds
    assert len(outputs[0]["image/png"]) * 3 / 4 < 100_000
    assert all(line.startswith("|") for line in outputs[1]["text/markdown"].splitlines())  # no sentence made by code
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    definitions = ast.FunctionDef | ast.ClassDef | ast.Lambda
    assert not [node for node in ast.walk(ast.parse(code)) if isinstance(node, definitions)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_stored_table_is_current(page, monkeypatch):
    monkeypatch.chdir(page.parent)
    cells = [cell for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == "code"]
    *before, last = ast.parse("\n".join(cell.source for cell in cells)).body
    names = {}
    with plt.rc_context({"backend": "agg"}):
        exec(compile(ast.Module(before, []), page.name, "exec"), names)
        shown = eval(compile(ast.Expression(last.value), page.name, "eval"), names)
        plt.close("all")
    assert shown.data == cells[-1].outputs[0].data["text/markdown"], f"execute {page.name} again"


def test_every_comparison_has_a_page():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for run in (path.parent for path in ROOT.glob("comparisons/*/metrics.csv")):
        assert f"../../comparisons/{run.name}/report.ipynb" in text, f"no page is about comparisons/{run.name}"

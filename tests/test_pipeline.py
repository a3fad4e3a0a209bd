"The pipeline end to end, small, in a copy of the repository: what it makes, and what a change runs again."

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from copies import BIN, change, copy_of_the_repository, environment, run
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from sie.data.storage import ViewDataset
from sie.pipeline.places import place

TINY = {
    "methods": ["sie_matrix", "sie_matrix+predictor.kind=mlp", "random"],
    "pretrain.seeds": [0, 1],
    "data.classes": ["airplane", "bowl", "chair", "mug", "sofa"],
    "data.objects_per_class": 5,
    "data.held_out": ["bowl", "mug"],
    "data.unseen_rotations": True,
    "pretrain.epochs": 6,
    "pretrain.batch_size": 8,
    "pretrain.log_every": 2,
    "evaluate.epochs": 3,
}
METHODS, STAGES = TINY["methods"], ("pretrain", "embed", "evaluate")


def to_run(repo: Path) -> set[str]:
    "Stages that `dvc repro` would run."
    result = run(repo, "dvc", "status", "dvc.yaml")
    assert result.returncode == 0, result.stderr
    return {
        line.rstrip(":") for line in result.stdout.splitlines() if line and not line[0].isspace() and line.endswith(":")
    }


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    "A copy of the repository with two small presets, which are committed."
    clone = copy_of_the_repository(tmp_path_factory.mktemp("clone") / "sie", "default")
    presets = YAML(typ="safe").load(clone / "presets.yaml")
    tiny = {**presets["smoke"], **TINY}
    fewer = {**tiny, "methods": ["sie_matrix", "random"]}  # the same runs: all but the report is in DVC's cache then
    YAML().dump({"default": {}, "tiny": tiny, "fewer": fewer}, clone / "presets.yaml")
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qam", "small"]
    assert run(clone, *commit).returncode == 0
    return clone


@pytest.fixture(scope="module")
def repo(clone) -> Path:
    "The place in which the pipeline ran."
    result = run(clone, "sie", "repro", "tiny")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return clone / "runs/tiny"


def test_every_stage_leaves_an_executed_notebook_without_errors(repo):
    notebooks = [
        repo / "results/fetch.ipynb",
        repo / "results/report.ipynb",
        *(repo / f"results/{stage}/{method}.ipynb" for stage in STAGES for method in METHODS),
    ]
    for path in notebooks:
        cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        assert all(c.execution_count for c in cells), path
        assert not any(o.output_type == "error" for c in cells for o in c.outputs), path


def test_one_tidy_table(repo):
    metrics = pd.read_csv(repo / "results/metrics.csv")
    assert list(metrics) == ["preset", "method", "seed", "part", "split", "metric", "value"]
    assert (
        set(metrics["method"]) == {*METHODS, "chance"}
        and set(metrics["preset"]) == {"tiny"}
        and metrics["value"].notna().all()
    )
    read_off = (
        metrics[metrics["metric"].isin(["top1", "rotation_r2_pooled", "colour_r2_pooled"])].groupby("method").size()
    )
    # the class of unseen classes is not predicted
    assert read_off["sie_matrix"] == read_off["random"] == 3 * (3 * 4 - 1) * 2  # parts x (metrics x splits) x seeds
    assert {"mrr", "h1", "h5", "pre"} <= set(metrics[metrics["method"] == "sie_matrix"]["metric"])
    # two methods with a predictor, two seeds, and chance
    splits = ("train", "val", "test", "unseen", "unseen_rotations")
    assert metrics[metrics["metric"] == "mrr"].groupby("split").size().to_dict() == dict.fromkeys(splits, 5)
    assert set(metrics[metrics["metric"] == "pre"]["split"]) == {*splits, "all", "test_all"}
    assert set(metrics[metrics["metric"] == "top1_1shot"]["split"]) == {"unseen"}


def test_chance_of_every_split(repo):
    metrics = pd.read_csv(repo / "results/metrics.csv").query("method == 'chance' and part in ('all', 'equivariant')")
    chance = metrics.set_index(["split", "metric", "part"])["value"]
    dataset = ViewDataset(repo / "data/views")
    train = np.bincount(dataset.labels[dataset.split("train")])
    for split in ("val", "test"):  # always the class that is most frequent in training
        expected = (dataset.labels[dataset.split(split)] == train.argmax()).mean()
        assert abs(chance[split, "top1", "all"] - expected) < 1e-6
    for split in ("train", "val", "test", "unseen", "unseen_rotations"):
        assert abs(chance[split, "mrr", "equivariant"] - sum(1 / r for r in range(1, 7)) / 6) < 1e-6
    assert chance["unseen", "top1_1shot", "all"] == 0.5 and ("unseen", "top1", "all") not in chance  # two classes


def test_the_test_sets_beyond_the_data(repo):
    data, turned = ViewDataset(repo / "data/views"), ViewDataset(repo / "data/further/unseen_rotations")
    assert {data.classes[k] for k in data.labels[data.split("unseen")]} == {"bowl", "mug"}
    test = data.split("test")
    assert turned.object_ids.tolist() == data.object_ids[test].tolist() and len(turned.split("test")) == len(test)
    assert (abs(turned.latents[..., [0, 2]]) >= np.pi / 2 - 1e-6).all()
    assert (abs(turned.latents[..., 1]) <= np.pi / 2 + 1e-6).all()
    report = (repo / "results/report.ipynb").read_text()
    assert "### unseen" in report and "### unseen_rotations" in report
    tables = {path.name for path in (repo / "results/tables").iterdir()}
    assert {"unseen.tex", "unseen_rotations.tex"} <= tables


def test_the_command_above_a_table_makes_this_run(repo, tmp_path):
    "It names everything in which the run differs from a fresh clone's."
    texts = [
        o["data"]["text/markdown"]
        for c in nbformat.read(repo / "results/report.ipynb", 4).cells
        if c.cell_type == "code"
        for o in c.outputs
        if "text/markdown" in o.get("data", {})
    ]
    (command,) = re.findall("`dvc exp run (.*)`", "\n".join(texts))
    params = Path(shutil.copy(repo.parents[1] / "params.yaml", tmp_path))
    flags, settings = shlex.split(command)[::2], shlex.split(command)[1::2]
    apply_overrides(params, settings)
    made, given = (YAML(typ="safe").load(p) for p in (params, repo / "params.yaml"))
    assert set(flags) == {"-S"} and made.pop("preset") == "default" and made.pop("methods") == METHODS[:2]
    assert made == {k: v for k, v in given.items() if k not in ("preset", "methods")}


def test_dvc_shows_metrics_and_plots(repo):
    shown = run(repo, "dvc", "metrics", "show", "--md").stdout
    assert all(f"results/evaluate/{m}.json" in shown for m in METHODS) and "rotation_r2_pooled" in shown
    plots = run(repo, "dvc", "plots", "show", "-o", "plots")
    assert plots.returncode == 0, plots.stderr
    page = (repo / "plots/index.html").read_text()
    assert "sie_matrix" in page and "vega" in page


def test_a_second_run_does_nothing_in_seconds(repo):
    started = time.perf_counter()
    result = run(repo, "dvc", "repro")
    assert result.returncode == 0 and "Running stage" not in result.stdout, result.stdout
    assert "up to date" in result.stdout
    assert time.perf_counter() - started < 30  # 10 s on a quiet machine; tests run beside other tests


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("pretrain.lr", 0.01, {"pretrain", "embed", "evaluate", "report"}),
        ("evaluate.epochs", 4, {"evaluate", "report"}),
        ("data.seed", 5, {"fetch", "pretrain", "embed", "evaluate", "report"}),
    ],
)
def test_a_change_runs_what_depends_on_it(repo, key, value, stages):
    before = (repo / "params.yaml").read_text()
    try:
        change(repo, **{key: value})
        changed = {name.partition("@")[0] for name in to_run(repo)}
    finally:
        (repo / "params.yaml").write_text(before)
    first = {"pretrain.lr": "pretrain", "evaluate.epochs": "evaluate", "data.seed": "fetch"}[key]
    assert first in changed and changed <= stages  # what follows shows as changed once its input has changed
    assert not to_run(repo)


def test_a_mistake_stops_before_anything_is_computed(repo):
    before = (repo / "params.yaml").read_text()
    try:
        change(repo, **{"pretrain.lr": "fast"})
        result = run(repo, "dvc", "repro")
    finally:
        (repo / "params.yaml").write_text(before)
    assert result.returncode != 0 and "pretrain.lr: given 'fast'" in result.stdout + result.stderr


def test_presets_leave_no_debris_and_share_what_they_have_in_common(clone, repo):
    before = (repo / "results/metrics.csv").read_bytes()
    started = time.perf_counter()
    other = run(clone, "sie", "repro", "fewer")
    assert other.returncode == 0, other.stdout[-3000:] + other.stderr[-3000:]
    ran = set(re.findall("Running stage '(.*)'", other.stdout))
    assert ran == {"report"}, other.stdout
    assert (clone / "runs/fewer/models/sie_matrix/seed-0/model.safetensors").exists()
    started = time.perf_counter()
    back = run(clone, "sie", "repro", "tiny")
    assert back.returncode == 0 and "Running stage" not in back.stdout, back.stdout
    assert time.perf_counter() - started < 30
    assert (repo / "results/metrics.csv").read_bytes() == before
    assert run(clone, "git", "status", "--porcelain").stdout == ""
    kept = run(clone, "sie", "keep", "fewer")
    assert kept.returncode == 0 and (clone / "comparisons/fewer/metrics.csv").exists(), kept.stderr


def test_the_command_evaluates_a_model_as_the_pipeline_does(clone, repo):
    model, data = "runs/tiny/models/sie_matrix/seed-0", "runs/tiny/data/views"
    result = run(clone, "sie", "evaluate", model, data, "--epochs", "2", "--out", "runs/table.csv")
    assert result.returncode == 0, result.stderr
    key = ["part", "split", "metric"]
    found = pd.read_csv(clone / "runs/table.csv").set_index(key)["value"]
    metrics = pd.read_csv(repo / "results/metrics.csv").query("method == 'sie_matrix' and seed == 0")
    expected = metrics.set_index(key)["value"]
    key = {k for k in expected.index if k[1] != "unseen_rotations"}
    for split in ("val", "test"):
        mrr = ("equivariant", split, "mrr")  # no head is trained for it
        assert abs(found[mrr] - expected[mrr]) < 1e-5 and set(found.index) == key
    assert "test objects:" in result.stdout


def test_the_command_fits_heads_on_one_data_set_and_scores_them_on_another(clone, repo):
    model, data = "runs/tiny/models/sie_matrix/seed-0", "runs/tiny/data/views"
    turned = "runs/tiny/data/further/unseen_rotations"
    result = run(clone, "sie", "evaluate", model, turned, "--fit", data, "--epochs", "3", "--out", "runs/table.csv")
    assert result.returncode == 0, result.stderr
    found = pd.read_csv(clone / "runs/table.csv")
    assert set(found["split"]) == {"test"}
    found = found.set_index(["part", "metric"])["value"]
    metrics = pd.read_csv(repo / "results/metrics.csv").query("method == 'sie_matrix' and seed == 0")
    expected = metrics[metrics["split"] == "unseen_rotations"].set_index(["part", "metric"])["value"]
    assert set(found.index) == set(expected.index)
    assert abs(found["equivariant", "mrr"] - expected["equivariant", "mrr"]) < 1e-5
    alone = run(clone, "sie", "evaluate", model, turned)
    assert (
        alone.returncode and "no training objects to fit heads on" in alone.stderr and "Traceback" not in alone.stderr
    )


def test_a_log_of_a_run_says_how_far_it_is(clone):
    "Once a minute in a log; here at once, as the stage is asked to."
    folder = place("tiny", clone)
    code = (
        "import sys, time, json, os\n"
        "from sie.pipeline.stage import shown_progress\n"
        "with shown_progress('pretrain sie', sys.stdout, every=0, poll=.01) as file:\n"
        "    from sie.method.system import progress\n"
        "    for _ in progress(range(3), 'training'): time.sleep(1.1)\n"
    )
    result = run(folder, sys.executable, "-c", code)
    assert result.returncode == 0 and "pretrain sie: training 1 of 3" in result.stdout, result.stdout + result.stderr


def test_a_search_tries_the_same_values_for_all_methods_and_goes_on_where_it_stopped(clone, repo):
    search = ("sie", "tune", "vicreg", "sie_matrix", "--preset", "tiny", "--epochs", "8", "--trials")
    first = run(clone, *search, "2")
    assert first.returncode == 0, first.stderr
    before = (clone / "tuning/trials.csv").read_text()
    result = run(clone, *search, "3")
    assert result.returncode == 0, result.stderr
    assert (clone / "tuning/trials.csv").read_text().startswith(before) and before.count("\n") == 1 + 4
    trials = pd.read_csv(clone / "tuning/trials.csv", keep_default_na=False)
    assert trials.groupby("method").size().to_dict() == {"sie_matrix": 3, "vicreg": 3}
    assert ((trials["top1"] + trials["rotation_r2_pooled"]) / 2 - trials["score"]).abs().max() < 2e-4
    changes = trials.groupby("method")["changes"].apply(list)
    assert changes["vicreg"][0] == changes["sie_matrix"][0] == ""
    for few, more in zip(changes["vicreg"][1:], changes["sie_matrix"][1:]):
        assert few.startswith("lr=") and more.startswith(few + "+equivariance_weight=")
    best = trials.loc[trials.groupby("method")["score"].idxmax()]
    for method, changed in zip(best["method"], best["changes"]):
        assert not changed or f"- {method}+{changed}\n" in result.stdout


def test_an_interrupted_run_says_how_to_go_on(clone, repo):
    presets = YAML(typ="safe").load(clone / "presets.yaml")
    presets["tiny"]["pretrain.epochs"] = 4000
    YAML().dump(presets, clone / "presets.yaml")
    command = subprocess.Popen(
        [BIN / "sie", "repro", "tiny"],
        cwd=clone,
        env=environment(clone),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    while not list((repo / "checkpoints").glob("*.safetensors")):
        assert command.poll() is None
        time.sleep(0.1)
    os.killpg(command.pid, signal.SIGINT)
    try:
        said, _ = command.communicate(timeout=60)
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
    assert command.returncode == 130 and "Traceback" not in said, said
    assert said.rstrip().splitlines()[-1].startswith("Stopped. `make repro PRESET=tiny` goes on"), said
    assert "ERROR" not in said, said

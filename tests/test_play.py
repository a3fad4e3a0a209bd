"The figure of a training: a small one is recorded, and its slider is moved in Chromium."

import json
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sie.data.rendering import procedural_objects, render_dataset
from sie.pipeline.params import write_preset

pytest.importorskip("websocket")
from browser import CHROMIUM, Browser  # noqa: E402

ROOT = Path(__file__).parents[1]
PLAY = ROOT / "docs/play"
CHANGES = {
    "methods": ["sie", "sie_matrix"],
    "data.classes": ["airplane", "car"],
    "data.objects_per_class": 12,
    "data.views": 4,
    "data.size": 32,
    "data.crop": None,
    "pretrain.seeds": [0],
    "pretrain.encoder": "small",
    "pretrain.widths": [32, 32, 32],
    "pretrain.optimiser": "adamw",
    "pretrain.lr": 3.0e-3,
    "pretrain.epochs": 12,
    "pretrain.views": 2,
    "pretrain.batch_size": 4,
    "pretrain.warmup": 2,
    "pretrain.probe_views": 40,
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> dict:
    "What record.py finds out about what train.py made."
    run = tmp_path_factory.mktemp("small") / "run"
    YAML().dump({"small": CHANGES}, run.parent / "presets.yaml")
    params = write_preset("small", ROOT / "params.yaml", run.parent / "presets.yaml", run / "params.yaml")
    objects = procedural_objects(params.data.objects_per_class, params.data.chosen)
    fractions = {"val_fraction": params.data.val_fraction, "test_fraction": params.data.test_fraction}
    render_dataset(run / "data/views", objects, params.renderer, views=params.data.views, workers=0, **fractions)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLAY))
        import record
        import train

        patch.chdir(run.parent)
        train.main("run")
        patch.chdir(run.parent)
        return json.loads(json.dumps(record.training(run / "motion", record.pictures("car", "z", params.data))))


def test_a_training_is_recorded_at_every_point(recorded):
    for method in ("sie", "sie_matrix"):
        own = recorded[method]
        points = len(own["step"])
        assert points > 30 and own["step"] == sorted(own["step"])
        assert {len(own[name]) for name in ("loss", "invariance", "equivariance", "r2", "explained", "planes")} == {
            points
        }
        assert own["loss"][-1] < own["loss"][0]
        assert own["planes"][0] != own["planes"][-1]


@pytest.fixture
def page(recorded, tmp_path) -> Browser:
    "The figure alone, without the rest of the site."
    if not CHROMIUM:
        pytest.skip("needs chromium")
    for file in PLAY.glob("*.*"):
        if file.suffix in (".js", ".css"):
            shutil.copy(file, tmp_path)
    (tmp_path / "steering").mkdir()  # where the page finds ../steering, as the folder is the top of the server
    shutil.copy(ROOT / "sie/static/steering.js", tmp_path / "steering")
    (tmp_path / "training.json").write_text(json.dumps(recorded))
    text = (PLAY / "predictor.md").read_text(encoding="utf-8")
    figure = re.search(r'<div id="training".*?\n</div>\n', text, re.S)[0]
    script = '<script type="module" src="predictor.js"></script>'
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{figure}{script}", encoding="utf-8")
    browser = Browser(tmp_path)
    browser.open("page.html")
    yield browser
    browser.close()


READY = """new Promise(done => { const look = () =>
    document.getElementById("training").dataset.ready ? done(true) : setTimeout(look, 50); look(); })"""
SHOWN = """(k => {
    const slider = document.getElementById("step");
    if (k !== null) { slider.value = k; slider.dispatchEvent(new Event("input")); }
    const values = [...document.querySelectorAll("td")].map(cell => [cell.id, Number(cell.dataset.value)]);
    return {...Object.fromEntries(values), step: slider.nextElementSibling.textContent, k: Number(slider.value),
        marker: document.querySelector("#curve-loss .now").getAttribute("d"),
        ellipse: document.querySelector("#trained-sie .prediction").getAttribute("d")};
})"""


def test_the_slider_goes_through_the_training(page, recorded):
    assert page.run(READY)
    steps = recorded["sie"]["step"]
    last = page.run(f"{SHOWN}(null)")
    assert last["k"] == len(steps) - 1  # it begins with the trained models
    first, middle = page.run(f"[0, {len(steps) // 2}].map({SHOWN})")
    for shown in (first, middle, last):
        k = shown["k"]
        assert int(shown["step"]) == steps[k]
        for method in ("sie", "sie_matrix"):
            for name in ("loss", "invariance", "equivariance", "r2", "explained"):
                assert shown[f"{name}-{method}"] == recorded[method][name][k], (name, method, k)
    assert first["loss-sie"] > last["loss-sie"]
    assert len({shown["marker"] for shown in (first, middle, last)}) == 3
    assert first["ellipse"] != last["ellipse"]
    ticks = page.run("[...document.querySelectorAll('#curve-loss .tick')].map(tick => tick.textContent)")
    assert len(ticks) > 3 and ticks.count("0") == 2  # of both axes

    page.run("document.getElementById('step').focus()")
    page.press("Home", 36)
    page.press("ArrowRight", 39)
    assert page.run(f"{SHOWN}(null)")["k"] == 1
    page.run("document.getElementById('play').click()")
    moved = """new Promise(done => { const look = () =>
        Number(document.getElementById("step").value) > 2 ? done(true) : setTimeout(look, 50); look(); })"""
    assert page.run(moved)

"""Steering: what page and widget compute is what the library computes, and both can be used by everybody."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch.nn.functional import normalize

from sie.evaluation.analysis import plane
from sie.evaluation.retrieval import retrieval
from sie.evaluation.steering import (
    STATIC,
    Candidates,
    described,
    directions,
    embedded,
    find_turned,
    in_directions,
    predictions,
    restored,
    sheet,
    steer,
    write_page,
)
from sie.method.methods import METHODS, Model
from sie.method.pretraining import ImageFormat, Settings
from sie.method.rotations import FORMS, sample_latents, sample_translations, transformation
from sie.method.weights import SIE

websocket = pytest.importorskip("websocket")
from browser import CHROMIUM, Browser  # noqa: E402

VIEWS = 40
PREDICTORS = {  # name of a model on the page -> method, and options of its predictor
    "matrix": ("sie_matrix", {}),
    "quaternion": ("sie", {}),
    "rotcolor": ("sie_rotcolor", {}),
    "deep": ("sie_matrix", {"depth": 2, "bias": True}),
    "hidden": ("sie", {"hidden": [20], "hidden_bias": True}),
    "linear_hidden": ("sie", {"hidden": [20], "relu": False}),
    "mlp": ("sie_matrix", {"kind": "mlp"}),
}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="steering.css">
</head><body><div id="root"><p>Without JavaScript, a picture stands here.</p></div>
<script type="module">
import * as module from "./steering.js";
window.module = module;
window.ready = module.load(document.getElementById("root"), "FOLDER/");
window.ready.catch(() => {});
</script></body></html>"""


def untrained(method: str, options: dict, seed: int) -> SIE:
    "A model with random weights, whose embeddings differ between pictures."
    torch.manual_seed(seed)
    made = replace(METHODS[method], predictor=options.get("kind", "hypernetwork"))
    options = {name: value for name, value in options.items() if name != "kind"}
    model = Model(made, "small", widths=(48, 48, 48), predictor=options)
    for weights in model.predictor.parameters():
        torch.nn.init.normal_(weights, std=0.2)  # biases too
    return SIE(model, Settings(method, encoder="small"), ImageFormat(32, 32, (0.5,) * 3, (0.2,) * 3))


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    "Coarse random patterns under random rotations, of objects that are also moved."
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (3, VIEWS, 3, 4, 4), dtype=np.uint8))
    latents = sample_latents(3 * VIEWS, rng).reshape(3, VIEWS, 7)
    moved = sample_translations(3 * VIEWS, rng, {"translation_x": (-0.5, 0.5)}).reshape(3, VIEWS, 3)
    pictures = coarse.repeat_interleave(16, -1).repeat_interleave(16, -2)
    return Candidates(["one", "two", "three"], torch.from_numpy(np.concatenate([latents, moved], -1)), pictures)


@pytest.fixture(scope="module")
def models() -> dict[str, SIE]:
    return {name: untrained(*made, seed) for seed, (name, made) in enumerate(PREDICTORS.items())}


@pytest.fixture(scope="module")
def folder(candidates, models, tmp_path_factory):
    "A page with all models, and one whose data is missing."
    folder = tmp_path_factory.mktemp("page")
    for name in ("steering.js", "steering.css"):
        shutil.copy(STATIC / name, folder)
    sheets = {f"{k}.webp": sheet(shown) for k, shown in enumerate(candidates.pictures.permute(0, 1, 3, 4, 2).numpy())}
    write_page(folder / "data", models, candidates, sheets)
    (folder / "index.html").write_text(PAGE.replace("FOLDER", "data"), encoding="utf-8")
    (folder / "broken.html").write_text(PAGE.replace("FOLDER", "nowhere"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser(folder):
    if not CHROMIUM:
        pytest.skip("needs chromium")
    browser = Browser(folder)
    yield browser
    browser.close()


@pytest.fixture
def page(browser):
    browser.open("index.html")
    browser.run("ready.then(() => true)")
    return browser


# ---- numbers


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_transformation_is_the_librarys(page, candidates, form, colour):
    first = candidates.latents[0].double()
    second = torch.cat([first.roll(1, 0)[:, :3], first[:, 3:]], 1)
    pairs = [[*start[:3].tolist(), *end[:3].tolist(), *start[7:].tolist()] for start, end in zip(first, second)]
    found = page.run(
        f"""{json.dumps(pairs)}.map(n => module.transformation("{form}", {json.dumps(colour)},
        module.quaternion(n.slice(0, 3)), module.quaternion(n.slice(3, 6)), n.slice(6)))"""
    )
    expected = transformation(first, second, form, colour)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=0, atol=1e-9)


def searched(page, model: int, object: int, start: int, asked: list[float], by: str) -> dict:
    return page.run(
        f"""(() => {{ const s = root.steering.steering, m = s.models[{model}];
        const r = s.search(m, {object}, {start}, {json.dumps(asked)}, "{by}");
        return {{...r, similarities: [...r.similarities], place: m.inPlane({object}, r.prediction)}}; }})()"""
    )


@pytest.mark.parametrize("name", PREDICTORS)
def test_the_page_finds_what_the_library_finds(page, candidates, models, folder, name):
    number, model = list(PREDICTORS).index(name), models[name]
    packed = (folder / f"data/{name}.safetensors").read_bytes()
    error = described(packed, "model")["error"]
    assert 0 < error < 0.03
    z = embedded(model, candidates)
    for object, start, asked in [(0, 0, [0.5, -0.2, 1.0]), (2, 3, [-1.5, 1.1, 0.1]), (1, 7, [0.0, 0.0, 0.0])]:
        for by in ("model", "identity"):
            found = searched(page, number, object, start, asked, by)
            expected = find_turned(
                model, z[object], candidates.latents[object], start, torch.tensor(asked), by == "model"
            )
            assert found["true"] == expected.true
            assert found["possible"] == pytest.approx(expected.possible, abs=1e-2)
            assert found["turn"] == pytest.approx(expected.turn, abs=1e-2)
            off = abs(torch.tensor(found["similarities"]) - expected.similarities).max()
            assert off < 2 * error, f"{name}: a cosine is off by {off:.4f}, and {error:.4f} is stated"
            right = expected.similarities[expected.true]
            surely = (expected.similarities > right + 4 * error).sum()
            perhaps = (expected.similarities > right - 4 * error).sum()
            assert 1 + surely <= found["rank"] <= perhaps
            first = expected.similarities[found["order"][0]]
            assert first >= expected.similarities.max() - 4 * error
            assert found["error"] == pytest.approx(found["distances"][found["order"][0]])


@pytest.mark.parametrize("name", PREDICTORS)
def test_nothing_but_storage_sets_page_and_library_apart(page, candidates, models, folder, name):
    "With the stored numbers in the library's own predictor, the cosines are the page's to the last digits."
    number, model = list(PREDICTORS).index(name), models[name]
    tensors = restored(load((folder / f"data/{name}.safetensors").read_bytes()))
    few, latents = tensors["z"][1], candidates.latents[1]
    z = embedded(model, candidates)
    predicted = predictions(model.model.predictor, model.model.method, z, candidates.latents)
    basis = directions(torch.stack([z[:, None].expand_as(predicted), predicted]))
    small = in_directions(model.model.predictor, basis)
    weights = {key.removeprefix("predictor."): value for key, value in tensors.items() if key.startswith("predictor.")}
    small.load_state_dict(weights)
    asked = [0.3, -0.9, 1.2]
    wanted = latents[2].clone()
    wanted[:3] = torch.tensor(asked)
    g = transformation(latents[2], wanted, model.model.method.form, model.model.method.colour)
    with torch.no_grad():
        predicted = normalize(small(few[None, 2], g[None]), dim=-1)[0]
    found = searched(page, number, 1, 2, asked, "model")
    expected = normalize(few, dim=-1) @ predicted
    torch.testing.assert_close(torch.tensor(found["similarities"]), expected, rtol=0, atol=1e-5)

    whole = plane(normalize(z[1], dim=-1))
    place = torch.tensor(found["place"]).abs()  # the sign of a component is arbitrary
    expected = whole.project(normalize(basis @ predicted, dim=-1)).abs()
    torch.testing.assert_close(place, expected, rtol=0, atol=1e-3)


def test_the_table_is_the_librarys_mrr(page, candidates, models):
    z, latents = embedded(models["matrix"], candidates)[0], candidates.latents[0]
    start = latents[:1].expand_as(latents)
    wanted = torch.cat([latents[:, :3], start[:, 3:]], 1)
    with torch.no_grad():
        predicted = models["matrix"].model.predictor(z[:1].expand_as(z), transformation(start, wanted, "matrix"))
    expected = retrieval(normalize(predicted, dim=-1)[None], z[None])["mrr"]
    rows = dict(page.run("root.steering.summaries.map(([name, , row]) => [name, row.mrr])"))
    assert rows["matrix"] == pytest.approx(expected, abs=0.03)
    assert rows["chance"] == pytest.approx(np.mean(1 / np.arange(1, VIEWS + 1)))
    assert set(rows) == {*PREDICTORS, "identity", "chance"}
    shown = page.run("[...root.querySelectorAll('.st-table tbody tr')].map(row => row.children[1].textContent)")
    assert [float(text) for text in shown] == pytest.approx(list(rows.values()), abs=0.00501)


def test_identity_finds_the_start_and_chance_is_fair(page):
    page.run("root.querySelector('.st-by input[value=identity]').click()")
    shown = page.run(
        "({order: root.steering.result.order, turn: root.steering.result.turn, e: root.steering.result.error})"
    )
    assert shown["order"][0] == 0 and shown["e"] == pytest.approx(shown["turn"], abs=1e-6)
    page.run("root.querySelector('.st-by input[value=chance]').click()")
    ranks = page.run(
        f"""Array.from({{length: {VIEWS}}}, (_, v) => v).flatMap(v => [0, 1, 2, 3, 4, 5, 6, 7].map(start => {{
        const s = root.steering.steering;
        return s.search(s.models[0], 0, start, s.angles(0, v), "chance").rank; }}))"""
    )
    assert np.mean(ranks) == pytest.approx((VIEWS + 1) / 2, abs=2.5)
    assert min(ranks) == 1 and max(ranks) == VIEWS


# ---- use


def test_it_can_be_used_with_keys_alone(page):
    assert page.run("root.steering.object") == 0
    page.press("Tab", 9)
    page.press("ArrowRight", 39)
    assert page.run("root.steering.object") == 1
    page.press("Tab", 9)
    page.press("ArrowRight", 39)
    assert page.run("root.steering.start") == 1
    page.press("Tab", 9)
    page.press("ArrowRight", 39)
    assert page.run("root.steering.by") == 1
    page.press("Tab", 9)
    before = page.run("root.steering.asked")
    page.press("ArrowLeft", 37)
    page.press("ArrowLeft", 37)
    after = page.run("new Promise(done => requestAnimationFrame(() => setTimeout(() => done(root.steering.asked))))")
    assert np.rad2deg(np.subtract(after, before)) == pytest.approx([-2, 0, 0], abs=1)
    assert page.run("document.activeElement.type") == "range"
    said = page.run("new Promise(done => setTimeout(() => done(root.querySelector('[role=status]').textContent), 900))")
    assert "quaternion: the true view has rank" in said


def test_dragging_turns_as_the_hand_moves(page):
    page.run("root.steering.asked = [0, 0, 0]; root.steering.update(); root.querySelector('.st-drag').scrollIntoView()")
    box = page.run("(b => [b.left, b.top, b.width, b.height])(root.querySelector('.st-drag').getBoundingClientRect())")
    x, y, width = box[0] + box[2] / 2, box[1] + box[3] / 2, box[2]
    page.drag((x, y), (x + width / 4, y))
    angles = np.rad2deg(page.run("root.steering.asked"))
    assert angles == pytest.approx([0, 0, 30], abs=1)  # to the right: the front turns to the right, about z
    page.run("root.steering.asked = [0, 0, 0]; root.steering.update()")
    page.drag((x, y), (x, y + width / 4))
    assert np.rad2deg(page.run("root.steering.asked")) == pytest.approx(
        [-30, 0, 0], abs=1
    )  # down: the top comes nearer
    page.drag((x, y), (x - 3 * width, y))
    assert np.abs(np.rad2deg(page.run("root.steering.asked"))).max() <= 90


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(browser, width):
    browser.open("index.html", width)
    browser.run("ready.then(() => true)")
    inner, scrolled = browser.run("[innerWidth, document.scrollingElement.scrollWidth]")
    assert inner == width and scrolled <= width
    beyond = browser.run(
        """[...root.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > innerWidth + 1
        && !e.closest(".st-sentence")).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert not beyond


def test_a_step_takes_less_than_a_frame(page):
    "Thirty frames a second leave 33 ms for each; the median of many steps is not what another program takes."
    times = page.run(
        """Array.from({length: 60}, (_, k) => { root.steering.asked = [k / 60, -k / 60, 1 - k / 40];
        const begin = performance.now(); root.steering.update(); document.body.offsetHeight;
        return performance.now() - begin; })"""
    )
    assert np.median(times) < 33, f"{np.median(times):.0f} ms"


def test_without_javascript_the_text_stays(browser):
    browser("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open("index.html")
        html = browser("DOM.getOuterHTML", nodeId=browser("DOM.getDocument")["root"]["nodeId"])["outerHTML"]
    finally:
        browser("Emulation.setScriptExecutionDisabled", value=False)
    assert "a picture stands here" in html and "st-stage" not in html


def test_without_its_data_the_text_stays_and_the_error_names_the_file(browser):
    browser.open("broken.html")
    message = browser.run("ready.then(() => 'loaded', error => error.message)")
    assert message == "nowhere/views.safetensors: 404"
    assert browser.run("root.textContent.includes('a picture stands here')")


# ---- the widget


def test_the_widget_gives_the_module_what_it_needs(browser, models, candidates):
    pytest.importorskip("anywidget")
    widget = steer({name: models[name] for name in ("matrix", "quaternion")}, candidates).widget()
    state = {"views": widget.views, "models": widget.models, "sheets": widget.sheets}
    browser.open("index.html")
    browser.run("ready.then(() => true)")
    # as Jupyter hands them over: views of longer buffers, at any offset
    given = json.dumps(state, default=lambda content: "bytes:" + content.hex())
    browser.run(
        f"""globalThis.el = document.createElement("div"); document.body.append(el);
        globalThis.state = JSON.parse({json.dumps(given)}, (key, value) => {{
          if (typeof value !== "string" || !value.startsWith("bytes:")) return value;
          const bytes = Uint8Array.from(value.slice(6).match(/../g), two => parseInt(two, 16));
          const longer = new Uint8Array(bytes.length + 8);
          longer.set(bytes, 5);
          return new DataView(longer.buffer, 5, bytes.length);
        }});
        globalThis.close = module.default.render({{model: {{get: name => state[name]}}, el}}); 1"""
    )
    assert browser.run("el.steering.steering.models.map(model => model.name)") == ["matrix", "quaternion"]
    asked = [0.4, 0.1, -0.7]
    z = embedded(models["quaternion"], candidates)[1]
    expected = find_turned(models["quaternion"], z, candidates.latents[1], 2, torch.tensor(asked))
    found = browser.run(f"(s => [...s.search(s.models[1], 1, 2, {asked}).similarities])(el.steering.steering)")
    error = described(widget.models[1], "model")["error"]
    assert abs(torch.tensor(found) - expected.similarities).max() < 2 * error
    loaded = """new Promise(done => { const image = new Image(); image.onload = () => done(image.naturalWidth);
        image.onerror = () => done(0); image.src = el.steering.sheets[2]; })"""
    assert browser.run(loaded) == 7 * 64  # seven columns of views
    browser.run("close(); 1")


def test_a_stored_widget_is_a_picture(models, candidates, monkeypatch):
    pytest.importorskip("anywidget")
    steered = steer(models["matrix"], candidates)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    shown = steered._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/jpeg", "text/plain"} <= set(shown)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    stored = steered._repr_mimebundle_()
    assert set(stored) == {"image/jpeg", "text/plain"} and len(stored["image/jpeg"]) < 60_000

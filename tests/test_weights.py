"Models carried away in a folder, folders of images, and the authors' checkpoints: whole or refused, by name."
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from sie.dataset import ProceduralRenderer, ViewDataset, normalise, procedural_objects, render_dataset
from sie.encoders import make_encoder
from sie.evaluation import embed, predict_views
from sie.pretraining import Settings, load_model, new_model, pretrain
from sie.rotations import transformation
from sie.weights import RELEASE_IMAGES, SIE, Images, load_release, load_release_backbone, save_release, save_release_backbone


# ---- a model of the pipeline, carried away

@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ViewDataset:
    return render_dataset(tmp_path_factory.mktemp("data") / "views", procedural_objects(6, ["02691156", "02958343"]), ProceduralRenderer(size=33, samples=4), views=4, workers=0)


@pytest.fixture(scope="module")
def models(tmp_path_factory, dataset) -> Path:
    "As the pipeline's stage leaves them."
    folder = tmp_path_factory.mktemp("run")
    small = dict(encoder="small", widths=(32, 32, 32), equivariant=40, epochs=3, batch_size=8, crop=28, precision="32-true", probe_views=0)
    for method in ("sie_matrix", "vicreg"): pretrain(dataset, Settings(method, **small), folder / f"models/{method}/seed-0")
    return folder / "models"


def test_embeds_as_the_evaluation_does(models, dataset):
    model, (plain, settings, images) = SIE.from_pretrained(models / "sie_matrix/seed-0"), load_model(models / "sie_matrix/seed-0")
    assert images == model.images and tuple(images.mean) == tuple(dataset.mean)
    e = embed(plain, dataset, images, settings.crop)
    objects, views = np.arange(len(dataset)).repeat(4), np.tile(np.arange(4), len(dataset))
    pixels = dataset.decode(objects, views)
    h = model.embed(pixels)
    assert not model.training and model.size == (33, 33) and torch.equal(h, e.representations.flatten(0, 1))     # the batch is the same, so every bit is
    torch.testing.assert_close(model.embed(pixels.double() / 255), h, rtol=1e-4, atol=1e-5)
    assert model.split(h, "equivariant").shape == (48, 40) and torch.equal(model.split(h, "invariant"), h[:, :56])
    g = transformation(e.latents[:, :1].expand_as(e.latents), e.latents, "matrix").flatten(0, 1)
    predicted = F.normalize(model.predict(e.representations[:, :1].expand_as(e.representations).flatten(0, 1), g), dim=-1)
    torch.testing.assert_close(predicted, predict_views(e, torch.arange(len(dataset)), plain.predictor, "matrix").flatten(0, 1))
    torch.testing.assert_close(model.project(h), e.embeddings.flatten(0, 1))


def test_another_data_set_is_normalised_as_the_one_trained_on(models, tmp_path):
    "Its own mean and deviation must not matter."
    renderer = ProceduralRenderer(size=33, samples=4)
    dark = {"light_hue": (0, .1), "floor_hue": (.5, .6)}
    other = render_dataset(tmp_path / "other", procedural_objects(3, ["03001627"]), renderer, views=2, ranges=dark, workers=0)
    plain, settings, images = load_model(models / "sie_matrix/seed-0")
    assert max(abs(a - b) for a, b in zip(other.mean, images.mean)) > .02       # or the test would not tell them apart
    e = embed(plain, other, images, settings.crop)
    pixels = other.decode([0, 1, 2], [0, 0, 1]).double()[:, :, 2:30, 2:30] / 255     # the central 28 of 33
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (images.mean, images.std))
    with torch.no_grad():
        expected = plain.encoder(((pixels - mean) / std).float())
    torch.testing.assert_close(e.representations[[0, 1, 2], [0, 0, 1]], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="33 x 33 pixels, but the model was trained on 32 x 33"):
        embed(plain, other, replace(images, height=32), settings.crop)


def test_floats_are_left_alone_and_the_seed_too(models, dataset):
    torch.manual_seed(5); expected = torch.rand(3)
    torch.manual_seed(5); model = SIE.from_pretrained(models / "sie_matrix/seed-0")
    assert torch.equal(torch.rand(3), expected)
    images = (dataset.decode([0, 1], [0, 0]) / 255).to(memory_format=torch.channels_last)
    before = images.clone()
    model.embed(images)
    assert torch.equal(images, before)


def test_round_trip(models, tmp_path):
    for method in ("sie_matrix", "vicreg"):
        model = SIE.from_pretrained(models / method / "seed-0")
        for _ in range(2): model.save_pretrained(tmp_path / method)                     # the second replaces the first
        assert {p.name: p.read_bytes() for p in (tmp_path / method).iterdir()} == {p.name: p.read_bytes() for p in (models / method / "seed-0").iterdir()}
        again = SIE.from_pretrained(tmp_path / method)
        assert again.settings == model.settings and again.images == model.images
        assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in model.model.state_dict().items())


def test_save_never_removes_what_is_not_a_model(models, tmp_path):
    model = SIE.from_pretrained(models / "vicreg/seed-0")
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="holds thesis.tex"): model.save_pretrained(tmp_path)
    with pytest.raises(FileExistsError, match="thesis.tex is a file"): model.save_pretrained(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_model_cannot_be_asked(models):
    model = SIE.from_pretrained(models / "vicreg/seed-0")
    with pytest.raises(ValueError, match="vicreg has no predictor"): model.predict(torch.zeros(1, 96), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="vicreg has no equivariant"): model.project(torch.zeros(1, 96))
    for images, message in ((torch.zeros(3, 33, 33, dtype=torch.uint8), r"\(3, 33, 33\), not \(batch, 3, 33, 33\)"), (torch.zeros(1, 3, 28, 28), "28, 28"), (torch.zeros(1, 3, 33, 33, dtype=torch.int64), "int64"),
                            (torch.full((1, 3, 33, 33), 1.01), "from 1.01 to 1.01"), (torch.full((1, 3, 33, 33), -.1), "uint8, or floats"), (torch.full((1, 3, 33, 33), torch.nan), "nan")):
        with pytest.raises(ValueError, match=message): model.embed(images)


BAD_FOLDERS = YAML(typ="safe").load(Path(__file__).with_name("bad_inputs") / "weights.yaml")
BECOME = {  # a good tensor -> a bad one
    "nan": lambda v: with_first(v, torch.nan),
    "inf": lambda v: with_first(v, torch.inf),
    "-inf": lambda v: with_first(v, -torch.inf),
    "huge": lambda v: with_first(v.double(), 1e300),
    "negative": lambda v: with_first(v, -1),
    "transposed": lambda v: v.T.contiguous(),
    "flat": lambda v: v.flatten(),
    "unexpected": lambda v: torch.zeros(2, 2),
    "missing": lambda v: None,
}


def with_first(tensor: torch.Tensor, value: float) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[0] = value
    return changed


def spoil(folder: Path, fault: dict) -> None:
    "Change a model's folder as a row of the table says."
    if tensor := fault.get("tensor"):
        tensors = load_file(folder / "model.safetensors")
        become = BECOME.get(fault["become"]) or (lambda v: v.to(getattr(torch, fault["become"])))
        tensors[tensor] = become(tensors.get(tensor))
        save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")
        return
    path = folder / fault["file"]
    if "text" in fault: path.write_text(fault["text"])
    elif "cut" in fault: path.write_bytes(path.read_bytes()[:-fault["cut"]])
    elif "set" in fault: path.write_text(json.dumps(json.loads(path.read_text()) | fault["set"]))
    elif "drop" in fault: path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != fault["drop"]}))
    else: path.unlink()


@pytest.mark.parametrize("fault", BAD_FOLDERS, ids=lambda fault: fault["name"])
def test_damaged_folders_are_refused(models, tmp_path, fault):
    folder = tmp_path / "seed-0"
    shutil.copytree(models / "sie_matrix/seed-0", folder)
    spoil(folder, fault)
    kind = FileNotFoundError if "does not exist" in fault["says"] else ValueError
    for load in (load_model, SIE.from_pretrained):
        with pytest.raises(kind, match=f"(?s){folder.name}/.*{fault['says']}"): load(folder)


def test_settings_left_out_take_their_defaults_and_other_precisions_are_read(models, tmp_path):
    folder = tmp_path / "seed-0"
    shutil.copytree(models / "vicreg/seed-0", folder)
    values = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({k: v for k, v in values.items() if k not in ("lr", "conditioning")}))
    tensors = load_file(folder / "model.safetensors")
    halved = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in tensors.items()}
    save_file(halved, folder / "model.safetensors")
    model, settings, _ = load_model(folder)
    assert settings.lr == 1e-3
    assert all(torch.equal(v, halved[k].to(v.dtype)) for k, v in model.state_dict().items())


# ---- a folder of images

README = """
import torch
from sie.weights import SIE, Images

model = SIE.from_pretrained("models/sie_matrix/seed-0")
images = Images("photos", model.size)
h = torch.cat([model.embed(batch) for batch in torch.utils.data.DataLoader(images, batch_size=64)])
"""


def test_the_five_lines(models, dataset, tmp_path):
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "photos/more").mkdir(parents=True)
    for view in range(3): (tmp_path / f"photos/{view}.jpg").write_bytes(dataset.jpeg(0, view))
    Image.fromarray(dataset.decode([1], [2])[0].permute(1, 2, 0).numpy()).save(tmp_path / "photos/more/lossless.PNG")
    (tmp_path / "photos/notes.txt").write_text("not an image")
    subprocess.run([sys.executable, "-c", README + "from safetensors.torch import save_file; save_file({'h': h}, 'h.safetensors')"], cwd=tmp_path, check=True)
    plain, settings, images = load_model(models / "sie_matrix/seed-0")
    e = embed(plain, dataset, images, settings.crop)
    torch.testing.assert_close(load_file(tmp_path / "h.safetensors")["h"], torch.cat([e.representations[0, :3], e.representations[1, 2:3]]), rtol=1e-4, atol=1e-4)


def test_images_of_any_size_and_kind(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(Images(tmp_path, (40, 60))[0].permute(1, 2, 0), pixels)                  # of the size: untouched
    flat = np.zeros((40, 120, 3), np.uint8); flat[:, 40:80] = (200, 100, 50)                       # only the middle third is coloured
    Image.fromarray(flat).save(tmp_path / "b.png")
    middle = Images(tmp_path, (20, 20))[1]
    assert middle.shape == (3, 20, 20) and middle.dtype == torch.uint8 and (middle[:, :, 2:-2] == torch.tensor([200, 100, 50])[:, None, None]).all()
    board = np.indices((256, 256)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "c.png")                               # grey, and finer than the small image: averaged, not sampled
    assert (Images(tmp_path, (32, 32))[2].int() - 128).abs().max() < 8
    opaque = np.dstack([pixels, np.full((40, 60), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "d.png")
    assert np.array_equal(Images(tmp_path, (40, 60))[3].permute(1, 2, 0), pixels)
    turned = Image.fromarray(pixels); exif = turned.getexif(); exif[0x0112] = 3                    # a camera held upside down
    turned.save(tmp_path / "e.png", exif=exif)
    assert np.array_equal(Images(tmp_path, (40, 60))[4].permute(1, 2, 0), pixels[::-1, ::-1])
    assert [p.name for p in Images(tmp_path, (1, 1)).files] == ["a.png", "b.png", "c.png", "d.png", "e.png"]


def test_images_that_are_none(tmp_path, dataset):
    with pytest.raises(FileNotFoundError, match="there are no images in .*empty"): Images(tmp_path / "empty", (8, 8))
    jpeg = bytes(dataset.jpeg(0, 0))
    def refused(name, write, message):
        (folder := tmp_path / name).mkdir()
        write(folder / name)
        with pytest.raises(ValueError, match=f"{name} {message}"): list(torch.utils.data.DataLoader(Images(folder, (33, 33)), batch_size=2))
    refused("half.jpg", lambda p: p.write_bytes(jpeg[:len(jpeg) // 2]), "is not a whole image")
    refused("empty.png", lambda p: p.write_bytes(b""), "is not a whole image")
    refused("text.jpeg", lambda p: p.write_text("<html>not found</html>"), "is not a whole image")
    def half_png(p): Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(p); p.write_bytes(p.read_bytes()[:2000])
    refused("half.png", half_png, "is not a whole image")
    refused("deep.png", lambda p: Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(p), "has more than 8 bits")
    refused("clear.png", lambda p: Image.fromarray(np.full((9, 9, 4), 254, np.uint8)).save(p), "is transparent")
    refused("palette.gif", lambda p: Image.fromarray(np.zeros((9, 9), np.uint8), "L").convert("P").save(p, transparency=0), "is transparent")


# ---- the authors' checkpoints

def norm(name: str, n: int, draw) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": 1 + .2 * draw(n), f"{name}.bias": .2 * draw(n), f"{name}.running_mean": .2 * draw(n), f"{name}.running_var": draw(n).square() + .5, f"{name}.num_batches_tracked": torch.tensor(9)}


def authors_state(widths=(24, 20, 28), halves=(256, 256), g=4, bias=False, seed=0) -> dict[str, torch.Tensor]:
    "A whole model under the authors' names, of random numbers; `widths` of a projector on a half."
    rng, state = torch.Generator().manual_seed(seed), {}
    draw = lambda *shape: torch.randn(*shape, generator=rng)
    kernel = lambda o, i, k: draw(o, i, k, k) * (2 / (i * k * k)) ** .5
    state |= {"module.backbone.conv1.weight": kernel(64, 3, 7)} | norm("module.backbone.bn1", 64, draw)
    for stage, (i, o) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
        for block in (0, 1):
            name = f"module.backbone.layer{stage}.{block}"
            state |= {f"{name}.conv1.weight": kernel(o, o if block else i, 3)} | norm(f"{name}.bn1", o, draw)
            state |= {f"{name}.conv2.weight": kernel(o, o, 3)} | norm(f"{name}.bn2", o, draw)
            if not block: state |= {f"{name}.downsample.0.weight": kernel(o, i, 1)} | norm(f"{name}.downsample.1", o, draw)
    for head, inputs, share in (("inv", halves[0], halves[0] / 256), ("equi", halves[1], halves[1] / 256)):
        a, b, c = (round(w * share) for w in widths)
        name = f"module.projector_{head}"
        state |= {f"{name}.0.weight": draw(a, inputs) / 16, f"{name}.0.bias": draw(a)} | norm(f"{name}.1", a, draw)
        state |= {f"{name}.3.weight": draw(b, a) / 4, f"{name}.3.bias": draw(b)} | norm(f"{name}.4", b, draw)
        state[f"{name}.6.weight"] = draw(c, b) / 4
    state["module.predictor.hypernet.net.0.weight"] = draw(c * c, g)
    if bias: state["module.predictor.hypernet.net.0.bias"] = draw(c * c)
    return state


def described_norm(x, state, name): return F.batch_norm(x, *(state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))


def described_backbone(x: torch.Tensor, state: dict[str, torch.Tensor], prefix: str = "module.backbone.") -> torch.Tensor:
    "The network as it is described, from the raw tensors."
    weight, bn = lambda name: state[f"{prefix}{name}.weight"], lambda x, name: described_norm(x, state, prefix + name)
    x = F.conv2d(F.pad(x, (2, 3, 2, 3)), weight("conv1"), stride=2)                                 # left, right, top, bottom
    x = F.max_pool2d(F.pad(bn(x, "bn1").relu(), (0, 1, 0, 1), value=-1e4), 3, 2)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name, halves = f"layer{stage}.{block}", stage > 1 and not block
            y = bn(F.conv2d(x, weight(f"{name}.conv1"), padding=1), f"{name}.bn1").relu()
            if halves: y = F.conv2d(F.pad(y, (0, 1, 0, 1)), weight(f"{name}.conv2"), stride=2)
            else: y = F.conv2d(y, weight(f"{name}.conv2"), padding=1)
            y = bn(y, f"{name}.bn2")
            if not block: x = bn(F.conv2d(x, weight(f"{name}.downsample.0"), stride=2 if halves else 1), f"{name}.downsample.1")
            x = (y + x).relu()
    return x.mean((2, 3))


def described_projector(x, state, head):
    name = f"module.projector_{head}"
    for k in (0, 3): x = described_norm(F.linear(x, state[f"{name}.{k}.weight"], state[f"{name}.{k}.bias"]), state, f"{name}.{k + 1}").relu()
    return F.linear(x, state[f"{name}.6.weight"])


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("release") / "model.pth"
    torch.save(authors_state(), path)
    return path


@pytest.mark.parametrize("made", [{}, {"g": 6}, {"bias": True}, {"g": 6, "bias": True, "halves": (384, 128)}], ids=str)
@torch.no_grad()
def test_the_described_network(tmp_path, made):
    state = authors_state(**made)
    torch.save(state, tmp_path / "model.pth")
    model, account = load_release(tmp_path / "model.pth")
    assert sorted(account["theirs"]) == sorted(state) and set(account["ours"]) == set(model.model.state_dict())
    assert all(a == tuple(state[k].shape) for k, a in zip(account["theirs"], account["their shape"]))
    equivariant, entries = made.get("halves", (256, 256))[1], made.get("g", 4)
    assert model.split.equivariant == equivariant and model.settings.method == ("sie_rotcolor" if entries == 6 else "sie") and model.size == (256, 256)
    pixels = torch.randint(0, 256, (3, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = described_backbone((pixels / 255 - torch.tensor((.5016, .5037, .5060))[:, None, None]) / torch.tensor((.1030, .0999, .0969))[:, None, None], state)
    torch.testing.assert_close(model.embed(pixels), expected, rtol=1e-3, atol=1e-4)
    assert expected.std(0).mean() > .01                                                              # not all the same by construction
    u, z = described_projector(expected[:, :-equivariant], state, "inv"), described_projector(expected[:, -equivariant:], state, "equi")
    torch.testing.assert_close(model.model.embed("invariant", expected), u, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.project(expected), z, rtol=1e-3, atol=1e-4)
    g = torch.randn(3, entries)
    D, H = z.shape[1], "module.predictor.hypernet.net.0."
    W = F.linear(g, state[H + "weight"], state.get(H + "bias")).view(3, D, D)
    torch.testing.assert_close(model.predict(expected, g), torch.bmm(W, z[..., None])[..., 0], rtol=1e-3, atol=1e-3)

    save_release(model, tmp_path / "back.pth")                                                       # to the bit
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert set(back) == set(state) and all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in state.items())
    model.save_pretrained(tmp_path / "carried")
    assert torch.equal(SIE.from_pretrained(tmp_path / "carried").embed(pixels), model.embed(pixels))
    assert not list(tmp_path.glob("*.tmp"))


REFERENCE = np.load(Path(__file__).with_name("resnet18_release.npz"))   # what the authors' network gives for the weights and images below


def formula_weights(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    "The weights for which the reference holds the authors' outputs: a sine of entry k of the i-th name."
    weights = {}
    for i, (name, value) in enumerate(sorted(encoder.state_dict().items()), 1):
        sine = np.sin(.37 * np.arange(value.numel()) + 1.3 * i).reshape(value.shape)
        if name.endswith("num_batches_tracked"): made = np.zeros(value.shape, np.int64)
        elif name.endswith("running_var"): made = 1 + .5 * sine
        elif name.endswith("running_mean"): made = .2 * sine
        elif value.ndim == 4: made = sine * (2 / np.prod(value.shape[1:])) ** .5
        elif name.endswith("weight"): made = 1 + .3 * sine
        else: made = .3 * sine
        weights[name] = torch.from_numpy(made)
    return weights


def formula_images(key: str) -> torch.Tensor:
    "The images of an array of the reference, whose name ends in their shape."
    shape = [int(n) for n in key.split("_")[1].split("x")]
    return torch.from_numpy(1.5 * np.sin(.11 * np.arange(np.prod(shape)))).reshape(shape)


@pytest.mark.parametrize("key", REFERENCE.files)
@torch.no_grad()
def test_the_encoder_is_the_authors_network(key):
    "Evaluation and training mode, square and oblong images, to 1e-8 in float64."
    encoder = make_encoder("resnet18_release").double()
    encoder.load_state_dict(formula_weights(encoder))
    encoder.train(key.startswith("train"))
    np.testing.assert_allclose(encoder(formula_images(key)), REFERENCE[key], rtol=0, atol=1e-8)


@pytest.mark.parametrize("key", [key for key in REFERENCE.files if key.startswith("eval")])
def test_so_is_the_network_of_these_tests(key):
    weights = formula_weights(make_encoder("resnet18_release"))
    np.testing.assert_allclose(described_backbone(formula_images(key), weights, ""), REFERENCE[key], rtol=0, atol=1e-8)


@torch.no_grad()
def test_sizes_that_the_authors_network_takes():
    "Those for which convolution and shortcut of every block halve the map alike; found with the blocks themselves."
    encoder = make_encoder("resnet18_release").eval()
    for side in (*range(28, 40), 60, 63, 68, 95, 96, 99, 100):
        stem = (side - 2) // 2 + 1
        maps = [(stem - 2) // 2 + 1]
        for _ in range(3): maps.append((maps[-1] + 1 - 3) // 2 + 1)
        fits = maps[-1] > 0 and all(after == (before - 1) // 2 + 1 for before, after in zip(maps, maps[1:]))
        if fits: assert encoder(torch.zeros(1, 3, side, 64)).shape == (1, 512)
        else:
            with pytest.raises(ValueError, match=f"{side} x 64 pixels; each must be a multiple of 32"): encoder(torch.zeros(1, 3, side, 64))


@torch.no_grad()
def test_the_backbone_alone(release, tmp_path):
    state = {k.removeprefix("module.backbone."): v for k, v in torch.load(release, weights_only=True).items() if k.startswith("module.backbone.")}
    torch.save(state, tmp_path / "final_weights.pth")
    encoder, account = load_release_backbone(tmp_path / "final_weights.pth")
    assert list(account["theirs"]) == list(account["ours"]) and set(account["ours"]) == set(state) and not encoder.training
    x = normalise(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), RELEASE_IMAGES.mean, RELEASE_IMAGES.std)
    torch.testing.assert_close(encoder(x), described_backbone(x, state, ""), rtol=1e-3, atol=1e-4)
    save_release_backbone(encoder, tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert set(back) == set(state) and all(torch.equal(back[k], state[k]) for k in state)
    with pytest.raises(ValueError, match="(?s)missing: conv1.weight.*unexpected: .*module.backbone.conv1.weight"): load_release_backbone(release)
    with pytest.raises(ValueError, match="(?s)missing: module.backbone.conv1.weight.*unexpected: conv1.weight"): load_release(tmp_path / "final_weights.pth")


def test_training_checkpoints_and_parts_left_out(release, tmp_path):
    state = torch.load(release, weights_only=True)
    torch.save({"epoch": 3, "model": {**state, "module.online.weight": torch.zeros(2, 2)}, "optimizer": {"state": {0: {"step": torch.tensor(3.)}}}}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match="1 unexpected: module.online.weight"): load_release(tmp_path / "m.pth")
    _, account = load_release(tmp_path / "m.pth", leave_out=["module.online."])
    assert list(account["theirs"][account["ours"].isna()]) == ["module.online.weight", "epoch", "optimizer"] and len(account) == len(state) + 3
    with pytest.raises(ValueError, match="1 missing: module.backbone.bn1.bias"):                      # leaving out never excuses what is missing
        torch.save({k: v for k, v in state.items() if k != "module.backbone.bn1.bias"}, tmp_path / "m.pth"); load_release(tmp_path / "m.pth", leave_out=["module."])


MISFITS = {  # change of the state -> what the message must say
    "missing": (lambda s: s.pop("module.backbone.layer1.0.downsample.0.weight"), "1 missing: module.backbone.layer1.0.downsample.0.weight"),
    "missing twice": (lambda s: (s.pop("module.backbone.bn1.weight"), s.pop("module.projector_equi.6.weight")), "missing: module.backbone.bn1.weight; .*module.projector_equi.6.weight"),
    "no hypernetwork": (lambda s: s.pop("module.predictor.hypernet.net.0.weight"), "1 missing: module.predictor.hypernet.net.0.weight"),
    "unexpected": (lambda s: s.update({"module.backbone.fc.weight": torch.zeros(2, 2)}), "1 unexpected: module.backbone.fc.weight"),
    "a deeper projector": (lambda s: s.update({"module.projector_inv.9.weight": torch.zeros(2, 2)}), "1 unexpected: module.projector_inv.9.weight"),
    "a deep hypernetwork": (lambda s: s.update({"module.predictor.hypernet.net.2.weight": torch.zeros(4, 4)}), "1 unexpected: module.predictor.hypernet.net.2.weight"),
    "shape": (lambda s: s.update({"module.backbone.conv1.weight": torch.zeros(64, 3, 3, 3)}), r"conv1.weight is \(64, 3, 3, 3\) float32, not \(64, 3, 7, 7\) float32"),
    "shape of one value": (lambda s: s.update({"module.projector_inv.0.bias": torch.zeros(1)}), r"module.projector_inv.0.bias is \(1,\)"),
    "transposed": (lambda s: s.update({"module.predictor.hypernet.net.0.weight": s["module.predictor.hypernet.net.0.weight"].T}), r"net.0.weight is \(4, 784\)"),
    "five numbers": (lambda s: s.update({"module.predictor.hypernet.net.0.weight": torch.zeros(784, 5)}), r"net.0.weight is \(784, 5\) float32, not \(784, 4\)"),
    "too many inputs": (lambda s: s.update({"module.projector_equi.0.weight": torch.zeros(24, 512)}), r"projector_equi.0.weight is \(24, 512\)"),
    "type": (lambda s: s.update({"module.backbone.bn1.bias": torch.zeros(64, dtype=torch.float16)}), "bn1.bias is .* float16, not .* float32"),
    "no tensor": (lambda s: s.update({"module.backbone.bn1.bias": [0.] * 64}), "'module.backbone.bn1.bias' is a list"),
}


@pytest.mark.parametrize("fault", MISFITS)
def test_misfits_are_errors(release, tmp_path, fault):
    change, message = MISFITS[fault]
    state = torch.load(release, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=f"(?s)m.pth.*{message}"): load_release(tmp_path / "m.pth")


class Payload:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_of_something_else(release, tmp_path):
    def refused(write, message):
        write(path := tmp_path / "m.pth")
        for load in (load_release, load_release_backbone):
            with pytest.raises(ValueError, match=f"m.pth.*{message}"): load(path)
    whole = release.read_bytes()
    for keep in (0, 5, len(whole) // 2, len(whole) - 1): refused(lambda p: p.write_bytes(whole[:keep]), "truncated, damaged or no file of weights")
    refused(lambda p: p.write_text("<html>not found</html>"), "no file of weights")
    refused(lambda p: torch.save([torch.zeros(1)], p), "holds a list")
    refused(lambda p: torch.save(torch.zeros(1), p), "holds a Tensor")
    refused(lambda p: torch.save({1: torch.zeros(1)}, p), "1 is a Tensor; it must be a mapping")
    for old in (False, True):
        refused(lambda p: torch.save({"module.x": torch.zeros(1), "module.y": Payload(tmp_path / "ran")}, p, _use_new_zipfile_serialization=not old), "is refused: reading it would call")
    refused(lambda p: torch.save(torch.nn.Linear(2, 2), p), "is refused: reading it would call torch.nn.modules.linear.Linear")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "m.pth", weights_only=False); torch.save(Payload(tmp_path / "ran"), tmp_path / "p.pth"); torch.load(tmp_path / "p.pth", weights_only=False)
    assert (tmp_path / "ran").exists()                                                                # the payload does run where it may
    with pytest.raises(FileNotFoundError, match="nowhere.pth does not exist"): load_release(tmp_path / "nowhere.pth")


def test_models_that_theirs_cannot_hold(tmp_path):
    def refused(message, method="sie", encoder="resnet18_release", **options):
        settings = Settings(method, encoder=encoder, widths=(16, 16, 16), **options)
        with pytest.raises(ValueError, match=message): save_release(SIE(new_model(settings), settings, RELEASE_IMAGES), tmp_path / "m.pth")
    refused("layer1.0.downsample", encoder="resnet18")
    refused("layer1.0.downsample", encoder="small")
    refused("vicreg has other projectors", method="vicreg")
    refused("sie_matrix|as matrix", method="sie_matrix")
    refused("as euler", conditioning="euler")
    refused("not a hypernetwork of one", predictor={"kind": "mlp"})
    for options in ({"depth": 2}, {"hidden": [8]}, {"hidden_bias": True}): refused("not a hypernetwork of one", predictor=options)
    with pytest.raises(ValueError, match="layer1.0.downsample"): save_release_backbone(new_model(Settings(encoder="resnet18", widths=(16, 16, 16))).encoder, tmp_path / "m.pth")
    assert not list(tmp_path.iterdir())


def test_our_own_model_goes_out_and_comes_back(dataset, tmp_path):
    "Trained here, exported, imported: the same embeddings and predictions."
    settings = Settings("sie", encoder="resnet18_release", widths=(16, 16, 16), predictor={"init": "scaled", "bias": True}, epochs=1, batch_size=4, precision="32-true", probe_views=0)
    pretrain(dataset, settings, tmp_path / "models/sie")
    ours = SIE.from_pretrained(tmp_path / "models/sie")
    save_release(ours, tmp_path / "model.pth")
    theirs, _ = load_release(tmp_path / "model.pth")
    assert all(torch.equal(v, theirs.model.state_dict()[k]) for k, v in ours.model.state_dict().items())
    h, g = torch.randn(3, 512), torch.randn(3, 4)
    assert torch.equal(theirs.predict(h, g), ours.predict(h, g)) and theirs.settings.widths == [16, 16, 16]

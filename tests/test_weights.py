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

from sie.data.rendering import ProceduralRenderer, procedural_objects, render_dataset
from sie.data.storage import ViewDataset
from sie.evaluation.probes import embed
from sie.evaluation.retrieval import predict_views
from sie.method.encoders import make_encoder
from sie.method.pairs import normalise
from sie.method.pretraining import Settings, load_model, new_model, pretrain
from sie.method.rotations import transformation
from sie.method.weights import (
    RELEASE_IMAGES,
    SIE,
    Images,
    load_release,
    load_release_backbone,
    save_release,
    save_release_backbone,
)

# ---- a model of the pipeline, carried away


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ViewDataset:
    return render_dataset(
        tmp_path_factory.mktemp("data") / "views",
        procedural_objects(6, ["02691156", "02958343"]),
        ProceduralRenderer(size=33, samples=4),
        views=4,
        workers=0,
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory, dataset) -> Path:
    "As the pipeline's stage leaves them."
    folder = tmp_path_factory.mktemp("run")
    small = dict(
        encoder="small",
        widths=(32, 32, 32),
        equivariant=40,
        epochs=3,
        batch_size=8,
        crop=28,
        precision="32-true",
        probe_views=0,
    )
    for method in ("sie_matrix", "vicreg"):
        pretrain(dataset, Settings(method, **small), folder / f"models/{method}/seed-0")
    return folder / "models"


def test_embeds_as_the_evaluation_does(models, dataset):
    model, (plain, settings, images) = (
        SIE.from_pretrained(models / "sie_matrix/seed-0"),
        load_model(models / "sie_matrix/seed-0"),
    )
    assert images == model.images and tuple(images.mean) == tuple(dataset.mean)
    e = embed(plain, dataset, images, settings.crop)
    objects, views = np.arange(len(dataset)).repeat(4), np.tile(np.arange(4), len(dataset))
    pixels = dataset.decode(objects, views)
    h = model.embed(pixels)
    assert (
        not model.training and model.size == (33, 33) and torch.equal(h, e.representations.flatten(0, 1))
    )  # the batch is the same, so every bit is
    torch.testing.assert_close(model.embed(pixels.double() / 255), h, rtol=1e-4, atol=1e-5)
    assert model.split(h, "equivariant").shape == (48, 40) and torch.equal(model.split(h, "invariant"), h[:, :56])
    g = transformation(e.latents[:, :1].expand_as(e.latents), e.latents, "matrix").flatten(0, 1)
    predicted = F.normalize(
        model.predict(e.representations[:, :1].expand_as(e.representations).flatten(0, 1), g), dim=-1
    )
    torch.testing.assert_close(
        predicted, predict_views(e, torch.arange(len(dataset)), plain.predictor, "matrix").flatten(0, 1)
    )
    torch.testing.assert_close(model.project(h), e.embeddings.flatten(0, 1))


def test_another_data_set_is_normalised_as_the_one_trained_on(models, tmp_path):
    "Its own mean and deviation must not matter."
    renderer = ProceduralRenderer(size=33, samples=4)
    dark = {"light_hue": (0, 0.1), "floor_hue": (0.5, 0.6)}
    other = render_dataset(
        tmp_path / "other", procedural_objects(3, ["03001627"]), renderer, views=2, ranges=dark, workers=0
    )
    plain, settings, images = load_model(models / "sie_matrix/seed-0")
    assert max(abs(a - b) for a, b in zip(other.mean, images.mean)) > 0.02  # or the test would not tell them apart
    e = embed(plain, other, images, settings.crop)
    pixels = other.decode([0, 1, 2], [0, 0, 1]).double()[:, :, 2:30, 2:30] / 255  # the central 28 of 33
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (images.mean, images.std))
    with torch.no_grad():
        expected = plain.encoder(((pixels - mean) / std).float())
    torch.testing.assert_close(e.representations[[0, 1, 2], [0, 0, 1]], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="33 x 33 pixels, but the model was trained on 32 x 33"):
        embed(plain, other, replace(images, height=32), settings.crop)


def test_floats_are_left_alone_and_the_seed_too(models, dataset):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = SIE.from_pretrained(models / "sie_matrix/seed-0")
    assert torch.equal(torch.rand(3), expected)
    images = (dataset.decode([0, 1], [0, 0]) / 255).to(memory_format=torch.channels_last)
    before = images.clone()
    model.embed(images)
    assert torch.equal(images, before)


def test_round_trip(models, tmp_path):
    for method in ("sie_matrix", "vicreg"):
        model = SIE.from_pretrained(models / method / "seed-0")
        for _ in range(2):
            model.save_pretrained(tmp_path / method)  # the second replaces the first
        saved = {p.name: p.read_bytes() for p in (tmp_path / method).iterdir()}
        assert saved.pop("README.md").decode().startswith("---\nlibrary_name: sie\n")
        assert saved == {p.name: p.read_bytes() for p in (models / method / "seed-0").iterdir()}
        again = SIE.from_pretrained(tmp_path / method)
        assert again.settings == model.settings and again.images == model.images
        assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in model.model.state_dict().items())


def test_save_never_removes_what_is_not_a_model(models, tmp_path):
    model = SIE.from_pretrained(models / "vicreg/seed-0")
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="holds thesis.tex"):
        model.save_pretrained(tmp_path)
    with pytest.raises(FileExistsError, match="thesis.tex is a file"):
        model.save_pretrained(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_model_cannot_be_asked(models):
    model = SIE.from_pretrained(models / "vicreg/seed-0")
    with pytest.raises(ValueError, match="vicreg has no predictor"):
        model.predict(torch.zeros(1, 96), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="vicreg has no equivariant"):
        model.project(torch.zeros(1, 96))
    for images, message in (
        (torch.zeros(3, 33, 33, dtype=torch.uint8), r"\(3, 33, 33\), not \(batch, 3, 33, 33\)"),
        (torch.zeros(1, 3, 28, 28), "28, 28"),
        (torch.zeros(1, 3, 33, 33, dtype=torch.int64), "int64"),
        (torch.full((1, 3, 33, 33), 1.01), "from 1.01 to 1.01"),
        (torch.full((1, 3, 33, 33), -0.1), "uint8, or floats"),
        (torch.full((1, 3, 33, 33), torch.nan), "nan"),
    ):
        with pytest.raises(ValueError, match=message):
            model.embed(images)


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
    if "part" in fault:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        changed = config[fault["part"]] if fault["part"] else config
        changed |= fault.get("set", {})
        changed.pop(fault.get("drop"), None)
        path.write_text(json.dumps(config))
        return
    path = folder / fault["file"]
    if "text" in fault:
        path.write_text(fault["text"])
    elif "cut" in fault:
        path.write_bytes(path.read_bytes()[: -fault["cut"]])
    else:
        path.unlink()


@pytest.mark.parametrize("fault", BAD_FOLDERS, ids=lambda fault: fault["name"])
def test_damaged_folders_are_refused(models, tmp_path, fault):
    folder = tmp_path / "seed-0"
    shutil.copytree(models / "sie_matrix/seed-0", folder)
    spoil(folder, fault)
    kind = FileNotFoundError if "does not exist" in fault["says"] else ValueError
    for load in (load_model, SIE.from_pretrained):
        with pytest.raises(kind, match=f"(?s){folder.name}/.*{fault['says']}"):
            load(folder)


def test_settings_left_out_take_their_defaults_and_other_precisions_are_read(models, tmp_path):
    folder = tmp_path / "seed-0"
    shutil.copytree(models / "vicreg/seed-0", folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("lr", "conditioning"):
        del config["settings"][key]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    halved = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in tensors.items()}
    save_file(halved, folder / "model.safetensors")
    model, settings, _ = load_model(folder)
    assert settings.lr == 1e-3
    assert all(torch.equal(v, halved[k].to(v.dtype)) for k, v in model.state_dict().items())


# ---- a folder of images

README = """
import torch
from sie.method.weights import Images, SIE

model = SIE.from_pretrained("models/sie_matrix/seed-0")
images = Images("photos", model.size)
h = torch.cat([model.embed(batch) for batch in torch.utils.data.DataLoader(images, batch_size=64)])
"""


def test_the_five_lines(models, dataset, tmp_path):
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "photos/more").mkdir(parents=True)
    for view in range(3):
        (tmp_path / f"photos/{view}.jpg").write_bytes(dataset.jpeg(0, view))
    Image.fromarray(dataset.decode([1], [2])[0].permute(1, 2, 0).numpy()).save(tmp_path / "photos/more/lossless.PNG")
    (tmp_path / "photos/notes.txt").write_text("not an image")
    subprocess.run(
        [
            sys.executable,
            "-c",
            README + "from safetensors.torch import save_file; save_file({'h': h}, 'h.safetensors')",
        ],
        cwd=tmp_path,
        check=True,
    )
    plain, settings, images = load_model(models / "sie_matrix/seed-0")
    e = embed(plain, dataset, images, settings.crop)
    torch.testing.assert_close(
        load_file(tmp_path / "h.safetensors")["h"],
        torch.cat([e.representations[0, :3], e.representations[1, 2:3]]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_images_of_any_size_and_kind(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(Images(tmp_path, (40, 60))[0].permute(1, 2, 0), pixels)  # of the size: untouched
    flat = np.zeros((40, 120, 3), np.uint8)
    flat[:, 40:80] = (200, 100, 50)  # only the middle third is coloured
    Image.fromarray(flat).save(tmp_path / "b.png")
    middle = Images(tmp_path, (20, 20))[1]
    assert (
        middle.shape == (3, 20, 20)
        and middle.dtype == torch.uint8
        and (middle[:, :, 2:-2] == torch.tensor([200, 100, 50])[:, None, None]).all()
    )
    board = np.indices((256, 256)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(
        tmp_path / "c.png"
    )  # grey, and finer than the small image: averaged, not sampled
    assert (Images(tmp_path, (32, 32))[2].int() - 128).abs().max() < 8
    opaque = np.dstack([pixels, np.full((40, 60), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "d.png")
    assert np.array_equal(Images(tmp_path, (40, 60))[3].permute(1, 2, 0), pixels)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 3  # a camera held upside down
    turned.save(tmp_path / "e.png", exif=exif)
    assert np.array_equal(Images(tmp_path, (40, 60))[4].permute(1, 2, 0), pixels[::-1, ::-1])
    assert [p.name for p in Images(tmp_path, (1, 1)).files] == ["a.png", "b.png", "c.png", "d.png", "e.png"]


def test_images_that_are_none(tmp_path, dataset):
    with pytest.raises(FileNotFoundError, match="there are no images in .*empty"):
        Images(tmp_path / "empty", (8, 8))
    jpeg = bytes(dataset.jpeg(0, 0))

    def refused(name, write, message):
        (folder := tmp_path / name).mkdir()
        write(folder / name)
        with pytest.raises(ValueError, match=f"{name} {message}"):
            list(torch.utils.data.DataLoader(Images(folder, (33, 33)), batch_size=2))

    refused("half.jpg", lambda p: p.write_bytes(jpeg[: len(jpeg) // 2]), "is not a whole image")
    refused("empty.png", lambda p: p.write_bytes(b""), "is not a whole image")
    refused("text.jpeg", lambda p: p.write_text("<html>not found</html>"), "is not a whole image")

    def half_png(p):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(p)
        p.write_bytes(p.read_bytes()[:2000])

    refused("half.png", half_png, "is not a whole image")
    refused("deep.png", lambda p: Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(p), "has more than 8 bits")
    refused("clear.png", lambda p: Image.fromarray(np.full((9, 9, 4), 254, np.uint8)).save(p), "is transparent")
    refused(
        "palette.gif",
        lambda p: Image.fromarray(np.zeros((9, 9), np.uint8), "L").convert("P").save(p, transparency=0),
        "is transparent",
    )


# ---- the authors' checkpoints


def norm(name: str, n: int, draw) -> dict[str, torch.Tensor]:
    return {
        f"{name}.weight": 1 + 0.2 * draw(n),
        f"{name}.bias": 0.2 * draw(n),
        f"{name}.running_mean": 0.2 * draw(n),
        f"{name}.running_var": draw(n).square() + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(9),
    }


# the authors' methods: heads with the share of the representation that each sees, entries of g, the method here
SPLIT, WHOLE, ONE, EQUIVARIANT = (
    {"projector_inv": 0.5, "projector_equi": 0.5},
    {"projector_inv": 1, "projector_equi": 1},
    {"projector": 1},
    {"projector_equi": 1},
)
AUTHORS = {
    "SIE": (SPLIT, 4, "sie"),
    "SIENoVar": (SPLIT, 4, "sie_no_var"),
    "SIERotColor": (SPLIT, 6, "sie_rotcolor"),
    "SIEOnlyEqui": (EQUIVARIANT, 4, "equi_only"),
    "VICReg": (ONE, 4, "vicreg"),
    "VICRegPartInv": (ONE, 4, "vicreg_part_inv"),
    "VICRegEquiMod": (WHOLE, 4, "vicreg_equimod"),
    "SimCLR": (ONE, 4, "simclr"),
    "SimCLRAugSelf": (ONE, 4, "simclr_augself"),
    "SimCLRAugSelfRotColor": (ONE, 6, "simclr_augself_rotcolor"),
    "SimCLREquiMod": (WHOLE, 4, "simclr_equimod"),
    "SimCLREquiModRotColor": (WHOLE, 6, "simclr_equimod_rotcolor"),
    "SimCLROnlyEqui": (EQUIVARIANT, 4, "simclr_equi_only"),
    "SimCLROnlyEquiRotColor": (EQUIVARIANT, 6, "simclr_equi_only_rotcolor"),
}
PARAMS = {  # the defaults that their program writes beside a checkpoint, without paths and the like
    "arch": "resnet18",
    "equi": 256,
    "experience": "SIE",
    "hypernetwork": "linear",
    "mlp": "48-40-56",
    "predictor": "",
    "pred_size_in": 10,
    "predictor_relu": False,
    "predictor_type": "hypernetwork",
    "bias_pred": False,
    "bias_hypernet": False,
    "simclr_temp": 0.1,
    "ec_weight": 1,
    "tf_num_layers": 1,
    "epochs": 2000,
    "batch_size": 1024,
    "base_lr": 1e-3,
    "wd": 1e-6,
    "resolution": 256,
    "sim_coeff": 10.0,
    "equi_factor": 0.45,
    "std_coeff": 10.0,
    "cov_coeff": 1.0,
    "no_amp": False,
    "exp_dir": "/checkpoint/sie",
    "port": 52472,
}


def authors_state(seed: int = 0, evaluator: bool = False, **changed) -> tuple[dict[str, torch.Tensor], dict]:
    "A whole model under the authors' names, of random numbers, and its params.json with some keys changed."
    params = PARAMS | changed
    heads, g, _ = AUTHORS[params["experience"]]
    rng = torch.Generator().manual_seed(seed)
    state = {}

    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    def kernel(o, i, k):
        return draw(o, i, k, k) * (2 / (i * k * k)) ** 0.5

    def linear(name, o, i, bias=True):
        state[f"module.{name}.weight"] = draw(o, i) / i**0.5
        if bias:
            state[f"module.{name}.bias"] = draw(o)

    state |= {"module.backbone.conv1.weight": kernel(64, 3, 7)} | norm("module.backbone.bn1", 64, draw)
    for stage, (i, o) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
        for block in (0, 1):
            name = f"module.backbone.layer{stage}.{block}"
            state |= {f"{name}.conv1.weight": kernel(o, o if block else i, 3)} | norm(f"{name}.bn1", o, draw)
            state |= {f"{name}.conv2.weight": kernel(o, o, 3)} | norm(f"{name}.bn2", o, draw)
            if not block:
                state |= {f"{name}.downsample.0.weight": kernel(o, i, 1)} | norm(f"{name}.downsample.1", o, draw)
    for head, share in heads.items():
        if heads is SPLIT:
            share = params["equi"] / 512 if head == "projector_equi" else 1 - params["equi"] / 512
        sizes = [round(512 * share), *(round(int(w) * share) for w in params["mlp"].split("-"))]
        for k, (i, o) in enumerate(zip(sizes[:-2], sizes[1:-1])):
            linear(f"{head}.{3 * k}", o, i)
            state |= norm(f"module.{head}.{3 * k + 1}", o, draw)
        linear(f"{head}.{3 * len(sizes) - 6}", sizes[-1], sizes[-2], bias=False)
    D = sizes[-1]
    if "AugSelf" in params["experience"]:
        for k, (o, i) in {0: (1024, 1024), 2: (1024, 1024), 4: (g, 1024)}.items():
            linear(f"predictor.{k}", o, i)
    elif "projector_equi" in heads and params["predictor_type"] == "mlp":
        for k in range(params["tf_num_layers"]):
            linear(f"predictor.pred.{2 * k}", D, D if k else D + g)
    elif "projector_equi" in heads:
        widths = [D, *(int(w) for w in params["predictor"].split("-") if w), D]
        numbers = sum(i * o for i, o in zip(widths, widths[1:])) + params["bias_pred"] * sum(widths[1:])
        layers = [(g, g), (g, g), (numbers, g)] if params["hypernetwork"] == "deep" else [(numbers, g)]
        for k, (o, i) in enumerate(layers):
            linear(f"predictor.hypernet.net.{2 * k}", o, i, params["bias_hypernet"])
    if evaluator:
        linear("evaluator.classifier_repr", 55, 512)
        for k, (o, i) in {0: (1024, 1024), 2: (1024, 1024), 4: (4, 1024)}.items():
            linear(f"evaluator.predictor_angles_repr.{k}", o, i)
    return state, params


def written(folder: Path, state: dict[str, torch.Tensor], params: dict | None) -> Path:
    "A checkpoint as their training leaves it, in a folder of its own."
    folder.mkdir(exist_ok=True)
    torch.save({"epoch": 2000, "model": state, "optimizer": {"state": {}}}, folder / "model.pth")
    if params is not None:
        (folder / "params.json").write_text(json.dumps(params))
    return folder / "model.pth"


def described_norm(x, state, name):
    return F.batch_norm(x, *(state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))


def described_backbone(
    x: torch.Tensor, state: dict[str, torch.Tensor], prefix: str = "module.backbone."
) -> torch.Tensor:
    "The network as it is described, from the raw tensors."
    weight, bn = lambda name: state[f"{prefix}{name}.weight"], lambda x, name: described_norm(x, state, prefix + name)
    x = F.conv2d(F.pad(x, (2, 3, 2, 3)), weight("conv1"), stride=2)  # left, right, top, bottom
    x = F.max_pool2d(F.pad(bn(x, "bn1").relu(), (0, 1, 0, 1), value=-1e4), 3, 2)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name, halves = f"layer{stage}.{block}", stage > 1 and not block
            y = bn(F.conv2d(x, weight(f"{name}.conv1"), padding=1), f"{name}.bn1").relu()
            if halves:
                y = F.conv2d(F.pad(y, (0, 1, 0, 1)), weight(f"{name}.conv2"), stride=2)
            else:
                y = F.conv2d(y, weight(f"{name}.conv2"), padding=1)
            y = bn(y, f"{name}.bn2")
            if not block:
                x = bn(F.conv2d(x, weight(f"{name}.downsample.0"), stride=2 if halves else 1), f"{name}.downsample.1")
            x = (y + x).relu()
    return x.mean((2, 3))


def described_projector(x: torch.Tensor, state: dict[str, torch.Tensor], head: str) -> torch.Tensor:
    k = 0
    while f"module.{head}.{k}.bias" in state:
        x = F.linear(x, state[f"module.{head}.{k}.weight"], state[f"module.{head}.{k}.bias"])
        x = described_norm(x, state, f"module.{head}.{k + 1}").relu()
        k += 3
    return F.linear(x, state[f"module.{head}.{k}.weight"])


def described_predictor(z: torch.Tensor, g: torch.Tensor, state: dict[str, torch.Tensor], params: dict) -> torch.Tensor:
    "The prediction, sample by sample, from the raw tensors."

    def linear(x, name):
        return F.linear(x, state[f"module.predictor.{name}.weight"], state.get(f"module.predictor.{name}.bias"))

    if params["predictor_type"] == "mlp":
        x = torch.cat([g, z], 1)
        for k in range(params["tf_num_layers"]):
            x = linear(x.relu() if k else x, f"pred.{2 * k}")
        return x
    D, predictions = z.shape[1], []
    widths = [D, *(int(w) for w in params["predictor"].split("-") if w), D]
    for x, gi in zip(z, g):
        if params["hypernetwork"] == "deep":
            numbers = linear(linear(linear(gi, "hypernet.net.0").relu(), "hypernet.net.2").relu(), "hypernet.net.4")
        else:
            numbers = linear(gi, "hypernet.net.0")
        for layer, (i, o) in enumerate(zip(widths, widths[1:])):
            if layer and params["predictor_relu"]:
                x = x.relu()
            x, numbers = numbers[: i * o].view(o, i) @ x, numbers[i * o :]
            if params["bias_pred"]:
                x, numbers = x + numbers[:o], numbers[o:]
        assert len(numbers) == 0
        predictions.append(x)
    return torch.stack(predictions)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    state, params = authors_state()
    return written(tmp_path_factory.mktemp("release"), state, params)


def whole(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


CHECKPOINTS = [
    {"experience": name} for name in AUTHORS if name != "VICRegPartInv"
] + [  # whose equi is of the embedding: below
    {"equi": 128},
    {"mlp": "64"},
    {"mlp": "24-32-40-48"},
    {"bias_hypernet": True},
    {"hypernetwork": "deep"},
    {"hypernetwork": "deep", "bias_hypernet": True},
    {"predictor": "14"},
    {"predictor": "14", "predictor_relu": True},
    {"predictor": "6-10", "predictor_relu": True, "bias_pred": True, "bias_hypernet": True},
    {"bias_pred": True},
    {"bias_pred": True, "hypernetwork": "deep", "predictor": "9"},
    *({"predictor_type": "mlp", "tf_num_layers": layers} for layers in (1, 2, 4)),
    {"experience": "VICRegPartInv", "equi": 14},
    {"experience": "SIERotColor", "hypernetwork": "deep"},
    {"experience": "VICRegEquiMod", "bias_hypernet": True, "predictor": "28"},
    {"experience": "SimCLREquiModRotColor", "predictor_type": "mlp", "tf_num_layers": 2},
    {"experience": "SIEOnlyEqui", "predictor_type": "mlp"},
    {"resolution": 128},
]


@pytest.mark.parametrize("changed", CHECKPOINTS, ids=str)
@torch.no_grad()
def test_checkpoints_of_every_method(tmp_path, changed):
    "What a model gives that was loaded, against the tensors of the file."
    state, params = authors_state(evaluator=True, **changed)
    heads, entries, method = AUTHORS[params["experience"]]
    path = written(tmp_path / "theirs", state, params)
    model, account = load_release(path)
    part_of_model = {k: v for k, v in state.items() if not k.startswith("module.evaluator.")}
    placed = account[account["ours"].notna()]
    assert sorted(placed["theirs"]) == sorted(part_of_model) and set(", ".join(placed["ours"]).split(", ")) == set(
        model.model.state_dict()
    )
    assert set(account["theirs"]) - set(placed["theirs"]) == {k for k in state if k not in part_of_model} | {
        "epoch",
        "optimizer",
    }
    assert (
        model.settings.method == method and model.settings.epochs == 2000 and model.size == (params["resolution"],) * 2
    )

    pixels = torch.randint(
        0,
        256,
        (3, 3, params["resolution"], params["resolution"]),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(1),
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.5016, 0.5037, 0.5060), (0.1030, 0.0999, 0.0969)))
    h = described_backbone((pixels / 255 - mean) / std, state)
    torch.testing.assert_close(model.embed(pixels), h, rtol=1e-3, atol=1e-4)
    assert h.std(0).mean() > 0.01  # not all the same by construction
    cut = 512 - params["equi"] if heads is SPLIT else 0
    if heads is SPLIT:
        assert model.split.equivariant == params["equi"]
    for head, name in {"projector": "invariant", "projector_inv": "invariant", "projector_equi": "equivariant"}.items():
        if head not in heads:
            continue
        seen = h if heads is not SPLIT else h[:, :cut] if head == "projector_inv" else h[:, cut:]
        torch.testing.assert_close(
            model.model.embed(name, h), described_projector(seen, state, head), rtol=1e-3, atol=1e-4
        )
    g = torch.randn(3, entries)
    turned = torch.cat([-g[:, :4], g[:, 4:]], 1)
    if "projector_equi" in heads:
        expected = described_predictor(model.project(h), g, state, params)
        torch.testing.assert_close(model.predict(h, g), expected, rtol=1e-3, atol=1e-3)
        old, _ = load_release(path, negate_h=True)
        torch.testing.assert_close(old.predict(h, turned), expected, rtol=1e-3, atol=1e-3)
        even = params["predictor"] == "14" and not params["predictor_relu"]  # W2(g) W1(g) z is the same for g and -g
        assert torch.allclose(old.predict(h, g), expected, rtol=1e-2, atol=1e-2) == even
    elif "AugSelf" in params["experience"]:
        x = torch.cat([h, h.flip(0)], 1)
        for k in (0, 2, 4):
            x = F.linear(
                x.relu() if k else x, state[f"module.predictor.{k}.weight"], state[f"module.predictor.{k}.bias"]
            )
        for negate in (False, True):
            regressed = load_release(path, negate_h=negate)[0].model.heads["regressor"](torch.cat([h, h.flip(0)], 1))
            torch.testing.assert_close(
                regressed, torch.cat([-x[:, :4], x[:, 4:]], 1) if negate else x, rtol=1e-3, atol=1e-4
            )
    else:
        with pytest.raises(ValueError, match=f"negate_h changes nothing in {method}"):
            load_release(path, negate_h=True)
    if method == "vicreg_part_inv":
        assert round(model.settings.invariant_share * 56) == 56 - params["equi"]

    (tmp_path / "back").mkdir()
    save_release(model, tmp_path / "back/model.pth")  # to the bit
    back = torch.load(tmp_path / "back/model.pth", weights_only=True)
    assert set(back) == set(part_of_model) and all(
        torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in part_of_model.items()
    )
    said = json.loads((tmp_path / "back/params.json").read_text())
    used = {"experience", "arch", "mlp", "equi_factor", "epochs", "batch_size", "base_lr", "wd"}
    if "projector_equi" in heads:
        used |= (
            {"predictor_type", "tf_num_layers"}
            if params["predictor_type"] == "mlp"
            else {"predictor_type", "hypernetwork", "bias_hypernet", "predictor", "predictor_relu", "bias_pred"}
        )
    if heads is SPLIT or method == "vicreg_part_inv":
        used |= {"equi"}
    assert {k: said[k] for k in used} == {k: params[k] for k in used}
    again, _ = load_release(tmp_path / "back/model.pth")
    assert again.settings == model.settings and again.images == model.images
    assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in model.model.state_dict().items())
    model.save_pretrained(tmp_path / "carried")
    carried = SIE.from_pretrained(tmp_path / "carried")
    assert torch.equal(carried.embed(pixels), model.embed(pixels)) and not list(tmp_path.rglob("*.tmp"))
    if "projector_equi" in heads:
        assert torch.equal(carried.predict(h, g), model.predict(h, g))


# without params.json: what the message must name as unknown, and what has to be said to load it
AMBIGUOUS = {
    "SIE": (
        ["experience, which is SIE or SIENoVar", "predictor, the widths .* one of 14 makes as many numbers"],
        {"predictor": ""},
    ),
    "SIERotColor": (["predictor, the widths"], {"predictor": ""}),
    "VICReg": (["experience, which is VICReg or SimCLR or VICRegPartInv"], {}),
    "SimCLR": (["experience, which is VICReg or SimCLR"], {}),
    "SimCLREquiMod": (
        ["experience, which is SimCLREquiMod or VICRegEquiMod", "predictor, the widths .* one of 28 "],
        {"predictor": ""},
    ),
    "SIEOnlyEqui": (["experience, which is SIEOnlyEqui or SimCLROnlyEqui", "predictor, the widths"], {"predictor": ""}),
    "SimCLRAugSelf": ([], {}),
    "SimCLRAugSelfRotColor": ([], {}),
}


@pytest.mark.parametrize("experience", AMBIGUOUS)
def test_what_the_tensors_do_not_say_is_asked_for(tmp_path, experience):
    messages, needed = AMBIGUOUS[experience]
    state, params = authors_state(experience=experience)
    path = written(tmp_path / "alone", state, None)
    if messages:
        with pytest.raises(ValueError, match=f"(?s)model.pth is ambiguous: no params.json.*{'.*'.join(messages)}"):
            load_release(path)
    said, _ = load_release(path, params={"experience": experience, **needed} if messages else None)
    whole, _ = load_release(written(tmp_path / "whole", state, params))
    assert said.settings.method == whole.settings.method and said.settings.widths == whole.settings.widths
    assert all(torch.equal(v, whole.model.state_dict()[k]) for k, v in said.model.state_dict().items())


def test_a_predictor_of_half_the_width_is_no_predictor_of_the_full_width(tmp_path):
    "The tensors have the same names and shapes; only params.json tells them apart."
    state, params = authors_state(predictor="14")
    straight, other = authors_state()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in straight.items()}
    path = written(tmp_path / "half", state, params)
    z, g = torch.randn(3, 28), torch.randn(3, 4)

    def predict(options):
        return load_release(path, params=options)[0].model.predictor(z, g).detach()

    torch.testing.assert_close(predict(None), described_predictor(z, g, state, params), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(predict(other), described_predictor(z, g, state, other), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(predict(None), predict(other), atol=0.1)
    with pytest.raises(ValueError, match="- predictor_relu"):
        predict({"experience": "SIE", "predictor": "14"})
    with pytest.raises(ValueError, match="- equi, the number"):
        load_release(
            written(tmp_path / "part", authors_state(experience="VICRegPartInv")[0], None),
            params={"experience": "VICRegPartInv"},
        )


BAD_PARAMS = [  # params.json, what the message must say
    ('{"experience": "SIE"', "params.json is not JSON"),
    ("[]", "params.json holds a list"),
    ('{"experience": "BYOL"}', "params.json: experience is 'BYOL'"),
    ('{"experience": 3}', "params.json: experience is 3"),
    ('{"experience": "SIE", "mlp": "2048-x"}', "params.json: mlp is '2048-x'"),
    ('{"experience": "SIE", "mlp": ""}', "params.json: mlp is ''"),
    ('{"experience": "SIE", "mlp": 2048}', "params.json: mlp is 2048"),
    ('{"experience": "SIE", "predictor": "14-"}', "params.json: predictor is '14-'"),
    ('{"experience": "SIE", "predictor": "0"}', "params.json: predictor is '0'"),
    ('{"experience": "SIE", "predictor": "", "predictor_relu": "no"}', "params.json: predictor_relu is 'no'"),
    (
        '{"experience": "SIE", "predictor": "13", "predictor_relu": false}',
        r"net.0.weight is \(784, 4\) float32, not \(728, 4\)",
    ),
    (
        '{"experience": "SIE", "predictor": "", "bias_pred": true}',
        r"net.0.weight is \(784, 4\) float32, not \(812, 4\)",
    ),
    (
        '{"experience": "SIE", "predictor": "", "bias_hypernet": true}',
        "1 missing: module.predictor.hypernet.net.0.bias",
    ),
    (
        '{"experience": "SIE", "predictor": "", "hypernetwork": "deep"}',
        "missing: module.predictor.hypernet.net.2.weight",
    ),
    ('{"experience": "SIE", "predictor": "", "equi": 128}', "projector_equi.0.weight is .*, not "),
    (
        '{"experience": "SIE", "predictor": "", "mlp": "48-40-48"}',
        r"projector_inv.6.weight is \(28, 20\) float32, not \(24, 20\)",
    ),
    (
        '{"experience": "SIE", "predictor": "", "mlp": "99999999-40-48"}',
        "params.json: mlp is '99999999-40-48'; .* from 1 to 32768",
    ),
    (
        '{"experience": "SIE", "predictor": "", "mlp": "%s"}' % ("9" * 5000),
        "params.json: mlp is '999.* from 1 to 32768",
    ),
    (
        '{"experience": "SIE", "predictor": "", "mlp": "%s"}' % ("8-" * 999 + "8"),
        "params.json: mlp is '8-8.* 1 to 16 of them",
    ),
    (
        '{"experience": "SIE", "predictor": "%s"}' % ("8-" * 999 + "8"),
        "params.json: predictor is '8-8.* 0 to 16 of them",
    ),
    (
        '{"experience": "SIE", "predictor": "", "mlp": "1"}',
        "params.json: mlp is '1'; of 1 nothing is left for a part of 256 of 512",
    ),
    (
        '{"experience": "SIE", "predictor": "", "mlp": "48-40-56", "equi": 1}',
        "params.json: mlp is '48-40-56'; of 48 nothing is left for a part of 1 of 512",
    ),
    ('{"experience": "SIE", "predictor": "", "equi": 0}', "params.json: equi is 0; it must be from 1 to 511"),
    ('{"experience": "SIE", "predictor": "", "equi": -1}', "params.json: equi is -1; it must be from 1 to 511"),
    ('{"experience": "SIE", "predictor": "", "equi": 512}', "params.json: equi is 512; it must be from 1 to 511"),
    ('{"experience": "VICRegPartInv", "equi": -1}', "params.json: equi is -1"),
    (
        '{"experience": "VICRegPartInv", "mlp": "48-40-56", "equi": 56}',
        "params.json: equi is 56; it must be less than the 56",
    ),
    (
        '{"experience": "SIE", "predictor": "", "resolution": 100000}',
        "params.json: images: height is 100000; .* at most 8192",
    ),
    (
        '{"experience": "SIE", "predictor": "", "equi": 256, "equi": 128}',
        "params.json: the key equi is given more than once",
    ),
    ('{"experience": "SIE", "predictor": "", "epochs": 0}', "params.json: epochs is 0"),
    ('{"experience": "SIE", "predictor": "", "base_lr": NaN}', "params.json: base_lr is nan"),
    ('{"experience": "SIE", "predictor": "", "resolution": 0}', "params.json: images: height is 0"),
    ('{"experience": "SIE", "predictor": "", "arch": "resnet50"}', "params.json: arch is 'resnet50'"),
    ('{"experience": "VICReg"}', "missing: module.projector.0.weight.*unexpected: module.projector_inv.0.weight"),
    ('{"experience": "SIE", "predictor_type": "mlp"}', "missing: module.predictor.pred.0.weight"),
]


@pytest.mark.parametrize(("text", "says"), BAD_PARAMS)
def test_bad_params_are_refused(release, tmp_path, text, says):
    path = written(tmp_path / "m", whole(release), None)
    path.with_name("params.json").write_text(text)
    with pytest.raises(ValueError, match=f"(?s)m/.*{says}"):
        load_release(path)


@pytest.mark.parametrize("kind", ["sparse", "sparse_csr", "meta", "nested", "quantized"])
def test_tensors_without_numbers_for_every_entry_are_named(release, tmp_path, kind):
    state, name = whole(release), "module.projector_inv.0.weight"
    made = {
        "sparse": lambda v: v.to_sparse(),
        "sparse_csr": lambda v: v.to_sparse_csr(),
        "meta": lambda v: v.to("meta"),
        "nested": lambda v: torch.nested.nested_tensor([v, v[:1]]),
        "quantized": lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8),
    }[kind]
    path = written(tmp_path / "m", state | {name: made(state[name])}, PARAMS)
    with pytest.raises(ValueError, match=f"m/model.pth: {name} is a .*{kind}.* tensor; it must be dense"):
        load_release(path)


REFERENCE = np.load(
    Path(__file__).with_name("resnet18_release.npz")
)  # what the authors' network gives for the weights and images below


def formula_weights(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    "The weights for which the reference holds the authors' outputs: a sine of entry k of the i-th name."
    weights = {}
    for i, (name, value) in enumerate(sorted(encoder.state_dict().items()), 1):
        sine = np.sin(0.37 * np.arange(value.numel()) + 1.3 * i).reshape(value.shape)
        if name.endswith("num_batches_tracked"):
            made = np.zeros(value.shape, np.int64)
        elif name.endswith("running_var"):
            made = 1 + 0.5 * sine
        elif name.endswith("running_mean"):
            made = 0.2 * sine
        elif value.ndim == 4:
            made = sine * (2 / np.prod(value.shape[1:])) ** 0.5
        elif name.endswith("weight"):
            made = 1 + 0.3 * sine
        else:
            made = 0.3 * sine
        weights[name] = torch.from_numpy(made)
    return weights


def formula_images(key: str) -> torch.Tensor:
    "The images of an array of the reference, whose name ends in their shape."
    shape = [int(n) for n in key.split("_")[1].split("x")]
    return torch.from_numpy(1.5 * np.sin(0.11 * np.arange(np.prod(shape)))).reshape(shape)


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
        for _ in range(3):
            maps.append((maps[-1] + 1 - 3) // 2 + 1)
        fits = maps[-1] > 0 and all(after == (before - 1) // 2 + 1 for before, after in zip(maps, maps[1:]))
        if fits:
            assert encoder(torch.zeros(1, 3, side, 64)).shape == (1, 512)
        else:
            with pytest.raises(ValueError, match=f"{side} x 64 pixels; each must be a multiple of 32"):
                encoder(torch.zeros(1, 3, side, 64))


@torch.no_grad()
def test_the_backbone_alone(release, tmp_path):
    state = {
        k.removeprefix("module.backbone."): v for k, v in whole(release).items() if k.startswith("module.backbone.")
    }
    torch.save(state, tmp_path / "final_weights.pth")
    encoder, account = load_release_backbone(tmp_path / "final_weights.pth")
    assert (
        list(account["theirs"]) == list(account["ours"]) and set(account["ours"]) == set(state) and not encoder.training
    )
    x = normalise(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), RELEASE_IMAGES.mean, RELEASE_IMAGES.std)
    torch.testing.assert_close(encoder(x), described_backbone(x, state, ""), rtol=1e-3, atol=1e-4)
    save_release_backbone(encoder, tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert set(back) == set(state) and all(torch.equal(back[k], state[k]) for k in state)
    with pytest.raises(ValueError, match="(?s)missing: conv1.weight.*unexpected: .*module.backbone.conv1.weight"):
        load_release_backbone(release)
    with pytest.raises(ValueError, match="(?s)missing: module.backbone.conv1.weight.*unexpected: conv1.weight"):
        load_release(tmp_path / "final_weights.pth")


def test_the_evaluator_and_other_parts_are_left_out_and_reported(tmp_path):
    state, params = authors_state(evaluator=True)
    evaluator = [k for k in state if k.startswith("module.evaluator.")]
    _, account = load_release(written(tmp_path / "theirs", state, params))
    assert (
        list(account["theirs"][account["ours"].isna()]) == [*evaluator, "epoch", "optimizer"]
        and len(account) == len(state) + 2
    )
    path = written(tmp_path / "more", state | {"module.online.weight": torch.zeros(2, 2)}, params)
    with pytest.raises(ValueError, match="1 unexpected: module.online.weight"):
        load_release(path)
    _, account = load_release(path, leave_out=["module.online."])
    assert list(account["theirs"][account["ours"].isna()]) == [*evaluator, "module.online.weight", "epoch", "optimizer"]
    less = written(tmp_path / "less", {k: v for k, v in state.items() if k != "module.backbone.bn1.bias"}, params)
    with pytest.raises(ValueError, match="1 missing: module.backbone.bn1.bias"):
        load_release(less, leave_out=["module."])  # leaving out never excuses what is missing


MISFITS = {  # change of the state -> what the message must say
    "missing": (
        lambda s: s.pop("module.backbone.layer1.0.downsample.0.weight"),
        "1 missing: module.backbone.layer1.0.downsample.0.weight",
    ),
    "missing twice": (
        lambda s: (s.pop("module.backbone.bn1.weight"), s.pop("module.projector_equi.6.weight")),
        "missing: module.backbone.bn1.weight; .*module.projector_equi.6.weight",
    ),
    "no hypernetwork": (
        lambda s: s.pop("module.predictor.hypernet.net.0.weight"),
        "1 missing: module.predictor.hypernet.net.0.weight",
    ),
    "unexpected": (
        lambda s: s.update({"module.backbone.fc.weight": torch.zeros(2, 2)}),
        "1 unexpected: module.backbone.fc.weight",
    ),
    "a deeper projector": (
        lambda s: s.update({"module.projector_inv.9.weight": torch.zeros(2, 2)}),
        "1 unexpected: module.projector_inv.9.weight",
    ),
    "a deep hypernetwork": (
        lambda s: s.update({"module.predictor.hypernet.net.2.weight": torch.zeros(4, 4)}),
        "1 unexpected: module.predictor.hypernet.net.2.weight",
    ),
    "shape": (
        lambda s: s.update({"module.backbone.conv1.weight": torch.zeros(64, 3, 3, 3)}),
        r"conv1.weight is \(64, 3, 3, 3\) float32, not \(64, 3, 7, 7\) float32",
    ),
    "shape of one value": (
        lambda s: s.update({"module.projector_inv.0.bias": torch.zeros(1)}),
        r"module.projector_inv.0.bias is \(1,\)",
    ),
    "transposed": (
        lambda s: s.update({"module.predictor.hypernet.net.0.weight": s["module.predictor.hypernet.net.0.weight"].T}),
        r"net.0.weight is \(4, 784\)",
    ),
    "five numbers": (
        lambda s: s.update({"module.predictor.hypernet.net.0.weight": torch.zeros(784, 5)}),
        r"net.0.weight is \(784, 5\) float32, not \(784, 4\)",
    ),
    "too many inputs": (
        lambda s: s.update({"module.projector_equi.0.weight": torch.zeros(24, 512)}),
        r"projector_equi.0.weight is \(24, 512\)",
    ),
    "not a number": (
        lambda s: s["module.backbone.bn1.bias"].fill_(torch.nan),
        "module.backbone.bn1.bias has 64 numbers of 64 that are not finite",
    ),
    "infinite": (
        lambda s: s["module.predictor.hypernet.net.0.weight"][5].fill_(torch.inf),
        "net.0.weight has 4 numbers",
    ),
    "negative variance": (
        lambda s: s["module.projector_inv.1.running_var"].neg_(),
        "projector_inv.1.running_var is negative",
    ),
    "integers": (
        lambda s: s.update({"module.backbone.bn1.bias": torch.zeros(64, dtype=torch.int64)}),
        "bn1.bias is .* int64, not .* float32",
    ),
    "type": (
        lambda s: s.update({"module.backbone.bn1.bias": torch.zeros(64, dtype=torch.float16)}),
        "bn1.bias is .* float16, not .* float32",
    ),
    "no tensor": (lambda s: s.update({"module.backbone.bn1.bias": [0.0] * 64}), "'module.backbone.bn1.bias' is a list"),
}


@pytest.mark.parametrize("fault", MISFITS)
def test_misfits_are_errors(release, tmp_path, fault):
    change, message = MISFITS[fault]
    state = whole(release)
    change(state)
    torch.save(state, tmp_path / "m.pth")
    shutil.copy(release.with_name("params.json"), tmp_path)
    with pytest.raises(ValueError, match=f"(?s)m.pth.*{message}"):
        load_release(tmp_path / "m.pth")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_of_something_else(release, tmp_path):
    def refused(write, message):
        write(path := tmp_path / "m.pth")
        for load in (load_release, load_release_backbone):
            with pytest.raises(ValueError, match=f"m.pth.*{message}"):
                load(path)

    whole = release.read_bytes()
    for keep in (0, 5, len(whole) // 2, len(whole) - 1):
        refused(lambda p: p.write_bytes(whole[:keep]), "truncated, damaged or no file of weights")
    refused(lambda p: p.write_text("<html>not found</html>"), "no file of weights")
    refused(lambda p: torch.save([torch.zeros(1)], p), "holds a list")
    refused(lambda p: torch.save(torch.zeros(1), p), "holds a Tensor")
    refused(lambda p: torch.save({1: torch.zeros(1)}, p), "1 is a Tensor; it must be a mapping")
    for old in (False, True):
        refused(
            lambda p: torch.save(
                {"module.x": torch.zeros(1), "module.y": Payload(tmp_path / "ran")},
                p,
                _use_new_zipfile_serialization=not old,
            ),
            "is refused: reading it would call",
        )
    refused(
        lambda p: torch.save(torch.nn.Linear(2, 2), p),
        "is refused: reading it would call torch.nn.modules.linear.Linear",
    )
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "m.pth", weights_only=False)
    torch.save(Payload(tmp_path / "ran"), tmp_path / "p.pth")
    torch.load(tmp_path / "p.pth", weights_only=False)
    assert (tmp_path / "ran").exists()  # the payload does run where it may
    with pytest.raises(FileNotFoundError, match="nowhere.pth does not exist"):
        load_release(tmp_path / "nowhere.pth")


def test_models_that_theirs_cannot_hold(tmp_path):
    def refused(message, method="sie", encoder="resnet18_release", **options):
        settings = Settings(method, encoder=encoder, widths=(16, 16, 16), **options)
        with pytest.raises(ValueError, match=message):
            save_release(SIE(new_model(settings), settings, RELEASE_IMAGES), tmp_path / "m.pth")

    refused("layer1.0.downsample", encoder="resnet18")
    refused("layer1.0.downsample", encoder="small")
    for method in ("random", "supervised", "vicreg_equimod_rotcolor", "equi_only_rotcolor", "sie_no_var_rotcolor"):
        refused(f"no method {method}; there are sie, ", method=method)
    refused("sie_matrix is given the rotation as matrix", method="sie_matrix")
    refused("as euler", conditioning="euler")
    for depth in (1, 3):
        refused(f"H has {depth} hidden layers", predictor={"depth": depth})
    refused("hidden layers of .5.", predictor={"kind": "mlp", "hidden": [5]})
    refused("rotation and colour has no MLP", "sie_rotcolor", predictor={"kind": "mlp", "hidden": [8]})
    with pytest.raises(ValueError, match="layer1.0.downsample"):
        save_release_backbone(new_model(Settings(encoder="resnet18", widths=(16, 16, 16))).encoder, tmp_path / "m.pth")
    assert not list(tmp_path.iterdir())


def test_the_params_of_another_checkpoint_are_not_written_over(release, tmp_path):
    model, _ = load_release(release)
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    with pytest.raises(FileExistsError, match="params.json is there and says something else"):
        save_release(model, tmp_path / "m.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["params.json"]
    (tmp_path / "params.json").unlink()
    for _ in range(2):
        save_release(model, tmp_path / "m.pth")  # the same model again


@pytest.mark.parametrize("method", ["sie", "vicreg_part_inv"])
def test_our_own_model_goes_out_and_comes_back(dataset, tmp_path, method):
    "Trained here on other images, exported, imported: the same representations and predictions."
    settings = Settings(
        method,
        encoder="resnet18_release",
        widths=(16, 16, 16),
        predictor={"init": "scaled", "bias": True},
        invariant_share=0.5,
        epochs=1,
        batch_size=4,
        crop=32,
        precision="32-true",
        probe_views=0,
    )
    pretrain(dataset, settings, tmp_path / "models/run")
    ours = SIE.from_pretrained(tmp_path / "models/run")
    save_release(ours, tmp_path / "model.pth")
    theirs, _ = load_release(tmp_path / "model.pth")
    assert all(torch.equal(v, theirs.model.state_dict()[k]) for k, v in ours.model.state_dict().items())
    pixels = dataset.decode([0, 1], [0, 0])
    assert torch.equal(theirs.embed(pixels), ours.embed(pixels)) and theirs.settings.widths == [16, 16, 16]
    assert theirs.settings.invariant_share == (
        0.5 if method == "vicreg_part_inv" else 0.875
    )  # which their params.json has for no other method
    h, g = torch.randn(3, 512), torch.randn(3, 4)
    if method == "sie":
        assert torch.equal(theirs.predict(h, g), ours.predict(h, g))

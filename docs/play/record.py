"""Measure what the page "The predictor in motion" shows: `python docs/play/record.py FOLDER`.

FOLDER is what `docs/play/train.py` made. Writes motion.json, training.json and views.jpg beside this file. They are
committed, as a training takes longer than the site may.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from sie.data.scene import Renderer
from sie.method.pretraining import load_model, read_curves
from sie.method.weights import SIE, shipped_models
from sie.objects.classes import CLASSES
from sie.objects.gallery import make_object
from sie.pipeline.params import load_params

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
METHODS = {"sie": "quaternion", "sie_matrix": "matrix"}
#: Objects that no model was trained on: class and number. The default data has numbers 0 to 499 of each class.
OBJECTS = {"airplane": 1000, "car": 1000, "chair": 1000}
AXES = "xyz"
START = -90  # degrees about the axis; 3DIEBench's angles are -90 to 90
STEP = 15  # degrees between two pictures
TURNED = np.arange(0, 360 + STEP, STEP)  # of which those up to 180 end in 3DIEBench's range
LIGHT = (0.1, 0.6, 1.2, 0.15)  # floor hue, light theta, light phi, light hue
OVER_TRAINING = ("car", "z")  # object and axis that are shown over training
CURVES = {
    "train/loss": "loss",
    "train/invariance": "invariance",
    "train/equivariance": "equivariance",
    "probe/rotation_r2_pooled": "r2",
    "prediction/explained": "explained",
}


def latents(axis: str) -> np.ndarray:
    "An object turned about one axis, in one light."
    rows = np.zeros((len(TURNED), 7), np.float32)
    rows[:, AXES.index(axis)] = np.radians(START + TURNED)
    rows[:, 3:] = LIGHT
    return rows


def pictures(name: str, axis: str) -> np.ndarray:
    "Rendered as the training data was."
    data = load_params(ROOT / "params.yaml").data
    renderer = Renderer(size=data.size, samples=data.samples, crop=data.crop)
    synset = next(c.synset for c in CLASSES if c.name == name)
    return renderer.render(make_object(synset, OBJECTS[name]), latents(axis))


@torch.no_grad()
def vectors(model: SIE, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """H_k z for the first picture, a row for each k, and the equivariant embeddings of all pictures.

    They are given in a basis of the space that they span: lengths and angles are those of the 128 dimensions."""
    z = model.project(model.embed(torch.from_numpy(images).movedim(-1, 1)))
    products = model.model.predictor.layers[0].H @ z[0]
    both = torch.cat([products, z]).double().numpy()
    basis = np.linalg.svd(both, full_matrices=False)[2]
    both = both @ basis.T
    return both[: len(products)], both[len(products) :]


def plane(form: str, axis: str, products: np.ndarray, embeddings: np.ndarray) -> dict:
    """The ellipse that W(g)z moves on while the object turns about an axis, and the embeddings in its plane.

    The prediction is centre + cos(s) a + sin(s) b with s the angle, or half of it for a quaternion."""
    k = AXES.index(axis)
    if form == "quaternion":
        a, b, centre = products[3], products[k], 0 * products[0]
    else:
        h = products.reshape(3, 3, -1)
        i, j = (k + 1) % 3, (k + 2) % 3
        a, b, centre = h[i, i] + h[j, j], h[j, i] - h[i, j], h[k, k]
    first = a / np.linalg.norm(a)
    second = b - (b @ first) * first
    axes = np.stack([first, second / np.linalg.norm(second)], 1)
    scale = np.linalg.norm(embeddings[0])
    ellipse = np.stack([centre, a, b]) @ axes / scale
    return {"ellipse": rounded(ellipse), "embeddings": rounded(embeddings @ axes / scale)}


def rounded(values: np.ndarray) -> list:
    return np.round(values, 4).tolist()


def motion(models: dict[str, SIE], images: dict[tuple[str, str], np.ndarray]) -> dict:
    "The trained models' vectors for every object and axis."
    found = {method: {} for method in METHODS}
    for (name, axis), own in images.items():
        for method, model in models.items():
            products, embeddings = vectors(model, own)
            found[method][f"{name} {axis}"] = {"products": rounded(products), "embeddings": rounded(embeddings)}
    return {
        "methods": METHODS,
        "objects": list(OBJECTS),
        "turned": TURNED.tolist(),
        "start": START,
        "rows": [" ".join(key) for key in images],
        "vectors": found,
    }


def at_step(folder: Path, method: str, step: int) -> SIE:
    "The model as it was after so many steps."
    model = SIE(*load_model(folder / "models" / method))
    tensors = load_file(folder / method / f"{step:05d}.safetensors")
    model.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    return model.eval()


def training(folder: Path, images: np.ndarray) -> dict:
    "Curves, and the plane of the predictions at each of their points."
    name, axis = OVER_TRAINING
    found = {"object": name, "axis": axis, "turned": TURNED.tolist(), "methods": METHODS}
    for method, form in METHODS.items():
        table = read_curves(folder / "curves" / method)
        curves = {short: rounded(table[column]) for column, short in CURVES.items()}
        planes = [plane(form, axis, *vectors(at_step(folder, method, step), images)) for step in table["step"]]
        found[method] = {"step": table["step"].tolist(), **curves, "planes": planes}
    return found


def main(folder: Path) -> None:
    images = {(name, axis): pictures(name, axis) for name in OBJECTS for axis in AXES}
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in images.values()])
    Image.fromarray(sheet).save(HERE / "views.jpg", quality=85)
    shipped = shipped_models()  # of the same settings and seed
    models = {method: SIE.from_pretrained(shipped.get(method, folder / "models" / method)) for method in METHODS}
    for file, content in (
        ("motion.json", motion(models, images)),
        ("training.json", training(folder, images[OVER_TRAINING])),
    ):
        (HERE / file).write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))

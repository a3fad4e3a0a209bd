"""The pictures of the steering page: `python docs/steering.py FURNITURE` renders them into docs/steering (`make steering`).

Twelve objects are rendered in the same 256 rotations, in 3DIEBench's scene: seven generated ones, of which no committed
run has seen any, and five of the models that `python -m sie.data.real_models FURNITURE` prepares. The light and the
floor are the same in all views of an object, so that a visitor can compare views by eye. The pictures are committed,
since not everybody has the models; `make docs` embeds them with the trained models of the page, which takes seconds.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import qmc

from sie.data.mesh_files import MeshFileRenderer
from sie.data.rendering import ProceduralRenderer
from sie.evaluation.steering import sheet
from sie.method.rotations import sample_latents
from sie.objects.classes import CLASSES

FOLDER = Path(__file__).parent / "steering"
VIEWS = 256
FRAME = dict(size=128, crop=64, samples=48)  # the central half of the frame, as in the default run
GENERATED = {"airplane": 500, "car": 500, "chair": 500, "sofa": 500, "table": 500, "mug": 500, "guitar": 500}
REAL = {
    "oak chair": "blendswap-cc-0.oakChair",
    "armchair": "blendswap-cc-0.winchesterArmchair",
    "grand piano": "blendswap-cc-0.pianoAQueue",
    "bunk bed": "blendswap-cc-by.bunkBed",
    "desk": "blendswap-cc-by.simpleDesk",
}


def rotations() -> np.ndarray:
    "Evenly spread rotations within 3DIEBench's range, Euler angles in radians: views x 3."
    in_cube = qmc.Sobol(3, scramble=True, rng=0).random(VIEWS)
    return np.round((in_cube - 0.5) * np.pi, 4)


def credit(row: pd.Series) -> dict[str, str]:
    "Creator, licence and source of a model, from the table of credits that comes with the models."
    licence = "CC0 (public domain)" if row.licence == "Public domain" else "CC BY 3.0"
    return {"title": row["name"], "creator": row.creator, "licence": licence, "source": row.source}


def render(furniture: Path) -> None:
    "Render all objects. Writes a sheet of pictures for each, and objects.json."
    credits = pd.read_csv(furniture / "CREDITS.csv").set_index("object")
    synsets = {c.name: c.synset for c in CLASSES}
    generated = ProceduralRenderer(**FRAME)
    real = MeshFileRenderer(**FRAME, folder=str(furniture), missing_textures="colour")
    jobs = [(name, generated, synsets[name], f"{number:06d}", None) for name, number in GENERATED.items()]
    for name, object_id in REAL.items():
        row = credits.loc[object_id]
        jobs.append((name, real, synsets[row["class"]], object_id, credit(row)))

    angles = rotations()
    colours = np.round(sample_latents(len(jobs), np.random.default_rng(0))[:, 3:].astype(float), 4)
    entries = []
    FOLDER.mkdir(exist_ok=True)
    for seed, (name, renderer, synset, object_id, credited) in enumerate(jobs):
        latents = np.concatenate([angles, np.tile(colours[seed], (VIEWS, 1))], 1).astype(np.float32)
        file = f"{name.replace(' ', '-')}{'' if credited is None else '-real'}.webp"
        (FOLDER / file).write_bytes(sheet(renderer(synset, object_id, latents, seed)))
        entries.append({"name": name, "sheet": file, "colours": colours[seed].tolist(), "credit": credited})
        print(file, (FOLDER / file).stat().st_size, "bytes", flush=True)
    described = {"size": FRAME["crop"], "rotations": angles.tolist(), "objects": entries}
    (FOLDER / "objects.json").write_text(json.dumps(described) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    render(Path(sys.argv[1]))

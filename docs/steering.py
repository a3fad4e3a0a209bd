"""The steering page. `python docs/steering.py FURNITURE` renders its pictures into docs/steering (`make steering`).

Twelve objects are rendered in the same 256 rotations, in 3DIEBench's scene: seven generated ones that the default run
does not train on, and five of the models that `python -m sie.data.real_models FURNITURE` prepares. The light and the
floor are the same in all views of an object, so that a visitor can compare views by eye.

The pictures are committed: rendering takes minutes, and not everybody has the models. All that depends on trained
models is made by docs/build.py from these pictures, in seconds, so other models need no new pictures.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import qmc

from sie.data.mesh_files import MeshFileRenderer
from sie.data.rendering import ProceduralRenderer
from sie.evaluation.figures import saved
from sie.evaluation.steering import STATIC, Candidates, from_sheet, sheet, show_steering, write_page
from sie.method.rotations import sample_latents
from sie.method.weights import SIE, shipped_models
from sie.objects.classes import CLASSES

FOLDER = Path(__file__).parent / "steering"
PLAYER = FOLDER / "player.html"
VIEWS = 256
FRAME = dict(size=128, crop=64)  # the central half of the frame, as in the default run; pixels
SAMPLES = {"generated": 48, "real": 16}  # light paths per pixel
GENERATED = {"airplane": 500, "car": 500, "chair": 500, "sofa": 500, "table": 500, "mug": 500, "guitar": 500}
REAL = {
    "oak chair": "blendswap-cc-0.oakChair",
    "armchair": "blendswap-cc-0.winchesterArmchair",
    "grand piano": "blendswap-cc-0.pianoAQueue",
    "bunk bed": "blendswap-cc-by.bunkBed",
    "desk": "blendswap-cc-by.simpleDesk",
}
LICENCES = {
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC BY 3.0": "https://creativecommons.org/licenses/by/3.0/",
}


def rotations() -> np.ndarray:
    "Evenly spread rotations within 3DIEBench's range, Euler angles in radians: views x 3."
    in_cube = qmc.Sobol(3, scramble=True, rng=0).random(VIEWS)
    return np.round((in_cube - 0.5) * np.pi, 4)


def credit(row: pd.Series) -> dict[str, str]:
    "Creator, licence and source of a model, from the table of credits that comes with the models."
    licence = "CC0" if row.licence == "Public domain" else "CC BY 3.0"
    return {"title": row["name"], "creator": row.creator, "licence": licence, "source": row.source}


def describe(credits: pd.DataFrame) -> dict:
    "What objects.json holds: the rotations, and for each object its sheet, the colours of its scene, and its credit."
    names = [*GENERATED, *REAL]
    colours = np.round(sample_latents(len(names), np.random.default_rng(0))[:, 3:].astype(float), 4)
    entries = []
    for name, of_scene in zip(names, colours):
        real = name in REAL
        entries.append(
            {
                "name": name,
                "sheet": f"{name.replace(' ', '-')}{'-real' if real else ''}.webp",
                "colours": of_scene.tolist(),
                "credit": credit(credits.loc[REAL[name]]) if real else None,
            }
        )
    return {"size": FRAME["crop"], "rotations": rotations().tolist(), "objects": entries}


def render(furniture: Path) -> None:
    "Render all objects. Writes a sheet of pictures for each, and objects.json."
    credits = pd.read_csv(furniture / "CREDITS.csv").set_index("object")
    described = describe(credits)
    synsets = {c.name: c.synset for c in CLASSES}
    generated = ProceduralRenderer(**FRAME, samples=SAMPLES["generated"])
    real = MeshFileRenderer(**FRAME, samples=SAMPLES["real"], folder=str(furniture), missing_textures="colour")
    FOLDER.mkdir(exist_ok=True)
    for seed, entry in enumerate(described["objects"]):
        name = entry["name"]
        latents = np.concatenate([rotations(), np.tile(entry["colours"], (VIEWS, 1))], 1).astype(np.float32)
        if name in GENERATED:
            pictures = generated(synsets[name], f"{GENERATED[name]:06d}", latents, seed)
        else:
            pictures = real(synsets[credits.loc[REAL[name], "class"]], REAL[name], latents, seed)
        (FOLDER / entry["sheet"]).write_bytes(sheet(pictures))
        print(entry["sheet"], (FOLDER / entry["sheet"]).stat().st_size, "bytes", flush=True)
    (FOLDER / "objects.json").write_text(json.dumps(described) + "\n", encoding="utf-8")


# ---- the page


def committed() -> tuple[Candidates, dict[str, bytes], list[dict]]:
    "What `render` wrote: the candidates, the sheets by file name, and the entry of each object."
    described = json.loads((FOLDER / "objects.json").read_text(encoding="utf-8"))
    entries = described["objects"]
    sheets = {entry["sheet"]: (FOLDER / entry["sheet"]).read_bytes() for entry in entries}
    angles = np.array(described["rotations"])
    size = described["size"]
    latents = [np.concatenate([angles, np.tile(entry["colours"], (len(angles), 1))], 1) for entry in entries]
    pictures = np.stack([from_sheet(content, len(angles), (size, size)) for content in sheets.values()])
    candidates = Candidates(
        [entry["name"] for entry in entries],
        torch.from_numpy(np.stack(latents).astype(np.float32)),
        torch.from_numpy(pictures).permute(0, 1, 4, 2, 3),
    )
    return candidates, sheets, entries


def steerable(names: Sequence[str]) -> dict[str, SIE]:
    """Models by the names that the page shows: by their methods where these differ, else as they were given.

    They are names in the package or folders; without any, all models of the package that have a predictor."""
    if names:
        models = {str(name): SIE.from_pretrained(name) for name in names}
    else:
        models = {name: SIE.from_pretrained(name) for name in shipped_models()}
        models = {name: model for name, model in models.items() if model.model.predictor is not None}
    methods = [model.settings.method for model in models.values()]
    if len(set(methods)) == len(methods):
        return dict(zip(methods, models.values()))
    return {name.strip("/").replace("/", "-"): model for name, model in models.items()}


def credits_table(entries: Sequence[dict]) -> str:
    "Markdown that credits the creators of the real models."
    rows = ["| Object | Title | Creator | Licence |", "|---|---|---|---|"]
    for entry in entries:
        if credited := entry["credit"]:
            licence = f"[{credited['licence']}]({LICENCES[credited['licence']]})"
            rows.append(f"| {entry['name']} | {credited['title']} | {credited['creator']} | {licence} |")
    return "\n".join(rows)


def make_page(folder: Path, names: Sequence[str] = ()) -> str:
    """Write what the page loads: data, static picture, ES module and style sheet. Returns the page in MyST.

    `names` are as for `steerable`. The page has `{player}` where docs/steering/player.html belongs, whose links are
    relative to the page of the site."""
    candidates, sheets, entries = committed()
    models = steerable(names)
    write_page(folder, models, candidates, sheets)
    chair = list(candidates.names).index("chair")
    saved(show_steering(models, candidates, object=chair), folder / "still.webp", dpi=90)
    for name in ("steering.js", "steering.css"):
        shutil.copy(STATIC / name, folder)
    text = (FOLDER / "page.md").read_text(encoding="utf-8")
    return text.replace("{credits}", credits_table(entries))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    render(Path(sys.argv[1]))

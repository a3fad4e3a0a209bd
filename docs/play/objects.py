"""The files of the gallery in 3D: for each of the 55 families a model (GLB) and the renderer's pictures of it.

`make docs` makes them in `_docs/extra/play/objects`. They are not in git: they follow from the code of the families and
of the renderer, and would be 4 MB that change with it. Rendering takes half a minute on one core, so that files which
the same code has made are kept.
"""

import hashlib
import json
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from sie.data.scene import Renderer, Scene, srgb_to_linear
from sie.method.rotations import sample_latents
from sie.method.system import cores
from sie.objects.classes import CLASSES, ShapeClass
from sie.objects.gallery import make_object

ROOT = Path(__file__).resolve().parents[2]
#: Sources and packages that the files depend on.
SOURCES = ("docs/play/objects.py", "sie/data/scene.py", "sie/method/rotations.py", "sie/objects/*.py")
PACKAGES = ("mitsuba", "trimesh", "pillow", "scipy", "numpy")
VIEWS = 18
COLUMNS = 6  # pictures side by side in the sheet of an object
FRAME = 160  # side of the renderer's frame, pixels
SIDE = 112  # of its central square, which is kept
SAMPLES = 4  # light paths per pixel, as in params.yaml
THUMBNAIL = 64  # side, pixels
SHEET_COLUMNS = 11  # of the sheet of all objects
#: From the object's axes (z up) to those of a GLB (y up), as `sie.data.mesh_files` reads them.
Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def file_name(c: ShapeClass) -> str:
    "The name of a class as part of a file's name and of an address."
    return re.sub(r"\W+", "-", c.name)


def model(mesh: trimesh.Trimesh) -> bytes:
    """A coloured mesh as GLB: y up, a material for each colour, without normals, so that viewers shade it flat.

    glTF's colours are linear; trimesh writes 8 bits of them, of which dark colours need more. They are put in
    afterwards."""
    scene = trimesh.Scene()
    colours, owner = np.unique(mesh.visual.face_colors[:, :3], axis=0, return_inverse=True)
    for k in range(len(colours)):
        faces = mesh.faces[owner.ravel() == k]
        used, corners = np.unique(faces, return_inverse=True)
        part = trimesh.Trimesh(mesh.vertices[used], corners.reshape(-1, 3), process=False)
        material = trimesh.visual.material.PBRMaterial(name=f"{k}", metallicFactor=0.0, doubleSided=True)
        part.visual = trimesh.visual.TextureVisuals(material=material)
        scene.add_geometry(part, node_name=f"{k}", geom_name=f"{k}")
    scene.apply_transform(Y_UP)
    linear = srgb_to_linear(colours / 255)

    def colour(tree: dict) -> None:
        for material in tree["materials"]:
            material["pbrMetallicRoughness"]["baseColorFactor"] = [*linear[int(material["name"])].round(6).tolist(), 1]

    return trimesh.exchange.gltf.export_glb(scene, include_normals=False, tree_postprocessor=colour)


def latents() -> np.ndarray:
    """The views of an object: a row of latents each, with the unrotated object first.

    The rotations are spread over 3DIEBench's: of many random ones, each is the farthest from those before it."""
    random = sample_latents(4000, np.random.default_rng(0))
    random[0, :3] = 0
    quaternions = Rotation.from_euler("xyz", random[:, :3]).as_quat()
    chosen = [0]
    nearness = np.abs(quaternions @ quaternions[0])
    while len(chosen) < VIEWS:
        chosen.append(int(nearness.argmin()))
        nearness = np.maximum(nearness, np.abs(quaternions @ quaternions[chosen[-1]]))
    return random[chosen]


def look(c: ShapeClass) -> np.ndarray:
    "Floor hue, light theta, light phi and light hue, which all views of an object share."
    return sample_latents(1, np.random.default_rng([c.label, 1]))[0, 3:]


def jpeg(image: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85)
    return file.getvalue()


def tiled(images: np.ndarray, columns: int) -> np.ndarray:
    "Square images in rows of so many."
    side = images.shape[1]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * columns, side, side, 3), 255, np.uint8)
    sheet[: len(images)] = images
    return sheet.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)


def write_object(c: ShapeClass, folder: Path) -> np.ndarray:
    "Write the model and the sheet of pictures of a class's first object. Returns its first picture, smaller."
    mesh = make_object(c.synset, 0)
    rows = latents()
    rows[:, 3:] = look(c)
    images = Renderer(size=FRAME, samples=SAMPLES, crop=SIDE).render(mesh, rows)
    (folder / f"{file_name(c)}.glb").write_bytes(model(mesh))
    (folder / f"{file_name(c)}.jpg").write_bytes(jpeg(tiled(images, COLUMNS)))
    return np.asarray(Image.fromarray(images[0]).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS))


def description() -> dict:
    "What the page needs to know: the scene, the views and the objects."
    scene = Scene()
    turns = Rotation.from_euler("xyz", latents()[:, :3])
    objects = {
        file_name(c): {"name": c.name, "label": c.label, "synset": c.synset, "look": look(c).astype(float).tolist()}
        for c in CLASSES
    }
    return {
        "scene": scene.__dict__ | {"frame": FRAME, "side": SIDE},
        "columns": COLUMNS,
        "angles": np.degrees(latents()[:, :3].astype(float)).tolist(),
        "quaternions": turns.as_quat().tolist(),
        "objects": objects,
    }


def digest() -> str:
    "Of everything that the files follow from."
    found = hashlib.sha256()
    for source in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        found.update(source.read_bytes())
    found.update(json.dumps({name: version(name) for name in PACKAGES}).encode())
    return found.hexdigest()


def write_objects(folder: Path) -> None:
    "Write the files of all objects, unless the same code has written them before."
    made_by = folder / "made-by.txt"
    if made_by.exists() and made_by.read_text() == digest():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        thumbnails = list(pool.map(write_object, CLASSES, [folder] * len(CLASSES)))
    (folder / "all.jpg").write_bytes(jpeg(tiled(np.stack(thumbnails), SHEET_COLUMNS)))
    (folder / "objects.json").write_text(json.dumps(description()))
    made_by.write_text(digest())


if __name__ == "__main__":
    write_objects(ROOT / "_docs/extra/play/objects")

"""Which importer reads which model correctly? Each runs in an environment that has it:

    python benchmarks/importers.py trimesh [MODELS]      adds or replaces its rows in importers.csv

It reads the cases of tests/mesh_cases.py, and the OBJ files in the folder MODELS; of these it counts those that it
returns with all their triangles; without MODELS the old count stays. A case is correct if area and colours are, and
a file that should be refused is.
Triangles are taken as the importer returns them, materials as it reports them: a texture if it names one that can be
opened, else the diffuse colour, else colours of corners or faces."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
from mesh_cases import Case, all_cases, write_cases  # noqa: E402

FORMATS = (".obj", ".ply", ".glb", ".gltf", ".stl", ".off", ".dae")


class Part(NamedTuple):
    "Triangles of one material."

    corners: np.ndarray  # (faces, 3, 3)
    colour: np.ndarray | None = None  # sRGB in 0..1: (3,), or (faces, 3, 3)
    uv: np.ndarray | None = None  # (faces, 3, 2), v upwards
    image: Image.Image | None = None


def srgb(linear) -> np.ndarray:
    x = np.clip(np.asarray(linear, float), 0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def opened(name: str, path: Path) -> Image.Image | None:
    "A texture as a program would look for it: by the name that the importer gives, from the model's folder."
    file = Path(path.parent, name)
    return Image.open(file) if name and file.is_file() else None


def placed(corners: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return corners @ matrix[:3, :3].T + matrix[:3, 3]


def with_trimesh(path: Path) -> Iterator[Part]:
    import trimesh

    scene = trimesh.load_scene(
        path, process=False, resolver=trimesh.resolvers.FilePathResolver(path, allow_anywhere=True)
    )
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        mesh = scene.geometry[name]
        if not isinstance(mesh, trimesh.Trimesh):
            continue
        corners, visual, linear = (
            placed(mesh.vertices[mesh.faces], matrix),
            mesh.visual,
            path.suffix in (".glb", ".gltf"),
        )
        if visual.kind == "face":
            yield Part(corners, np.repeat(visual.face_colors[:, None, :3] / 255, 3, 1))
        elif visual.kind == "vertex":
            colours = visual.vertex_colors[:, :3] / 255
            yield Part(corners, (srgb(colours) if linear else colours)[mesh.faces])
        elif isinstance(visual, trimesh.visual.TextureVisuals):
            material = visual.material
            pbr = isinstance(material, trimesh.visual.material.PBRMaterial)
            image = material.baseColorTexture if pbr else material.image
            image = image if image is not None and image.format else None  # without a format it is trimesh's own
            factor = (material.baseColorFactor if pbr else material.kwargs.get("kd")) if image is None else None
            if (own := visual.vertex_attributes.get("color")) is not None:
                yield Part(
                    corners, srgb(own[:, :3] / (np.iinfo(own.dtype).max if own.dtype.kind == "u" else 1))[mesh.faces]
                )
            else:
                yield Part(
                    corners,
                    None
                    if factor is None
                    else srgb(np.asarray(factor, float)[:3] / (255 if pbr and np.max(factor) > 1 else 1)),
                    None if visual.uv is None else visual.uv[mesh.faces],
                    image,
                )
        else:
            yield Part(corners)


def with_assimp(path: Path) -> Iterator[Part]:
    import assimp_py

    scene = assimp_py.import_file(
        str(path), assimp_py.Process_Triangulate | assimp_py.Process_SortByPType | assimp_py.Process_FindInvalidData
    )

    def walk(node, matrix):
        matrix = matrix @ np.array(node.transformation)
        for index in node.mesh_indices:
            mesh = scene.meshes[index]
            if mesh.num_indices != 3 * mesh.num_faces:  # points and lines
                continue
            faces = np.array(mesh.indices).reshape(-1, 3)
            corners = placed(np.array(mesh.vertices).reshape(-1, 3)[faces], matrix)
            material = scene.materials[mesh.material_index]
            names = material.get("TEXTURES", {}).get(assimp_py.TextureType_DIFFUSE, [])
            image = opened(names[0], path) if names else None
            uv = np.array(mesh.texcoords[0]).reshape(mesh.num_vertices, -1)[:, :2][faces] if mesh.texcoords else None
            colour = (
                srgb(material["COLOR_DIFFUSE"][:3])
                if "COLOR_DIFFUSE" in material and material.get("NAME") != "DefaultMaterial"
                else None
            )
            if mesh.colors and image is None:
                colour = np.array(mesh.colors[0]).reshape(mesh.num_vertices, -1)[:, :3][faces]
                colour = srgb(colour) if path.suffix in (".glb", ".gltf") else colour
            yield Part(corners, colour, uv, image)
        for child in node.children:
            yield from walk(child, matrix)

    yield from walk(scene.root_node, np.eye(4))


def with_pymeshlab(path: Path) -> Iterator[Part]:
    import pymeshlab

    meshes = pymeshlab.MeshSet()
    meshes.load_new_mesh(str(path))
    for mesh in meshes:
        faces = mesh.face_matrix()
        corners = placed(mesh.vertex_matrix()[faces], mesh.transform_matrix())
        colour = None
        if mesh.has_face_color():
            colour = np.repeat(mesh.face_color_matrix()[:, None, :3], 3, 1)
        elif mesh.has_vertex_color():
            colour = mesh.vertex_color_matrix()[faces][..., :3]
        uv = (
            mesh.wedge_tex_coord_matrix().reshape(-1, 3, 2)
            if mesh.has_wedge_tex_coord()
            else mesh.vertex_tex_coord_matrix()[faces]
            if mesh.has_vertex_tex_coord()
            else None
        )
        if not mesh.textures() or uv is None:
            yield Part(corners, colour)
            continue
        number = (
            mesh.wedge_tex_coord_index_array().reshape(-1, 3)[:, 0]
            if mesh.has_wedge_tex_coord()
            else np.zeros(len(faces), int)
        )
        for k, image in enumerate(mesh.textures().values()):
            qt = np.frombuffer(bytes(image.constBits()), np.uint8) if hasattr(image, "constBits") else None
            yield Part(
                corners[number == k],
                None,
                uv[number == k],
                opened(list(mesh.textures())[k], path) if qt is None else None,
            )
        yield Part(corners[number < 0], None if colour is None else colour[number < 0])


def with_tinyobjloader(path: Path) -> Iterator[Part]:
    import tinyobjloader

    config = tinyobjloader.ObjReaderConfig()
    config.triangulate = True
    reader = tinyobjloader.ObjReader()
    if not reader.ParseFromFile(str(path), config):
        raise ValueError(reader.Error())
    attributes, materials = reader.GetAttrib(), reader.GetMaterials()
    places, texture = np.array(attributes.vertices).reshape(-1, 3), np.array(attributes.texcoords).reshape(-1, 2)
    colours = np.array(attributes.colors)
    coloured = len(colours) == places.size and (colours != 1).any()
    for shape in reader.GetShapes():
        index = np.array([(i.vertex_index, i.texcoord_index) for i in shape.mesh.indices]).reshape(-1, 3, 2)
        own = np.array(shape.mesh.material_ids)
        placed_uv = (index[..., 1] >= 0).all(1)
        for k in np.unique(own):
            for mapped in (True, False):
                these = (own == k) & (placed_uv == mapped)
                material = materials[k] if k >= 0 else None
                colour = None if material is None else srgb(material.diffuse)
                if coloured:
                    colour = colours.reshape(-1, 3)[index[these, :, 0]]
                yield Part(
                    places[index[these, :, 0]],
                    colour,
                    texture[index[these, :, 1]] if mapped else None,
                    opened(material.diffuse_texname, path) if material is not None and mapped else None,
                )


def with_blender(path: Path) -> Iterator[Part]:
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    {
        ".obj": lambda f: bpy.ops.wm.obj_import(filepath=f, forward_axis="Y", up_axis="Z"),
        ".ply": lambda f: bpy.ops.wm.ply_import(filepath=f),
        ".stl": lambda f: bpy.ops.wm.stl_import(filepath=f),
        ".glb": lambda f: bpy.ops.import_scene.gltf(filepath=f),
        ".gltf": lambda f: bpy.ops.import_scene.gltf(filepath=f),
        ".dae": lambda f: bpy.ops.wm.collada_import(filepath=f),
    }[path.suffix](str(path))
    for item in bpy.context.scene.objects:
        if item.type != "MESH":
            continue
        mesh = item.data
        mesh.calc_loop_triangles()
        loops, matrix = np.array([t.loops for t in mesh.loop_triangles]).reshape(-1, 3), np.array(item.matrix_world)
        corner = np.array([loop.vertex_index for loop in mesh.loops], int)
        corners = placed(np.array([v.co for v in mesh.vertices]).reshape(-1, 3)[corner[loops]], matrix)
        own = np.array([t.material_index for t in mesh.loop_triangles])
        uv = np.array([u.uv for u in mesh.uv_layers.active.data])[loops] if mesh.uv_layers else None
        colours = None
        if mesh.color_attributes:
            layer = mesh.color_attributes[0]
            values = np.array([c.color_srgb for c in layer.data])[:, :3]
            colours = values[loops if layer.domain == "CORNER" else corner[loops]]
        for k in np.unique(own):
            material = mesh.materials[k] if len(mesh.materials) else None
            shader = material.node_tree.nodes.get("Principled BSDF") if material and material.use_nodes else None
            colour, image = None, None
            if shader:
                socket = shader.inputs["Base Color"]
                colour = srgb(np.array(socket.default_value)[:3])
                sources = (
                    [n for n in material.node_tree.nodes if n.type == "TEX_IMAGE" and n.image]
                    if socket.is_linked
                    else []
                )
                if sources and sources[0].image.size[0]:
                    width, height = sources[0].image.size
                    values = np.array(sources[0].image.pixels).reshape(height, width, 4)[::-1, :, :3]
                    values = srgb(values) if sources[0].image.is_float else values
                    image = Image.fromarray(np.rint(255 * values.clip(0, 1)).astype(np.uint8))
            these = own == k
            yield Part(
                corners[these],
                colours[these] if colours is not None and image is None else colour,
                uv[these] if uv is not None else None,
                image,
            )


def with_sie(path: Path) -> Iterator[Part]:
    from sie.data.mesh_files import load_model

    mesh = load_model(path)
    yield Part(mesh.triangles, np.repeat(mesh.visual.face_colors[:, None, :3] / 255, 3, 1))


IMPORTERS: dict[str, tuple[Callable, str]] = {
    "trimesh": (with_trimesh, "trimesh"),
    "assimp": (with_assimp, "assimp-py"),
    "PyMeshLab": (with_pymeshlab, "pymeshlab"),
    "tinyobjloader": (with_tinyobjloader, "tinyobjloader"),
    "Blender": (with_blender, "bpy"),
    "sie": (with_sie, "sie"),
}


def measured(parts: list[Part]) -> tuple[float, dict[tuple[int, ...], float]]:
    "Area, in squared bounding-box diagonals, and the share of the area of each sRGB colour."
    parts = [part._replace(corners=np.asarray(part.corners, float)) for part in parts if len(part.corners)]
    corners = np.concatenate([p.corners for p in parts])
    areas = [
        np.linalg.norm(np.cross(p.corners[:, 1] - p.corners[:, 0], p.corners[:, 2] - p.corners[:, 0]), axis=1) / 2
        for p in parts
    ]
    total = sum(a.sum() for a in areas)
    weights = np.array([(a, b, 23 - a - b) for a in range(24) for b in range(24 - a)]) / 23
    weights = 0.98 * weights + 0.02 / 3  # not on the edges
    shares: dict[tuple[int, ...], float] = {}
    for part, area in zip(parts, areas):
        colour = (
            np.broadcast_to(np.array([231, 231, 231]) / 255 if part.colour is None else part.colour, (len(area), 3, 3))
            if np.ndim(part.colour) < 2
            else part.colour
        )
        seen = np.rint(255 * np.einsum("pc,fck->fpk", weights, colour)).astype(int)
        if part.image is not None and part.uv is not None:
            texels = np.asarray(part.image.convert("RGB")).astype(int)
            place = np.einsum("pc,fck->fpk", weights, part.uv) % 1
            x, y = np.moveaxis((place * part.image.size).astype(int), -1, 0)
            seen = texels[len(texels) - 1 - y.clip(0, len(texels) - 1), x.clip(0, texels.shape[1] - 1)]
        values, inverse = np.unique(seen.reshape(-1, 3), axis=0, return_inverse=True)
        for value, share in zip(
            values, np.bincount(inverse.ravel(), np.repeat(area / total / len(weights), len(weights)))
        ):
            shares[tuple(value.tolist())] = shares.get(tuple(value.tolist()), 0) + share
    return total / (np.ptp(corners.reshape(-1, 3), axis=0) ** 2).sum(), shares


def verdict(case: Case, read: Callable, path: Path) -> str:
    "'right', or what is wrong with what an importer made of a case."
    try:
        parts = [part for part in read(path) if len(part.corners)]
        area, shares = measured(parts) if parts else (0, {})
    except BaseException as error:  # importers raise what comes
        return "right" if case.refused else f"refused: {str(error).replace(str(path.parent), '')[:60]!r}"
    if case.refused or not parts:
        return "read, though it should be refused" if case.refused else "nothing"
    if not np.isclose(area, case.area, rtol=1e-3):
        return f"area {area:.4f} instead of {case.area:.4f}"
    for name, expected in case.colours.items():
        colour = np.array(name.split(), int)
        found = sum(share for other, share in shares.items() if abs(colour - other).max() <= 12)
        if abs(found - expected) > case.within:
            return f"{found:.0%} instead of {expected:.0%} of {name}"
    return "right"


def alone(*arguments: str) -> list[str]:
    "What this script prints when it is run with other arguments, in a process of its own, as some importers crash."
    done = subprocess.run(
        [sys.executable, "-u", __file__, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=1500,
    )
    return [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]


def verdicts(name: str, folder: str) -> list[str]:
    "Of all cases. After a crash the next process goes on with the next case."
    found: list[str] = []
    while len(found) < len(all_cases()):
        found += alone(name, "--cases", folder, str(len(found)))
        if len(found) < len(all_cases()):
            found.append("the process crashed")
    return found


def complete(read: Callable, files: list[Path]) -> int:
    "Of how many OBJ files an importer returns all triangles."
    whole = 0
    for path in files:
        try:
            whole += sum(len(part.corners) for part in read(path)) == triangles_in(path)
        except BaseException as error:  # importers raise what comes
            print(path.name, repr(error)[:200], file=sys.stderr)
    return whole


def triangles_in(path: Path) -> int:
    "Of an OBJ, by its text: a polygon of n corners has n - 2."
    return sum(len(line.split()) - 3 for line in re.findall(rb"^f[ \t].*", path.read_bytes(), re.MULTILINE))


def main(name: str, models: str | None = None) -> None:
    "All cases, and the real models in a folder, by one importer."
    package, rows = IMPORTERS[name][1], []
    with tempfile.TemporaryDirectory() as folder:
        for case, result in zip(write_cases(Path(folder)), verdicts(name, folder)):
            rows.append((name, version(package), case.file, Path(case.file).suffix, result))
    if models:
        rows.append(
            (
                name,
                version(package),
                "real models",
                ".obj",
                f"{alone(name, '--real', models)[0]} of {len(list(Path(models).rglob('*.obj')))}",
            )
        )
    table = HERE / "importers.csv"
    old = list(csv.reader(open(table)))[1:] if table.exists() else []
    if not models:
        rows += [tuple(row) for row in old if row[0] == name and row[2] == "real models"]
    old = [row for row in old if row[0] != name]
    with open(table, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("importer", "version", "case", "format", "result"), *old, *rows]
        )
    for suffix in FORMATS:
        results = [row[-1] for row in rows if row[3] == suffix and row[2] != "real models"]
        print(suffix, f"{results.count('right')} of {len(results)}")


if __name__ == "__main__":
    if sys.argv[2:3] == ["--cases"]:
        for case in all_cases()[int(sys.argv[4]) :]:
            print(
                "\nRESULT " + verdict(case, IMPORTERS[sys.argv[1]][0], Path(sys.argv[3], case.file)).replace("\n", " ")
            )
    elif sys.argv[2:3] == ["--real"]:
        print("\nRESULT", complete(IMPORTERS[sys.argv[1]][0], sorted(Path(sys.argv[3]).rglob("*.obj"))))
    else:
        main(*sys.argv[1:])

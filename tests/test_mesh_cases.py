"""Small model files of the kinds that readers get wrong: each has the right surface and colours, or is refused."""

import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from ruamel.yaml import YAML
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parent))
from mesh_cases import PLY, _dae, _stl, _stl_text, all_cases, gltf, png, write_cases  # noqa: E402

from sie.data import model_formats  # noqa: E402
from sie.data.mesh_files import load_model  # noqa: E402
from sie.data.model_formats import _triangulated, missing_textures, model_digest, model_files  # noqa: E402
from sie.data.scene import Renderer  # noqa: E402
from sie.method.rotations import sample_latents  # noqa: E402


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("cases")
    write_cases(home)
    return home


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.file)
def test_each_case_is_right(folder, case):
    if case.refused:
        with pytest.raises(ValueError, match=case.refused):
            load_model(folder / case.file)
        return
    mesh = load_model(folder / case.file, detail=0.02)
    np.testing.assert_allclose(mesh.area, case.area, rtol=1e-3)
    seen = mesh.visual.face_colors[:, :3].astype(int)
    for name, expected in case.colours.items():
        near = (abs(seen - np.array(name.split(), int)) <= 12).all(1)
        share = mesh.area_faces[near].sum() / mesh.area
        assert abs(share - expected) <= case.within + 0.02, f"{share:.3f} instead of {expected} of {name}"


HERE = Path(__file__).parent
CORNERS = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\n"


@pytest.mark.parametrize("row", YAML(typ="safe").load(HERE / "bad_inputs" / "meshes.yaml"), ids=lambda row: row["name"])
def test_what_is_refused_is_named(tmp_path, row):
    path = tmp_path / row["file"]
    path.write_text((CORNERS if path.suffix == ".obj" else "") + row["text"])
    for name, text in row.get("beside", {}).items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"(?s){re.escape(str(tmp_path))}.*(?:{row['says']})") as refusal:
        load_model(path)
    assert path.stem in str(refusal.value)


RED, FOUR = "<color>1 0 0 1</color>", '<texture texture="t" texcoord="UV"/>'
PLACED = '<input semantic="TEXCOORD" source="#u" offset="1" set="0"/>'
COLLADAS = {  # what is replaced in a COLLADA that is right, and the message
    "nan": ((RED,), ("0 0 0 1 0 0", "0 0 nan 1 0 0"), "corners that are not finite"),
    "inf": ((RED,), ("0 0 0 1 0 0", "0 0 INF 1 0 0"), "corners that are not finite"),
    "comma": ((RED,), ("0 0 0 1 0 0", "0 0 0,5 1 0 0"), "could not convert string to float: '0,5'"),
    "sampler": (
        (FOUR, PLACED, "polylist", "t.png"),
        ('texture="t"', 'texture="lost"'),
        "has the texture lost, which is no",
    ),
    "index": ((RED,), ("<p>4 5", "<p>4 55"), "g has an index beyond its 8 POSITIONs"),
    "material": (
        (RED,),
        ('target="#m"', 'target="#gone"'),
        "<instance_material> names '#gone', which is not in the file",
    ),
    "geometry": ((RED,), ('url="#g"', 'url="#gone"'), "<instance_geometry> names '#gone', which is not in the file"),
    "set": (
        (FOUR, PLACED + PLACED.replace('"0"', '"2"'), "polylist", "t.png"),
        ('input_set="0"', 'input_set="1"'),
        "g has no TEXCOORD of the set 1",
    ),
    "vcount": ((RED,), ("<vcount>4 4", "<vcount>4 3"), "has 24 corners, and its polygons 23"),
    "skew": ((RED,), ('<node id="n">', '<node id="n"><skew>1 1 0 0 0 1 0</skew>'), "places a geometry by <skew>"),
    "hole": ((RED, "", "polygons"), ("<p>4 5 7 6</p>", "<ph><p>4 5 7 6</p><h>1 2 3</h></ph>"), "polygons with holes"),
}


@pytest.mark.parametrize("name", COLLADAS)
def test_colladas_that_are_refused(tmp_path, name):
    arguments, (old, new), says = COLLADAS[name]
    right = _dae(*arguments).decode()
    assert old in right
    (tmp_path / "t.png").write_bytes(png())
    (tmp_path / "m.dae").write_text(right.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"(?s)m.dae.*{re.escape(says)}"):
        load_model(tmp_path / "m.dae")


def test_a_missing_texture_of_a_collada(tmp_path):
    (tmp_path / "m.dae").write_bytes(_dae(FOUR, PLACED, image="gone.png"))
    assert missing_textures(tmp_path / "m.dae") == ["gone.png"]
    with pytest.raises(ValueError, match="m.dae names the texture gone.png, which is missing"):
        load_model(tmp_path / "m.dae")
    mesh = load_model(tmp_path / "m.dae", missing_textures="colour")
    assert (mesh.visual.face_colors[:, :3] == 231).all()  # a diffuse texture leaves no place for a colour


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (_stl(end=bytes(50)), "goes on for 50 bytes after the 12 faces"),
        (_stl() + _stl(), "goes on for 684 bytes after the 12"),
        (_stl()[:-1], "is cut short: it has 683 bytes, and 684"),
        (_stl_text(("a",)).upper()[:-20], "an STL in text ends in endsolid"),
    ],
)
def test_stls_that_are_refused(tmp_path, data, says):
    (tmp_path / "m.stl").write_bytes(data)
    with pytest.raises(ValueError, match=f"m.stl.*{says}"):
        load_model(tmp_path / "m.stl")


TEXTURE_5 = {"baseColorTexture": {"index": 5}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda header: header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"].update(index=5),
            "texture 5",
        ),
        (lambda header: header.pop("textures"), "texture 0"),
        (lambda header: header["textures"][0].update(source=3), "image 3"),
        (lambda header: header.pop("images"), "image 0"),
    ],
)
def test_textures_and_images_that_a_gltf_lacks(tmp_path, change, says):
    header = gltf()
    change(header)
    (tmp_path / "m.gltf").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=f"m.gltf.*there is no {says}"):
        load_model(tmp_path / "m.gltf")


def test_a_texture_whose_set_of_coordinates_is_missing(tmp_path):
    def change(header, add):
        header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1

    (tmp_path / "m.gltf").write_text(json.dumps(gltf(change)))
    with pytest.raises(ValueError, match="m.gltf: a texture is placed by TEXCOORD_1"):
        load_model(tmp_path / "m.gltf")


def test_double_sided_faces_show_the_side_that_faces_the_camera(folder):
    latents = sample_latents(6, np.random.default_rng(0))
    draw = Renderer(48, 9)
    mesh = load_model(folder / "R01_double_sided_two_colours/box.obj")
    red = trimesh.creation.box([3**-0.5] * 3)
    red.visual.face_colors = [255, 0, 0, 255]
    outside = draw.render(red, latents).astype(float)
    assert ((draw.render(mesh, latents) - outside) ** 2).mean() < 1
    swapped = mesh.copy()
    swapped.face_attributes["one_sided"] = np.zeros(len(mesh.faces), bool)
    assert ((draw.render(swapped, latents) - outside) ** 2).mean() > 50  # that is what the mark is for


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".off", ".gltf"])
@pytest.mark.parametrize("order", [1, -1])
def test_two_sides_in_any_format_order_and_cut(tmp_path, suffix, order):
    "A square that is red from above and blue from below, whose sides are cut along different diagonals or not at all."
    corners, up, down = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], [(0, 1, 2, 3)], [(1, 0, 3), (3, 2, 1)]
    faces = ([(face, (255, 0, 0)) for face in up] + [(face, (0, 0, 255)) for face in down])[::order]
    path = tmp_path / f"m{suffix}"
    if suffix == ".obj":
        (tmp_path / "m.mtl").write_text("newmtl 255\nKd 1 0 0\nnewmtl 0\nKd 0 0 1\n")
        lines = ["mtllib m.mtl", *("v {} {} {}".format(*c) for c in corners)]
        lines += [f"usemtl {colour[0]}\nf " + " ".join(str(k + 1) for k in face) for face, colour in faces]
        path.write_text("\n".join(lines))
    elif suffix == ".off":
        path.write_text(
            "\n".join(
                [
                    "OFF",
                    f"4 {len(faces)} 0",
                    *("{} {} {}".format(*c) for c in corners),
                    *(f"{len(face)} {' '.join(map(str, face))} {' '.join(map(str, colour))}" for face, colour in faces),
                ]
            )
        )
    elif suffix == ".ply":
        head = PLY.format("ascii").replace("vertex 8", "vertex 4") + "element face 3\n"
        head += "property list uchar int vertex_indices\n"
        head += "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header"
        path.write_text(
            "\n".join(
                [
                    head,
                    *("{} {} {}".format(*c) for c in corners),
                    *(f"{len(face)} {' '.join(map(str, face))} {' '.join(map(str, colour))}" for face, colour in faces),
                ]
            )
        )
    else:

        def change(header, add):
            position, primitives = add(np.float32(corners)), []
            header["materials"] = [
                {"pbrMetallicRoughness": {"baseColorFactor": colour}} for colour in ([1, 0, 0, 1], [0, 0, 1, 1])
            ]
            for face, colour in faces:
                index = np.uint8([k for a in range(1, len(face) - 1) for k in (face[0], face[a], face[a + 1])])
                primitives.append(
                    {"attributes": {"POSITION": position}, "indices": add(index), "material": int(colour[2] > 0)}
                )
            header["meshes"][0]["primitives"] = primitives

        path.write_text(json.dumps(gltf(change)))
    mesh = load_model(path, up="z")
    assert mesh.face_attributes["one_sided"].all()
    colours, above = mesh.visual.face_colors[:, :3], mesh.face_normals[:, 2] > 0
    assert (
        (colours[above] == [255, 0, 0]).all()
        and (colours[~above] == [0, 0, 255]).all()
        and 0 < above.sum() < len(above)
    )


def test_polygons_are_cut_by_their_ears():
    """Random star-shaped polygons in random planes: the triangles add up to the polygon's area (shoelace formula) and
    face its side."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        size = int(rng.integers(4, 30))
        angle = np.sort(rng.uniform(0, 2 * np.pi, size))
        flat = rng.uniform(0.2, 1, size)[:, None] * np.c_[np.cos(angle), np.sin(angle)]
        if np.diff(np.r_[angle, angle[0] + 2 * np.pi]).max() > 3:
            continue  # the centre would lie outside
        x, y = flat.T
        area = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
        turn = Rotation.random(random_state=rng).as_matrix()
        points = np.c_[flat, np.zeros(size)] @ turn.T
        triangles, owner = _triangulated(points, np.array([size]))
        normals = (
            np.cross(
                points[triangles[:, 1]] - points[triangles[:, 0]], points[triangles[:, 2]] - points[triangles[:, 0]]
            )
            / 2
        )
        np.testing.assert_allclose(normals @ turn[:, 2], np.linalg.norm(normals, axis=1), atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1).sum(), area)
        assert not owner.any() and len(triangles) == size - 2


@pytest.mark.parametrize(
    ("options", "u", "v"),
    [
        ("-s 2 2 1", 0.3, 0.2),
        ("-o 0.25 0.5", 0.25, 0.25),
        ("-s 0.5 0.5 -o 0.5", 0.1, 0.3),
        ("-blendu on -cc off -texres 64", 0.3, 0.7),
        ("-clamp on -o 5 5 0", 0.5, 0.5),
        ("-t 1 1 1 -imfchan l", 0.6, 0.1),
    ],
)
def test_options_of_a_texture_move_its_coordinates(tmp_path, options, u, v):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "t 1.png")
    (tmp_path / "m.mtl").write_text(f"newmtl a\nmap_Kd {options} t 1.png\n")
    (tmp_path / "m.obj").write_text(f"mtllib m.mtl\nusemtl a\n{CORNERS}vt {u} {v}\nf 1/1 2/1 4/1 3/1\n")
    scale = {"-s 2 2 1": (2, 2), "-s 0.5 0.5 -o 0.5": (0.5, 0.5)}.get(options, (1, 1))
    offset = {"-o 0.25 0.5": (0.25, 0.5), "-s 0.5 0.5 -o 0.5": (0.5, 0), "-clamp on -o 5 5 0": (5, 5)}.get(
        options, (0, 0)
    )
    place = np.array([u, v]) * scale + offset
    place = place.clip(0, 1 - 1e-9) if "clamp" in options else place % 1
    expected = image[int((1 - place[1]) * 16), int(place[0] * 16)]
    assert abs(load_model(tmp_path / "m.obj").visual.face_colors[0, :3].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_images_of_all_kinds(tmp_path, mode):
    file = tmp_path / {"CMYK": "t.tif", "YCbCr": "t.jpg"}.get(mode, "t.png")
    if mode == "I;16":
        Image.fromarray(np.full((4, 4), 257 * 90, np.uint16)).save(file)
    else:
        plain = Image.new("RGB", (4, 4), (255, 255, 255) if mode == "1" else (90, 90, 90))
        (plain.quantize(4) if mode == "P" else plain.convert(mode)).save(file)
    (tmp_path / "m.mtl").write_text(f"newmtl a\nmap_Kd {file.name}\n")
    (tmp_path / "m.obj").write_text(f"mtllib m.mtl\nusemtl a\n{CORNERS}vt 0.5 0.5\nf 1/1 2/1 4/1 3/1\n")
    assert (
        abs(load_model(tmp_path / "m.obj").visual.face_colors[:, :3].astype(int) - (255 if mode == "1" else 90)).max()
        <= 1
    )


def test_missing_textures_are_listed_and_their_material_shown(tmp_path):
    (tmp_path / "m.mtl").write_text(
        "newmtl a\nKd 1 0 0\nmap_Kd gone.png\nmap_Bump bump.png\nmap_Ks gloss.png\nnorm normal.png\n"
        "newmtl b\nmap_Kd other.png\n"
    )
    (tmp_path / "m.obj").write_text(f"mtllib m.mtl\nusemtl a\n{CORNERS}vt 0 0\nf 1/1 2/1 3/1\n")
    assert missing_textures(tmp_path / "m.obj") == ["gone.png"]
    with pytest.raises(ValueError, match="names the texture gone.png, which is missing"):
        load_model(tmp_path / "m.obj")
    before = model_digest(tmp_path / "m.obj")
    assert (load_model(tmp_path / "m.obj", missing_textures="colour").visual.face_colors[:, :3] == [255, 0, 0]).all()
    Image.new("RGB", (2, 2), (0, 0, 255)).save(tmp_path / "gone.png")
    assert missing_textures(tmp_path / "m.obj") == [] and model_digest(tmp_path / "m.obj") != before
    assert (load_model(tmp_path / "m.obj").visual.face_colors[:, :3] == [0, 0, 255]).all()
    header = gltf()
    header["images"] = [{"uri": "gone%20too.png"}]
    (tmp_path / "m.gltf").write_text(json.dumps(header))
    assert missing_textures(tmp_path / "m.gltf") == ["gone%20too.png"]
    assert (load_model(tmp_path / "m.gltf", missing_textures="colour").visual.face_colors[:, :3] == 255).all()
    with pytest.raises(ValueError, match="missing_textures is 'maybe'; it must be 'refuse' or 'colour'"):
        load_model(tmp_path / "m.gltf", missing_textures="maybe")


def test_files_of_a_gltf(folder):
    assert [file.name for file in model_files(folder / "gltf_outside/m.gltf")] == ["m.gltf", "my cube.bin", "t.png"]


@pytest.mark.parametrize(
    ("case", "reader", "what"),
    [
        ("R04_some_faces_without_vt/all.obj", "_read_obj", "faces"),
        ("R04_some_faces_without_vt/all.obj", "_read_obj", "placed"),
        ("R11_material_names/single.obj", "_read_obj", "materials"),
        ("obj_all_syntaxes/m.obj", "_read_obj", "libraries"),
        ("ply_mixed_little/m.ply", "_read_ply", "faces"),
        ("ply_corner_uv/m.ply", "_read_ply", "placed"),
        ("ply_vertex_uv/m.ply", "_read_ply", "placed"),
        ("off/m.off", "_read_off", "faces"),
        ("glb/m.glb", "_read_gltf", "faces"),
        ("glb/m.glb", "_read_gltf", "placed"),
        ("glb/m.glb", "_read_gltf", "materials"),
        ("stl_solids/m.stl", "_read_stl", "faces"),
        ("stl_binary/m.stl", "_read_stl", "faces"),
        ("dae_polylist/m.dae", "_read_dae", "faces"),
        ("dae_texture/m.dae", "_read_dae", "placed"),
        ("dae_polygons/m.dae", "_read_dae", "materials"),
    ],
)
def test_a_file_that_was_not_read_whole_is_refused(folder, monkeypatch, case, reader, what):
    kind = model_formats.FORMATS[Path(case).suffix]
    assert kind.read is getattr(model_formats, reader)

    def careless(path, textures):
        model = kind.read(path, textures)
        setattr(model, what, getattr(model, what) - 1)
        return model

    monkeypatch.setitem(model_formats.FORMATS, Path(case).suffix, replace(kind, read=careless))
    with pytest.raises(ValueError, match=f"was not read whole.* instead of .*{model_formats.COUNTED[what]}"):
        load_model(folder / case)


def test_a_large_model_is_read_in_seconds(tmp_path):
    side = 230
    y, x = np.mgrid[:side, :side]

    def corner(i, j):
        return i * side + j + 1

    faces = [
        f"f {corner(i, j)}/{corner(i, j)} {corner(i, j + 1)}/{corner(i, j + 1)} {corner(i + 1, j)}/{corner(i + 1, j)}\n"
        f"f {corner(i + 1, j)} {corner(i, j + 1)} {corner(i + 1, j + 1)}\n"
        for i in range(side - 1)
        for j in range(side - 1)
    ]
    places = "".join(
        f"v {a} {np.sin(a / 9):.4f} {b}\nvt {a / side:.4f} {b / side:.4f}\n" for a, b in zip(x.ravel(), y.ravel())
    )
    (tmp_path / "m.obj").write_text(places + "".join(faces))
    started = time.process_time()
    assert len(load_model(tmp_path / "m.obj", detail=1).faces) == 2 * (side - 1) ** 2 > 100_000
    assert time.process_time() - started < 15

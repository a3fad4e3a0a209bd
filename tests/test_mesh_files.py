"""Models from files: formats, textures, layouts, faults, and a data set of them."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from sie.data import mesh_files as mf
from sie.data.model_formats import GREY, model_files
from sie.data.rendering import render_dataset
from sie.data.scene import Renderer, linear_to_srgb, srgb_to_linear
from sie.data.storage import ViewDataset
from sie.method.rotations import sample_latents
from sie.pipeline.command import fetch
from sie.pipeline.params import load_params

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)
CORNERS = np.array(
    [[-0.5, -0.3, 0], [0.5, -0.3, 0], [0.5, 0.3, 0], [-0.5, 0.3, 0]]
)  # a plate, seen from above: x to the right, y up
UV = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])  # v up
QUADRANTS = np.uint8(
    [[[250, 20, 20], [20, 250, 20]], [[20, 20, 250], [240, 240, 30]]]
)  # as the image lies: the upper row first
FOUR = Image.fromarray(QUADRANTS.repeat(8, 0).repeat(8, 1))
NOISE = Image.fromarray(RNG.integers(0, 256, (7, 9, 3)).astype(np.uint8))  # nowhere like itself, and no power of two


def plate(image, uv=UV):
    return trimesh.Trimesh(
        CORNERS,
        [[0, 1, 2], [0, 2, 3]],
        visual=TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=image)),
        process=False,
    )


def write_obj(path, uv=UV, images="tex.png", kd="1 1 1"):
    "A textured plate, without any exporter's help."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".mtl").write_text(f"newmtl paint\nKd {kd}\n" + (f"map_Kd {images}\n" if images else ""))
    lines = [
        f"mtllib {path.stem}.mtl",
        *("v {} {} {}".format(*c) for c in CORNERS),
        *("vt {} {}".format(*t) for t in uv),
        "usemtl paint",
        "f 1/1 2/2 3/3",
        "f 1/1 3/3 4/4",
    ]
    path.write_text("\n".join(lines))


def write(path, image, uv=UV):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".obj":
        write_obj(path, uv)
        image.save(path.parent / "tex.png")
    elif path.suffix == ".ply":  # trimesh writes the coordinates; it takes the image's name only by hand
        image.save(path.parent / "tex.png")
        path.write_bytes(
            plate(image, uv).export(file_type="ply").replace(b"comment ", b"comment TextureFile tex.png\ncomment ", 1)
        )
    else:
        plate(image, uv).export(path)
    return path


def colours(mesh):
    return mesh.visual.face_colors[:, :3].astype(int)


# Textures


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb"])
def test_rendered_pixels_have_the_colours_that_the_texture_has_there(suffix, tmp_path):
    model = mf.load_model(write(tmp_path / f"plate{suffix}", FOUR), up="z", detail=0.02)
    x, y = np.array([-0.5, 0, 0.5]), np.array([0.3, 0, -0.3])  # the same plate, its quadrants as faces
    boxes = [(x[c], x[c + 1], y[r], y[r + 1], QUADRANTS[r, c]) for r in range(2) for c in range(2)]
    triangles = np.array(
        [[[a, t, 0], [a, b, 0], [e, b, 0], [a, t, 0], [e, b, 0], [e, t, 0]] for a, e, t, b, _ in boxes]
    ).reshape(-1, 3) / np.hypot(1, 0.6)
    plain = trimesh.Trimesh(
        triangles,
        np.arange(24).reshape(-1, 3),
        face_colors=np.repeat([box[-1] for box in boxes], 2, axis=0),
        process=False,
    )
    latents = sample_latents(4, np.random.default_rng(1))
    images, expected = (Renderer(48, 36).render(mesh, latents).astype(float) for mesh in (model, plain))
    assert ((images - expected) ** 2).mean() < 1
    for wrong in (triangles * [-1, 1, 1], triangles * [1, -1, 1], triangles[:, [1, 0, 2]]):
        other = Renderer(48, 36).render(
            trimesh.Trimesh(wrong, plain.faces, face_colors=plain.visual.face_colors, process=False), latents
        )
        assert ((images - other) ** 2).mean() > 65


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb"])
def test_faces_have_the_texel_they_lie_in(suffix, tmp_path):
    span = np.array([[-1.3, -0.4], [1.9, 2.2]])  # wraps around, also below zero
    model = mf.load_model(write(tmp_path / f"plate{suffix}", NOISE, span[UV, [0, 1]]), up="z", detail=0.005)
    texels, sides = np.asarray(NOISE), np.array(NOISE.size)
    uv = (model.triangles[..., :2] * np.hypot(1, 0.6) / [1, 0.6] + 0.5) * (span[1] - span[0]) + span[0]
    place = np.stack([uv[..., 0], 1 - uv[..., 1]], -1) * sides
    inside = (np.floor(place + 1e-5) == np.floor(place[:, :1] + 1e-5)).all((1, 2)) & (
        np.floor(place - 1e-5) == np.floor(place[:, :1] - 1e-5)
    ).all((1, 2))
    assert model.area_faces[inside].sum() > 0.6 * model.area
    columns, rows = (np.floor(place[inside].mean(1)).astype(int) % sides).T
    assert abs(colours(model)[inside] - texels[rows, columns]).max() <= 1


def test_fine_patterns_are_averaged_in_linear_light(tmp_path):
    y, x = np.mgrid[:512, :512]
    chequered = Image.fromarray((255 * ((x + y) % 2)).astype(np.uint8))
    coarse = mf.load_model(write(tmp_path / "plate.glb", chequered), up="z", detail=0.1)
    assert abs(colours(coarse) - 188).max() <= 2 and len(coarse.faces) < 1000


def test_cutting_keeps_the_surface_and_stops_in_time(tmp_path, monkeypatch):
    whole, path = mf.load_model(write(tmp_path / "plate.glb", FOUR), detail=1), tmp_path / "plate.glb"
    fine = mf.load_model(path, detail=0.02)
    np.testing.assert_allclose(fine.area, whole.area)
    assert (
        np.linalg.norm(np.diff(fine.triangles[:, [0, 1, 2, 0]], axis=1), axis=2).max() < 0.1 and len(fine.faces) > 100
    )
    monkeypatch.setattr(mf, "MOST_FACES", 60)
    triangle = np.array([[0, 0, 0, 0], [1, 0, 0, 99], [0, 1, 0, 0]])
    few, part = mf._cut(np.stack([triangle, *[triangle * [0.1, 0.1, 0.1, 1]] * 20]), np.arange(21), 0.001)
    assert (
        30 < len(few) <= 60 and np.ptp(few[..., 0], axis=1).max() < 0.3 and (np.bincount(part)[1:] == 1).all()
    )  # the large one first
    one = mf.load_model(write(tmp_path / "one.glb", Image.new("RGB", (1, 1), "red")), detail=0.001)
    assert len(one.faces) == 2 and (colours(one) == [255, 0, 0]).all()  # nothing to be seen by cutting


# Colours


def test_materials_of_an_obj(tmp_path):
    NOISE.save(tmp_path / "tex.png")
    (tmp_path / "m.mtl").write_text(
        "newmtl half\r\nKd 0.5 0.25 0\r\nnewmtl image\r\nKd 0.1 0.1 0.1\r\nmap_Kd tex.png\r\n"
        "newmtl nowhere\r\nmap_Kd tex.png\r\n"
    )
    corners = "".join(f"v {x} {y} {z}\r\n" for z in range(4) for x, y in ((0, 0), (1, 0), (0, 1)))
    (tmp_path / "m.obj").write_text(
        "mtllib m.mtl\r\n"
        + corners
        + "vt 0.5 0.5\r\nusemtl half\r\nf 1 2 3\r\nusemtl image\r\nf 4/1 5/1 6/1\r\n"
        + "usemtl unknown\r\nf 7 8 9\r\nusemtl nowhere\r\nf 10 11 12\r\n"
    )
    mesh = mf.load_model(tmp_path / "m.obj", up="z")
    by_height = colours(mesh)[np.argsort(mesh.triangles_center[:, 2])]
    mean = srgb_to_linear(np.asarray(NOISE) / 255).mean((0, 1))  # an image, but no coordinates
    expected = [
        255 * linear_to_srgb(np.array([0.5, 0.25, 0])),
        np.asarray(NOISE)[3, 4],
        255 * linear_to_srgb(np.full(3, GREY)),
        255 * linear_to_srgb(mean),
    ]
    assert abs(by_height - expected).max() <= 1


def test_colours_of_a_glb_are_linear_factors(tmp_path):
    uv, corner = np.full((4, 2), [0.5, 0.5]), np.uint8([[255, 128, 0, 255]] * 4)
    scene = trimesh.Scene()
    texture = trimesh.Trimesh(
        CORNERS,
        [[0, 1, 2], [0, 2, 3]],
        visual=TextureVisuals(
            uv=uv, material=PBRMaterial(baseColorTexture=NOISE, baseColorFactor=[1.0, 0.5, 0.25, 1.0])
        ),
        process=False,
    )
    factor = trimesh.Trimesh(
        CORNERS + [0, 0, 1],
        texture.faces,
        visual=TextureVisuals(uv=uv, material=PBRMaterial(baseColorFactor=[0.2, 1.0, 1.0, 1.0])),
        process=False,
    )
    factor.visual.vertex_attributes["color"] = corner
    own = trimesh.Trimesh(CORNERS + [0, 0, 2], texture.faces, vertex_colors=corner, process=False)
    for mesh in (texture, factor, own):
        scene.add_geometry(mesh)
    scene.export(tmp_path / "m.glb")
    mesh = mf.load_model(tmp_path / "m.glb", up="z")
    by_height = colours(mesh)[np.argsort(mesh.triangles_center[:, 2])].reshape(3, 2, 3)
    texel = srgb_to_linear(np.asarray(NOISE)[3, 4] / 255)
    for seen, linear in zip(by_height, (texel * [1, 0.5, 0.25], [0.2, 128 / 255, 0], [1, 128 / 255, 0])):
        assert abs(seen - 255 * linear_to_srgb(np.array(linear))).max() <= 2


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_colours_of_vertices_change_gradually(suffix, tmp_path):
    corner = np.uint8([[0, 0, 0], [150, 0, 0], [150, 150, 0], [0, 150, 0]])
    trimesh.Trimesh(CORNERS, [[0, 1, 2], [0, 2, 3]], vertex_colors=corner, process=False).export(
        tmp_path / f"m{suffix}"
    )
    mesh = mf.load_model(tmp_path / f"m{suffix}", up="z", detail=0.02)
    where = mesh.triangles_center[:, :2] * np.hypot(1, 0.6) / [1, 0.6] + 0.5
    np.testing.assert_allclose(
        srgb_to_linear(mesh.visual.face_colors[:, :2] / 255), where * srgb_to_linear(np.array(150 / 255)), atol=0.02
    )


def test_colours_of_faces_and_none(tmp_path):
    cube = trimesh.creation.box()
    cube.visual.face_colors = given = RNG.integers(0, 256, (12, 4)).astype(np.uint8) | np.uint8([0, 0, 0, 255])
    cube.export(tmp_path / "cube.ply")
    assert np.array_equal(colours(mf.load_model(tmp_path / "cube.ply")), given[:, :3])
    cube.export(tmp_path / "cube.stl")
    (tmp_path / "mapped.obj").write_text(
        "".join("v {} {} {}\n".format(*c) for c in CORNERS) + "vt 0 0\nf 1/1 2/1 3/1\n"
    )
    for name in ("cube.stl", "mapped.obj"):
        assert (
            colours(mf.load_model(tmp_path / name)) == 231
        ).all()  # 0.8 of the light; coordinates alone are no texture


# Places


def test_positions_in_a_scene_are_applied(tmp_path):
    scene, rotation = trimesh.Scene(), trimesh.transformations.rotation_matrix(0.7, [1, 2, 3], [1, 0, 0])
    part = trimesh.creation.box((1, 0.5, 0.2))
    scene.add_geometry(part, node_name="a", geom_name="part")
    scene.add_geometry(
        part,
        node_name="b",
        geom_name="part",
        parent_node_name="a",
        transform=trimesh.transformations.concatenate_matrices(rotation, np.diag([2, 1, 0.5, 1])),
    )
    scene.export(tmp_path / "m.glb")
    corners = np.concatenate(
        [
            part.triangles.reshape(-1, 3),
            trimesh.transform_points(part.triangles.reshape(-1, 3), rotation @ np.diag([2, 1, 0.5, 1])),
        ]
    )
    low, high = corners.min(0), corners.max(0)
    found = mf.load_model(tmp_path / "m.glb", up="z").triangles.reshape(-1, 3)
    np.testing.assert_allclose(
        np.sort(found, 0), np.sort((corners - (low + high) / 2) / np.linalg.norm(high - low), 0), atol=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3), st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))
def test_any_model_is_centred_and_has_unit_diagonal(tmp_path_factory, extents, at):
    path = tmp_path_factory.mktemp("box") / "box.ply"
    trimesh.creation.box(extents).apply_translation(at).export(path, encoding="ascii")
    for up in "yz":
        low, high = mf.load_model(path, up).bounds
        np.testing.assert_allclose(low + high, 0, atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(high - low), 1)


def test_up(tmp_path):
    tetrahedron = np.array([[0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 1.0]])
    trimesh.Trimesh(tetrahedron, [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], process=False).export(tmp_path / "t.stl")
    z, y = (mf.load_model(tmp_path / "t.stl", up) for up in "zy")
    quarter = trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0])[:3, :3]  # +90 degrees about x
    np.testing.assert_allclose(y.triangles, z.triangles @ quarter.T, atol=1e-9)
    np.testing.assert_allclose(quarter @ [0, 0, -1], [0, 1, 0], atol=1e-9)  # ShapeNet's front is -z, ours +y
    np.testing.assert_allclose(y.extents * np.sqrt(14), [3, 1, 2])
    assert y.volume > 0
    with pytest.raises(ValueError, match="up is 'x'; it must be 'y' or 'z'"):
        mf.load_model(tmp_path / "t.stl", "x")


# Layouts


@pytest.fixture
def shapenet(tmp_path):
    "ShapeNetCore v2's layout: textures are beside the folder of the model."
    for synset, object_id in (("03001627", "1a"), ("03001627", "1b"), ("02691156", "ff")):
        home = tmp_path / "ShapeNetCore.v2" / synset / object_id
        write_obj(home / "models/model_normalized.obj", images="../images/texture0.jpg")
        (home / "images").mkdir()
        FOUR.save(home / "images/texture0.jpg", quality=95)
        (home / "models/model_normalized.json").write_text("{}")
    (tmp_path / "ShapeNetCore.v2/taxonomy.json").write_text("[]")
    return tmp_path / "ShapeNetCore.v2"


def test_shapenet_layout(shapenet):
    objects = mf.mesh_objects(shapenet)
    assert list(objects) == [("02691156", "ff"), ("03001627", "1a"), ("03001627", "1b")]
    assert [path.name for path in model_files(objects["03001627", "1a"])] == [
        "model_normalized.obj",
        "model_normalized.mtl",
        "texture0.jpg",
    ]
    seen = colours(mf.load_model(objects["03001627", "1a"]))
    assert all(abs(seen - rgb).max(1).min() < 12 for rgb in QUADRANTS.reshape(-1, 3))
    (shapenet / "03001627/1b/models/model_normalized.obj").unlink()
    with pytest.raises(
        ValueError, match="1 of 3 models cannot be used:\n.*03001627/1b/models/model_normalized.obj is missing"
    ):
        mf.usable_models(mf.mesh_objects(shapenet))
    assert mf.usable_models(mf.mesh_objects(shapenet), skip_broken=True) == [("02691156", "ff"), ("03001627", "1a")]


def test_a_folder_for_each_class(tmp_path):
    for name in (
        "chair/b.obj",
        "chair/a.GLB",
        "file cabinet/x.ply",
        "02691156/p.stl",
        "chair/textures/t.obj",
        ".git/x.obj",
        "chair/.hidden.obj",
        "chair/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [(s, o, p.relative_to(tmp_path).as_posix()) for (s, o), p in mf.mesh_objects(tmp_path).items()] == [
        ("02691156", "p", "02691156/p.stl"),
        ("03001627", "a", "chair/a.GLB"),
        ("03001627", "b", "chair/b.obj"),
        ("03337140", "x", "file cabinet/x.ply"),
    ]
    draw = mf.MeshFileRenderer(folder=str(tmp_path))
    assert all(draw._file(*key) == path for key, path in mf.mesh_objects(tmp_path).items())
    with pytest.raises(FileNotFoundError, match="03001627/c"):
        draw.digest("03001627", "c")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "holds no models: there should be"),
        (["chair/readme.txt"], "chair holds no models"),
        (["chair/a/b/model.txt"], "chair holds no models"),
        (["a.obj"], "a.obj lies outside of a class's folder"),
        (["chair/a.obj", "chair/a.glb"], "a.glb.*a.obj|a.obj.*a.glb"),
        (["chair/a.obj", "03001627/a.ply"], "are both object a of class chair"),
        (["chair/a.obj", "chair/b/models/model_normalized.obj"], "chair holds models in both layouts"),
        (["chair/my chair.obj"], "my chair.obj: an object's id"),
    ],
)
def test_layouts_that_are_refused(tmp_path, files, says):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=says):
        mf.mesh_objects(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        mf.mesh_objects(tmp_path / "nowhere")


# Faults


def glb_with(path, change):
    "Rewrite the JSON of a GLB."
    data = path.read_bytes()
    (size,) = struct.unpack_from("<I", data, 12)
    header, rest = json.loads(data[20 : 20 + size]), data[20 + size :]
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    path.write_bytes(struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON") + text + rest)


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
FAULTS = {
    "empty.obj": (lambda p: p.write_text(""), "has no faces"),
    "empty.glb": (lambda p: p.write_text(""), "is not a whole GLB file"),
    "text.ply": (lambda p: p.write_text("hello"), "is not a PLY file"),
    "text.stl": (lambda p: p.write_text("hello"), "has no faces"),
    "cut.ply": (lambda p: cut(p, -9), "is cut short"),
    "cut.stl": (lambda p: cut(p, 300), "is cut short: it has 300 bytes"),
    "cut.glb": (lambda p: cut(p, -9), "is not a whole GLB file"),
    "points.obj": (lambda p: p.write_text(OBJ), "has no faces"),
    "range.obj": (lambda p: p.write_text(OBJ + "f 1 2 9\n"), "has a face with corner 9, but only 3 of them"),
    "backwards.obj": (lambda p: p.write_text(OBJ + "f -4 -2 -1\n"), "line 4.*counts backwards beyond the first corner"),
    "nan.obj": (
        lambda p: p.write_text(OBJ.replace("1", "nan") + "f 1 2 3\n"),
        "corners that are not finite, in 1 faces",
    ),
    "inf.obj": (lambda p: p.write_text(OBJ.replace("1", "1e999") + "f 1 2 3\n"), "corners that are not finite"),
    "nan_uv.obj": (
        lambda p: (write_obj(p, [[0, 0], [np.nan, 0], [1, 1], [0, 1]]), NOISE.save(p.with_name("tex.png"))),
        "texture coordinates that are not finite",
    ),
    "point.obj": (lambda p: p.write_text("v 1 2 3\nv 1 2 3\nv 1 2 3\nf 1 2 3\n"), "has no size"),
    "no_library.obj": (
        lambda p: p.write_text("mtllib gone.mtl\n" + OBJ + "f 1 2 3\n"),
        "names the material library gone.mtl, which is missing",
    ),
    "libraries.obj": (
        lambda p: p.write_text("mtllib a.mtl\nmtllib b.mtl\n" + OBJ + "f 1 2 3\n"),
        "names the material library a.mtl, which is missing",
    ),
    "no_image.obj": (
        lambda p: write_obj(p, images="../images/gone.png"),
        "names the texture ../images/gone.png, which is missing",
    ),
    "bad_image.obj": (
        lambda p: (write_obj(p, images="bad.png"), p.with_name("bad.png").write_bytes(b"\x89PNG")),
        "bad.png is not a whole image",
    ),
    "cut_image.obj": (
        lambda p: (
            write_obj(p, images="cut.png"),
            NOISE.resize((99, 99)).save(p.with_name("cut.png")),
            cut(p.with_name("cut.png"), 2000),
        ),
        "cut.png is not a whole image",
    ),
    "no_image.ply": (
        lambda p: (write(p, NOISE), p.with_name("tex.png").unlink()),
        "names the texture tex.png, which is missing",
    ),
    "bad_image.glb": (
        lambda p: p.write_bytes(p.read_bytes().replace(b"IHDR", b"IHDX")),
        "image 0 is not a whole image",
    ),
    "outside.glb": (
        lambda p: glb_with(p, lambda h: h.update(images=[{"uri": "wood.png"}])),
        "names the texture wood.png, which is missing",
    ),
    "draco.glb": (
        lambda p: glb_with(p, lambda h: h.update(extensionsRequired=["KHR_draco_mesh_compression"])),
        "requires KHR_draco_mesh_compression, which is not supported",
    ),
}


def broken_model(folder, name):
    path = folder / "chair" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".ply":
        trimesh.creation.box().export(path)
    if path.suffix == ".stl":
        trimesh.creation.box().export(path)
    if path.suffix == ".glb":
        write(path, NOISE)
    FAULTS[name][0](path)
    return path


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(tmp_path, name):
    path = broken_model(tmp_path, name)
    with pytest.raises(ValueError, match=f"chair/{name}.*{FAULTS[name][1]}"):
        mf.load_model(path)


def test_all_faults_are_listed_before_anything_is_rendered(tmp_path, capsys):
    for name in FAULTS:
        broken_model(tmp_path, name).rename(tmp_path / "chair" / (name.replace(".", "_") + Path(name).suffix))
    write(tmp_path / "chair/good.glb", FOUR)
    objects = mf.mesh_objects(tmp_path)
    with pytest.raises(ValueError) as error:
        mf.usable_models(objects, workers=1)
    lines = str(error.value).splitlines()
    assert (
        lines[0] == f"{len(FAULTS)} of {len(FAULTS) + 1} models cannot be used:"
        and "skip_broken" in lines[-1]
        and len(lines) == len(FAULTS) + 2
    )
    assert not capsys.readouterr().out
    assert mf.usable_models(objects, skip_broken=True, workers=0) == [("03001627", "good")]
    assert capsys.readouterr().out.splitlines() == lines[:-1]
    (tmp_path / "chair/good.glb").unlink()
    with pytest.raises(ValueError, match="models cannot be used"):
        mf.usable_models(mf.mesh_objects(tmp_path), skip_broken=True)


# A data set


@pytest.fixture
def models(tmp_path):
    "Six models in three formats and two classes."
    for k, suffix in enumerate((".obj", ".glb", ".ply")):
        for name in ("chair", "mug"):
            write(tmp_path / f"models/{name}/{k}{suffix}", NOISE)
    return tmp_path / "models"


def test_what_has_changed_is_rendered_again(models, tmp_path):
    draw = mf.MeshFileRenderer(folder=str(models), size=24, samples=4)

    def render():
        return render_dataset(
            tmp_path / "set",
            list(mf.mesh_objects(models)),
            draw,
            views=2,
            workers=0,
            objects_per_shard=2,
        )

    def stamps():
        return [path.stat().st_mtime_ns for path in sorted((tmp_path / "set").glob("shard-*.arrow"))]

    first = render()
    before = stamps()
    render()
    assert stamps() == before
    FOUR.save(models / "chair/tex.png")  # the texture of chair/0.obj and chair/2.ply: shards 0 and 1
    second = render()
    assert [a != b for a, b in zip(stamps(), before)] == [True, True, False]
    assert [first.jpeg(k, 0) == second.jpeg(k, 0) for k in range(6)] != [
        True
    ] * 6 or first.fingerprint != second.fingerprint
    before = stamps()
    (models / "mug/0.mtl").write_text((models / "mug/0.mtl").read_text() + "\n")
    render()
    assert [a != b for a, b in zip(stamps(), before)] == [False, True, False]
    before = stamps()
    write(models / "mug/1.glb", FOUR)
    assert np.array_equal(render().latents, first.latents) and [a != b for a, b in zip(stamps(), before)] == [
        False,
        False,
        True,
    ]


def test_fetch_renders_a_folder_of_models(models, tmp_path, monkeypatch, capsys):
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["data"].update(source="meshes", input=str(models), views=3, size=32, crop=24, samples=4, skip_broken=True)

    def params(**changes):
        values["data"].update(changes)
        with open(tmp_path / "params.yaml", "w") as file:
            YAML().dump(values, file)
        return load_params(tmp_path / "params.yaml")

    (models / "mug/bad.stl").write_text("")
    monkeypatch.chdir(tmp_path)
    data = fetch(params())
    assert "1 of 7 models cannot be used:" in capsys.readouterr().out
    assert (
        isinstance(data, ViewDataset)
        and (len(data), data.views, data.height) == (6, 3, 24)
        and len(data.split("val")) == len(data.split("test")) == 2
    )
    assert list(zip(data.labels.tolist(), data.object_ids.tolist())) == [
        (k, str(i)) for k in (18, 37) for i in range(3)
    ]
    assert data.decode_all().float().std() > 5
    direct = Renderer(32, 4, crop=24)
    draw = params().renderer
    assert np.array_equal(
        draw("03001627", "0", data.latents[0], 7),
        direct.render(mf.load_model(models / "chair/0.obj", detail=2 * 1.44 / 32), data.latents[0], seed=7),
    )
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path / "none")
    with pytest.raises(ValueError, match="mug/bad.stl has no faces"):
        fetch(params(skip_broken=False))
    for path in list(models.glob("*/[2b]*")):
        path.unlink()
    with pytest.raises(ValueError, match="chair has 2, mug has 2; each class must have at least 3"):
        fetch(params())
    assert not list((tmp_path / "none").iterdir())
    for k in range(3):
        write(models / f"mug/more{k}.glb", FOUR)
    assert set(fetch(params(min_objects=3)).synsets) == {"03797390"}
    assert "1 classes have fewer than 3 models and are left out: chair (2)" in capsys.readouterr().out

"""Small model files and what each should give: those in cases/meshes, and others that are made here.

It needs only NumPy, Pillow and ruamel.yaml, so that importers can be compared in environments of their own."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

HERE = Path(__file__).parent / "cases" / "meshes"
QUADS = np.array(
    [[4, 5, 7, 6], [1, 0, 2, 3], [0, 4, 6, 2], [5, 1, 3, 7], [6, 7, 3, 2], [0, 1, 5, 4]]
)  # of the unit cube, seen from outside
CUBE = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float32)
UV = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
GREY, RED, FOUR = (
    {"231 231 231": 1},
    {"255 0 0": 1},
    {"255 0 0": 0.25, "0 255 0": 0.25, "0 0 255": 0.25, "255 255 0": 0.25},
)


@dataclass
class Case:
    "A model's file, and what is right for it."

    file: str
    area: float = 0  # squared bounding-box diagonals
    colours: dict[str, float] = field(default_factory=dict)  # share of the area of each sRGB colour
    within: float = 0.02  # of these shares
    refused: str = ""  # pattern of the message, if no reader should accept the file


def png(image: np.ndarray | None = None) -> bytes:
    "An image; if not given, four quarters in red, green, blue and yellow."
    if image is None:
        image = np.uint8([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]]).repeat(32, 0).repeat(32, 1)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


def gltf(change: Callable[[dict, Callable], None] | None = None) -> dict:
    """A glTF of a cube with own corners for each side, textured in four quarters. `change(header, add)` alters it;
    `add(array)` stores an accessor."""
    blob, header = bytearray(), {"asset": {"version": "2.0"}, "bufferViews": [], "accessors": []}

    def add(values: np.ndarray, **more) -> int:
        blob.extend(b"\0" * (-len(blob) % 4))
        header["bufferViews"].append({"buffer": 0, "byteOffset": len(blob), "byteLength": values.nbytes})
        blob.extend(values.tobytes())
        kinds = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
        header["accessors"].append(
            {
                "bufferView": len(header["bufferViews"]) - 1,
                "componentType": kinds[values.dtype.name],
                "count": len(values),
                "type": "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}",
                **more,
            }
        )
        return len(header["accessors"]) - 1

    corners = CUBE[QUADS].reshape(-1, 3)
    faces = (4 * np.arange(6)[:, None] + [0, 1, 2, 0, 2, 3]).reshape(-1).astype(np.uint16)
    primitive = {
        "attributes": {"POSITION": add(corners), "TEXCOORD_0": add(np.tile(UV, (6, 1)))},
        "indices": add(faces),
        "material": 0,
    }
    header.update(
        meshes=[{"primitives": [primitive]}],
        nodes=[{"mesh": 0}],
        scenes=[{"nodes": [0]}],
        scene=0,
        textures=[{"source": 0}],
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        images=[{"uri": "data:image/png;base64," + base64.b64encode(png()).decode()}],
    )
    if change:
        change(header, add)
    header["buffers"] = [
        {"byteLength": len(blob), "uri": "data:application/octet-stream;base64," + base64.b64encode(blob).decode()}
    ]
    return header


def glb(header: dict) -> bytes:
    "The same as one binary file."
    header = json.loads(json.dumps(header))
    blob = base64.b64decode(header["buffers"][0].pop("uri").partition(",")[2])
    blob += b"\0" * (-len(blob) % 4)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _primitive(header: dict) -> dict:
    return header["meshes"][0]["primitives"][0]


def _plain(header: dict, *colour: float) -> dict:
    "One colour instead of the texture."
    header["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": list(colour) or [1, 0, 0, 1]}}]
    del header["images"], header["textures"]
    return _primitive(header)


def _sparse(header, add):
    "The first side comes by a sparse accessor over zeros."
    primitive = _plain(header)
    corners = CUBE[QUADS].reshape(-1, 3)
    index, value = add(np.arange(24, dtype=np.uint16)), add(corners)
    views = [header["accessors"][k]["bufferView"] for k in (index, value)]
    header["accessors"][primitive["attributes"]["POSITION"]] = {
        "componentType": 5126,
        "count": 24,
        "type": "VEC3",
        "sparse": {
            "count": 24,
            "indices": {"bufferView": views[0], "componentType": 5123},
            "values": {"bufferView": views[1]},
        },
    }


def _quantized(header, add):
    "Positions and texture coordinates as normalised integers."
    attributes = _primitive(header)["attributes"]
    attributes["POSITION"] = add((CUBE[QUADS].reshape(-1, 3) * 65535).astype(np.uint16), normalized=True)
    attributes["TEXCOORD_0"] = add((np.tile(UV, (6, 1)) * 255).astype(np.uint8), normalized=True)
    header["extensionsUsed"] = header["extensionsRequired"] = ["KHR_mesh_quantization"]


def _second_uv(header, add):
    "The texture is placed by the second set of coordinates."
    attributes = _primitive(header)["attributes"]
    attributes["TEXCOORD_1"], attributes["TEXCOORD_0"] = (
        attributes["TEXCOORD_0"],
        add(np.full((24, 2), 0.1, np.float32)),
    )
    header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1


def _moved_texture(header, add):
    "The texture is scaled to its left half, which is red above blue."
    header["extensionsUsed"] = ["KHR_texture_transform"]
    header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["extensions"] = {
        "KHR_texture_transform": {"scale": [0.5, 1]}
    }


def _strips(header, add):
    "Each side is a strip of its own, wound twice the wrong way."
    primitive = _plain(header)
    header["meshes"][0]["primitives"] = [
        {**primitive, "mode": 5, "indices": add((4 * k + np.array([0, 1, 3, 2])).astype(np.uint8))} for k in range(6)
    ]


def _no_places(header, add):
    "A texture without texture coordinates: the material's factor."
    del _primitive(header)["attributes"]["TEXCOORD_0"]
    header["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"] = [1, 0, 0, 1]


def _fans(header, add):
    "Each side is a fan without indices."
    primitive = _plain(header)
    del primitive["indices"], primitive["attributes"]["TEXCOORD_0"]
    header["meshes"][0]["primitives"] = [
        {**primitive, "mode": 6, "attributes": {"POSITION": add(CUBE[side])}} for side in QUADS
    ]


def _points(header, add):
    "Lines and points beside the cube."
    primitive = _plain(header)
    extra = [{"attributes": {"POSITION": add(10 * CUBE)}, "mode": mode} for mode in (0, 1, 2, 3)]
    header["meshes"][0]["primitives"] = [*extra, primitive]


def _corner_colours(kind):
    def change(header, add):
        _plain(header, 1, 1, 1, 1)["attributes"]["COLOR_0"] = add(
            (np.tile([1, 0, 0, 1], (24, 1)) * (1 if kind == "float32" else np.iinfo(kind).max)).astype(kind),
            normalized=kind != "float32",
        )

    return change


def _placed(header, add):
    "Two cubes side by side: one mirrored by a matrix, one below a camera's node. A third cube is in no scene."
    _plain(header)
    mirror = np.diag([-1, 1, 1, 1]).astype(float)
    header["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1, "znear": 0.1}}]
    header["nodes"] = [
        {"children": [1, 2]},
        {"mesh": 0, "matrix": mirror.T.ravel().tolist()},
        {"camera": 0, "children": [3]},
        {"mesh": 0, "translation": [1, 0, 0]},
        {"mesh": 0, "scale": [9, 9, 9]},
    ]
    header["scenes"] = [{"nodes": [0]}]


def _skinned(header, add):
    "A skin in its rest pose: the node's own place does not count, the joint's does."
    primitive = _plain(header)
    primitive["attributes"].update(
        JOINTS_0=add(np.zeros((24, 4), np.uint8)), WEIGHTS_0=add(np.tile(np.float32([1, 0, 0, 0]), (24, 1)))
    )
    header["skins"] = [{"joints": [1]}]
    header["nodes"] = [{"mesh": 0, "skin": 0, "scale": [5, 1, 1]}, {}]
    header["scenes"] = [{"nodes": [0, 1]}]


PLY = "ply\nformat {} 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"


def _mixed_ply(order: str) -> bytes:
    "A binary cube of three quads and six triangles with colours of faces, behind an unknown element."
    head = PLY.format("binary_little_endian" if order == "<" else "binary_big_endian") + (
        "element range 2\nproperty list uchar short what\n"
        "element face 9\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
        "property list uchar int vertex_index\nend_header\n"
    )
    faces = [*QUADS[:3], *(side[[0, a, b]] for side in QUADS[3:] for a, b in ((1, 2), (2, 3)))]
    rows = b"".join(struct.pack(f"{order}4B{len(face)}i", 255, 0, 0, len(face), *face) for face in faces)
    return head.encode() + CUBE.astype(f"{order}f4").tobytes() + struct.pack(f"{order}B2hB1h", 2, 5, 6, 1, 7) + rows


def _ply(
    vertex: str = "",
    face: str = "",
    row=lambda k: "",
    side=lambda k: "",
    head: str = "",
    list_name: str = "vertex_indices",
) -> bytes:
    lines = [
        "ply",
        "format ascii 1.0",
        *head.splitlines(),
        "element vertex 24",
        "property double x",
        "property double y",
        "property double z",
        *vertex.splitlines(),
        "element face 6",
        f"property list uchar int {list_name}",
        *face.splitlines(),
        "end_header",
    ]
    lines += [" ".join(f"{x:g}" for x in corner) + " " + row(k) for k, corner in enumerate(CUBE[QUADS].reshape(-1, 3))]
    return "\n".join(
        [*lines, *(f"4 {4 * k} {4 * k + 1} {4 * k + 2} {4 * k + 3} {side(k)}" for k in range(6)), ""]
    ).encode()


def _off(first: str = "OFF", corner: str = "", side: str = "", comment: str = "") -> bytes:
    return "\n".join(
        [
            first,
            f"8 6 12{comment}",
            *(f"{x:g} {y:g} {z:g}{corner}" for x, y, z in CUBE),
            *(f"4 {a} {b} {c} {d}{side}" for a, b, c, d in QUADS),
            "",
        ]
    ).encode()


NAMESPACE = ' xmlns="http://www.collada.org/2005/11/COLLADASchema"'


def _dae(
    colour: str, texcoord: str = "", primitive: str = "polylist", image: str = "", up: str = "Y_UP", place: str = ""
) -> bytes:
    "A cube in COLLADA. `colour` is what is in <diffuse>."

    def numbers(values):
        return " ".join(f"{v:g}" for v in np.ravel(values))

    step = 2 if texcoord else 1
    index = np.stack([QUADS, np.tile([0, 1, 2, 3], (6, 1))][:step], -1)
    order = [0, 1, 2, 0, 2, 3] if primitive == "triangles" else [0, 1, 2, 3]
    body = {
        "polylist": f"<vcount>{'4 ' * 6}</vcount><p>{numbers(index[:, order])}</p>",
        "triangles": f"<p>{numbers(index[:, order])}</p>",
        "polygons": "".join(f"<p>{numbers(side)}</p>" for side in index),
    }[primitive]

    def source(name, values, axes):
        params = "".join(f'<param name="{axis}" type="float"/>' for axis in axes)
        return (
            f'<source id="{name}"><float_array id="{name}-a" count="{values.size}">{numbers(values)}</float_array>'
            f'<technique_common><accessor source="#{name}-a" count="{len(values)}" stride="{len(axes)}">{params}'
            "</accessor></technique_common></source>"
        )

    images = f'<library_images><image id="i"><init_from>{image}</init_from></image></library_images>'
    surface = '<newparam sid="s"><surface type="2D"><init_from>i</init_from></surface></newparam>'
    sampler = '<newparam sid="t"><sampler2D><source>s</source></sampler2D></newparam>'
    return f"""<?xml version="1.0" encoding="utf-8"?>
<COLLADA{NAMESPACE} version="1.4.1"><asset><unit name="inch" meter="0.0254"/><up_axis>{up}</up_axis></asset>
{image and images}
<library_effects><effect id="e"><profile_COMMON>
{image and surface + sampler}
<technique sid="c"><lambert><diffuse>{colour}</diffuse></lambert></technique></profile_COMMON></effect>\
</library_effects>
<library_materials><material id="m"><instance_effect url="#e"/></material></library_materials>
<library_geometries><geometry id="g"><mesh>{source("p", CUBE, "XYZ")}{texcoord and source("u", UV, "ST")}
<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>
<{primitive} material="x" count="{12 if primitive == "triangles" else 6}">\
<input semantic="VERTEX" source="#v" offset="0"/>{texcoord}{body}</{primitive}></mesh></geometry></library_geometries>
<library_visual_scenes><visual_scene id="w"><node id="n">{place}<instance_geometry url="#g"><bind_material>\
<technique_common><instance_material symbol="x" target="#m">
<bind_vertex_input semantic="UV" input_semantic="TEXCOORD" input_set="0"/></instance_material></technique_common>\
</bind_material></instance_geometry></node></visual_scene></library_visual_scenes>
<scene><instance_visual_scene url="#w"/></scene></COLLADA>""".encode()


def _dae_with(colour: str, *changes: tuple[str, str], **more: str) -> bytes:
    "The same with some of its text replaced."
    text = _dae(colour, **more).decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text.encode()


def _dae_concave() -> bytes:
    "A quad with a dent, of area 0.375; its bounding box is a unit square."
    corners = np.array([[0, 0, 0], [0.25, 0.25, 0], [1, 0, 0], [0, 1, 0]])
    text = _dae("<color>1 0 0 1</color>").decode()
    text = re.sub(
        r'(<float_array id="p-a" count=")24(">)[^<]*',
        rf"\g<1>12\g<2>{' '.join(f'{x:g}' for x in corners.ravel())}",
        text,
    )
    text = text.replace('source="#p-a" count="8"', 'source="#p-a" count="4"')
    return re.sub("<vcount>.*</p>", "<vcount>4</vcount><p>0 1 2 3</p>", text).encode()


def _stl(name: bytes = b"", colour: int = 0, end: bytes = b"") -> bytes:
    "A binary cube."
    faces = CUBE[QUADS[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)]
    return (
        name.ljust(80, b"\0")
        + struct.pack("<I", 12)
        + b"".join(struct.pack("<3f", 0, 0, 0) + face.tobytes() + struct.pack("<H", colour) for face in faces)
        + end
    )


def _stl_text(names: tuple[str, ...]) -> bytes:
    "Solids of a third of the cube each, as text."
    faces = np.array_split(CUBE[QUADS[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)], len(names))

    def facet(face):
        return (
            "facet normal 0 0 0\n outer loop\n"
            + "".join("  vertex {:e} {:e} {:e}\n".format(*corner) for corner in face)
            + " endloop\nendfacet\n"
        )

    return "".join(
        f"solid {name}\n{''.join(map(facet, part))}endsolid {name}\n" for name, part in zip(names, faces)
    ).encode()


def _obj(
    lines: str = "usemtl red\n",
    face=lambda side: "f " + " ".join(str(k + 1) for k in side),
    end: str = "\n",
    faces: str = "",
) -> bytes:
    text = (
        lines
        + "".join("v {:g} {:g} {:g}\n".format(*corner) for corner in CUBE)
        + "".join("vt {:g} {:g}\n".format(*place) for place in UV)
        + "vn 0 0 1\n"
    )
    return (text + (faces or "".join(face(side) + "\n" for side in QUADS))).replace("\n", end).encode()


MTL = b"newmtl red\nKd 1 0 0\nnewmtl four\nKd 1 1 1\nmap_Kd t.png\n"
MIXED = (
    "usemtl red\nf 5 6 8 7\nf 2/1 1/2 3/3 4/4\nf 1//1 5//1 7//1 3//1\nf 6/1/1 2/2/1 4/3/1\nf 6/1/1 4/3/1 8/4/1\n"
    "f 7 8/ 4// 3\nf -8 -7 -3 -4\n"
)
COLOUR = "property {0} red\nproperty {0} green\nproperty {0} blue\n"


def made() -> dict[str, tuple[dict[str, bytes], Case]]:
    "Folder -> (its files, the case)."
    glTF = {
        "data_uris": (None, FOUR),
        "sparse": (_sparse, RED),
        "quantized": (_quantized, FOUR),
        "second_uv": (_second_uv, FOUR),
        "moved_texture": (_moved_texture, {"255 0 0": 0.5, "0 0 255": 0.5}),
        "no_places": (_no_places, RED),
        "strips": (_strips, RED),
        "fans": (_fans, RED),
        "points_and_lines": (_points, RED),
        "colours_uint8": (_corner_colours("uint8"), RED),
        "colours_uint16": (_corner_colours("uint16"), RED),
        "colours_float": (_corner_colours("float32"), RED),
        "placed": (_placed, RED),
        "skinned": (_skinned, RED),
    }
    cases = {
        f"gltf_{name}": (
            {"m.gltf": json.dumps(gltf(change)).encode()},
            Case("m.gltf", 12 / 11 if name == "placed" else 2, colours),
        )
        for name, (change, colours) in glTF.items()
    }
    outside = gltf()
    blob = base64.b64decode(outside["buffers"][0]["uri"].partition(",")[2])
    outside["buffers"][0]["uri"], outside["images"][0]["uri"] = "data/my%20cube.bin", "data/t.png"
    cases["gltf_outside"] = (
        {"m.gltf": json.dumps(outside).encode(), "data/my cube.bin": blob, "data/t.png": png()},
        Case("m.gltf", 2, FOUR),
    )
    cases["glb"] = {"m.glb": glb(gltf())}, Case("m.glb", 2, FOUR)

    cases["obj_all_syntaxes"] = {"m.obj": _obj("mtllib m.mtl\n", faces=MIXED), "m.mtl": MTL}, Case("m.obj", 2, RED)
    cases["obj_negative"] = (
        {
            "m.obj": _obj(
                "mtllib m.mtl\nusemtl four\n",
                lambda side: "f " + " ".join(f"{k - 8}/{i - 4}/-1" for i, k in enumerate(side)),
            ),
            "m.mtl": MTL,
            "t.png": png(),
        },
        Case("m.obj", 2, FOUR),
    )
    cases["obj_continued"] = (
        {
            "m.obj": _obj("mtllib \\\nm.mtl\nusemtl red\n", lambda side: "f {} \\\n {} {}\\\n {}".format(*(side + 1))),
            "m.mtl": MTL,
        },
        Case("m.obj", 2, RED),
    )
    for name, end in (("crlf", "\r\n"), ("cr", "\r")):
        cases[f"obj_{name}"] = (
            {
                "m.obj": _obj(
                    "mtllib m.mtl\nusemtl four\n",
                    lambda side: "f " + " ".join(f"{k + 1}/{i + 1}" for i, k in enumerate(side)),
                    end,
                ),
                "m.mtl": MTL.replace(b"\n", end.encode()),
                "t.png": png(),
            },
            Case("m.obj", 2, FOUR),
        )
    cases["obj_bom"] = (
        {"m.obj": b"\xef\xbb\xbf" + _obj("mtllib m.mtl\nusemtl red\n"), "m.mtl": b"\xef\xbb\xbf" + MTL},
        Case("m.obj", 2, RED),
    )
    cases["obj_far"] = (
        {
            "m.obj": _obj("mtllib m.mtl\nusemtl red\n").replace(b"v 0", b"v 100000").replace(b"v 1 ", b"v 100001 "),
            "m.mtl": MTL,
        },
        Case("m.obj", 2, RED),
    )
    cases["obj_library_name"] = (
        {"m.obj": _obj("mtllib my lib#1.mtl\nusemtl my #2 red\n"), "my lib#1.mtl": b"newmtl my #2 red\nKd 1 0 0\n"},
        Case("m.obj", 2, RED),
    )
    cases["obj_lines_and_points"] = (
        {"m.obj": _obj("mtllib m.mtl\nusemtl red\n") + b"usemtl four\nl 1 2 3\np 1\nv 99 99 99\n", "m.mtl": MTL},
        Case("m.obj", 2, RED),
    )

    cases["ply_mixed_little"] = {"m.ply": _mixed_ply("<")}, Case("m.ply", 2, RED)
    cases["ply_mixed_big"] = {"m.ply": _mixed_ply(">")}, Case("m.ply", 2, RED)
    cases["ply_vertex_colours"] = (
        {"m.ply": _ply(COLOUR.format("uchar"), row=lambda k: "255 0 0")},
        Case("m.ply", 2, RED),
    )
    cases["ply_float_colours"] = {"m.ply": _ply(COLOUR.format("float"), row=lambda k: "1.0 0 0")}, Case("m.ply", 2, RED)
    cases["ply_16_bit_colours"] = (
        {"m.ply": _ply(COLOUR.format("ushort"), row=lambda k: "65535 0 0")},
        Case("m.ply", 2, RED),
    )
    cases["ply_vertex_uv"] = (
        {
            "m.ply": _ply(
                "property float s\nproperty float t",
                row=lambda k: "{:g} {:g}".format(*UV[k % 4]),
                head="comment made by hand\ncomment TextureFile t.png",
            ),
            "t.png": png(),
        },
        Case("m.ply", 2, FOUR),
    )
    cases["ply_corner_uv"] = (
        {
            "m.ply": _ply(
                face="property list uchar float texcoord",
                side=lambda k: "8 0 0 1 0 1 1 0 1",
                head="comment TextureFile t.png",
                list_name="vertex_index",
            ),
            "t.png": png(),
        },
        Case("m.ply", 2, FOUR),
    )
    strip = PLY.format("ascii") + "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    rows = (
        "".join("{:g} {:g} {:g}\n".format(*corner) for corner in CUBE)
        + "29 "
        + " ".join(f"{a} {b} {d} {c} -1" for a, b, c, d in QUADS).removesuffix(" -1")
        + "\n"
    )
    cases["ply_strips"] = {"m.ply": (strip + rows).encode()}, Case("m.ply", 2, GREY)

    cases["off"] = {"m.off": _off(comment="   # a cube")}, Case("m.off", 2, GREY)
    cases["off_one_line"] = {"m.off": _off("OFF 8 6 0").replace(b"8 6 12\n", b"# nothing\n")}, Case("m.off", 2, GREY)
    cases["off_vertex_colours"] = {"m.off": _off("COFF", " 1.0 0.0 0.0 1.0")}, Case("m.off", 2, RED)
    cases["off_face_colours"] = {"m.off": _off(side=" 255 0 0")}, Case("m.off", 2, RED)
    u = (HERE / "R03_concave_polygon_ply/u.ply").read_text().splitlines()
    cases["off_concave"] = (
        {"m.off": "\n".join(["OFF", "16 2 0", *u[u.index("end_header") + 1 :], ""]).encode()},
        Case("m.off", 0.7739, GREY),
    )

    red, four = "<color>1 0 0 1</color>", '<texture texture="t" texcoord="UV"/>'
    uv = '<input semantic="TEXCOORD" source="#u" offset="1" set="0"/>'
    for primitive in ("triangles", "polylist", "polygons"):
        cases[f"dae_{primitive}"] = {"m.dae": _dae(red, primitive=primitive)}, Case("m.dae", 2, RED)
    cases["dae_texture"] = (
        {"m.dae": _dae(four, uv, image="data/my%20t.png"), "data/my t.png": png()},
        Case("m.dae", 2, FOUR),
    )
    cases["dae_placed"] = {"m.dae": _dae(red, place="<scale>1 1 2</scale>", up="Z_UP")}, Case("m.dae", 10 / 6, RED)

    cases["dae_unused_missing_texture"] = (
        {
            "m.dae": _dae_with(
                red,
                (
                    "<library_materials>",
                    '<library_images><image id="gone"><init_from>gone.png</init_from></image></library_images>'
                    '<library_materials><material id="unused"><instance_effect url="#e2"/></material>',
                ),
                (
                    "</library_effects>",
                    '<effect id="e2"><profile_COMMON><technique sid="c"><lambert><diffuse>'
                    '<texture texture="gone" texcoord="UV"/></diffuse></lambert></technique></profile_COMMON></effect>'
                    "</library_effects>",
                ),
            )
        },
        Case("m.dae", 2, RED),
    )
    second = uv.replace('"0"', '"1"') + '<input semantic="TEXCOORD" source="#p" offset="0" set="0"/>'
    cases["dae_second_set"] = (
        {"m.dae": _dae(four, second, image="t.png").replace(b'input_set="0"', b'input_set="1"'), "t.png": png()},
        Case("m.dae", 2, FOUR),
    )
    cases["dae_no_namespace"] = {"m.dae": _dae_with(red, (NAMESPACE, ""))}, Case("m.dae", 2, RED)
    cases["dae_1_5"] = (
        {
            "m.dae": _dae_with(
                four,
                (NAMESPACE, NAMESPACE.replace("2005/11", "2008/03")),
                ("1.4.1", "1.5.0"),
                ("<init_from>t.png</init_from>", "<init_from><ref>t.png</ref></init_from>"),
                ("<source>s</source>", '<instance_image url="#i"/>'),
                texcoord=uv,
                image="t.png",
            ),
            "t.png": png(),
        },
        Case("m.dae", 2, FOUR),
    )
    cases["dae_concave"] = {"m.dae": _dae_concave()}, Case("m.dae", 0.1875, RED)

    cases["stl_capitals"] = {"m.stl": _stl_text(("a",)).upper()}, Case("m.stl", 2, GREY)
    cases["stl_padded"] = {"m.stl": _stl(end=b"\0" * 49)}, Case("m.stl", 2, GREY)
    cases["stl_binary"] = {"m.stl": _stl()}, Case("m.stl", 2, GREY)
    cases["stl_called_solid"] = {"m.stl": _stl(b"solid cube", 0x7FFF)}, Case("m.stl", 2, GREY)
    cases["stl_solids"] = {"m.stl": _stl_text(("a", "b b", ""))}, Case("m.stl", 2, GREY)
    return cases


def all_cases() -> list[Case]:
    "The cases in the order in which `write_cases` returns them."
    stored = [Case(**row) for row in YAML(typ="safe").load(HERE / "expected.yaml")]
    return stored + [
        Case(f"{name}/{case.file}", case.area, case.colours, case.within) for name, (_, case) in made().items()
    ]


def write_cases(folder: Path) -> list[Case]:
    """Write all cases into a folder. Names in other encodings come from an archive, because not every file system and
    version control can hold them."""
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    with tarfile.open(HERE / "R14_names_in_other_encodings.tar") as tar:
        tar.extractall(folder, filter="data")
    for name, (files, _) in made().items():
        for file, data in files.items():
            (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / file).write_bytes(data)
    return all_cases()

"""Folders of models, and the classes of the data sets made of them."""

import json
import os
import shutil
import subprocess
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import javaproperties
import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

import sie.data.mesh_files as mf
import sie.data.real_models as rm
from sie.data.layout import LIST_NAMES, export_layout, import_layout, read_split_lists
from sie.data.rendering import render_dataset
from sie.data.storage import ViewDataset, label_classes
from sie.evaluation.analysis import show_failures
from sie.evaluation.figures import show_views
from sie.evaluation.probes import Embedded, Head, Probe, read_off
from sie.method.pretraining import Settings, load_model, pretrain
from sie.objects.classes import CLASSES
from sie.pipeline.command import fetch
from sie.pipeline.params import check, load_params

ROOT = Path(__file__).parents[1]
BAD = YAML(typ="safe").load(ROOT / "tests/bad_inputs/layouts.yaml")
TETRAHEDRON = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def fill(folder, *names, content=TETRAHEDRON):
    "Files of one content; names that end with '/' are folders."
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir(exist_ok=True)
        else:
            (folder / name).write_text(content)
    return folder


def listed(folder):
    return [(*key, path.relative_to(folder).as_posix()) for key, path in mf.mesh_objects(folder).items()]


# Layouts


def test_a_folder_for_each_object_with_a_model_of_any_name(tmp_path, capsys):
    fill(
        tmp_path,
        "chair/07/seat.obj",
        "chair/08/meshes/My Chair (2).OBJ",
        "chair/08/materials/wood.png",
        "chair/textures/oak.png",
        "sofa/a/b/c/model.Obj",
        "sofa/x.1/.hidden.obj",
        "sofa/x.1/__MACOSX/._x.obj",
        "sofa/x.1/x.obj",
        "sofa/x.1/.DS_Store",
        "sofa/._y.obj",
        "sofa/Thumbs.db",
    )
    assert listed(tmp_path) == [
        ("03001627", "07", "chair/07/seat.obj"),
        ("03001627", "08", "chair/08/meshes/My Chair (2).OBJ"),
        ("04256520", "a", "sofa/a/b/c/model.Obj"),
        ("04256520", "x.1", "sofa/x.1/x.obj"),
    ]
    assert capsys.readouterr().out == ""  # nothing to say of ShapeNetCore's classes and what systems leave
    objects, draw = mf.mesh_objects(tmp_path), mf.MeshFileRenderer(folder=str(tmp_path), size=16, samples=2)
    assert mf.usable_models(objects) == list(objects)
    assert all(draw._file(*key) == path for key, path in objects.items())


def test_shapenets_model_is_preferred_to_others_beside_it(tmp_path):
    fill(
        tmp_path,
        "03001627/1a/models/model_normalized.obj",
        "03001627/1a/models/other.obj",
        "03001627/1a/model.ply",
        "04256520/ff/model.obj",
    )
    assert listed(tmp_path) == [
        ("03001627", "1a", "03001627/1a/models/model_normalized.obj"),
        ("04256520", "ff", "04256520/ff/model.obj"),
    ]


def test_each_class_may_have_its_own_layout(tmp_path):
    fill(tmp_path, "chair/a.obj", "sofa/b/any.obj", "02691156/c/models/model_normalized.obj")
    assert [key for *key, _ in listed(tmp_path)] == [["02691156", "c"], ["03001627", "a"], ["04256520", "b"]]


@pytest.mark.parametrize("suffix", sorted({variant for s in mf.SUFFIXES for variant in (s, s.upper(), s.title())}))
def test_suffixes_in_any_case(tmp_path, suffix):
    fill(tmp_path, f"chair/a{suffix}", f"sofa/b/c{suffix}")
    assert [path for *_, path in listed(tmp_path)] == [f"chair/a{suffix}", f"sofa/b/c{suffix}"]
    draw = mf.MeshFileRenderer(folder=str(tmp_path))
    assert all(draw._file(*key) == path for key, path in mf.mesh_objects(tmp_path).items())


@pytest.mark.parametrize("case", BAD["layouts"], ids=lambda case: case["name"])
def test_layouts_that_are_refused(tmp_path, case):
    fill(tmp_path, *case["files"])
    with pytest.raises(ValueError) as refused:
        mf.mesh_objects(tmp_path)
    assert all(words in str(refused.value) for words in case["says"]), refused.value


@pytest.mark.parametrize("case", BAD["left_out"], ids=lambda case: case["name"])
def test_models_that_are_not_read_are_listed(tmp_path, capsys, case):
    fill(tmp_path, "chair/good.obj", *case["files"])
    mf.mesh_objects(tmp_path)
    out = capsys.readouterr().out
    assert all(words in out for words in case["says"]), out
    if not case["says"]:
        assert out == ""


def test_an_object_without_a_model_is_a_fault(tmp_path, capsys):
    fill(tmp_path, "chair/a/x.obj", "chair/b/x.fbx", "chair/c/notes.txt", "chair/textures/t.png")
    objects = mf.mesh_objects(tmp_path)
    with pytest.raises(ValueError) as refused:
        mf.usable_models(objects)
    lines = str(refused.value).splitlines()
    assert lines[0] == "2 of 3 models cannot be used:"
    assert (
        f"{tmp_path}/chair/b holds no model, only x.fbx of a format that is not read" in lines[1]
        and f"{tmp_path}/chair/c holds no model" in lines[2]
    )
    assert mf.usable_models(objects, skip_broken=True) == [("03001627", "a")]


# Faults in one model


def crash_on_bad(path):
    "Stands for a reader that takes its process with it, or fails in a way that is no ValueError."
    if "bad" in path.name:
        os._exit(11)
    return f"{path} is odd" if "odd" in path.name else None


def test_a_model_that_ends_its_process_is_named(tmp_path):
    paths = [tmp_path / f"{k:02d}{'-bad' * (k in (3, 17))}{'-odd' * (k == 9)}.obj" for k in range(20)]
    said = mf._in_processes(crash_on_bad, paths, 2)
    assert [k for k, fault in enumerate(said) if fault] == [3, 9, 17]
    assert (
        said[3].startswith(str(paths[3]))
        and "ends the process" in said[3]
        and said[9] == f"{paths[9]} is odd"
        and str(paths[17]) in said[17]
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RecursionError("maximum depth"),
        ValueError("no name here"),
        KeyError("x"),
        AssertionError(),
        SystemError("y"),
    ],
)
def test_whatever_goes_wrong_names_the_model(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(mf, "load_model", fail)
    fill(tmp_path, "chair/a.obj")
    with pytest.raises(ValueError, match="chair/a.obj"):
        mf.usable_models(mf.mesh_objects(tmp_path))
    with pytest.raises(Exception, match="chair/a.obj"):
        mf.MeshFileRenderer(folder=str(tmp_path), size=16, samples=2)("03001627", "a", np.zeros((1, 7), np.float32), 0)


def test_missing_textures_are_refused_or_coloured_and_listed(tmp_path, monkeypatch, capsys):
    "What the option does to the model is the reader's part; here: that it gets there, and that the models are listed."
    fill(tmp_path, "chair/a/x.obj", "chair/b/y.obj", "chair/b/y.mtl")
    asked = []

    def load(path, up="y", detail=0.02, missing_textures="refuse"):
        asked.append((path.name, missing_textures))
        if path.name == "y.obj" and missing_textures == "refuse":
            raise ValueError(f"{path} names the texture wood.png, which is missing")
        return "mesh"

    monkeypatch.setattr(mf, "load_model", load)
    monkeypatch.setattr(
        mf, "missing_textures", lambda path: ["wood.png", "oak.png"] if path.name == "y.obj" else [], raising=False
    )
    objects = mf.mesh_objects(tmp_path)
    with pytest.raises(ValueError, match="1 of 2 models cannot be used:\n.*b/y.obj names the texture wood.png"):
        mf.usable_models(objects)
    assert mf.usable_models(objects, missing="colour") == list(objects) and asked[-2:] == [
        ("x.obj", "colour"),
        ("y.obj", "colour"),
    ]
    assert capsys.readouterr().out.splitlines() == [
        "1 models have their material's colour where a texture is missing:",
        f"  {tmp_path}/chair/b/y.obj: wood.png, oak.png",
    ]


def test_the_digest_of_a_model_without_its_texture(tmp_path):
    fill(tmp_path, "chair/a/x.obj", content="mtllib x.mtl\nusemtl m\n" + TETRAHEDRON)
    fill(tmp_path, "chair/a/x.mtl", content="newmtl m\nmap_Kd gone.png\nKd 1 0 0\n")

    def digest():
        return mf.MeshFileRenderer(folder=str(tmp_path), missing_textures="colour").digest("03001627", "a")

    with pytest.raises(ValueError, match="gone.png"):
        mf.usable_models(mf.mesh_objects(tmp_path))
    first = digest()
    assert digest() == first
    fill(tmp_path, "chair/a/x.mtl", content="newmtl m\nmap_Kd gone.png\nKd 0 0 1\n")
    assert digest() != first


# Classes


def test_labels_of_classes():
    assert label_classes(["sofa", "03001627"]) == ({"03001627": 18, "sofa": 47}, tuple(c.name for c in CLASSES))
    assert label_classes(["zebra", "cat", "cat"]) == ({"cat": 0, "zebra": 1}, ("cat", "zebra"))
    assert label_classes(["zebra", "03001627", "bench"]) == (
        {"bench": 0, "03001627": 1, "zebra": 2},
        ("bench", "chair", "zebra"),
    )
    many = [f"class {k:03d}" for k in range(70)]
    labels, classes = label_classes(reversed(many))
    assert list(classes) == many and labels["class 069"] == 69


@pytest.mark.parametrize("case", BAD["classes"], ids=lambda case: case["name"])
def test_the_notice_on_classes(tmp_path, capsys, case):
    fill(tmp_path, *(f"{name}/x/model.obj" for name in case["classes"]))
    mf.mesh_objects(tmp_path)
    out = capsys.readouterr().out
    assert all(words in out for words in case["says"]), out
    assert bool(out) == bool(case["says"])


@dataclass(frozen=True)
class Stripes:
    "Pictures without a renderer: noise of the seed."

    size: int = 16

    def __call__(self, synset, object_id, latents, seed):
        return np.random.default_rng(seed).integers(0, 255, (len(latents), self.size, self.size, 3)).astype(np.uint8)


def made(folder, names, each=4, views=3):
    objects = [(name, f"{k:02d}") for name in names for k in range(each)]
    return render_dataset(folder, objects, Stripes(), views=views, workers=0)


MANY = [f"thing {k:02d}" for k in range(60)]


@pytest.mark.parametrize("names", [["cat", "dog"], ["dog", "chair", "an apple"], MANY], ids=["two", "mixed", "sixty"])
def test_a_data_set_of_other_classes(tmp_path, names):
    data = made(tmp_path / "set", names)
    assert (
        data.classes
        == tuple(sorted(names))
        == tuple(json.loads((tmp_path / "set/dataset.json").read_text())["classes"])
    )
    assert all(data.classes[label] == synset for label, synset in zip(data.labels, data.synsets))
    assert ViewDataset(tmp_path / "set").classes == data.classes
    export_layout(data, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == set(names)
    back = import_layout(tmp_path / "out", tmp_path / "back")
    assert back.fingerprint == data.fingerprint and back.classes == data.classes
    assert dict(zip(zip(back.synsets, back.object_ids), back.labels)) == dict(
        zip(zip(data.synsets, data.object_ids), data.labels)
    )
    listed = read_split_lists(tmp_path / "out")
    assert listed == dict(zip(zip(data.synsets.tolist(), data.object_ids.tolist()), data._split.tolist()))
    labels = np.load(tmp_path / "out/val_labels.npy")
    np.save(tmp_path / "out/val_labels.npy", labels[::-1] + 1)
    with pytest.raises(ValueError, match="val_labels.npy: entry 0 is .*but the label of .*as the classes are"):
        read_split_lists(tmp_path / "out")
    assert show_views(data, data.split("val")[:2], views=2) is not None


@pytest.mark.parametrize(
    "names", [["dog", "cat", "03001627"], ["03001627", "cat", "chair", "dog"]], ids=["mixed", "one class twice"]
)
def test_the_archive_of_other_classes(tmp_path, capsys, names):
    """A stream shows its classes only at its end, with lists and without. There may be synsets and other names, and a
    synset's objects are of one class with those of its name in words."""
    import tarfile

    data = made(tmp_path / "set", names)
    export_layout(data, tmp_path / "out")
    for with_lists in (True, False):
        if not with_lists:
            for name in LIST_NAMES:
                (tmp_path / "out" / name).unlink()
        (tmp_path / str(with_lists)).mkdir()
        with tarfile.open(tmp_path / str(with_lists) / "a.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "out", "views")
        lists = tmp_path / "out" if with_lists else None
        back = import_layout(tmp_path / str(with_lists) / "a.tar.gz", tmp_path / f"back-{with_lists}", lists=lists)
        assert (
            back.classes == ("cat", "chair", "dog")
            and f"2 of {len(names)} are none of ShapeNetCore's 55" in capsys.readouterr().out
        )
        assert all(
            back.classes[label] == {"03001627": "chair"}.get(synset, synset)
            for label, synset in zip(back.labels, back.synsets)
        )


def test_shapenets_labels_are_as_ever(tmp_path):
    data = made(tmp_path / "set", ["03001627", "02691156"])
    assert sorted(set(data.labels)) == [0, 18] and data.classes == tuple(c.name for c in CLASSES)
    info = json.loads((tmp_path / "set/dataset.json").read_text())
    del info["classes"], info["digest"]  # a data set of before
    (tmp_path / "set/dataset.json").write_text(json.dumps(info))
    assert ViewDataset(tmp_path / "set").classes == data.classes


TINY = Settings(
    method="supervised",
    encoder="small",
    widths=[16, 16, 16],
    epochs=1,
    batch_size=8,
    precision="32-true",
    probe_views=0,
    log_every=1,
)


def test_the_classifier_has_an_output_for_each_class(tmp_path):
    data = made(tmp_path / "set", MANY, each=3, views=2)
    history = pretrain(data, TINY, tmp_path / "model")
    assert np.isfinite(history[-1]["train/loss"])
    model, settings, _ = load_model(tmp_path / "model")
    assert (
        settings.classes == 60
        and model.heads["classifier"].out_features == 60
        and json.loads((tmp_path / "model/config.json").read_text())["settings"]["classes"] == 60
    )


def test_few_classes_and_models_of_before(tmp_path):
    data = made(tmp_path / "set", ["cat", "dog"], each=8, views=2)
    pretrain(data, TINY, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["settings"].pop("classes") == 55
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    model, read, _ = load_model(tmp_path / "model")  # whose settings know nothing of classes
    assert read.classes == 55 and model.heads["classifier"].out_features == 55
    with pytest.raises(ValueError, match="classes is 0"):
        replace(TINY, classes=0)


def test_heads_for_more_and_fewer_classes():
    rng = torch.Generator().manual_seed(0)
    for classes in (2, 70):
        labels = torch.arange(classes).repeat(3)
        h = torch.nn.functional.one_hot(labels, classes)[:, None].float().repeat(1, 4, 1) + 0.01 * torch.randn(
            3 * classes, 4, classes, generator=rng
        )
        e = Embedded(
            h, torch.zeros(len(labels), 4, 7), labels, torch.arange(2 * classes), torch.arange(2 * classes, 3 * classes)
        )
        (scores,) = read_off(e, [Head("class")], Probe(epochs=60, lr=0.05))
        assert scores["top1"] > 0.9


def test_figures_have_the_data_sets_names():
    table = pd.DataFrame(
        {
            "object": [0, 0, 1, 1],
            "view": [1, 2, 1, 2],
            "label": [0, 0, 60, 60],
            "angle": [10.0, 50, 90, 130],
            "rank": [1.0, 2, 1, 1],
        }
    )
    fig = show_failures({"sie": table}, [f"name {k}" for k in range(61)])
    assert {tick.get_text() for tick in fig.axes[0].get_yticklabels()} == {"name 0", "name 60"}


# The pipeline


@pytest.fixture
def params(tmp_path):
    fill(tmp_path / "models", *(f"{name}/{k}/any name.obj" for name in ("chair", "dragon") for k in range(3)))
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["data"].update(source="meshes", input=str(tmp_path / "models"), views=2, size=16, crop=None, samples=2)
    values["pretrain"].update(batch_size=2, warmup=0, epochs=1)

    def read(**changes):
        values["data"].update(changes)
        with open(tmp_path / "params.yaml", "w") as file:
            YAML().dump(values, file)
        return load_params(tmp_path / "params.yaml")

    return read


def test_fetch_with_other_classes(params, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "models", "chair/extra/model.fbx", "chair/extra/model.obj")
    check(params())
    assert "dragon" in capsys.readouterr().out
    data = fetch(params())
    out = capsys.readouterr().out
    assert (
        "2 classes, labels in this order: chair, dragon" in out
        and "1 of 2 are none of ShapeNetCore's 55" in out
        and "chair/extra/model.fbx" in out
    )
    assert (
        data.classes == ("chair", "dragon")
        and data.labels.tolist() == [0] * 4 + [1] * 3
        and len(data.split("val")) == len(data.split("test")) == 2
    )


def test_missing_textures_is_a_parameter(params):
    assert params().data.missing_textures == "refuse" == params().renderer.missing_textures
    assert params(missing_textures="colour").renderer.missing_textures == "colour"
    with pytest.raises(ValueError, match="data.missing_textures: .*'refuse' or 'colour'"):
        params(missing_textures="color")


# Real models, from furniture libraries


SQUARE = "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 2 0.5 0.5 0.5\nvn 0 0 1\nvt 0 1\nusemtl m\nf 1 2 3\nf 1 2 4\n"


def library(path, pieces, members=None, **changes):
    "A furniture library: `pieces` are dictionaries of properties without their number, `members` further files."
    entries = {"id": "Lib", "license": "Creative Commons Attribution 3.0"} | {
        f"{key}#{k}": value for k, piece in enumerate(pieces, 1) for key, value in piece.items()
    }
    files = {piece["model"].lstrip("/"): SQUARE for piece in pieces} | {
        str(Path(piece["model"].lstrip("/")).parent / "m.mtl"): "newmtl m\nKd 1 0 0\n" for piece in pieces
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(rm.CATALOGUE, javaproperties.dumps(entries))
        for name, content in ({**files, **(members or {})} | changes).items():
            if content is not None:
                archive.writestr(name, content)
    return path


CHAIR = {
    "name": "Oak chair",
    "model": "/lib/oakChair/oakChair.obj",
    "creator": "Ada Lovelace",
    "category": "Living room",
}


@pytest.fixture
def furniture(tmp_path):
    pieces = [
        CHAIR,
        {"name": "Caf\u00e9 table", "model": "/lib/t/table 2.obj", "modelRotation": "1 0 0 0 0 1 0 -1 0"},
        {"name": "Basketball", "model": "lib/ball/ball.obj"},
        {"name": "Desk lamp", "model": "lib/lamp/lamp.OBJ", "creator": "Zo\u00eb"},
    ]
    members = {
        "lib/oakChair/wood.png": b"png",
        "lib/oakChair/license.txt": "by Ada",
        "lib/oakChair/old.obj": SQUARE,
        "lib/oakChair/maps/x.jpg": b"jpg",
        "lib/oakChair/.DS_Store": b"",
        "LICENSE.TXT": "CC BY",
        "lib/oakChair.png": b"icon",
    }
    (tmp_path / "libraries").mkdir()
    library(tmp_path / "libraries/A.sh3f", pieces, members)
    library(tmp_path / "libraries/B.SH3F", [{"name": "Sofa 2 seats", "model": "other/s/s.obj"}])
    return tmp_path / "libraries"


def test_furniture_by_class(furniture, tmp_path, capsys):
    rm.main([str(tmp_path / "out"), "--folder", str(furniture)])
    assert "4 of 5 models in 4 classes" in capsys.readouterr().out
    files = sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    assert files == [
        "CREDITS.csv",
        "LICENSE-A.txt",
        "chair/lib.oakChair/license.txt",
        "chair/lib.oakChair/m.mtl",
        "chair/lib.oakChair/maps/x.jpg",
        "chair/lib.oakChair/oakChair.obj",
        "chair/lib.oakChair/wood.png",
        "lamp/lib.lamp/lamp.OBJ",
        "lamp/lib.lamp/m.mtl",
        "sofa/other.s/m.mtl",
        "sofa/other.s/s.obj",
        "table/lib.t.table-2/m.mtl",
        "table/lib.t.table-2/table 2.obj",
    ]
    credits = pd.read_csv(tmp_path / "out/CREDITS.csv")
    assert credits.columns.tolist() == ["class", "object", "name", "creator", "licence", "source"]
    assert credits.loc[0].tolist() == [
        "chair",
        "lib.oakChair",
        "Oak chair",
        "Ada Lovelace",
        "Creative Commons Attribution 3.0",
        "A.sh3f: lib/oakChair/oakChair.obj",
    ]
    assert (
        credits.name.tolist() == ["Oak chair", "Desk lamp", "Sofa 2 seats", "Caf\u00e9 table"]
        and credits.creator[1] == "Zo\u00eb"
    )
    objects = mf.mesh_objects(tmp_path / "out")
    assert mf.usable_models(objects) == list(objects) and [name for name, _ in objects] == [
        "03001627",
        "03636649",
        "04256520",
        "04379243",
    ]


def test_models_are_turned_as_the_catalogue_says(furniture, tmp_path):
    rm.make_folder(rm.libraries_in(furniture), tmp_path / "out")
    lines = (tmp_path / "out/table/lib.t.table-2/table 2.obj").read_text().splitlines()
    plain = (tmp_path / "out/chair/lib.oakChair/oakChair.obj").read_text().splitlines()  # from +z in front to -z
    assert plain == [
        {"v 1 0 0": "v -1 0 0", "v 0 0 2 0.5 0.5 0.5": "v 0 0 -2 0.5 0.5 0.5", "vn 0 0 1": "vn 0 0 -1"}.get(line, line)
        for line in SQUARE.splitlines()
    ]
    # 1 0 0  0 0 1  0 -1 0, row by row, takes (x, y, z) to (x, z, -y); then half a turn
    assert lines == [
        {
            "v 1 0 0": "v -1 0 0",
            "v 0 1 0": "v 0 0 1",
            "v 0 0 2 0.5 0.5 0.5": "v 0 2 0 0.5 0.5 0.5",
            "vn 0 0 1": "vn 0 1 0",
        }.get(line, line)
        for line in SQUARE.splitlines()
    ]


@pytest.mark.parametrize("case", BAD["classes_of_furniture"], ids=lambda case: case["name"])
def test_the_class_that_a_name_says(case):
    assert rm.class_of(case["name"]) == case["class"]


def test_the_table_of_names_is_sound():
    names = {c.name for c in CLASSES}
    assert {found for found, _ in rm.NAMES} | set(rm.BY_EYE.values()) <= names | {None}


@pytest.mark.parametrize(
    "member",
    [
        "../out.txt",
        "lib/../../out.txt",
        "/tmp/out.txt",
        "..\\out.txt",
        "C:\\out.txt",
        "C:/out.txt",
        "lib/..",
        "\\\\host\\x",
    ],
)
def test_no_member_leaves_the_folder(furniture, tmp_path, member):
    library(furniture / "A.sh3f", [CHAIR], {member: "x"})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="A.sh3f: member .* would lie outside"):
        rm.make_folder(rm.libraries_in(furniture), tmp_path / "out")
    assert (
        not (tmp_path / "out").exists()
        and {path for path in set(tmp_path.rglob("*")) - before if path.is_file()} == set()
    )


def test_a_model_outside_of_the_archive_is_refused(furniture, tmp_path):
    library(
        furniture / "A.sh3f",
        [CHAIR | {"model": "../../etc/passwd"}],
        {"../../etc/passwd": None, "../../etc/m.mtl": None},
    )
    with pytest.raises(
        ValueError, match="A.sh3f: the model '../../etc/passwd' of piece 1, Oak chair, is not in the archive"
    ):
        rm.make_folder(rm.libraries_in(furniture), tmp_path / "out")


def test_links_and_sizes_are_refused(furniture, tmp_path, monkeypatch):
    link = zipfile.ZipInfo("lib/oakChair/link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    library(furniture / "A.sh3f", [CHAIR])
    with zipfile.ZipFile(furniture / "A.sh3f", "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match="link.png' is a link"):
        rm.make_folder(rm.libraries_in(furniture), tmp_path / "out")
    library(furniture / "A.sh3f", [CHAIR], {"lib/oakChair/zeros.png": bytes(5000)})
    monkeypatch.setattr(rm, "LARGEST_FILE", 4000)
    with pytest.raises(ValueError, match="zeros.png' has 5000 bytes; 4000 are allowed"):
        rm.make_folder(rm.libraries_in(furniture), tmp_path / "out")
    monkeypatch.setattr(rm, "LARGEST_FILE", 6000)
    monkeypatch.setattr(rm, "LARGEST_ARCHIVE", 5000)
    with pytest.raises(ValueError, match="A.sh3f holds .* bytes; 5000 are allowed"):
        rm.make_folder(rm.libraries_in(furniture), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_libraries_are_named(furniture, tmp_path):
    def make():
        return rm.make_folder(rm.libraries_in(furniture), tmp_path / "out")

    whole = (furniture / "A.sh3f").read_bytes()
    (furniture / "A.sh3f").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="A.sh3f is not a whole zip archive"):
        make()
    library(furniture / "A.sh3f", [CHAIR])
    flipped = bytearray((furniture / "A.sh3f").read_bytes())
    with zipfile.ZipFile(furniture / "A.sh3f") as archive:
        at = archive.getinfo("lib/oakChair/oakChair.obj").header_offset
    flipped[at + 80] ^= 255
    (furniture / "A.sh3f").write_bytes(flipped)
    with pytest.raises(ValueError, match="A.sh3f is not a whole zip archive|A.sh3f: .*damaged"):
        make()
    with zipfile.ZipFile(furniture / "A.sh3f", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(ValueError, match="A.sh3f is not a furniture library"):
        make()
    for changes, message in [
        ({"modelRotation": "1 2 3"}, "piece 1: the rotation '1 2 3' is not of nine numbers"),
        ({"modelRotation": "2 0 0 0 1 0 0 0 1"}, "is not a rotation"),
        ({"name": ""}, "no name"),
    ]:
        library(furniture / "A.sh3f", [CHAIR | changes])
        with pytest.raises(ValueError, match=message):
            make()
    library(furniture / "A.sh3f", [CHAIR], {CHAIR["model"].lstrip("/"): "v 1 two 3\n"})
    with pytest.raises(
        ValueError, match="A.sh3f: lib/oakChair/oakChair.obj, line 1: 'v 1 two 3' does not have three numbers"
    ):
        make()
    library(furniture / "A.sh3f", [CHAIR, CHAIR])
    with pytest.raises(ValueError, match="lib/oakChair/oakChair.obj' is there twice"):
        make()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").touch()
    with pytest.raises(FileExistsError, match="out exists already"):
        make()
    for path in furniture.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="holds no furniture library"):
        make()


def test_the_command_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(rm, "INSTALLED", tmp_path / "none")
    for arguments, says in [
        ([], "apt-get download"),
        (["--deb", str(tmp_path / "x.deb")], "x.deb does not exist"),
        (["--folder", str(tmp_path)], "holds no furniture library"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            rm.main([str(tmp_path / "out"), *arguments])
        assert says in str(stopped.value)
    if shutil.which("dpkg-deb"):
        (tmp_path / "x.deb").write_text("no package")
        with pytest.raises(SystemExit, match="x.deb cannot be unpacked"):
            rm.main([str(tmp_path / "out"), "--deb", str(tmp_path / "x.deb")])
    else:
        (tmp_path / "x.deb").write_text("no package")
        with pytest.raises(SystemExit, match="dpkg-deb is not on this machine"):
            rm.main([str(tmp_path / "out"), "--deb", str(tmp_path / "x.deb")])


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not there")
def test_the_command_takes_a_package(furniture, tmp_path):
    home = tmp_path / "package/usr/share/sweethome3d/furniture"
    shutil.copytree(furniture, home)
    (tmp_path / "package/DEBIAN").mkdir()
    (tmp_path / "package/DEBIAN/control").write_text(
        "Package: little\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    subprocess.run(
        ["dpkg-deb", "-b", str(tmp_path / "package"), str(tmp_path / "little.deb")], check=True, capture_output=True
    )
    rm.main([str(tmp_path / "out"), "--deb", str(tmp_path / "little.deb")])
    assert len(mf.mesh_objects(tmp_path / "out")) == 4

"""Damaged data sets, and unusual archives and folders: each fault is a row of the tables in `bad_inputs/`."""

import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
from ruamel.yaml import YAML
from test_dataset import OBJECTS, Recorder, Stripes, contents, member

from sie.data.layout import export_layout, import_layout
from sie.data.rendering import render_dataset
from sie.data.storage import ViewDataset, _finish, _read_table, _write_table, verify
from sie.method.rotations import LATENT_RANGES
from sie.objects.classes import CLASS_BY_SYNSET

TABLES = Path(__file__).parent / "bad_inputs"


def rows(name):
    "The rows of a table as parameters of a test."
    return [
        pytest.param(row, id=f"{row['fault']}{', ' + row['file'] if 'file' in row else ''}")
        for row in YAML(typ="safe").load(TABLES / f"{name}.yaml")
    ]


def says(error, words):
    for word in words:
        assert word in str(error), f"{word!r} is not in {str(error)!r}"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    "Ten objects with translations in three shards, of 4, 4 and 2."
    ranges = {**LATENT_RANGES, "translation_x": (-0.2, 0.3)}
    return render_dataset(
        tmp_path_factory.mktemp("data") / "set",
        OBJECTS,
        Recorder(),
        views=4,
        ranges=ranges,
        workers=0,
        objects_per_shard=4,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layout")
    export_layout(render_dataset(folder / "set", OBJECTS, Stripes(), views=4, workers=0), folder / "3DIEBench")
    return folder / "3DIEBench"


@pytest.fixture(scope="module")
def fingerprint(exported):
    return ViewDataset(exported.parent / "set").fingerprint


# Data sets


def changed(table, row):
    "A table with a change of its columns or rows."
    if "rows" in row:
        return table.slice(0, row["rows"])
    column = table.column(row["column"])
    columns = dict(zip(table.schema.names, table.columns))
    if "drop" in row:
        del columns[row["column"]]
    elif "cast" in row:
        columns[row["column"]] = column.cast({"float": pa.float32(), "binary": pa.binary()}[row["cast"]])
    else:
        values = column.to_pylist()
        other = {"train": "val", "val": "test", "test": "train"}.get(values[row["row"]])
        values[row["row"]] = other if row["value"] == "flip" else row["value"]
        columns[row["column"]] = pa.array(values, column.type)
    return pa.record_batch(columns, metadata=table.schema.metadata)


def at(info, path):
    "The container of a dotted key, and the key in it."
    *parts, last = path.split(".")
    for part in parts:
        info = info[int(part) if isinstance(info, list) else part]
    return info, int(last) if isinstance(info, list) else last


def bit_of(dataset, path, column):
    "Where the bytes of a column are in a shard's file: those of its first object."
    table, k = _read_table(path), dataset.info["shards"][0]["objects"]
    value = {
        "images": bytes(dataset.jpeg(k, 1)),
        "latents": dataset.latents[k].tobytes(),
        "translations": dataset.translations[k].tobytes(),
        "object_id": b"".join(i.encode() for i in table.column("object_id").to_pylist()),
        "synset": dataset.synsets[k].encode(),
        "sha256": table.column("sha256")[0].as_py(),
    }[column]
    data = path.read_bytes()
    assert data.count(value) == 1 or column == "synset"
    return data.index(value) + (len(value) // 2 if column in ("images", "latents", "translations") else 5)


def damage(folder, dataset, row):
    path = folder / row["file"]
    whole = path.read_bytes()
    if "remove" in row:
        path.unlink()
    elif "text" in row:
        path.write_text(row["text"])
    elif "cut" in row:
        path.write_bytes(whole[: -row["cut"]])
    elif "zeros" in row:
        path.write_bytes(bytes(len(whole)))
    elif "flip" in row:
        where = bit_of(dataset, path, row["flip"])
        path.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
    elif path.suffix == ".json":
        info = json.loads(whole)
        info.pop("digest")  # or it would be all that is said; it has a test of its own
        for key, value in row.get("set", {}).items():
            inner, last = at(info, key)
            inner[last] = value
        if "without" in row:
            inner, last = at(info, row["without"])
            del inner[last]
        path.write_text(json.dumps(info))
    else:
        _write_table(path, changed(_read_table(path), row))
        info = json.loads((folder / "dataset.json").read_text())
        info.pop("digest")
        for shard in info["shards"]:
            shard["bytes"] = (folder / shard["file"]).stat().st_size
        (folder / "dataset.json").write_text(json.dumps(info))


@pytest.mark.parametrize("row", rows("datasets"))
def test_a_damaged_data_set_is_named(dataset, tmp_path, row):
    copy = shutil.copytree(dataset.path, tmp_path / "copy")
    damage(copy, dataset, row)
    expected = [row.get("names", row["file"] if row.get("remedy", True) else "copy"), *row["says"]]
    if row.get("remedy", True):
        expected += ["elete this file and make the data set again", "dvc repro fetch"]
    kind = FileNotFoundError if row.get("error") else ValueError
    if row.get("opens"):
        ViewDataset(copy)
    else:
        with pytest.raises(kind) as error:
            ViewDataset(copy)
        says(error.value, expected)
    if row.get("decode"):
        verify(copy)
    with pytest.raises(kind) as error:
        verify(copy, row.get("decode", False))
    says(error.value, expected)
    if row.get("error") or row["file"] == "dataset.json":
        return
    # what to do helps: without the file, or even with it, only what is damaged is made again
    ranges = {**LATENT_RANGES, "translation_x": (-0.2, 0.3)}
    stamps = {path.name: path.stat().st_mtime_ns for path in copy.glob("shard-*") if path.name != row["file"]}
    render_dataset(copy, OBJECTS, Recorder(), views=4, ranges=ranges, workers=0, objects_per_shard=4)
    assert contents(copy) == contents(dataset.path)
    assert {name: (copy / name).stat().st_mtime_ns for name in stamps} == stamps


def test_verify_as_a_command(dataset, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "sie.pipeline.command", "verify", *arguments], capture_output=True, text=True
        )

    copy = shutil.copytree(dataset.path, tmp_path / "copy")
    right = run(copy, "--decode")
    assert (
        right.returncode == 0
        and "10 objects x 4 views" in right.stdout
        and "everything is as it was written" in right.stdout
    ), right.stderr
    for shard, k in (("shard-00000.arrow", 1), ("shard-00002.arrow", 8)):
        data, jpeg = (copy / shard).read_bytes(), bytes(dataset.jpeg(k, 0))
        (copy / shard).write_bytes(data.replace(jpeg, jpeg[:-9] + bytes(9)))
    wrong = run(copy)
    assert wrong.returncode == 1 and not wrong.stdout and "Traceback" not in wrong.stderr
    says(
        wrong.stderr,
        [
            "shard-00000.arrow",
            "02691156/000001 (row 1)",
            "shard-00002.arrow",
            "02747177/000003 (row 0)",
            "dvc repro fetch",
        ],
    )


def test_no_bit_of_a_data_set_changes_unseen(tmp_path):
    "Every byte of a small data set, except those between the buffers."
    path = tmp_path / "set"
    original = render_dataset(path, OBJECTS[:5], Stripes(size=8), views=2, workers=0)

    def known(data):
        return (
            data.fingerprint,
            data.synsets.tolist(),
            data.object_ids.tolist(),
            data.labels.tolist(),
            data._split.tolist(),
            data.latents.tobytes(),
            [bytes(data.jpeg(k, v)) for k in range(5) for v in range(2)],
            data.mean,
            data.std,
        )

    expected, found, unseen = known(original), 0, 0
    for file in ("shard-00000.arrow", "index.arrow", "dataset.json"):
        whole = (path / file).read_bytes()
        for k in range(0, len(whole), 1 if file == "index.arrow" else 3):
            (path / file).write_bytes(whole[:k] + bytes([whole[k] ^ 16]) + whole[k + 1 :])
            try:
                data = verify(path, decode=True)
            except ValueError:
                found += 1
                continue
            assert known(data) == expected, (file, k)
            unseen += 1
        (path / file).write_bytes(whole)
    assert found > unseen


def test_a_shard_that_was_damaged_while_a_data_set_was_unfinished(exported, dataset, tmp_path):
    ranges = {**LATENT_RANGES, "translation_x": (-0.2, 0.3)}

    def parts(**options):
        return render_dataset(
            tmp_path / "parts", OBJECTS, Recorder(), views=4, ranges=ranges, workers=0, objects_per_shard=4, **options
        )

    parts(part=(0, 2))
    shard = tmp_path / "parts" / "shard-00000.arrow"
    whole, jpeg = shard.read_bytes(), bytes(dataset.jpeg(2, 1))
    shard.write_bytes(whole.replace(jpeg, jpeg[:-9] + bytes([jpeg[-9] ^ 1]) + jpeg[-8:]))
    assert shard.read_bytes() != whole
    assert parts().fingerprint == dataset.fingerprint and shard.read_bytes() == whole  # made again
    shard.write_bytes(whole.replace(jpeg, jpeg[:-9] + bytes([jpeg[-9] ^ 1]) + jpeg[-8:]))
    with pytest.raises(ValueError, match=r"shard-00000.arrow is damaged: what it holds of 02691156/000002 \(row 2\)"):
        _finish(tmp_path / "parts", lambda synsets: ["train"] * 10, {})


# Archives


def packed(folder, path, row):
    "An archive of a folder as a row of the table asks for."
    if row.get("packed") == "zip":
        with zipfile.ZipFile(path, "w") as file:
            for inner in sorted(folder.rglob("*")):
                file.write(inner, Path("3DIEBench") / inner.relative_to(folder))
        return path
    if row.get("packed") == "text":
        path.write_text(row["content"])
        return path
    if row.get("packed") == "gzip of text":
        path.write_bytes(gzip.compress(row["content"].encode()))
        return path
    form = getattr(tarfile, row.get("form", "PAX") + "_FORMAT")
    with tarfile.open(
        path, {"nothing": "w", "bz2": "w:bz2", "xz": "w:xz"}.get(row.get("packed"), "w:gz"), format=form
    ) as tar:

        def add(entry):
            fields = {key: value for key, value in entry.items() if key not in ("name", "content")}
            if "type" in fields:
                fields["type"] = getattr(tarfile, fields["type"], fields["type"].encode())
            info, data = member(entry["name"], entry.get("content", "").encode(), **fields)
            tar.addfile(info, io.BytesIO(data))

        for entry in row.get("first", []):
            add(entry)
        if row.get("packed") != "empty":
            tar.add(folder, row.get("top", "3DIEBench"))
        for entry in row.get("members", []):
            add(entry)
    return path


@pytest.mark.parametrize("row", rows("archives"))
def test_unusual_archives(exported, fingerprint, tmp_path, row):
    source = packed(exported, tmp_path / "a.tar.gz", row)
    if "says" not in row:
        assert import_layout(source, tmp_path / "set", lists=exported).fingerprint == fingerprint
        return
    with pytest.raises(ValueError) as error:
        import_layout(source, tmp_path / "set")
    says(error.value, row["says"])
    assert not list((tmp_path / "set").iterdir()) and sorted(path.name for path in tmp_path.iterdir()) == [
        "a.tar.gz",
        "set",
    ]


# Folders


def undecodable(jpeg):
    "The same with zeros for the last of its pixels: header and end are right."
    broken = jpeg[:-60] + bytes(58) + jpeg[-2:]
    simplejpeg.decode_jpeg_header(broken)
    return broken


def unusual(layout, row):
    "Change a folder as a row of the table asks for."
    lists = {side: np.load(layout / f"{side}_images.npy") for side in ("train", "val")}
    homes = sorted(path.parent for path in layout.rglob("image_0.jpg"))
    if row.get("object"):
        homes = [layout / (lists["val"][0].strip("/") if row["object"] == "validation" else row["object"])]
    for home in homes if "images" in row else []:
        for view in [row["view"]] if "view" in row else range(4):
            path = home / f"image_{view}.jpg"
            if row["images"] == "undecodable":
                path.write_bytes(undecodable(path.read_bytes()))
            else:
                path.write_bytes(simplejpeg.encode_jpeg(np.full((16, 16, 3), row["images"], np.uint8)))
    for side, chosen in row.get("lists", {}).items():
        other = {"train": "val", "val": "train"}[side]
        everything = np.sort(np.concatenate([*lists.values()]))
        for name, objects in ((side, everything[chosen]), (other, np.delete(everything, chosen))):
            np.save(layout / f"{name}_images.npy", objects)
            np.save(
                layout / f"{name}_labels.npy",
                np.array([CLASS_BY_SYNSET[o.split("/")[1]].label for o in objects], np.int64),
            )
    for name in row.get("add", []):
        (layout / name).parent.mkdir(parents=True, exist_ok=True)
        (layout / name).write_bytes(b"x")
    if "folder" in row:
        (layout / row["folder"]).mkdir()
    for name in row.get("remove", []):
        shutil.rmtree(layout / name)


@pytest.mark.parametrize("row", rows("folders"))
def test_unusual_folders(exported, fingerprint, tmp_path, row):
    layout = shutil.copytree(exported, tmp_path / "layout")
    unusual(layout, row)
    if "remove" in row:
        for path in layout.glob("*.npy"):
            path.unlink()
    if "top" in row:
        (tmp_path / row["top"]).mkdir()
        layout = layout.rename(tmp_path / row["top"] / "3DIEBench").parent
        for name in row.get("beside", []):
            (layout / name).write_bytes(b"x")

    def call():
        return import_layout(layout, tmp_path / "set")

    if "says" in row:
        with pytest.raises(ValueError) as error:
            call()
        says(error.value, row["says"])
        assert not (tmp_path / "set" / "dataset.json").exists()
    elif "warns" in row:
        with pytest.warns(UserWarning) as warned:
            call()
        says(warned[0].message, row["warns"])
    else:
        assert call().fingerprint == fingerprint


def test_what_cannot_be_split_is_refused_before_it_is_rendered(tmp_path):
    class Never(Stripes):
        def __call__(self, *arguments):
            raise AssertionError("was rendered")

    with pytest.raises(ValueError, match="airplane has 2; each class must have at least 3"):
        render_dataset(tmp_path / "set", OBJECTS[:2], Never(), workers=0)
    with pytest.raises(ValueError, match="there are no objects"):
        render_dataset(tmp_path / "set", [], Never(), workers=0)
    with pytest.raises(ValueError, match="trash bin has 1; each class must have at least 3"):
        render_dataset(tmp_path / "set", OBJECTS[:6], Never(), workers=0)


@pytest.mark.parametrize(
    ("key", "value"), [("mean", [0.25, 0.5, 0.5]), ("std", [0.1, 0.1, 0.1]), ("train", 7), ("classes", ["a"])]
)
def test_a_number_that_is_changed_in_dataset_json_is_noticed_on_opening(dataset, tmp_path, key, value):
    shutil.copytree(dataset.path, tmp_path / "set")
    path = tmp_path / "set/dataset.json"
    info = json.loads(path.read_text())
    assert info[key] != value
    path.write_text(json.dumps(info | {key: value}))
    with pytest.raises(ValueError, match="dataset.json is damaged: what it says is not what was written"):
        ViewDataset(path.parent)
    path.write_text(json.dumps({name: value for name, value in info.items() if name != "digest"}))
    ViewDataset(path.parent)  # made before there was a digest

"""Translations of 3DIEBench-T: conventions, pictures, files and training.

The reference is scipy and products of 4 x 4 matrices."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
import trimesh
from ruamel.yaml import YAML
from scipy.spatial.transform import Rotation

from sie.data.blender import blender_values
from sie.data.layout import export_layout, import_layout
from sie.data.rendering import render_dataset, render_object
from sie.data.scene import Renderer, Scene
from sie.data.storage import ViewDataset, _read_table
from sie.method.methods import METHODS, Model
from sie.method.pairs import PairDataset, SingleViewDataset, ViewLoader, load_views
from sie.method.pretraining import Settings, load_model, pretrain, pretrain_all
from sie.method.rotations import (
    FORMS,
    LATENT_RANGES,
    TRANSLATION_FORMS,
    TRANSLATION_RANGES,
    pose,
    relative_pose,
    relative_translation,
    sample_latents,
    sample_translations,
    transformation,
    transformation_norm,
    transformation_size,
)
from sie.pipeline.params import Params

ROOT = Path(__file__).parents[1]
LATENT_FILES = YAML(typ="safe").load(ROOT / "tests" / "bad_inputs" / "latents.yaml")
MOVED = {**LATENT_RANGES, **TRANSLATION_RANGES}
OBJECTS = [(synset, f"{k:06d}") for synset in ("02691156", "03001627") for k in range(5)]


def rows(views, seed):
    "Latents of ten columns, float32."
    rng = np.random.default_rng(seed)
    return np.c_[sample_latents(views, rng), sample_translations(views, rng, TRANSLATION_RANGES)]


def matrices(latents):
    "By scipy and a product of matrices: an object is moved, and then turned."
    turned, moved = np.tile(np.eye(4), (2, len(latents), 1, 1))
    turned[:, :3, :3] = Rotation.from_euler("xyz", latents[:, :3]).as_matrix()
    moved[:, :3, 3] = latents[:, 7:]
    return turned @ moved


# Conventions


def test_poses_are_products_of_matrices():
    first, second = rows(300, 1).astype(float), rows(300, 2).astype(float)
    m1, m2 = matrices(first), matrices(second)
    v1, v2 = torch.from_numpy(first), torch.from_numpy(second)
    np.testing.assert_allclose(pose(v1), m1, atol=1e-12)
    relative = np.linalg.inv(m1) @ m2
    np.testing.assert_allclose(relative_pose(v1, v2), relative, atol=1e-12)
    np.testing.assert_allclose(transformation(v1, v2, "pose").unflatten(-1, (4, 4)), relative, atol=1e-12)
    np.testing.assert_allclose(relative_pose(v2, v1), np.linalg.inv(relative), atol=1e-12)
    # the pose takes a point of the object to the world, and the relative pose takes coordinates in view 2 to view 1
    point = np.r_[0.1, -0.2, 0.3, 1]
    placed = [Rotation.from_euler("xyz", row[:3]).apply(point[:3] + row[7:]) for row in first]
    np.testing.assert_allclose((pose(v1) @ torch.from_numpy(point))[:, :3], placed, atol=1e-12)
    np.testing.assert_allclose(pose(v1) @ relative_pose(v1, v2), pose(v2), atol=1e-12)


def test_translations_in_two_frames():
    first, second = rows(300, 3), rows(300, 4)
    v1, v2 = torch.from_numpy(first), torch.from_numpy(second)
    assert torch.equal(relative_translation(v1, v2), torch.from_numpy(second[:, 7:] - first[:, 7:]))
    centres = [Rotation.from_euler("xyz", row[:, :3]).apply(row[:, 7:]) for row in (first, second)]
    base = relative_translation(v1.double(), v2.double(), "base")
    np.testing.assert_allclose(base, centres[1] - centres[0], atol=1e-12)
    seen = (
        Rotation.from_euler("xyz", first[:, :3]).inv().apply(base)
    )  # the base frame's difference, along the first view's axes
    np.testing.assert_allclose(relative_pose(v1.double(), v2.double())[:, :3, 3], seen, atol=1e-12)
    with pytest.raises(ValueError, match="unknown frame 'camera'"):
        relative_translation(v1, v2, "camera")
    for call in (relative_translation, relative_pose):
        with pytest.raises(ValueError, match="latents of 10 numbers.*these have 7"):
            call(v1[:, :7], v2)
        with pytest.raises(ValueError, match="latents of 10 numbers.*these have 7"):
            call(v1, v2[:, :7])


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    v1, v2 = (torch.from_numpy(rows(200, seed)).double() for seed in (5, 6))
    g = Rotation.from_euler("xyz", v1[:, :3]).inv() * Rotation.from_euler("xyz", v2[:, :3])
    difference = v2[:, 7:].numpy() - v1[:, 7:].numpy()
    expected = {
        "quaternion": g.as_quat(),
        "matrix": g.as_matrix().reshape(-1, 9),
        "euler": g.as_euler("xyz"),
        "quaternion_translation": np.c_[g.as_quat(), difference],
        "matrix_translation": np.c_[g.as_matrix().reshape(-1, 9), difference],
        "pose": (np.linalg.inv(matrices(v1.numpy())) @ matrices(v2.numpy())).reshape(-1, 16),
    }[form]
    np.testing.assert_allclose(transformation(v1, v2, form), expected, atol=1e-7)
    coloured = transformation(v1, v2, form, colour=True)
    np.testing.assert_allclose(
        coloured, np.c_[expected, v2[:, [3, 6]] - v1[:, [3, 6]]], atol=1e-7
    )  # hue differences last
    assert coloured.shape[1] == transformation_size(form, True) == expected.shape[1] + 2
    if form in TRANSLATION_FORMS:
        with pytest.raises(ValueError, match="the data has no translations"):
            transformation(v1[:, :7], v2[:, :7], form)
        # two rotations, of norm 1 or sqrt 3, and differences of two numbers of variance 1/12 in three axes
        assert transformation_norm(form) ** 2 == pytest.approx(
            {"quaternion_translation": 1.5, "matrix_translation": 3.5, "pose": 4.5}[form], abs=0.02
        )
    else:
        assert torch.equal(
            transformation(v1, v2, form), transformation(v1[:, :7], v2[:, :7], form)
        )  # what there is besides makes no difference


# Pictures


def pinhole(point, size):
    "By similar triangles. The camera is 2.5 / sqrt 2 up and as far along +y; it looks at the origin, its right is -x."
    x, y, z = point
    depth, down = 2.5 - (y + z) / 2**0.5, (y - z) / 2**0.5
    return np.array([size / 2 - size * 50 / 36 * x / depth, size / 2 + size * 50 / 36 * down / depth])


def test_the_renderer_puts_the_centre_at_r_t():
    ball = trimesh.creation.icosphere(2, 0.07)
    ball.visual.face_colors = [255, 0, 0, 255]
    latents = rows(16, 7)
    latents[:, 7:] *= 0.8  # into the picture
    pictures = Renderer(96, 16, Scene(floor_saturation=0, spot_power=0)).render(ball, latents).astype(int)
    far = []
    for row, picture in zip(latents.astype(float), pictures):
        found = np.argwhere(picture[..., 0] > picture[..., 1:].max(-1) + 40).mean(0)[::-1] + 0.5
        centre = Rotation.from_euler("xyz", row[:3]).apply(row[7:])
        np.testing.assert_allclose(found, pinhole(centre, 96), atol=0.8)
        np.testing.assert_allclose(blender_values(Scene(), row[:7], row[7:])["object"]["location"], centre, atol=1e-12)
        far.append(np.abs(found - pinhole(row[7:], 96)).max())  # not along the axes of the world
    assert np.median(far) > 5


def test_ten_columns_are_latents_and_translations():
    box = trimesh.creation.box((0.4, 0.3, 0.2))
    box.visual.face_colors = [90, 160, 220, 255]
    latents, renderer = rows(3, 8), Renderer(32, 4)
    assert not np.array_equal(renderer.render(box, latents), renderer.render(box, latents[:, :7]))
    assert np.array_equal(
        renderer.render(box, np.c_[latents[:, :7], np.zeros((3, 3))]), renderer.render(box, latents[:, :7])
    )
    with pytest.raises(ValueError, match=r"\(3, 8\).*\(views, 10\)"):
        renderer.render(box, latents[:, :8])


# Files


@dataclass(frozen=True)
class Patches:
    "Stand-in renderer: a patch whose colour and place follow the latents."

    def __call__(self, synset, object_id, latents, seed):
        pictures = np.full((len(latents), 24, 24, 3), 90, np.uint8)
        for picture, row in zip(pictures, latents):
            x, y = (12 + 8 * row[-2:]).astype(int).clip(0, 20)
            picture[y : y + 4, x : x + 4] = (200 * abs(np.sin(row[:3] + int(object_id)))).astype(np.uint8)
        return pictures


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    return render_dataset(
        tmp_path_factory.mktemp("sets") / "moved",
        OBJECTS,
        Patches(),
        views=4,
        ranges=MOVED,
        workers=0,
        objects_per_shard=4,
    )


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    return render_dataset(
        tmp_path_factory.mktemp("sets") / "still", OBJECTS, Patches(), views=4, workers=0, objects_per_shard=4
    )


def test_folder_and_archive_bring_translations_back_to_the_bit(moved, tmp_path):
    export_layout(moved, tmp_path / "layout")
    with tarfile.open(tmp_path / "moved.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "layout", "3DIEBench-T")
    for source in ("layout", "moved.tar.gz"):
        back = import_layout(tmp_path / source, tmp_path / f"from {source}", tmp_path / "layout")
        order = [list(zip(back.synsets, back.object_ids)).index(name) for name in zip(moved.synsets, moved.object_ids)]
        assert (
            back.translations[order].tobytes() == moved.translations.tobytes() and back.translations.dtype == np.float32
        )
        assert back.latents[order].tobytes() == moved.latents.tobytes() and back.fingerprint == moved.fingerprint
    assert moved.translations.min() < -0.4 and moved.translations.max() > 0.4


def test_batches_have_ten_latents(moved, still):
    for data, columns in ((moved, 10), (still, 7)):
        views = load_views(data)
        expected = torch.from_numpy(
            data.latents if columns == 7 else np.concatenate([data.latents, data.translations], -1)
        )
        assert torch.equal(views.latents, expected) and np.array_equal(data.conditions, expected)
        batch = next(ViewLoader(views, 8, 0).epoch(0))
        assert batch.latents.shape == (2, 8, columns)
        assert torch.equal(SingleViewDataset(data)[6].latents, expected[1, 2]) and PairDataset(data)[
            3
        ].latents_1.shape == (columns,)


def test_shards_with_and_without_translations(moved, still, tmp_path):
    for path in moved.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    part = tmp_path / "shard-00001.arrow"
    part.write_bytes((still.path / part.name).read_bytes())
    info = dict(
        moved.info,
        shards=[dict(shard, bytes=(tmp_path / shard["file"]).stat().st_size) for shard in moved.info["shards"]],
    )
    info.pop("digest")  # of dataset.json, which is not what is tested here
    with pytest.raises(ValueError, match="shard-00001.arrow has no translations, unlike shard-00000.arrow"):
        print(ViewDataset(tmp_path, info).translations)


def test_shards_moved_along_the_axes_of_the_world_are_made_anew(moved, still):
    "What the settings of a shard are a digest of names the frame; without translations it is what it was."
    assert moved.info["source"]["translations"] == "object frame" and "translations" not in still.info["source"]


def test_data_without_translations_is_as_it_was(still):
    "Digests that the code before there were translations in the object's frame gave."
    assert [
        _read_table(path).schema.metadata[b"made_with"].decode()[:16] for path in sorted(still.path.glob("shard*"))
    ] == ["072eecdfacd7032d", "28c209141dc809f8", "75334c510826afb8"]


def npy(array, version=None):
    np.lib.format.write_array(buffer := io.BytesIO(), array, version)
    return buffer.getvalue()


def npz(*arrays):
    np.savez(buffer := io.BytesIO(), *arrays)
    return buffer.getvalue()


def header(text):
    "A version 1 file with this header and ten numbers."
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + bytes(80)


@pytest.mark.parametrize("row", LATENT_FILES, ids=lambda row: row["fault"])
def test_latent_files(row, tmp_path):
    home = tmp_path / "layout" / "03001627"
    picture = simplejpeg.encode_jpeg(np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8))
    usual = rows(4, 9)[:, : row["numbers"]]
    names = {"np": np, "npy": npy, "npz": npz}
    content = eval(row["bytes"], {**names, "header": header}) if "bytes" in row else npy(eval(row["array"], names))
    content = content[: len(content) - row.get("cut", 0)]
    for object_id in ("a", "b", "c"):
        (home / object_id).mkdir(parents=True)
        for view in range(4):
            (home / object_id / f"image_{view}.jpg").write_bytes(picture)
            (home / object_id / f"latent_{view}.npy").write_bytes(npy(usual[view]))
    (home / "b" / "latent_2.npy").write_bytes(content)
    if "says" in row:
        with pytest.raises(ValueError) as refused:
            import_layout(tmp_path / "layout", tmp_path / "set", val_fraction=0.5)
        for words in ["03001627/b/latent_2.npy", *row["says"]]:
            assert words in str(refused.value)
        assert not (tmp_path / "set" / "dataset.json").exists()
        return
    data = import_layout(tmp_path / "layout", tmp_path / "set", val_fraction=0.5)
    expected = np.load(io.BytesIO(content))[: row["numbers"]].astype(np.float32)
    assert np.array_equal(data.conditions[1, 2], expected) and np.array_equal(
        data.conditions[1, [0, 1, 3]], usual[[0, 1, 3]]
    )


def test_objects_with_and_without_translations(tmp_path):
    row = render_object(Patches(), *OBJECTS[0], 3, MOVED, 0, 95)
    for object_id, columns in (("a", 10), ("b", 10), ("c", 7)):
        home = tmp_path / "layout" / "03001627" / object_id
        home.mkdir(parents=True)
        for view in range(3):
            (home / f"image_{view}.jpg").write_bytes(row.jpegs[view])
            np.save(home / f"latent_{view}.npy", np.r_[row.latents[view], row.translations[view]][:columns])
    with pytest.raises(ValueError, match="03001627/c/latent_0.npy has no translations, unlike those of 03001627/a"):
        import_layout(tmp_path / "layout", tmp_path / "set")


# Training


def params(**changes):
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section][name] = value
        else:
            values[section] = value
    return Params(**values)


def test_conditioning_on_translations_that_are_not_there_is_refused_by_key():
    ranges = {k: list(v) for k, v in MOVED.items()}
    for form in TRANSLATION_FORMS:
        with pytest.raises(
            ValueError, match=f"pretrain.conditioning is {form}, which needs translations, but data.ranges has none"
        ):
            params(methods=["sie"], pretrain__conditioning=form)
        with pytest.raises(ValueError, match=rf"methods: 'sie\+conditioning={form}': conditioning is {form}"):
            params(methods=["vicreg", f"sie+conditioning={form}"])
        assert (
            params(methods=["sie"], pretrain__conditioning=form, data__ranges=ranges)
            .settings("sie", 0)
            .declaration.form
            == form
        )
        assert params(methods=["vicreg"], pretrain__conditioning=form)  # which has no predictor
    with pytest.raises(ValueError, match="needs translations"):
        params(
            methods=["sie"],
            pretrain__conditioning="pose",
            data__ranges={**ranges, **dict.fromkeys(TRANSLATION_RANGES, [0, 0])},
        )


def small(**changes):
    return Settings(
        **{
            **dict(
                method="sie",
                encoder="small",
                widths=(16, 16),
                epochs=2,
                batch_size=4,
                probe_views=0,
                log_every=2,
                precision="32-true",
            ),
            **changes,
        }
    )


@pytest.mark.parametrize("form", TRANSLATION_FORMS)
def test_pretraining_with_translations(form, moved, still, tmp_path):
    settings = small(conditioning=form)
    history = pretrain(moved, settings, tmp_path / "model")
    model, *_ = load_model(tmp_path / "model")
    assert np.isfinite(history[-1]["train/loss"]) and model.method.form == form
    batch = next(ViewLoader(load_views(moved), 8, 0).epoch(0))
    with torch.no_grad():
        (outputs,) = model(batch.images, batch.latents, batch.labels).pairs
    assert outputs.g.shape == (8, FORMS[form]) and torch.equal(outputs.g, transformation(*batch.latents, form))
    with pytest.raises(ValueError, match=f"conditioning is '{form}', which needs translations"):
        pretrain(still, settings, tmp_path / "no")
    runs = {"a": settings, "b": small()}
    with pytest.raises(ValueError, match=f"conditioning is '{form}'"):
        pretrain_all(still, runs, tmp_path / "m", tmp_path / "l", tmp_path / "c")
    assert not (tmp_path / "no").exists() and not (tmp_path / "m").exists()


def test_a_model_says_that_latents_have_no_translations():
    from dataclasses import replace

    model, images = Model(replace(METHODS["sie"], form="pose"), "small", (16, 16)), torch.zeros(2, 2, 3, 24, 24)
    with pytest.raises(ValueError, match="the data has no translations"):
        model(images, torch.zeros(2, 2, 7), torch.zeros(2, dtype=torch.long))

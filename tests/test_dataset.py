"""The data set under faults: broken input, kills, restarts, damaged files."""

import collections
import gc
import gzip
import io
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from sie.data.layout import _tar_files, export_layout, import_layout, read_split_lists
from sie.data.rendering import ProceduralRenderer, procedural_objects, render_dataset, render_object
from sie.data.storage import (
    ViewDataset,
    _channel_statistics,
    _decode_by_torchvision,
    _fingerprint,
    _finish,
    _OnePass,
    _read_table,
    _write_table,
    check_row,
    split_objects,
    verify,
    write_shard,
)
from sie.method.pairs import (
    SPLITS,
    ArrayDataset,
    Batch,
    JpegViews,
    PairDataset,
    SingleViewDataset,
    ViewLoader,
    Views,
    load_views,
    normalise,
)
from sie.method.rotations import LATENT_RANGES
from sie.method.system import free_memory
from sie.objects.classes import CLASSES
from sie.pipeline.command import _further

SYNSETS = [c.synset for c in CLASSES]
OBJECTS = [(synset, f"{k:06d}") for synset in SYNSETS[:2] for k in range(5)]


@dataclass(frozen=True)
class Stripes:
    "Stand-in renderer: stripes whose colour and direction follow the latents."

    size: int = 16

    def __call__(self, synset, object_id, latents, seed):
        while os.environ.get("NEVER_RENDER") == object_id:
            time.sleep(0.05)
        y, x = np.mgrid[: 1 : self.size * 1j, : 1 : self.size * 1j]
        wave = np.sin(9 * (x * np.cos(latents[:, :1, None]) + y * np.sin(latents[:, :1, None])) + seed % 7)
        return (
            np.stack([wave, wave * latents[:, 3:4, None], latents[:, 6:, None] + 0 * wave], -1)
            .__abs__()
            .clip(0, 1)
            .__mul__(255)
            .astype(np.uint8)
        )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return render_dataset(
        tmp_path_factory.mktemp("data") / "set", OBJECTS, Stripes(), views=4, workers=0, objects_per_shard=4
    )


@pytest.fixture(scope="module")
def exported(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layout") / "3DIEBench"
    export_layout(dataset, folder)
    (folder / "LICENSE").write_text("CC-BY-NC")
    return folder


@pytest.fixture
def layout(exported, tmp_path):
    "A copy to break."
    return shutil.copytree(exported, tmp_path / "layout")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


# Splits


NAMES = ["02691156", "02747177", "chair", "dog", "sofa", "table", "thing 1"]  # synsets, ShapeNet's names, others
CLASSES_OF = st.lists(st.integers(3, 60), min_size=1, max_size=7).flatmap(
    lambda counts: st.permutations([name for name, count in zip(NAMES, counts) for _ in range(count)])
)
FRACTIONS = st.tuples(st.floats(0.02, 0.9), st.floats(0.02, 0.9)).filter(lambda pair: sum(pair) < 0.99)


def counts_in(split, classes, name):
    "Objects of each class in a split."
    return np.array([np.sum((np.array(classes) == c) & (split == name)) for c in sorted(set(classes))])


@given(CLASSES_OF, FRACTIONS, st.integers(0, 5))
def test_every_object_is_in_one_of_three_splits_and_every_class_in_each(classes, fractions, seed):
    val_fraction, test_fraction = fractions
    split = split_objects(classes, val_fraction, test_fraction, seed)
    assert split.shape == (len(classes),) and set(split) == {"train", "val", "test"}
    for name in ("train", "val", "test"):
        assert counts_in(split, classes, name).min() >= 1
    assert np.array_equal(split, split_objects(classes, val_fraction, test_fraction, seed))


@given(CLASSES_OF, FRACTIONS, st.integers(0, 5))
def test_a_class_has_its_share_of_each_split(classes, fractions, seed):
    "Within one object, and exactly in total, where the share of no class is below one object or leaves none."
    split = split_objects(classes, *fractions, seed)
    counts = np.array([classes.count(c) for c in sorted(set(classes))])
    for name, fraction, least in (("test", fractions[1], 2), ("val", fractions[0], 1)):
        found, share = counts_in(split, classes, name), fraction * counts
        others = counts_in(split, classes, "test") if name == "val" else 0
        room = counts - others - least
        assert (found <= np.maximum(np.ceil(share + 1e-9), 1)).all()
        assert (found >= np.minimum(np.floor(share), room)).all()
        if (share >= 1).all() and (np.ceil(share) <= room).all():
            assert (abs(found - share) < 1).all() and found.sum() == round(fraction * counts.sum())


@given(CLASSES_OF, FRACTIONS, st.integers(0, 5), st.floats(0.02, 0.9))
def test_the_test_objects_do_not_depend_on_how_many_are_for_validation(classes, fractions, seed, other):
    test = split_objects(classes, *fractions, seed) == "test"
    assume(other + fractions[1] < 0.99)
    assert np.array_equal(test, split_objects(classes, other, fractions[1], seed) == "test")


@given(CLASSES_OF, st.integers(0, 5), st.data())
def test_held_out_classes_are_in_no_other_split(classes, seed, data):
    there = sorted(set(classes))
    held_out = data.draw(st.lists(st.sampled_from(there), unique=True, max_size=len(there) - 1))
    split = split_objects(classes, seed=seed, held_out=held_out)
    assert np.array_equal(split == "unseen", np.isin(classes, held_out))
    kept = [c not in held_out for c in classes]
    assert set(split[kept]) == {"train", "val", "test"}


@given(CLASSES_OF, st.floats(0.02, 0.9), st.integers(0, 5), st.data())
def test_validation_is_cut_from_what_is_not_for_testing(classes, val_fraction, seed, data):
    "The test objects are given, as those of a release are."
    test = np.array(data.draw(st.lists(st.booleans(), min_size=len(classes), max_size=len(classes))))
    split = split_objects(classes, val_fraction, seed=seed, test=test)
    assert np.array_equal(split == "test", test)
    counts = np.array([classes.count(c) for c in sorted(set(classes))])
    left, found = counts - counts_in(split, classes, "test"), counts_in(split, classes, "val")
    assert (found[left > 1] >= 1).all() and (found[left <= 1] == 0).all() and (found < np.maximum(left, 1)).all()
    assert (found <= np.maximum(np.ceil(val_fraction * counts + 1e-9), 1)).all()


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (["chair"] * 5 + ["sofa"] * 2 + ["dog"], "dog has 1, sofa has 2; each class must have at least 3"),
        (["chair"] * 5 + ["03001627"] + ["04256520"], "sofa has 1"),
    ],
)
def test_a_class_that_is_too_small_is_named(classes, says):
    with pytest.raises(ValueError, match=says):
        split_objects(classes)
    seen = split_objects([*classes], held_out=["sofa", "dog"] if "dog" in classes else ["sofa"])
    assert set(seen) == {"train", "val", "test", "unseen"}  # a class that is held out may be of any size


def test_the_test_objects_are_those_that_two_splits_had_for_validation():
    "So that a model trained with them has seen no test object. The numbers are those of version 0.1.0."
    split = split_objects(["02691156"] * 10 + ["02747177"] * 5, 0.2, 0.2, seed=0)
    assert np.flatnonzero(split == "test").tolist() == [4, 6, 10]


def test_split_is_random_within_a_class():
    for name, expected in (("test", 0.2), ("val", 0.1)):
        drawn = np.concatenate([np.flatnonzero(split_objects(["a"] * 10, seed=seed) == name) for seed in range(500)])
        assert len(drawn) == 500 * 10 * expected and chisquare(np.bincount(drawn)).pvalue > 1e-4


# Reading


@pytest.mark.parametrize(
    ("package", "module"),
    [("pyarrow", "storage"), ("simplejpeg", "storage"), ("mitsuba", "scene"), ("trimesh", "scene")],
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(package, module):
    code = f"import sys; sys.modules[{package!r}] = None; import sie.data.{module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode
    assert f"ModuleNotFoundError: {package} is not installed; pip install 'sie[data]'" in result.stderr


def test_opening_maps_instead_of_reading(dataset):
    again = ViewDataset(dataset.path)
    assert (
        "latents" not in vars(again)
        and np.array_equal(again.latents, dataset.latents)
        and again.latents.dtype == np.float32
    )
    assert isinstance(again.jpeg(3, 2), memoryview) and again.jpeg(3, 2).readonly
    with pytest.raises(IndexError, match="object 10, view 0: there are 10 objects with 4 views"):
        again.jpeg(10, 0)
    with pytest.raises(ValueError, match="it must be one of train, val, test, unseen"):
        again.split("validation")


def test_decoded_views_match_the_encoded_ones(dataset):
    images = dataset.decode_all()
    assert images.shape == (10, 4, 3, 16, 16)
    for k in range(10):
        for view in range(4):
            assert np.array_equal(
                images[k, view].permute(1, 2, 0), simplejpeg.decode_jpeg(bytes(dataset.jpeg(k, view)))
            )
    for crop in (1, 5, 8, 16):
        low = (16 - crop) // 2
        assert torch.equal(dataset.decode_all(crop, [7, 2]), images[[7, 2], ..., low : low + crop, low : low + crop])


def test_statistics_are_of_training_objects_only(dataset):
    pixels = dataset.decode_all(objects=dataset.split("train")).movedim(2, 0).flatten(1).double() / 255
    assert np.allclose(dataset.mean, pixels.mean(1)) and np.allclose(dataset.std, pixels.std(1, correction=0))
    assert not np.allclose(
        dataset.mean, dataset.decode_all().movedim(2, 0).flatten(1).double().mean(1) / 255, atol=1e-4
    )


def test_statistics_are_exact(dataset, monkeypatch):
    pixels = (
        dataset.decode_all(objects=dataset.split("train")).movedim(2, -1).reshape(-1, 3).numpy().astype(object)
    )  # Python's integers
    n, sums, squares = len(pixels), pixels.sum(0), (pixels**2).sum(0)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        monkeypatch.setattr("sie.method.system.PART_BYTES", 1000)
        found = _channel_statistics(dataset)
        assert found["mean"] == [float(Fraction(s, 255 * n)) for s in sums]
        assert np.allclose(
            np.square(found["std"]),
            [float(Fraction(n * q - s * s, (255 * n) ** 2)) for s, q in zip(sums, squares)],
            rtol=1e-14,
            atol=0,
        )


def test_statistics_of_evenly_spread_images(dataset, monkeypatch):
    monkeypatch.setattr("sie.data.storage.STATISTICS_IMAGES", 7)
    found, train = _channel_statistics(dataset), dataset.split("train")
    spread = [round(k * (4 * len(train) - 1) / 6) for k in range(7)]  # the first and the last, and five between
    pixels = (
        np.stack([simplejpeg.decode_jpeg(bytes(dataset.jpeg(train[k // 4], k % 4))) for k in spread])
        .reshape(-1, 3)
        .astype(object)
    )
    assert found["statistics_images"] == 7 and found["mean"] == [
        float(Fraction(s, 255 * len(pixels))) for s in pixels.sum(0)
    ]


@pytest.fixture
def threads(monkeypatch):
    "Four threads, each for at least three images; the thread of each part, of which a quick one may do two."
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr("sie.method.system.PART_BYTES", 3 * 16 * 16 * 3)
    seen, frame = [], ViewDataset.reader

    def reader(self, crop):
        seen.append(threading.current_thread())
        time.sleep(0.01)
        return frame(self, crop)

    monkeypatch.setattr(ViewDataset, "reader", reader)
    return seen


def test_threads_decode_the_same(dataset, threads):
    objects, views = np.random.default_rng(0).integers([[10], [4]], size=(2, 50))
    for crop, many in ((None, 4), (7, 3)):  # three whole images are as many bytes as 15 cropped ones
        threads.clear()
        expected = torch.stack(
            [
                torch.from_numpy(simplejpeg.decode_jpeg(bytes(dataset.jpeg(k, v)))).permute(2, 0, 1)
                for k, v in zip(objects, views)
            ]
        )
        if crop:
            expected = expected[..., 4:11, 4:11]
        assert (
            torch.equal(dataset.decode(objects, views, crop), expected)
            and len(threads) == many
            and len(set(threads)) > 1
        )
        assert torch.equal(dataset.decode_all(crop)[objects, views], expected)
        for in_memory in (True, False):
            data = load_views(dataset, crop=crop, in_memory=in_memory)
            images = data.normalised(torch.from_numpy(objects), torch.from_numpy(views))
            assert torch.equal(images, normalise(expected, data.mean, data.std)) and images.is_contiguous(
                memory_format=torch.channels_last
            )
    assert not [t for t in threads if t.is_alive() and t is not threading.current_thread()]
    assert torch.equal(
        _decode_by_torchvision([dataset.jpeg(3, 1), dataset.jpeg(9, 0)], torch.device("cpu")),
        dataset.decode([3, 9], [1, 0]),
    )  # how nvJPEG is called


def test_what_was_handed_out_is_not_written_over(dataset):
    data, index = load_views(dataset), torch.arange(4)

    def batch(object):
        return data.normalised(torch.full((4,), object), index)

    held = [(k, batch(k)[1:, :, 2:5]) for k in range(10)]  # parts of batches, for longer than memory is kept
    kept = batch(0).untyped_storage().data_ptr()
    assert batch(1).untyped_storage().data_ptr() == kept  # nobody holds it: used again
    for k, part in held:
        assert torch.equal(part, normalise(dataset.decode([k] * 4, range(4)), data.mean, data.std)[1:, :, 2:5])
    weight = torch.ones((), requires_grad=True)
    loss = (weight * batch(2)).sum()  # the graph holds its input
    for k in range(20):
        batch(k % 10)
    loss.backward()
    torch.testing.assert_close(weight.grad, batch(2).sum())


def test_lazy_epochs_end_and_fail_cleanly(dataset, tmp_path):
    before = set(threading.enumerate())
    lazy, memory = (ViewLoader(load_views(dataset, in_memory=m), 3, 0, drop_last=False) for m in (False, True))
    for start in range(5):
        for a, b in zip(lazy.epoch(4, start), memory.epoch(4, start), strict=True):
            assert all(map(torch.equal, a, b))
    half = lazy.epoch(0)
    next(half)
    half.close()
    assert set(threading.enumerate()) == before
    copy = shutil.copytree(dataset.path, tmp_path / "copy")
    shard, jpeg = copy / "shard-00001.arrow", bytes(dataset.jpeg(5, 1))
    shard.write_bytes(shard.read_bytes().replace(jpeg, jpeg[:-60] + bytes(60)))
    broken = ViewLoader(load_views(ViewDataset(copy), in_memory=False), 3, 0, draws=20)
    with pytest.raises(ValueError, match=f"{dataset.synsets[5]}/{dataset.object_ids[5]}, view 1, is damaged"):
        list(broken.epoch(0))
    assert set(threading.enumerate()) == before


def test_free_memory_decides_what_is_decoded_at_once(dataset, monkeypatch):
    needed = 10 * 4 * 3 * 16 * 16
    for free, lazy in ((2 * needed, False), (2 * needed - 2, True)):
        monkeypatch.setattr("sie.method.pairs.free_memory", lambda device, free=free: free)
        assert isinstance(load_views(dataset).images, JpegViews) is lazy
        assert not isinstance(load_views(dataset, in_memory=True).images, JpegViews)
    monkeypatch.undo()
    alone = free_memory(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert alone / 8 < free_memory(torch.device("cpu")) < alone / 2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 9))
    assert free_memory(torch.device("cuda")) == 5
    with pytest.raises(ValueError, match="crop is 17"):
        load_views(dataset, crop=17, in_memory=False)


def test_damaged_files_are_refused_by_name(dataset, tmp_path):
    copy = shutil.copytree(dataset.path, tmp_path / "copy")
    shard, jpeg = copy / "shard-00001.arrow", bytes(dataset.jpeg(5, 1))
    whole = shard.read_bytes()
    shard.write_bytes(whole.replace(jpeg, jpeg[:-60] + bytes(60)))
    with pytest.raises(ValueError, match=f"{dataset.synsets[5]}/{dataset.object_ids[5]}, view 1, is damaged"):
        ViewDataset(copy).decode([5], [1])
    shard.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="shard-00001.arrow is missing or not"):
        ViewDataset(copy)
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(ValueError, match="shard-00001.arrow cannot be read"):
        ViewDataset(copy)
    (copy / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match="not a data set"):
        ViewDataset(copy)


# Ranges and translations


@dataclass(frozen=True)
class Recorder(Stripes):
    "Stripes that move: their phase is the translation's."

    def __call__(self, synset, object_id, latents, seed):
        return super().__call__(synset, object_id, latents[:, :7] + latents[:, 7:].sum(-1, keepdims=True), seed)


def test_translations_are_stored_and_exported(dataset, tmp_path):
    ranges, options = (
        {**LATENT_RANGES, "translation_x": (-0.2, 0.3), "translation_z": [[-0.4, -0.3], [0.1, 0.2]]},
        dict(views=4, workers=0, objects_per_shard=4),
    )
    moved = render_dataset(tmp_path / "moved", OBJECTS, Recorder(), ranges=ranges, **options)
    still = render_dataset(
        tmp_path / "still", OBJECTS, Recorder(), ranges={**LATENT_RANGES, "translation_x": (0, 0)}, **options
    )
    x, y, z = np.moveaxis(moved.translations, -1, 0)
    assert moved.translations.shape == (10, 4, 3) and moved.translations.dtype == np.float32 and not y.any()
    assert x.min() >= np.float32(-0.2) and x.max() <= np.float32(0.3) and len(np.unique(x)) == 40
    assert (
        ((z >= np.float32(-0.4)) & (z <= np.float32(-0.3))) | ((z >= np.float32(0.1)) & (z <= np.float32(0.2)))
    ).all() and {True, False} == set((z < 0).ravel().tolist())
    assert np.array_equal(moved.latents, dataset.latents) and moved.fingerprint != still.fingerprint
    # without any, the files are those of before there were translations
    assert still.translations is None and dataset.translations is None and still.fingerprint == dataset.fingerprint
    assert pa.ipc.open_file(still.path / "shard-00000.arrow").schema.names == [
        "synset",
        "object_id",
        "label",
        "latents",
        "images",
        "sha256",
    ]
    # the pictures are those of the moved object
    render = Recorder()
    for k in (0, 7):
        alone = render_object(render, moved.synsets[k], moved.object_ids[k], 4, ranges, 0, 95)
        assert np.array_equal(alone.translations, moved.translations[k]) and alone.jpegs == [
            bytes(moved.jpeg(k, v)) for v in range(4)
        ] != [bytes(still.jpeg(k, v)) for v in range(4)]
    export_layout(moved, tmp_path / "layout")
    for k, view in ((0, 0), (9, 3)):
        assert np.array_equal(
            np.load(tmp_path / "layout" / moved.synsets[k] / moved.object_ids[k] / f"latent_{view}.npy"),
            np.r_[moved.latents[k, view], moved.translations[k, view]],
        )
    back = import_layout(tmp_path / "layout", tmp_path / "back", tmp_path / "layout")
    assert (
        back.fingerprint == moved.fingerprint
        and back.translations.tobytes()
        == moved.translations[sorted(range(10), key=lambda k: (moved.synsets[k], moved.object_ids[k]))].tobytes()
    )


def test_procedural_objects_out_of_distribution_and_moved():
    from sie.data.scene import Renderer
    from sie.objects.gallery import make_object

    outside, render = [[-np.pi, -np.pi / 2], [np.pi / 2, np.pi]], ProceduralRenderer(size=32, samples=4)
    ranges = {
        "rotation_x": outside,
        "rotation_y": outside,
        "rotation_z": outside,
        "translation_x": (-0.2, 0.2),
        "translation_y": (0.1, 0.3),
    }
    row = render_object(render, SYNSETS[18], "000001", 6, ranges, 0, 95)
    assert (
        (abs(row.latents[:, :3]) >= np.float32(np.pi / 2)).all()
        and np.ptp(row.translations[:, 0]) > 0.1
        and (row.translations[:, 1] >= np.float32(0.1)).all()
    )

    def drawn(latents):
        return Renderer(32, 4).render(make_object(SYNSETS[18], 1), latents, seed=5)

    moved = np.c_[row.latents, row.translations]
    assert np.array_equal(render(SYNSETS[18], "000001", moved, 5), drawn(moved))
    assert np.array_equal(render(SYNSETS[18], "000001", row.latents, 5), drawn(row.latents))
    assert (drawn(row.latents) != drawn(moved)).any()


def test_rows_with_and_without_translations_are_not_mixed(dataset, tmp_path):
    row = render_object(Stripes(), *OBJECTS[0], 4, LATENT_RANGES, 0, 95)
    with pytest.raises(ValueError, match="1 of 2 objects have translations"):
        write_shard(tmp_path / "shard.arrow", [row, row._replace(translations=np.zeros((4, 3), np.float32))])
    assert not list(tmp_path.iterdir())
    for wrong, message in (
        (np.zeros((3, 3)), "translations have the shape"),
        (np.full((4, 3), np.nan), "'translation_x' of view 0 is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            check_row(row._replace(translations=wrong))


def test_one_pass_lets_shards_go(dataset):
    one = _OnePass(dataset.path)
    maps = list(one._images)
    assert [bytes(one.jpeg(k, v)) for k in range(10) for v in range(4)] == [
        bytes(dataset.jpeg(k, v)) for k in range(10) for v in range(4)
    ]
    assert [new is old for new, old in zip(one._images, maps, strict=True)] == [False, False, True]
    assert one.jpeg(0, 0) == dataset.jpeg(0, 0)  # backwards, too


# Pairs


def test_map_style_pairs(dataset):
    pairs = PairDataset(dataset, objects=[4])
    torch.manual_seed(0)
    latents = dataset.latents[4]
    seen = np.array(
        [
            [np.flatnonzero((latents == view.numpy()).all(1))[0] for view in (item.latents_1, item.latents_2)]
            for item in (pairs[0] for _ in range(3000))
        ]
    )
    counts = np.bincount(seen[:, 0] * 4 + seen[:, 1], minlength=16).reshape(4, 4)
    assert not counts.diagonal().any() and chisquare(counts[~np.eye(4, dtype=bool)]).pvalue > 1e-4
    item = pairs[0]
    view = int(np.flatnonzero((latents == item.latents_2.numpy()).all(1))[0])
    assert (
        torch.equal(item.images_2, normalise(dataset.decode([4], [view]), dataset.mean, dataset.std)[0])
        and item.objects == 4
    )


def test_map_style_data_in_worker_processes(dataset):
    assert pickle.loads(pickle.dumps(dataset)).fingerprint == dataset.fingerprint
    batches = list(DataLoader(SingleViewDataset(dataset, crop=8), batch_size=16, num_workers=2))
    assert torch.equal(torch.cat([b.latents for b in batches]), torch.from_numpy(dataset.latents).flatten(0, 1))
    assert torch.equal(
        torch.cat([b.images for b in batches]),
        normalise(dataset.decode_all(8), dataset.mean, dataset.std).flatten(0, 1),
    )


@settings(max_examples=40, deadline=None)
@given(
    objects=st.integers(1, 20),
    stored=st.integers(2, 6),
    views=st.integers(2, 6),
    batch_size=st.integers(1, 25),
    draws=st.integers(1, 3),
    drop_last=st.booleans(),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 10**6),
)
def test_view_loader(objects, stored, views, batch_size, draws, drop_last, seed, epoch):
    images = torch.arange(objects * stored, dtype=torch.uint8).reshape(objects, stored, 1, 1, 1).expand(-1, -1, 3, 2, 2)
    latents = torch.arange(objects * stored, dtype=torch.float32).reshape(objects, stored, 1).expand(-1, -1, 7)
    data = Views(images, latents, torch.arange(objects) % 5, (0.0, 0.0, 0.0), (1 / 255,) * 3)
    options = {"views": views, "draws": draws, "drop_last": drop_last}
    if views > stored:
        with pytest.raises(ValueError, match=f"views is {views}; .* the data has {stored}"):
            ViewLoader(data, batch_size, seed, **options)
        return
    if drop_last and objects * draws < batch_size:
        with pytest.raises(ValueError, match="do not fill one batch"):
            ViewLoader(data, batch_size, seed, **options)
        return
    loader = ViewLoader(data, batch_size, seed, **options)
    batches = list(loader.epoch(epoch))
    assert len(batches) == len(loader)
    joined = Batch(*(torch.cat(field, -1 if field[0].ndim == 1 else 1) for field in zip(*batches)))
    full = objects * draws
    assert len(joined.objects) == (full // batch_size * batch_size if drop_last else full)
    counts = torch.bincount(joined.objects, minlength=objects)
    assert counts.max() <= draws and (len(joined.objects) < full or counts.min() == draws)
    numbers = joined.latents[:, :, 0]
    torch.testing.assert_close(joined.images[:, :, 0, 0, 0], numbers)  # a view's image and latents belong together
    assert (numbers.long() // stored == joined.objects).all()  # and to the object
    assert all(len(set(of_object)) == views for of_object in numbers.T.tolist())
    assert torch.equal(joined.labels, joined.objects % 5)
    again = ViewLoader(data, batch_size, seed, **options)
    start = len(loader) // 2
    for a, b in zip(batches[start:], again.epoch(epoch, start), strict=True):
        assert all(map(torch.equal, a, b))


@pytest.mark.parametrize("views", [2, 3, 5])
def test_view_loader_draws_uniformly(views):
    data = Views(
        torch.zeros(500, 5, 3, 1, 1, dtype=torch.uint8), torch.zeros(500, 5, 7), torch.zeros(500), (0, 0, 0), (1, 1, 1)
    )
    plans = [ViewLoader(data, 10, seed=1, views=views).plan(e) for e in range(60)]
    drawn = np.concatenate([of for _, of in plans], 1)
    kinds = list(itertools.permutations(range(5), views))  # every ordered choice is equally likely
    counts = collections.Counter(map(tuple, drawn.T.tolist()))
    assert set(counts) <= set(kinds)
    assert chisquare([counts[kind] for kind in kinds]).pvalue > 1e-4
    places = np.array([np.flatnonzero(objects == 0)[0] for objects, _ in plans])
    assert chisquare(np.bincount(places // 100, minlength=5)).pvalue > 1e-4  # an object's place in the order
    assert not np.array_equal(plans[0][0], ViewLoader(data, 10, seed=2, views=views).plan(0)[0])


def test_two_views_are_drawn_as_pairs_always_were():
    rng = np.random.default_rng([3, 7])
    objects, first = rng.permutation(40), rng.integers(6, size=40)
    expected = [first, (first + rng.integers(1, 6, size=40)) % 6]
    data = Views(torch.zeros(40, 6, 3, 1, 1, dtype=torch.uint8), torch.zeros(40, 6, 7), torch.zeros(40), (), ())
    drawn, views = ViewLoader(data, 8, seed=3).plan(7)
    assert np.array_equal(drawn, objects) and np.array_equal(views, expected)


# Rendering


def test_another_order_and_other_shards_give_the_same_content(dataset, tmp_path):
    lists = dict(zip(zip(dataset.synsets.tolist(), dataset.object_ids.tolist()), dataset._split.tolist()))
    other = render_dataset(tmp_path / "a", OBJECTS[::-1], Stripes(), views=4, workers=0, objects_per_shard=3)
    rows = {key: k for k, key in enumerate(zip(other.synsets.tolist(), other.object_ids.tolist()))}
    for k, key in enumerate(lists):
        assert np.array_equal(other.latents[rows[key]], dataset.latents[k]) and all(
            other.jpeg(rows[key], v) == dataset.jpeg(k, v) for v in range(4)
        )
    assert not np.array_equal(dataset.latents[0], dataset.latents[1])
    assert _finish(tmp_path / "a", lists, {}).fingerprint == dataset.fingerprint
    lists[OBJECTS[0]] = {"train": "val", "val": "test", "test": "train"}[lists[OBJECTS[0]]]
    assert _finish(tmp_path / "a", lists, {}).fingerprint != dataset.fingerprint


def render(out, workers=0):
    return render_dataset(out, OBJECTS, Stripes(), views=4, workers=workers, objects_per_shard=2)


def test_a_killed_rendering_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-c", "import sys; from test_dataset import render; render(sys.argv[1], workers=2)", out]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parent, env={**os.environ, "NEVER_RENDER": OBJECTS[4][1]}
    )  # the first of the third shard
    deadline = time.time() + 120
    while len(list(out.glob("shard-*.arrow"))) < 2:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = workers.read_text().split() if workers.exists() else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.arrow")}
    assert len(finished) == 2
    with pytest.raises(FileNotFoundError, match="not a data set"):
        ViewDataset(out)
    (out / "shard-00004.arrow.tmp").write_bytes(b"half")
    resumed = render(out)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    render(tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")

    def running(pid):
        return (
            os.path.exists(f"/proc/{pid}/stat")
            and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        )

    while any(map(running, workers)):
        assert time.time() < deadline, "workers outlived their parent"
        time.sleep(0.05)
    assert render(out).fingerprint == resumed.fingerprint


def test_only_shards_with_the_same_settings_are_kept(dataset, tmp_path):
    common = dict(views=4, workers=0, objects_per_shard=4)
    out = shutil.copytree(dataset.path, tmp_path / "set")

    def stamps():
        return {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.arrow")}

    before = stamps()
    render_dataset(out, OBJECTS, Stripes(), **common)
    assert stamps() == before  # finished: nothing to do
    assert (
        len(render_dataset(out, OBJECTS, Stripes(), **common, val_fraction=0.4).split("val")) == 4
        and stamps() == before
    )
    whole = (out / "shard-00001.arrow").read_bytes()
    (out / "shard-00001.arrow").write_bytes(whole[: len(whole) // 2])
    render_dataset(out, OBJECTS, Stripes(), **common)
    assert contents(out) == contents(dataset.path) and {k: v for k, v in stamps().items() if "1" not in k} == {
        k: v for k, v in before.items() if "1" not in k
    }
    for change in (
        dict(seed=1),
        dict(jpeg_quality=80),
        dict(views=3),
        dict(ranges={**LATENT_RANGES, "floor_hue": (0, 0.5)}),
    ):
        now = stamps()
        changed = render_dataset(out, OBJECTS, Stripes(), **{**common, **change})
        assert all(stamp != now[name] for name, stamp in stamps().items())
    assert changed.latents[..., 3].max() <= 0.5
    assert len(render_dataset(out, OBJECTS[:4], Stripes(size=8), **common)) == 4 and len(stamps()) == 1


def test_rendering_refuses(tmp_path):
    def render(objects=OBJECTS, render=Stripes(), **options):
        return render_dataset(tmp_path / "x", objects, render, **dict(dict(views=2, workers=0), **options))

    with pytest.raises(ValueError, match="02691156/000000 is given more than once"):
        render(OBJECTS[:2] + OBJECTS[:1])
    with pytest.raises(TypeError, match="must be a dataclass"):
        render(render=lambda *_: None)
    with pytest.raises(ValueError, match=r"\.00/a: '\.00' cannot be the name of a class"):
        render([(".00", k) for k in "abcde"])
    with pytest.raises(ValueError, match="unknown latent 'hue'"):
        render(ranges={"hue": (0, 1)})
    with pytest.raises(FileNotFoundError):
        ViewDataset(tmp_path / "x")


def test_procedural_objects_are_rendered(tmp_path):
    data = render_dataset(
        tmp_path / "set",
        procedural_objects(3, SYNSETS[:2]),
        ProceduralRenderer(size=24, samples=1, crop=16),
        views=2,
        workers=0,
    )
    assert len(data) == 6 and (data.height, data.width) == (16, 16) and data.decode_all().float().std() > 5
    assert data.info["source"]["scene"]["camera_radius"] == 2.5


# The authors' layout


def archive(folder, path, top="3DIEBench", extra=()):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, top)
        for info, data in extra:
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


@pytest.mark.parametrize("top", ["3DIEBench", "."])
def test_archive_round_trip(dataset, exported, tmp_path, top):
    packed = import_layout(archive(exported, tmp_path / "a.tar.gz", top), tmp_path / "set", lists=exported)
    assert packed.fingerprint == dataset.fingerprint
    export_layout(packed, tmp_path / "again")

    def files(folder):
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jpg")} | {
            str(p.relative_to(folder)): np.load(p).tobytes() for p in folder.rglob("latent*.npy")
        }

    assert files(tmp_path / "again") == files(exported) and len(files(exported)) == 10 * 8
    with pytest.raises(FileExistsError):
        export_layout(packed, tmp_path / "again")


def test_import_without_lists_splits_by_class(exported, tmp_path):
    layout = shutil.copytree(
        exported, tmp_path / "layout", ignore=shutil.ignore_patterns("*_images.npy", "*_labels.npy")
    )
    data = import_layout(layout, tmp_path / "set", val_fraction=0.4, test_fraction=0.4, seed=3)
    for name, count in {"train": 1, "val": 2, "test": 2}.items():
        assert np.array_equal(np.bincount(data.labels[data.split(name)]), [count, count])
    assert np.array_equal(data._split, split_objects(data.synsets, 0.4, 0.4, 3))


def authors_lists(folder, test):
    "Replace the lists of a folder by the authors' two, whose second has the given objects."
    names = np.sort(np.concatenate([np.load(path) for path in folder.glob("*_images.npy")]))
    for path in [*folder.glob("*_images.npy"), *folder.glob("*_labels.npy")]:
        path.unlink()
    for split, listed in {"train": [n for n in names if n not in test], "val": test}.items():
        np.save(folder / f"{split}_images.npy", np.array(listed))
        np.save(folder / f"{split}_labels.npy", np.array([SYNSETS.index(n.split("/")[1]) for n in listed]))


def names_in(data, split):
    return {f"/{s}/{o}/" for s, o in zip(data.synsets[data.split(split)], data.object_ids[data.split(split)])}


def test_the_authors_second_list_is_the_test_split_and_validation_is_cut_from_the_first(exported, layout, tmp_path):
    test = sorted(f"/{synset}/00000{k}/" for synset in SYNSETS[:2] for k in (1, 3))
    authors_lists(layout, test)
    data = import_layout(layout, tmp_path / "set", lists=layout, val_fraction=0.2)
    assert names_in(data, "test") == set(test) and not names_in(data, "unseen")
    assert np.array_equal(np.bincount(data.labels[data.split("val")]), [1, 1])
    assert data.info["source"] == dict(source="layout", lists=True, val_fraction=0.2, seed=0, held_out=[])
    packed = import_layout(archive(exported, tmp_path / "a.tar.gz"), tmp_path / "other", layout, 0.2)
    assert names_in(packed, "val") == names_in(data, "val")  # whatever the order of the objects
    drawn = {frozenset(names_in(import_layout(layout, tmp_path / "set", seed=k), "val")) for k in range(6)}
    assert len(drawn) > 1


def test_a_listed_class_without_validation_or_test_objects_is_a_warning(layout, tmp_path):
    authors_lists(layout, [f"/{SYNSETS[0]}/00000{k}/" for k in range(4)])
    with pytest.warns(UserWarning) as warned:
        data = import_layout(layout, tmp_path / "set")
    said = " ".join(str(w.message) for w in warned)
    assert "1 of 2 classes have no validation object: 02691156 (airplane)" in said
    assert "1 of 2 classes have no test object: 02747177 (trash bin)" in said
    assert len(data.split("test")) == 4 and len(data.split("val")) == 1


@pytest.mark.parametrize("held_out", ["airplane", "02691156"])
def test_held_out_classes_of_every_source(dataset, exported, layout, tmp_path, held_out):
    authors_lists(layout, [f"/{synset}/000001/" for synset in SYNSETS[:2]])
    rendered = render_dataset(tmp_path / "a", OBJECTS, Stripes(), views=4, workers=0, held_out=[held_out])
    for data in (
        rendered,
        import_layout(exported, tmp_path / "b", held_out=[held_out]),
        import_layout(layout, tmp_path / "c", held_out=[held_out]),
    ):
        assert names_in(data, "unseen") == {f"/{s}/{o}/" for s, o in OBJECTS[:5]}
        assert {len(data.split(name)) for name in ("val", "test")} == {1}
    export_layout(rendered, tmp_path / "out")
    assert import_layout(tmp_path / "out", tmp_path / "d").fingerprint == rendered.fingerprint


def test_a_data_set_for_testing_only(tmp_path):
    data = render_dataset(tmp_path / "set", OBJECTS[:2], Stripes(), views=4, workers=0, test_only=True)
    assert data.split("test").tolist() == [0, 1] and not len(data.split("train")) and min(data.std) > 0
    assert verify(data, decode=True).fingerprint == data.fingerprint
    render_dataset(tmp_path / "set", OBJECTS[:2], Stripes(), views=4, workers=0, test_only=True)


def test_a_data_set_with_two_splits_is_read(tmp_path):
    "As earlier versions made them: train and val mean what they mean now, and there are no test objects."
    data = render_dataset(tmp_path / "set", OBJECTS, Stripes(), views=4, workers=0, objects_per_shard=4)
    split = ["train" if name == "test" else name for name in data._split.tolist()]
    table = _read_table(data.path / "index.arrow")
    columns = {name: table.column(name) for name in table.schema.names} | {"split": pa.array(split)}
    _write_table(data.path / "index.arrow", pa.record_batch(columns))
    digests = [d for s in data.info["shards"] for d in _read_table(data.path / s["file"]).column("sha256").to_pylist()]
    info = {key: value for key, value in data.info.items() if key not in ("test", "unseen", "digest")}
    info |= dict(version=1, train=8, val=2, fingerprint=_fingerprint(OBJECTS, split, digests))
    info["source"] = {key: value for key, value in info["source"].items() if key not in ("test_fraction", "held_out")}
    (data.path / "dataset.json").write_text(json.dumps(info))
    old = verify(data.path)
    assert len(old.split("train")) == 8 and np.array_equal(old.split("val"), data.split("val"))
    assert len(old.split("test")) == len(old.split("unseen")) == 0 and "8 train + 2 val)" in repr(old)
    again = render_dataset(data.path, OBJECTS, Stripes(), views=4, workers=0, objects_per_shard=4)
    assert again.fingerprint == data.fingerprint  # made again, it has three splits


def test_further_data_sets_are_taken_or_skipped_or_refused(dataset, tmp_path, capsys):
    def further(**folders):
        data = SimpleNamespace(unseen_rotations=False, further={k: str(tmp_path / v) for k, v in folders.items()})
        return {name: other.fingerprint for name, other in _further(data, None, dataset)}

    other = render_dataset(tmp_path / "real", OBJECTS[:3], Stripes(), views=4, workers=0, seed=1, test_only=True)
    assert further(real=other.path, missing="nowhere") == {"real": other.fingerprint}
    assert "missing is skipped: there is no" in capsys.readouterr().out
    names = [("dog", f"{k}") for k in range(3)]
    render_dataset(tmp_path / "dogs", names, Stripes(), views=4, workers=0)
    with pytest.raises(ValueError, match="data.further.dogs: .*dogs has other classes"):
        further(dogs="dogs")


def test_arrays_with_and_without_a_test_split():
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 4, 4, 3)).astype(np.uint8)
    arrays = dict(images=images, latents=np.zeros((6, 2, 7)), labels=np.zeros(6, int))
    two = ArrayDataset(**arrays, val=[1, 2])
    assert two.split("train").tolist() == [0, 3, 4, 5] and not len(two.split("test"))
    three = ArrayDataset(**arrays, val=np.arange(6) == 1, test=range(3, 5))
    assert [three.split(name).tolist() for name in SPLITS] == [[0, 2, 5], [1], [3, 4], []]
    assert np.allclose(three.mean, images[[0, 2, 5]].mean((0, 1, 2, 3)) / 255)
    assert two.fingerprint != three.fingerprint
    for val, test, says in [
        ([0], [0, 1], r"both in val and in test: \[0\]"),
        ([0], [1, 2, 3, 4, 5], "must leave some objects for training"),
        ([], [1], "val must name some objects"),
        (range(6), [], "val must name some objects, but not all"),
    ]:
        with pytest.raises(ValueError, match=says):
            ArrayDataset(**arrays, val=val, test=test)
    with pytest.raises(ValueError, match="it must be one of train, val, test, unseen"):
        three.split("validation")


def test_small_shards_and_longer_latents(dataset, layout, tmp_path, monkeypatch):
    monkeypatch.setattr("sie.data.layout.SHARD_BYTES", 5000)
    for path in layout.rglob("latent_*.npy"):
        np.save(path, np.r_[np.load(path).astype(np.float64), 8.0, np.nan])  # nine values, the first seven count
    data = import_layout(layout, tmp_path / "set", lists=layout)
    assert len(data.info["shards"]) > 2 and data.fingerprint == dataset.fingerprint


class Danger:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


BROKEN = {  # what is done to the folder of an object -> what the message must say
    "truncated image": (
        lambda o: (o / "image_1.jpg").write_bytes((o / "image_1.jpg").read_bytes()[:-30]),
        r"000002: image of view 1 is not a whole JPEG",
    ),
    "empty image": (lambda o: (o / "image_1.jpg").write_bytes(b""), r"000002: image of view 1 is not a whole JPEG"),
    "no image": (lambda o: (o / "image_1.jpg").write_bytes(b"hello"), r"000002: image of view 1 is not a whole JPEG"),
    "missing image": (lambda o: (o / "image_1.jpg").unlink(), r"000002/image_1.jpg is missing"),
    "missing latent": (lambda o: (o / "latent_0.npy").unlink(), r"000002/latent_0.npy is missing"),
    "nan": (lambda o: np.save(o / "latent_2.npy", np.full(7, np.nan)), r"000002/latent_2.npy holds .*must be finite"),
    "infinite": (
        lambda o: np.save(o / "latent_2.npy", np.r_[np.zeros(6), np.inf].astype(np.float32)),
        r"000002/latent_2.npy holds .*must be finite",
    ),
    "short latent": (lambda o: np.save(o / "latent_2.npy", np.zeros(6)), r"000002/latent_2.npy has the shape \(6,\)"),
    "matrix": (lambda o: np.save(o / "latent_2.npy", np.zeros((7, 1))), r"000002/latent_2.npy has the shape \(7, 1\)"),
    "text": (
        lambda o: np.save(o / "latent_2.npy", np.array(["a"] * 7)),
        r"000002/latent_2.npy has the shape \(7,\) and type <U1",
    ),
    "truncated latent": (
        lambda o: (o / "latent_2.npy").write_bytes(npy(np.zeros(7))[:-4]),
        r"000002/latent_2.npy is not a NumPy array",
    ),
    "empty latent": (lambda o: (o / "latent_2.npy").write_bytes(b""), r"000002/latent_2.npy is not a NumPy array"),
    "too few views": (
        lambda o: [(o / f).unlink() for f in ("image_3.jpg", "latent_3.npy")],
        r"000002/image_3.jpg is missing.*4 views",
    ),
    "too many views": (
        lambda o: [shutil.copy(o / f"{f}_0.{e}", o / f"{f}_4.{e}") for f, e in (("image", "jpg"), ("latent", "npy"))],
        r"000002: 10 files.*each of 4 views",
    ),
    "other size": (
        lambda o: (o / "image_3.jpg").write_bytes(simplejpeg.encode_jpeg(np.zeros((16, 24, 3), np.uint8))),
        r"000002: image of view 3 is 16 x 24 pixels, the others are 16 x 16",
    ),
    "other file": (lambda o: (o / "notes.txt").write_text("x"), r"000002/notes.txt: unexpected file"),
    "impossible class": (
        lambda o: o.parent.rename(o.parent.with_name(" 99")),
        r" 99/\w+: ' 99' cannot be the name of a class",
    ),
}


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_objects_are_refused_by_name(layout, tmp_path, fault, form):
    change, message = BROKEN[fault]
    change(layout / "02691156" / "000002")
    source = layout if form == "folder" else archive(layout, tmp_path / "a.tar.gz")
    with pytest.raises(ValueError, match=message):
        import_layout(source, tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


def test_nothing_is_unpickled(layout, tmp_path):
    victim = layout / "02691156" / "000002" / "latent_0.npy"
    victim.write_bytes(npy(np.array([Danger(tmp_path / "hacked")] * 7, object), allow_pickle=True))
    with pytest.raises(ValueError, match="000002/latent_0.npy is not a NumPy array"):
        import_layout(layout, tmp_path / "set")
    assert not (tmp_path / "hacked").exists()


def test_damaged_archives_are_refused(exported, tmp_path):
    path = archive(exported, tmp_path / "a.tar.gz")
    whole = path.read_bytes()
    for keep in (0, 5, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match="a.tar.gz is truncated or damaged"):
            import_layout(path, tmp_path / "set")
    path.write_bytes(whole[:-8] + bytes(4) + whole[-4:])  # a wrong checksum
    with pytest.raises(ValueError, match="a.tar.gz is truncated or damaged"):
        import_layout(path, tmp_path / "set")
    raw = gzip.decompress(whole)
    end = len(raw.rstrip(b"\0"))
    path.write_bytes(gzip.compress(raw[: end // 512 * 512 - 700]))  # a whole gzip file of half an archive
    with pytest.raises(ValueError, match="a.tar.gz is truncated or damaged"):
        import_layout(path, tmp_path / "set")
    path.write_bytes(gzip.compress(b"\0" * 10240))
    with pytest.raises(ValueError, match="there are no objects"):
        import_layout(path, tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        import_layout(tmp_path / "nowhere", tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


def raw(members, form=tarfile.GNU_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_a_file_twice_in_an_object_is_refused(exported, tmp_path):
    last = ("3DIEBench/02747177/000004/image_0.jpg", b"x")
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(raw([member(*last), member(*last)])))
    with pytest.raises(
        ValueError, match="a.tar.gz: member '3DIEBench/02747177/000004/image_0.jpg' comes a second time"
    ):
        import_layout(path, tmp_path / "set")


# names: parts of up to 255 bytes, more than fit the header of any format, any letters; contents: sizes around a block's
parts_of_names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda p: p not in (".", ".."))
names_of_files = st.lists(parts_of_names, min_size=1, max_size=9).map("/".join)
contents_of_files = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([511, 512, 513, 2000, 2**20 - 512, 2**20 + 1]).map(
        lambda n: bytes(range(256)) * (n // 256) + bytes(n % 256)
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(names_of_files, contents_of_files, st.booleans()), max_size=6),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_tar_streams_are_read_as_tarfile_reads_them(members, form):
    buffer, kept = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data, folder in members:
            info, data = member(name, b"" if folder else data, **({"type": tarfile.DIRTYPE} if folder else {}))
            try:
                tar.addfile(info, io.BytesIO(data))
            except ValueError:
                continue  # too long a name for ustar
            if not folder:
                kept.append((name, data))
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        assert [(m.name, tar.extractfile(m).read()) for m in tar if m.isreg()] == [(n, d) for n, d in kept]
    assert list(_tar_files(io.BytesIO(buffer.getvalue()))) == kept


def test_no_change_of_a_tar_stream_goes_unseen():
    whole = raw(
        [
            member("3DIEBench/02691156/x/image_0.jpg", b"content" * 100),
            member("y" * 130, b"z"),
            member("3DIEBench/LICENSE"),
        ]
    )
    expected = list(_tar_files(io.BytesIO(whole)))
    headers = [at for at in range(0, len(whole), 512) if whole[at + 257 : at + 262] == b"ustar"]
    assert len(headers) == 4  # one is the long name's
    for at in headers:
        for byte in range(512):
            changed = bytearray(whole)
            changed[at + byte] ^= 4
            try:
                read = list(_tar_files(io.BytesIO(bytes(changed))))
            except (ValueError, EOFError, tarfile.TarError):
                continue
            # 4 makes a space of the checksum's end a dollar, which no one reads
            assert 148 <= byte < 156 and read == expected, (at, byte)
    for keep in range(0, len(whole.rstrip(b"\0")) // 512 * 512 + 1, 100):
        with pytest.raises((EOFError, tarfile.TarError)):
            list(_tar_files(io.BytesIO(whole[:keep])))
    with pytest.raises(ValueError, match="data after the archive's end"):
        list(_tar_files(io.BytesIO(whole + whole)))


def test_headers_of_members_that_were_read_are_released():
    "The archive has 5.2 million of them; `tarfile` itself would keep all."
    members = _tar_files(io.BytesIO(raw([member(f"{k:04d}", b"x") for k in range(300)])))
    for k in range(299):
        assert next(members) == (f"{k:04d}", b"x")
    gc.collect()
    assert sum(issubclass(type(kept), tarfile.TarInfo) for kept in gc.get_objects()) < 5


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.REGTYPE])
@pytest.mark.parametrize("size", [2**34, -512])
def test_sizes_that_no_member_has_are_refused_before_anything_is_read(kind, size):
    "Also those of the headers that hold long names and records, which `tarfile` reads into memory on its own."
    info = tarfile.TarInfo("name")
    info.type, info.size = kind, size

    class Stream(io.BytesIO):
        def read(self, count=-1):
            assert 0 <= count <= 2**21, "asked for too much"
            return super().read(count)

    with pytest.raises(ValueError, match=f"member 'name' has {size} bytes"):
        list(_tar_files(Stream(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))))


@pytest.mark.parametrize("size", ["-512", "-1", str(2**34), "1000"])
def test_a_size_in_a_pax_record_that_is_wrong(size):
    info, data = member("name", b"x" * 100)
    info.pax_headers = {"size": size}
    with pytest.raises((ValueError, EOFError, tarfile.TarError)):
        list(_tar_files(io.BytesIO(raw([(info, data), member("next", b"y")], tarfile.PAX_FORMAT))))


def test_gzip_members_one_after_another(dataset, exported, tmp_path):
    path = archive(exported, tmp_path / "a.tar.gz")
    tar = gzip.decompress(path.read_bytes())
    path.write_bytes(
        b"".join(gzip.compress(tar[k : k + 10_000]) for k in range(0, len(tar), 10_000)) + bytes(512)
    )  # as parallel compressors and tapes make them
    assert import_layout(path, tmp_path / "set", lists=exported).fingerprint == dataset.fingerprint
    path.write_bytes(gzip.compress(tar) + b"rubbish")
    with pytest.raises(ValueError, match="a.tar.gz is truncated or damaged"):
        import_layout(path, tmp_path / "set")
    path.write_bytes(gzip.compress(tar) + gzip.compress(tar))
    with pytest.raises(ValueError, match="a.tar.gz: there is data after the archive's end"):
        import_layout(path, tmp_path / "set")


# Parts and restarts


def test_rendering_in_parts(tmp_path):
    def part(k, n, out=tmp_path / "parts"):
        return render_dataset(out, OBJECTS, Stripes(), views=4, workers=0, objects_per_shard=2, part=(k, n))

    assert part(2, 3) is None and [p.name for p in (tmp_path / "parts").iterdir()] == ["shard-00002.arrow"]
    part(0, 3)
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == [f"shard-0000{k}.arrow" for k in (0, 2, 3)]
    with pytest.raises(FileNotFoundError, match="not a data set"):
        ViewDataset(tmp_path / "parts")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    render(tmp_path / "parts")  # the last part never ran
    render(tmp_path / "whole")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole") and all(
        path.stat().st_mtime_ns == stamp for path, stamp in stamps.items()
    )
    for k, n in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ValueError, match=f"part {k} of {n}"):
            part(k, n, tmp_path / "none")


def test_every_object_is_there_exactly_once(dataset, tmp_path):
    copy = shutil.copytree(dataset.path, tmp_path / "copy")
    lists = {key: "train" for key in OBJECTS} | {OBJECTS[0]: "val", OBJECTS[5]: "test"}
    assert len(_finish(copy, lists, {}, OBJECTS)) == 10
    with pytest.raises(ValueError, match="must be 11 objects, but there are 10: 03001627/x is missing"):
        _finish(copy, lists, {}, [*OBJECTS, ("03001627", "x")])
    with pytest.raises(ValueError, match="must be 9 objects, but there are 10: 02691156/000000 is too many"):
        _finish(copy, lists, {}, OBJECTS[1:])
    shutil.copy(copy / "shard-00000.arrow", copy / "shard-00009.arrow")
    with pytest.raises(ValueError, match="02691156/000000 is there more than once"):
        _finish(copy, lists, {}, OBJECTS)


def test_packing_in_parts_and_after_a_kill(exported, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("sie.data.layout.SHARD_BYTES", 5000)
    source = archive(exported, tmp_path / "a.tar.gz")

    def pack(out, **options):
        return import_layout(source, tmp_path / out, lists=exported, **options)

    whole = pack("whole")
    shards = [shard["file"] for shard in whole.info["shards"]]
    assert len(shards) > 3 and whole.fingerprint == dataset.fingerprint

    def files(out):
        return sorted(path.name for path in (tmp_path / out).iterdir())

    assert pack("parts", part=(1, 3)) is None and files("parts") == shards[1::3]
    pack("parts", part=(2, 3))
    with pytest.raises(FileNotFoundError, match="not a data set"):
        ViewDataset(tmp_path / "parts")
    (tmp_path / "parts" / "shard-00000.arrow.tmp").write_bytes(b"half")
    (tmp_path / "parts" / "shard-00099.arrow").write_bytes(b"of another set")
    stamps = {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in shards[1::3] + shards[2::3]}
    pack("parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole") and all(
        (tmp_path / "parts" / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items()
    )
    victim = exported / "02747177" / "000003" / "latent_1.npy"
    saved = victim.read_bytes()
    try:  # another archive, with the same names and sizes
        victim.write_bytes(saved[:-4] + np.float32(0.25).tobytes())
        archive(exported, source)
        changed = pack("parts")
    finally:
        victim.write_bytes(saved)
    kept = [name for name, stamp in stamps.items() if (tmp_path / "parts" / name).stat().st_mtime_ns == stamp]
    assert (
        changed.fingerprint != whole.fingerprint
        and len(kept) < len(stamps)
        and (changed.latents != whole.latents).sum() == 1
    )


def test_lists_and_archive_in_one_folder(exported, dataset, tmp_path):
    (home := tmp_path / "3diebench").mkdir()
    for path in exported.glob("*.npy"):
        shutil.copy(path, home)
    archive(exported, home / "3DIEBench.tar.gz")
    data = import_layout(home, tmp_path / "set")
    assert data.fingerprint == dataset.fingerprint and data.info["source"] == {
        "source": "3DIEBench.tar.gz",
        "lists": True,
        "val_fraction": 0.1,
        "seed": 0,
        "held_out": [],
    }
    (home / "val_images.npy").unlink()
    with pytest.raises(FileNotFoundError, match="val_images.npy is missing"):
        import_layout(home, tmp_path / "set")
    shutil.copy(home / "3DIEBench.tar.gz", home / "b.tar.gz")
    with pytest.raises(ValueError, match="holds 2 archives, 3DIEBench.tar.gz and b.tar.gz"):
        import_layout(home, tmp_path / "set")


def test_split_lists(exported, layout, tmp_path):
    lists = read_split_lists(exported)
    assert Counter(lists.values()) == {"train": 6, "val": 2, "test": 2}
    names, labels = np.load(exported / "train_images.npy"), np.load(exported / "train_labels.npy")
    assert names[0] == "/02691156/000000/" and labels.dtype == np.int64

    def refused(message, **arrays):
        for name, array in arrays.items():
            np.save(layout / f"{name}.npy", array)
        with pytest.raises(ValueError, match=message):
            import_layout(exported, tmp_path / "set", lists=layout)
        for name in arrays:
            shutil.copy(exported / f"{name}.npy", layout)
        assert not (tmp_path / "set" / "dataset.json").exists()

    refused("train_images.npy: entry 1 is 'x'", train_images=np.r_[names[:1], ["x"], names[2:]])
    refused("train_labels.npy: entry 2 is 7, but the label of /02691156", train_labels=np.r_[labels[:2], 7, labels[3:]])
    refused("train_labels.npy has the shape", train_labels=labels[1:])
    refused("listed for the second time", train_images=np.r_[names[:1], names[:1], names[2:]])
    refused("is in none of the split lists", train_images=names[1:], train_labels=labels[1:])
    refused(
        "1 listed objects are missing, first 02747177/zzz",
        train_images=np.r_[names, ["/02747177/zzz/"]],
        train_labels=np.r_[labels, 1],
    )
    (layout / "val_labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match="val_labels.npy is missing"):
        read_split_lists(layout)
    (layout / "val_images.npy").unlink()
    assert Counter(read_split_lists(layout).values()) == {"train": 6, "test": 2}  # validation will be cut from train
    (layout / "test_images.npy").unlink()
    with pytest.raises(FileNotFoundError, match="test_images.npy is missing"):
        read_split_lists(layout)
    (layout / "test_labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match="val_images.npy is missing"):
        read_split_lists(layout)


OFFICIAL = Path(__file__).parents[2] / "shared" / "official_splits"


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the authors' split lists are not there")
def test_the_authors_lists(tmp_path):
    for file in ("val_images.npy", "val_labels.npy"):
        shutil.copy(OFFICIAL / file, tmp_path)
    np.save(tmp_path / "train_images.npy", ["/02691156/x/"])
    np.save(tmp_path / "train_labels.npy", [0])
    lists = read_split_lists(tmp_path)
    assert Counter(lists.values()) == {"train": 1, "test": 10552} and len({synset for synset, _ in lists}) == 55

"""The data set under faults: broken input, kills, restarts, damaged files."""
import gzip, io, os, pickle, shutil, signal, subprocess, sys, tarfile, threading, time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from sie import dataset as sd
from sie.meshes import CLASSES
from sie.rotations import LATENT_RANGES

SYNSETS = [c.synset for c in CLASSES]
OBJECTS = [(synset, f"{k:06d}") for synset in SYNSETS[:2] for k in range(5)]


@dataclass(frozen=True)
class Stripes:
    "Stand-in renderer: stripes whose colour and direction follow the latents."
    size: int = 16

    def __call__(self, synset, object_id, latents, seed):
        while os.environ.get("NEVER_RENDER") == object_id: time.sleep(.05)
        y, x = np.mgrid[:1:self.size * 1j, :1:self.size * 1j]
        wave = np.sin(9 * (x * np.cos(latents[:, :1, None]) + y * np.sin(latents[:, :1, None])) + seed % 7)
        return np.stack([wave, wave * latents[:, 3:4, None], latents[:, 6:, None] + 0 * wave], -1).__abs__().clip(0, 1).__mul__(255).astype(np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return sd.render_dataset(tmp_path_factory.mktemp("data") / "set", OBJECTS, Stripes(), views=4, workers=0, objects_per_shard=4)


@pytest.fixture(scope="module")
def exported(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layout") / "3DIEBench"
    sd.export_layout(dataset, folder)
    (folder / "LICENSE").write_text("CC-BY-NC")
    return folder


@pytest.fixture
def layout(exported, tmp_path):
    "A copy to break."
    return shutil.copytree(exported, tmp_path / "layout")


def contents(folder): return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


# Splits


@given(st.lists(st.integers(0, 6), min_size=10, max_size=200), st.floats(.1, .9), st.integers(0, 5))
def test_split_is_stratified_and_disjoint(labels, fraction, seed):
    labels = np.array(labels)
    train, val = sd.split_objects(labels, fraction, seed)
    assert np.array_equal(np.sort(np.r_[train, val]), np.arange(len(labels)))
    assert len(val) == round(fraction * len(labels))
    share = fraction * np.bincount(labels)
    assert (abs(np.bincount(labels[val], minlength=len(share)) - share) < 1).all()
    assert np.array_equal(sd.split_objects(labels, fraction, seed)[1], val)


def test_split_is_random_within_a_class():
    chosen = np.bincount(np.concatenate([sd.split_objects(np.zeros(10), .2, seed)[1] for seed in range(500)]))
    assert chisquare(chosen).pvalue > 1e-4


# Reading


def test_opening_maps_instead_of_reading(dataset):
    again = sd.ViewDataset(dataset.path)
    assert "latents" not in vars(again) and np.array_equal(again.latents, dataset.latents) and again.latents.dtype == np.float32
    assert isinstance(again.jpeg(3, 2), memoryview) and again.jpeg(3, 2).readonly
    with pytest.raises(IndexError, match="object 10, view 0: there are 10 objects with 4 views"): again.jpeg(10, 0)
    with pytest.raises(ValueError, match="'train' or 'val'"): again.split("test")


def test_decoded_views_match_the_encoded_ones(dataset):
    images = dataset.decode_all()
    assert images.shape == (10, 4, 3, 16, 16)
    for k in range(10):
        for view in range(4): assert np.array_equal(images[k, view].permute(1, 2, 0), simplejpeg.decode_jpeg(bytes(dataset.jpeg(k, view))))
    for crop in (1, 5, 8, 16):
        low = (16 - crop) // 2
        assert torch.equal(dataset.decode_all(crop, [7, 2]), images[[7, 2], ..., low:low + crop, low:low + crop])


def test_statistics_are_of_training_objects_only(dataset):
    pixels = dataset.decode_all(objects=dataset.split("train")).movedim(2, 0).flatten(1).double() / 255
    assert np.allclose(dataset.mean, pixels.mean(1)) and np.allclose(dataset.std, pixels.std(1, correction=0))
    assert not np.allclose(dataset.mean, dataset.decode_all().movedim(2, 0).flatten(1).double().mean(1) / 255, atol=1e-4)


def test_statistics_are_exact(dataset, monkeypatch):
    pixels = dataset.decode_all(objects=dataset.split("train")).movedim(2, -1).reshape(-1, 3).numpy().astype(object)      # Python's integers
    n, sums, squares = len(pixels), pixels.sum(0), (pixels ** 2).sum(0)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(sd, "PART_BYTES", 1000)
        found = sd._channel_statistics(dataset)
        assert found["mean"] == [float(Fraction(s, 255 * n)) for s in sums]
        assert np.allclose(np.square(found["std"]), [float(Fraction(n * q - s * s, (255 * n) ** 2)) for s, q in zip(sums, squares)], rtol=1e-14, atol=0)


@pytest.fixture
def threads(monkeypatch):
    "Parts of three images in four threads; the threads that took part."
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(sd, "PART_BYTES", 3 * 16 * 16 * 3)
    seen, frame = set(), sd.ViewDataset._reader
    def reader(self, crop):
        seen.add(threading.current_thread()); time.sleep(.01)
        return frame(self, crop)
    monkeypatch.setattr(sd.ViewDataset, "_reader", reader)
    return seen


def test_threads_decode_the_same(dataset, threads):
    objects, views = np.random.default_rng(0).integers([[10], [4]], size=(2, 50))
    for crop in (None, 7):
        threads.clear()
        expected = torch.stack([torch.from_numpy(simplejpeg.decode_jpeg(bytes(dataset.jpeg(k, v)))).permute(2, 0, 1) for k, v in zip(objects, views)])
        if crop: expected = expected[..., 4:11, 4:11]
        assert torch.equal(dataset.decode(objects, views, crop), expected) and len(threads) == 4
        assert torch.equal(dataset.decode_all(crop)[objects, views], expected)
        for in_memory in (True, False):
            data = sd.load_views(dataset, crop=crop, in_memory=in_memory)
            images = data.normalised(torch.from_numpy(objects), torch.from_numpy(views))
            assert torch.equal(images, sd.normalise(expected, data.mean, data.std)) and images.is_contiguous(memory_format=torch.channels_last)
    assert not [t for t in threads if t.is_alive() and t is not threading.current_thread()]
    assert torch.equal(sd._decode_by_torchvision([dataset.jpeg(3, 1), dataset.jpeg(9, 0)], torch.device("cpu")), dataset.decode([3, 9], [1, 0]))   # how nvJPEG is called


def test_what_was_handed_out_is_not_written_over(dataset):
    data, index = sd.load_views(dataset), torch.arange(4)
    batch = lambda object: data.normalised(torch.full((4,), object), index)
    held = [(k, batch(k)[1:, :, 2:5]) for k in range(10)]                       # parts of batches, for longer than memory is kept
    kept = batch(0).untyped_storage().data_ptr()
    assert batch(1).untyped_storage().data_ptr() == kept                        # nobody holds it: used again
    for k, part in held: assert torch.equal(part, sd.normalise(dataset.decode([k] * 4, range(4)), data.mean, data.std)[1:, :, 2:5])
    weight = torch.ones((), requires_grad=True)
    loss = (weight * batch(2)).sum()                                            # the graph holds its input
    for k in range(20): batch(k % 10)
    loss.backward()
    torch.testing.assert_close(weight.grad, batch(2).sum())


def test_lazy_epochs_end_and_fail_cleanly(dataset, tmp_path):
    before = set(threading.enumerate())
    lazy, memory = (sd.PairLoader(sd.load_views(dataset, in_memory=m), 3, 0, drop_last=False) for m in (False, True))
    for start in range(5):
        for a, b in zip(lazy.epoch(4, start), memory.epoch(4, start), strict=True): assert all(map(torch.equal, a, b))
    half = lazy.epoch(0); next(half); half.close()
    assert set(threading.enumerate()) == before
    copy = shutil.copytree(dataset.path, tmp_path / "copy")
    shard, jpeg = copy / "shard-00001.arrow", bytes(dataset.jpeg(5, 1))
    shard.write_bytes(shard.read_bytes().replace(jpeg, jpeg[:-60] + bytes(60)))
    broken = sd.PairLoader(sd.load_views(sd.ViewDataset(copy), in_memory=False), 3, 0, pairs_per_object=20)
    with pytest.raises(ValueError, match=f"{dataset.synsets[5]}/{dataset.object_ids[5]}, view 1, is damaged"): list(broken.epoch(0))
    assert set(threading.enumerate()) == before


def test_free_memory_decides_what_is_decoded_at_once(dataset, monkeypatch):
    needed = 10 * 4 * 3 * 16 * 16
    for free, lazy in ((2 * needed, False), (2 * needed - 2, True)):
        monkeypatch.setattr(sd, "_free_memory", lambda device: free)
        assert isinstance(sd.load_views(dataset).images, sd.JpegViews) is lazy
        assert not isinstance(sd.load_views(dataset, in_memory=True).images, sd.JpegViews)
    monkeypatch.undo()
    alone = sd._free_memory(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert alone / 8 < sd._free_memory(torch.device("cpu")) < alone / 2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 9))
    assert sd._free_memory(torch.device("cuda")) == 5
    with pytest.raises(ValueError, match="crop is 17"): sd.load_views(dataset, crop=17, in_memory=False)


def test_damaged_files_are_refused_by_name(dataset, tmp_path):
    copy = shutil.copytree(dataset.path, tmp_path / "copy")
    shard, jpeg = copy / "shard-00001.arrow", bytes(dataset.jpeg(5, 1))
    whole = shard.read_bytes()
    shard.write_bytes(whole.replace(jpeg, jpeg[:-60] + bytes(60)))
    with pytest.raises(ValueError, match=f"{dataset.synsets[5]}/{dataset.object_ids[5]}, view 1, is damaged"): sd.ViewDataset(copy).decode([5], [1])
    shard.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="shard-00001.arrow is missing or not"): sd.ViewDataset(copy)
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(ValueError, match="shard-00001.arrow cannot be read"): sd.ViewDataset(copy)
    (copy / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match="not a data set"): sd.ViewDataset(copy)


# Pairs


def test_map_style_pairs(dataset):
    pairs = sd.PairDataset(dataset, objects=[4])
    torch.manual_seed(0)
    latents = dataset.latents[4]
    seen = np.array([[np.flatnonzero((latents == view.numpy()).all(1))[0] for view in (item.latents_1, item.latents_2)] for item in (pairs[0] for _ in range(3000))])
    counts = np.bincount(seen[:, 0] * 4 + seen[:, 1], minlength=16).reshape(4, 4)
    assert not counts.diagonal().any() and chisquare(counts[~np.eye(4, dtype=bool)]).pvalue > 1e-4
    item = pairs[0]
    view = int(np.flatnonzero((latents == item.latents_2.numpy()).all(1))[0])
    assert torch.equal(item.images_2, sd.normalise(dataset.decode([4], [view]), dataset.mean, dataset.std)[0]) and item.objects == 4


def test_map_style_data_in_worker_processes(dataset):
    assert pickle.loads(pickle.dumps(dataset)).fingerprint == dataset.fingerprint
    batches = list(DataLoader(sd.SingleViewDataset(dataset, crop=8), batch_size=16, num_workers=2))
    assert torch.equal(torch.cat([b.latents for b in batches]), torch.from_numpy(dataset.latents).flatten(0, 1))
    assert torch.equal(torch.cat([b.images for b in batches]), sd.normalise(dataset.decode_all(8), dataset.mean, dataset.std).flatten(0, 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(2, 6), st.integers(1, 25), st.integers(1, 3), st.booleans(), st.integers(0, 3), st.integers(0, 10 ** 6))
def test_pair_loader(objects, views, batch_size, times, drop_last, seed, epoch):
    images = torch.arange(objects * views, dtype=torch.uint8).reshape(objects, views, 1, 1, 1).expand(-1, -1, 3, 2, 2)
    latents = torch.arange(objects * views, dtype=torch.float32).reshape(objects, views, 1).expand(-1, -1, 7)
    data = sd.Views(images, latents, torch.arange(objects) % 5, (0., 0., 0.), (1 / 255,) * 3)
    if drop_last and objects * times < batch_size:
        with pytest.raises(ValueError, match="do not fill one batch"): sd.PairLoader(data, batch_size, seed, times, drop_last)
        return
    loader = sd.PairLoader(data, batch_size, seed, times, drop_last)
    batches = list(loader.epoch(epoch))
    assert len(batches) == len(loader)
    all_pairs = sd.Pairs(*map(torch.cat, zip(*batches)))
    full = objects * times
    assert len(all_pairs.objects) == (full // batch_size * batch_size if drop_last else full)
    counts = torch.bincount(all_pairs.objects, minlength=objects)
    assert counts.max() <= times and (len(all_pairs.objects) < full or counts.min() == times)
    for image, latent in ((all_pairs.images_1, all_pairs.latents_1), (all_pairs.images_2, all_pairs.latents_2)):
        torch.testing.assert_close(image[:, 0, 0, 0], latent[:, 0])                                          # a view's image and latents belong together
        assert torch.equal(latent[:, 0].long() // views, all_pairs.objects)                                   # and to the object
    assert (all_pairs.latents_1[:, 0] != all_pairs.latents_2[:, 0]).all() and torch.equal(all_pairs.labels, all_pairs.objects % 5)
    again = sd.PairLoader(data, batch_size, seed, times, drop_last)
    start = len(loader) // 2
    for a, b in zip(batches[start:], again.epoch(epoch, start), strict=True): assert all(map(torch.equal, a, b))


def test_pair_loader_draws_uniformly():
    loader = sd.PairLoader(sd.Views(torch.zeros(500, 5, 3, 1, 1, dtype=torch.uint8), torch.zeros(500, 5, 7), torch.zeros(500), (0, 0, 0), (1, 1, 1)), 10, seed=1)
    plans = [loader.plan(e) for e in range(60)]
    _, first, second = map(np.concatenate, zip(*plans))
    counts = np.bincount(first * 5 + second, minlength=25).reshape(5, 5)
    assert not counts.diagonal().any() and chisquare(counts[~np.eye(5, dtype=bool)]).pvalue > 1e-4
    places = np.array([np.flatnonzero(objects == 0)[0] for objects, *_ in plans])
    assert chisquare(np.bincount(places // 100, minlength=5)).pvalue > 1e-4                                   # an object's place in the order
    assert not np.array_equal(plans[0][0], sd.PairLoader(loader.views, 10, seed=2).plan(0)[0])
    with pytest.raises(ValueError, match="need at least two"): sd.PairLoader(sd.Views(torch.zeros(5, 1, 3, 1, 1), torch.zeros(5, 1, 7), torch.zeros(5), (), ()), 1, 0)


# Rendering


def test_another_order_and_other_shards_give_the_same_content(dataset, tmp_path):
    lists = {key: k in dataset.split("val") for k, key in enumerate(zip(dataset.synsets.tolist(), dataset.object_ids.tolist()))}
    other = sd.render_dataset(tmp_path / "a", OBJECTS[::-1], Stripes(), views=4, workers=0, objects_per_shard=3)
    rows = {key: k for k, key in enumerate(zip(other.synsets.tolist(), other.object_ids.tolist()))}
    for k, key in enumerate(lists):
        assert np.array_equal(other.latents[rows[key]], dataset.latents[k]) and all(other.jpeg(rows[key], v) == dataset.jpeg(k, v) for v in range(4))
    assert not np.array_equal(dataset.latents[0], dataset.latents[1])
    assert sd._finish(tmp_path / "a", lists, {}).fingerprint == dataset.fingerprint
    lists[OBJECTS[0]] = not lists[OBJECTS[0]]
    assert sd._finish(tmp_path / "a", lists, {}).fingerprint != dataset.fingerprint


def render(out, workers=0): return sd.render_dataset(out, OBJECTS, Stripes(), views=4, workers=workers, objects_per_shard=2)


def test_a_killed_rendering_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-c", "import sys; from test_dataset import render; render(sys.argv[1], workers=2)", out]
    process = subprocess.Popen(command, cwd=Path(__file__).parent, env={**os.environ, "NEVER_RENDER": OBJECTS[4][1]})   # the first of the third shard
    deadline = time.time() + 120
    while len(list(out.glob("shard-*.arrow"))) < 2: assert process.poll() is None and time.time() < deadline; time.sleep(.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = workers.read_text().split() if workers.exists() else []
    process.send_signal(signal.SIGKILL); process.wait()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.arrow")}
    assert len(finished) == 2
    with pytest.raises(FileNotFoundError, match="not a data set"): sd.ViewDataset(out)
    (out / "shard-00004.arrow.tmp").write_bytes(b"half")
    resumed = render(out)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    render(tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
    running = lambda pid: os.path.exists(f"/proc/{pid}/stat") and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    while any(map(running, workers)): assert time.time() < deadline, "workers outlived their parent"; time.sleep(.05)
    assert render(out).fingerprint == resumed.fingerprint


def test_only_shards_with_the_same_settings_are_kept(dataset, tmp_path):
    common = dict(views=4, workers=0, objects_per_shard=4)
    out = shutil.copytree(dataset.path, tmp_path / "set")
    stamps = lambda: {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.arrow")}
    before = stamps()
    sd.render_dataset(out, OBJECTS, Stripes(), **common)
    assert stamps() == before                                                                     # finished: nothing to do
    assert len(sd.render_dataset(out, OBJECTS, Stripes(), **common, val_fraction=.4).split("val")) == 4 and stamps() == before
    whole = (out / "shard-00001.arrow").read_bytes()
    (out / "shard-00001.arrow").write_bytes(whole[:len(whole) // 2])
    sd.render_dataset(out, OBJECTS, Stripes(), **common)
    assert contents(out) == contents(dataset.path) and {k: v for k, v in stamps().items() if "1" not in k} == {k: v for k, v in before.items() if "1" not in k}
    for change in (dict(seed=1), dict(jpeg_quality=80), dict(views=3), dict(ranges={**LATENT_RANGES, "floor_hue": (0, .5)})):
        now = stamps()
        changed = sd.render_dataset(out, OBJECTS, Stripes(), **{**common, **change})
        assert all(stamp != now[name] for name, stamp in stamps().items())
    assert changed.latents[..., 3].max() <= .5
    assert len(sd.render_dataset(out, OBJECTS[:4], Stripes(size=8), **common)) == 4 and len(stamps()) == 1


def test_rendering_refuses(tmp_path):
    render = lambda objects=OBJECTS, render=Stripes(), **options: sd.render_dataset(tmp_path / "x", objects, render, **dict(dict(views=2, workers=0), **options))
    with pytest.raises(ValueError, match="02691156/000000 is given more than once"): render(OBJECTS[:2] + OBJECTS[:1])
    with pytest.raises(TypeError, match="must be a dataclass"): render(render=lambda *_: None)
    with pytest.raises(ValueError, match="00000000/a: unknown synset"): render([("00000000", "a")])
    with pytest.raises(ValueError, match="unknown latent 'hue'"): render(ranges={"hue": (0, 1)})
    with pytest.raises(FileNotFoundError): sd.ViewDataset(tmp_path / "x")


def test_procedural_objects_are_rendered(tmp_path):
    data = sd.render_dataset(tmp_path / "set", sd.procedural_objects(2, SYNSETS[:2]), sd.ProceduralRenderer(size=24, samples=1, crop=16), views=2, workers=0, val_fraction=.5)
    assert len(data) == 4 and (data.height, data.width) == (16, 16) and data.decode_all().float().std() > 5
    assert data.info["source"]["scene"]["camera_radius"] == 2.5


# The authors' layout


def archive(folder, path, top="3DIEBench", extra=()):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, top)
        for info, data in extra: tar.addfile(info, io.BytesIO(data))
    return path


def member(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items(): setattr(info, key, value)
    return info, data


@pytest.mark.parametrize("top", ["3DIEBench", "."])
def test_archive_round_trip(dataset, exported, tmp_path, top):
    packed = sd.import_layout(archive(exported, tmp_path / "a.tar.gz", top), tmp_path / "set", lists=exported, views=4)
    assert packed.fingerprint == dataset.fingerprint
    sd.export_layout(packed, tmp_path / "again")
    files = lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jpg")} | {str(p.relative_to(folder)): np.load(p).tobytes() for p in folder.rglob("latent*.npy")}
    assert files(tmp_path / "again") == files(exported) and len(files(exported)) == 10 * 8
    with pytest.raises(FileExistsError): sd.export_layout(packed, tmp_path / "again")


def test_import_without_lists_splits_by_class(exported, tmp_path):
    data = sd.import_layout(exported, tmp_path / "set", val_fraction=.4, seed=3)
    assert np.array_equal(np.bincount(data.labels[data.split("val")]), [2, 2])
    assert np.array_equal(data.split("val"), sd.split_objects(data.labels, .4, 3)[1])


def test_small_shards_and_longer_latents(dataset, layout, tmp_path, monkeypatch):
    monkeypatch.setattr(sd, "SHARD_BYTES", 5000)
    for path in layout.rglob("latent_*.npy"): np.save(path, np.r_[np.load(path).astype(np.float64), 8., np.nan])   # nine values, the first seven count
    data = sd.import_layout(layout, tmp_path / "set", lists=layout)
    assert len(data.info["shards"]) > 2 and data.fingerprint == dataset.fingerprint


class Danger:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


BROKEN = {  # what is done to the folder of an object -> what the message must say
    "truncated image": (lambda o: (o / "image_1.jpg").write_bytes((o / "image_1.jpg").read_bytes()[:-30]), r"000002: image of view 1 is not a whole JPEG"),
    "empty image": (lambda o: (o / "image_1.jpg").write_bytes(b""), r"000002: image of view 1 is not a whole JPEG"),
    "no image": (lambda o: (o / "image_1.jpg").write_bytes(b"hello"), r"000002: image of view 1 is not a whole JPEG"),
    "missing image": (lambda o: (o / "image_1.jpg").unlink(), r"000002/image_1.jpg is missing"),
    "missing latent": (lambda o: (o / "latent_0.npy").unlink(), r"000002/latent_0.npy is missing"),
    "nan": (lambda o: np.save(o / "latent_2.npy", np.full(7, np.nan)), r"000002/latent_2.npy holds .*must be finite"),
    "short latent": (lambda o: np.save(o / "latent_2.npy", np.zeros(6)), r"000002/latent_2.npy has the shape \(6,\)"),
    "matrix": (lambda o: np.save(o / "latent_2.npy", np.zeros((7, 1))), r"000002/latent_2.npy has the shape \(7, 1\)"),
    "text": (lambda o: np.save(o / "latent_2.npy", np.array(["a"] * 7)), r"000002/latent_2.npy has the shape \(7,\) and type <U1"),
    "truncated latent": (lambda o: (o / "latent_2.npy").write_bytes(npy(np.zeros(7))[:-4]), r"000002/latent_2.npy is not a NumPy array"),
    "empty latent": (lambda o: (o / "latent_2.npy").write_bytes(b""), r"000002/latent_2.npy is not a NumPy array"),
    "too few views": (lambda o: [(o / f).unlink() for f in ("image_3.jpg", "latent_3.npy")], r"000002/image_3.jpg is missing.*4 views"),
    "too many views": (lambda o: [shutil.copy(o / f"{f}_0.{e}", o / f"{f}_4.{e}") for f, e in (("image", "jpg"), ("latent", "npy"))], r"000002: 10 files.*each of 4 views"),
    "other size": (lambda o: (o / "image_3.jpg").write_bytes(simplejpeg.encode_jpeg(np.zeros((16, 24, 3), np.uint8))), r"000002: image of view 3 is 16 x 24 pixels, the others are 16 x 16"),
    "other file": (lambda o: (o / "notes.txt").write_text("x"), r"000002/notes.txt: unexpected file"),
    "unknown synset": (lambda o: o.parent.rename(o.parent.with_name("99999999")), r"99999999/\w+: unknown synset '99999999'"),
}


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_objects_are_refused_by_name(layout, tmp_path, fault, form):
    change, message = BROKEN[fault]
    change(layout / "02691156" / "000002")
    source = layout if form == "folder" else archive(layout, tmp_path / "a.tar.gz")
    with pytest.raises(ValueError, match=message): sd.import_layout(source, tmp_path / "set", views=4)
    assert not list((tmp_path / "set").iterdir())


def test_nothing_is_unpickled(layout, tmp_path):
    victim = layout / "02691156" / "000002" / "latent_0.npy"
    victim.write_bytes(npy(np.array([Danger(tmp_path / "hacked")] * 7, object), allow_pickle=True))
    with pytest.raises(ValueError, match="000002/latent_0.npy is not a NumPy array"): sd.import_layout(layout, tmp_path / "set")
    assert not (tmp_path / "hacked").exists()


ARCHIVES = {  # additional member -> what the message must say
    "symbolic link": (member("3DIEBench/02691156/x/image_0.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "image_0.jpg' is a link"),
    "hard link": (member("3DIEBench/02691156/x/image_0.jpg", type=tarfile.LNKTYPE, linkname="LICENSE"), "image_0.jpg' is a link"),
    "device": (member("3DIEBench/02691156/x/image_0.jpg", type=tarfile.CHRTYPE), "image_0.jpg' is a link or special file"),
    "absolute": (member("/02691156/x/image_0.jpg", b"x"), "'/02691156/x/image_0.jpg' lies outside"),
    "parent": (member("3DIEBench/../02691156/x/image_0.jpg", b"x"), "lies outside"),
    "parent folder": (member("..", type=tarfile.DIRTYPE), "lies outside"),
    "deep": (member("a/b/02691156/x/image_0.jpg", b"x"), "unexpected member 'a/b/02691156/x/image_0.jpg'"),
    "stray": (member("3DIEBench/script.sh", b"x"), "unexpected member '3DIEBench/script.sh'"),
    "scattered object": (member("3DIEBench/02691156/000000/image_9.jpg", b"x"), "02691156/000000 comes a second time"),
}


@pytest.mark.parametrize("fault", ARCHIVES)
def test_dangerous_archives_are_refused(exported, tmp_path, fault):
    extra, message = ARCHIVES[fault]
    source = archive(exported, tmp_path / "a.tar.gz", extra=[extra])
    with pytest.raises(ValueError, match=message): sd.import_layout(source, tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


def test_damaged_archives_are_refused(exported, tmp_path):
    path = archive(exported, tmp_path / "a.tar.gz")
    whole = path.read_bytes()
    for keep in (0, 5, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match="a.tar.gz is truncated or damaged"): sd.import_layout(path, tmp_path / "set")
    path.write_bytes(whole[:-8] + bytes(4) + whole[-4:])                                             # a wrong checksum
    with pytest.raises(ValueError, match="a.tar.gz is truncated or damaged"): sd.import_layout(path, tmp_path / "set")
    raw = gzip.decompress(whole)
    end = len(raw.rstrip(b"\0"))
    path.write_bytes(gzip.compress(raw[:end // 512 * 512 - 700]))                                    # a whole gzip file of half an archive
    with pytest.raises(ValueError, match="a.tar.gz is truncated or damaged"): sd.import_layout(path, tmp_path / "set")
    path.write_bytes(gzip.compress(b"\0" * 10240))
    with pytest.raises(ValueError, match="there are no objects"): sd.import_layout(path, tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="does not exist"): sd.import_layout(tmp_path / "nowhere", tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


def test_split_lists(exported, layout, tmp_path):
    lists = sd.read_split_lists(exported)
    assert len(lists) == 10 and sum(lists.values()) == 2
    names, labels = np.load(exported / "train_images.npy"), np.load(exported / "train_labels.npy")
    assert names[0] == "/02691156/000000/" and labels.dtype == np.int64

    def refused(message, **arrays):
        for name, array in arrays.items(): np.save(layout / f"{name}.npy", array)
        with pytest.raises(ValueError, match=message): sd.import_layout(exported, tmp_path / "set", lists=layout)
        for name in arrays: shutil.copy(exported / f"{name}.npy", layout)
        assert not (tmp_path / "set" / "dataset.json").exists()
    refused("train_images.npy: entry 1 is 'x'", train_images=np.r_[names[:1], ["x"], names[2:]])
    refused("train_labels.npy: entry 2 is 7, but the label of /02691156", train_labels=np.r_[labels[:2], 7, labels[3:]])
    refused("train_labels.npy has the shape", train_labels=labels[1:])
    refused("listed for the second time", train_images=np.r_[names[:1], names[:1], names[2:]])
    refused("is in none of the split lists", train_images=names[1:], train_labels=labels[1:])
    refused("1 listed objects are missing, first 02747177/zzz", train_images=np.r_[names, ["/02747177/zzz/"]], train_labels=np.r_[labels, 1])
    (layout / "val_labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match="val_labels.npy is missing"): sd.read_split_lists(layout)


OFFICIAL = Path(__file__).parents[2] / "shared" / "official_splits"


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the authors' split lists are not there")
def test_the_authors_lists(tmp_path):
    for file in ("val_images.npy", "val_labels.npy"): shutil.copy(OFFICIAL / file, tmp_path)
    np.save(tmp_path / "train_images.npy", ["/02691156/x/"]); np.save(tmp_path / "train_labels.npy", [0])
    lists = sd.read_split_lists(tmp_path)
    assert sum(lists.values()) == 10552 and len({synset for synset, _ in lists}) == 55

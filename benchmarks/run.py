"""Speed and memory, compared with what one would use without this package. `make bench`, or

    python benchmarks/run.py                       all, on quiet cores: results.csv and the tables of README.md
    python benchmarks/run.py --only loading ...    these, in place of their old rows
    python benchmarks/run.py --quick               every line of this file in tiny sizes, only printed, without meaning

Every measurement runs in fresh processes, one after the other, on the CPU unless it says otherwise. Sizes are those
of the default preset, whatever params.yaml says. Imports that only some benchmarks need are inside these; otherwise
they would count in the start-up time and memory of the others."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import multiprocessing as mp
import os
import platform
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from ruamel.yaml import YAML

from sie.data.layout import export_layout, import_layout
from sie.data.rendering import ProceduralRenderer, procedural_objects, render_dataset
from sie.data.storage import ViewDataset, split_objects
from sie.method.pairs import Batch, ViewLoader, load_views
from sie.method.rotations import sample_latents
from sie.objects.classes import CLASSES

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- measured: written by run.py -->", "<!-- end of measured -->"


@dataclass(frozen=True)
class Scale:
    "How large and how long."

    preset: str = "default"  # of presets.yaml
    objects: tuple[int, int] = (12, 48)  # rendered in short and in long runs, four of each class
    samples: int = 8  # light paths per pixel in these
    repeats: int = 3  # of what takes seconds
    seconds: float = 4  # to repeat what takes less
    large: int = 256  # size of the larger images, pixels
    pairs: int = 4096  # loaded in a run
    decoded: int = 2**29  # bytes of decoded images to load from, more than the processor's caches hold
    full: tuple[int, int, int] = (52_472, 41_920, 50)  # objects, training objects and views of 3DIEBench
    shard: int = 400  # objects in each of its files
    batches: tuple[int, int] = (64, 256)  # for ResNet-18 and the predictor
    widths: int = 2048  # of ResNet-18's projectors; the predictor has half of that
    archive: int = 1000  # objects with 50 views in an archive
    steps: int = 2  # of training in a turn, beside the reference
    compiled: bool = True  # also with torch.compile, which takes minutes

    @property
    def values(self) -> dict:
        "params.yaml with the preset's values, as plain data: checking it takes imports that rendering does not need."
        yaml = YAML(typ="safe")
        values = yaml.load(HERE.parent / "params.yaml")
        for key, value in yaml.load(HERE.parent / "presets.yaml")[self.preset].items():
            *sections, last = key.split(".")
            reduce(dict.__getitem__, sections, values)[last] = value
        return values

    @property
    def data(self) -> SimpleNamespace:
        data = self.values["data"]
        synsets = [c.synset for c in CLASSES if not data["classes"] or c.name in data["classes"]]
        return SimpleNamespace(
            **data, image=data["crop"] or data["size"], objects=procedural_objects(data["objects_per_class"], synsets)
        )

    @property
    def params(self):
        from sie.pipeline.params import Params

        return Params(**self.values)


QUICK = Scale(
    "smoke",
    objects=(4, 8),
    repeats=1,
    seconds=0.2,
    large=64,
    pairs=64,
    decoded=2**20,
    full=(52, 40, 5),
    shard=20,
    batches=(4, 8),
    widths=64,
    archive=20,
    compiled=False,
)


class Row(NamedTuple):
    "One measurement. Units with a slash are rates, more is better; of all others less is better."

    setting: str
    value: float
    unit: str
    reference: str = ""  # the setting that it is compared with
    ratio: float | None = None  # to that one, where it is not the ratio of the two values


# ---- tools


def fresh(function: Callable, *args, threads: int = 1, copies: int = 1) -> list:
    "What `function(*args)` returns in each of so many new processes that run side by side."
    context = mp.get_context("spawn")
    with ProcessPoolExecutor(copies, context, _start, (threads, context.Barrier(copies, timeout=600))) as pool:
        return [future.result() for future in [pool.submit(function, *args) for _ in range(copies)]]


def _start(threads: int, barrier) -> None:
    global together
    torch.set_num_threads(threads)
    together = barrier.wait  # side by side measurements start when all are warm


def timed(function: Callable) -> float:
    "Seconds of a call."
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def typical(step: Callable, seconds: float) -> float:
    """Median seconds of a step, which is repeated for the given time, after 2 repetitions for warm-up: at least 3
    times, or once if one step takes the given time."""
    step()
    few = 3 if timed(step) < seconds else 1
    together()
    times = []
    while len(times) < few or sum(times) < seconds:
        times.append(timed(step))
    return median(times)


def peak(who: int = resource.RUSAGE_SELF) -> float:
    "Peak resident memory so far, MiB: of this process, or of the largest of its finished children."
    return resource.getrusage(who).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def peaks(function: Callable, *args) -> tuple[float, float]:
    "Peak memory of this process and of the largest of its children, after a call."
    function(*args)
    return peak(), peak(resource.RUSAGE_CHILDREN)


def mixed(scale: Scale, count: int) -> list[tuple[str, str]]:
    "So many objects, four of each class; the classes are evenly chosen. A data set needs three of a class."
    classes = np.linspace(0, len(CLASSES) - 1, count // 4).astype(int)
    return procedural_objects(4, [CLASSES[k].synset for k in classes])


def rendered(scale: Scale, work: Path, size: int, count: int, views: int) -> ViewDataset:
    "A data set of a few objects, made by whoever asks first."
    return render_dataset(
        work / f"views-{size}",
        mixed(scale, count),
        ProceduralRenderer(size=size, samples=scale.data.samples),
        views=views,
    )


# ---- rendering


class SceneForEveryImage(ProceduralRenderer):
    "The same images, but Mitsuba's scene is built anew for each."

    def __call__(self, synset, object_id, latents, seed):
        from sie.objects.gallery import make_object

        mesh = make_object(synset, int(object_id))
        return np.concatenate(
            [self._renderer.render(mesh, latents[v : v + 1], seed, first=v) for v in range(len(latents))]
        )


def render_times(scale: Scale) -> dict[str, float]:
    "Seconds to make a data set: in one process (`one`), and in all, of few (`short`) and of more objects (`long`)."
    data, (few, many) = scale.data, (mixed(scale, n) for n in scale.objects)
    kinds = {
        "": (ProceduralRenderer, None),
        " naive": (SceneForEveryImage, None),
        " crop": (ProceduralRenderer, data.crop),
    }

    def seconds(kind, objects, workers):
        renderer, crop = kinds[kind]
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            dataset = render_dataset(
                folder,
                objects,
                renderer(size=data.size, samples=scale.samples, crop=crop),
                views=data.views,
                workers=workers,
            )
            return time.perf_counter() - start, dataset.fingerprint

    seconds("", few[:3], 0)
    runs = []
    for _ in range(scale.repeats):
        runs.append(
            {f"one{kind}": seconds(kind, few, 0) for kind in ("", " naive")}
            | {
                length + kind: seconds(kind, objects, None)
                for kind in kinds
                for length, objects in (("short", few), ("long", many))
            }
        )
        assert len({runs[-1][name + kind][1] for name in ("one", "short") for kind in ("", " naive")}) == 1, (
            "the images are not the same"
        )
    return {name: median(run[name][0] for run in runs) for name in runs[0]}


def rendering(scale: Scale, work: Path) -> list[Row]:
    """Images rendered, encoded and stored, of objects of mixed classes. "After start-up" is the rate from the
    additional time that a data set of more objects takes. "In all" includes the start of the processes, which is a
    smaller part of a larger set. The reference makes the same images, with Mitsuba's scene built anew for each."""
    seconds, data, (few, many) = fresh(render_times, scale)[0], scale.data, scale.objects
    what, every = f"{data.size} px, {scale.samples} samples, ", f"{os.cpu_count()} processes"
    alone, together = (
        f"{what}{processes}, scene built for every image" for processes in ("1 process", f"{every}, after start-up")
    )

    def steady(kind):
        return data.views * (many - few) / (seconds["long" + kind] - seconds["short" + kind])

    return [
        Row(alone, data.views * few / seconds["one naive"], "images/s"),
        Row(what + "1 process", data.views * few / seconds["one"], "images/s", alone),
        Row(together, steady(" naive"), "images/s"),
        Row(what + f"{every}, after start-up", steady(""), "images/s", together),
        Row(what + f"{every}, {many * data.views} images in all", data.views * many / seconds["long"], "images/s"),
        Row(what + f"only the central {data.crop} px, {every}, after start-up", steady(" crop"), "images/s", together),
    ]


# ---- the reference renderer


def renderer_rates(scale: Scale, size: int, samples: int) -> dict[str, float]:
    "Images per second of Mitsuba and Blender for the same scene, 1 thread each."
    from sie.data.blender import BlenderRenderer
    from sie.data.scene import Renderer
    from sie.objects.gallery import make_object

    meshes = [make_object(synset, int(object_id)) for synset, object_id in mixed(scale, 3)]
    latents = sample_latents(scale.data.views, np.random.default_rng(0))
    renderers = {"Blender": BlenderRenderer(size, samples), "Mitsuba": Renderer(size, samples)}
    pictures = {
        name: renderer.render(meshes[0], latents[:2]).astype(float) for name, renderer in renderers.items()
    }  # warm, and alike
    assert ((pictures["Blender"] - pictures["Mitsuba"]) ** 2).mean() < 255**2 / 10**2.5, (
        "the pictures are less than 25 dB alike"
    )

    def seconds(renderer):
        return timed(lambda: [renderer.render(mesh, latents) for mesh in meshes])

    runs = [{name: seconds(renderer) for name, renderer in renderers.items()} for _ in range(scale.repeats)]
    return {name: len(meshes) * len(latents) / median(run[name] for run in runs) for name in renderers}


def blender(scale: Scale, work: Path) -> list[Row]:
    """Images of the same objects under the same latents, of the same size and with the same number of samples per
    pixel, rendered by Mitsuba (`sie.data.scene.Renderer`) and by Blender's Cycles
    (`sie.data.blender.BlenderRenderer`), on 1 thread. The time includes making the scene of each object, but not
    encoding and storing."""
    rows = []
    for size, samples in ((scale.data.size, scale.samples), (2 * scale.data.size, 4 * scale.samples)):
        rates, what = fresh(renderer_rates, scale, size, samples)[0], f"{size} px, {samples} samples, "
        rows += [
            Row(what + "Blender", rates["Blender"], "images/s"),
            Row(what + "Mitsuba", rates["Mitsuba"], "images/s", what + "Blender"),
        ]
    return rows


# ---- packing


def make_archive(scale: Scale, work: Path) -> Path:
    """An archive in the authors' form. Images are rendered, have about the size of theirs (6.5 kB of the archive for a
    view), and repeat; names, order and latents do not."""
    objects, views = mixed(scale, scale.objects[0]), 6
    images = render_dataset(
        work / "images",
        objects,
        ProceduralRenderer(size=scale.large, samples=scale.samples),
        views=views,
        jpeg_quality=82,
    )
    images, rng, path = (
        [bytes(images.jpeg(k, v)) for k in range(len(objects)) for v in range(views)],
        np.random.default_rng(0),
        work / "3DIEBench.tar.gz",
    )
    with tarfile.open(path, "w:gz", compresslevel=6, format=tarfile.GNU_FORMAT) as tar:

        def add(name, content):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        for k in range(scale.archive):
            home = f"3DIEBench/{CLASSES[k * len(CLASSES) // scale.archive].synset}/{rng.bytes(16).hex()}"
            for view in rng.permutation(50):
                np.save(latent := io.BytesIO(), sample_latents(1, rng)[0].astype(np.float64))
                add(f"{home}/image_{view}.jpg", images[rng.integers(len(images))])
                add(f"{home}/latent_{view}.npy", latent.getvalue())
    return path


def pack_costs(archive: Path, repeats: int) -> dict[str, float]:
    """Seconds on one core: `tar xzf`; one part of 8; packing, and its statistics; the last call, when all shards
    exist. MiB: of the libraries alone, and at the end of packing."""
    from sie.data import storage
    from sie.data.layout import import_layout

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    statistics, spent = storage._channel_statistics, []

    def timed_statistics(dataset):
        start = time.perf_counter()
        result = statistics(dataset)
        spent.append(time.perf_counter() - start)
        return result

    storage._channel_statistics = timed_statistics
    with archive.open("rb") as file:  # now in the system's page cache
        while file.read(2**20):
            pass
    libraries, runs = peak(), []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            run, pack = {}, partial(import_layout, archive, Path(folder, "set"))
            run["part"] = timed(lambda: import_layout(archive, Path(folder, "part"), part=(0, 8)))
            run["pack"], run["statistics"] = timed(pack), spent[-1]
            run["MiB"] = peak()
            run["last"] = timed(pack) - spent[-1]
            runs.append(run)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:  # once: it may take minutes
        tar = timed(lambda: subprocess.run(["tar", "xzf", archive, "-C", folder], check=True))
    return {name: median(run[name] for run in runs) for name in runs[0]} | {"libraries": libraries, "tar": tar}


def packing(scale: Scale, work: Path) -> list[Row]:
    """The authors' archive is packed into a data set on one core: it is decompressed, every header and file is checked
    and hashed, and the result is written and forced to the disk. Rates are in MB (1,000,000 bytes) of the archive.

    The reference unpacks the same archive into files, with `tar xzf` on the same core, and checks nothing. The
    channel statistics come after packing and use at most 20,000 images, so that 17 GB take 17,000 MB / rate of
    packing + time of the statistics.

    A part of 8 reads the whole archive and writes an eighth of it. The last call reads it again and finds that all
    shards exist. With n parts side by side, packing takes 1 / rate of one part + 1 / rate of the last call, instead
    of 1 / rate of packing. Memory is that of the whole process with its libraries. It holds one shard of 32 MiB, so
    it does not grow with the archive."""
    (archive,) = fresh(
        make_archive, scale, work
    )  # a new process counts the memory of the one that starts it as its own
    cost, size, what = (
        fresh(pack_costs, archive, scale.repeats)[0],
        archive.stat().st_size / 1e6,
        f"{scale.archive} objects x 50 views of {scale.large} px, ",
    )
    reference = what + "tar xzf"
    return [
        Row(reference, size / cost["tar"], "MB/s"),
        Row(what + "packing", size / (cost["pack"] - cost["statistics"]), "MB/s", reference),
        Row(what + "1 of 8 parts", size / cost["part"], "MB/s", reference),
        Row(what + "last call", size / cost["last"], "MB/s", reference),
        Row(what + "statistics", cost["statistics"], "s"),
        Row("peak memory of packing", cost["MiB"], "MiB"),
        Row("of it libraries", cost["libraries"], "MiB"),
    ]


# ---- loading


def file_views(folder: Path, dataset: ViewDataset, items: int, seen: int = 2):
    "The usual data set of the files that a data set was exported to."
    from release_way import FileViews

    size = (dataset.height, dataset.width)
    return FileViews(folder, size, dataset.mean, dataset.std, dataset.views, items, seen)


def as_released(dataset: ViewDataset, work: Path) -> ViewDataset:
    "The same views in JPEG files of about the size of 3DIEBench's: 17 GB / 2,623,600 views = 6.5 kB, with the latents."
    import simplejpeg

    folder = work / f"released-files-{dataset.width}"
    if not folder.exists():
        export_layout(dataset, folder)
        for path in folder.glob("*/*/*.jpg"):
            path.write_bytes(
                simplejpeg.encode_jpeg(simplejpeg.decode_jpeg(path.read_bytes()), 75, colorsubsampling="420")
            )
    return import_layout(folder, work / f"released-{dataset.width}", lists=folder)


def rates(epochs: dict[str, Callable], repeats: int) -> dict[str, float]:
    "Pairs per second of some ways to load, in turn, after one round for warm-up."

    def rate(epoch):
        start = time.perf_counter()
        return sum(len(pairs[0]) for pairs in epoch()) / (time.perf_counter() - start)

    runs = [{name: rate(epoch) for name, epoch in epochs.items()} for _ in range(1 + repeats)]
    return {name: median(run[name] for run in runs[1:]) for name in epochs}


def usual(files, batch: int) -> Callable:
    from release_way import file_loader

    batches = file_loader(files, batch)
    return lambda: iter(batches)


def load_rates(
    scale: Scale, work: Path, size: int, count: int, views: int, batch: int, released: bool
) -> tuple[dict[str, float], float]:
    "Pairs per second of three ways to load the same data, and the mean size of an image file in kB."
    dataset = rendered(scale, work, size, count, views)
    if released:
        dataset = as_released(dataset, work)
    folder, objects = work / f"files-{dataset.path.name}", dataset.split("train")
    export_layout(dataset, folder)
    files, memory = (
        file_views(folder, dataset, scale.pairs),
        load_views(
            dataset, np.tile(objects, max(1, scale.decoded // (len(objects) * views * size**2 * 3))), in_memory=True
        ),
    )
    first = torch.zeros(1, dtype=int)
    torch.testing.assert_close(
        memory.normalised(first, first)[0], files.view(0, 0)[0], rtol=0, atol=0.05
    )  # decoders differ by a 255th
    ours = {"memory": memory, "jpeg": load_views(dataset, objects, in_memory=False)}
    epochs = {
        name: partial(ViewLoader(v, batch, 0, draws=-(-scale.pairs // len(v))).epoch, 0) for name, v in ours.items()
    }
    return rates(epochs | {"files": usual(files, batch)}, scale.repeats), sum(
        path.stat().st_size for path in folder.glob("*/*/*.jpg")
    ) / len(dataset) / views / 1000


def loading(scale: Scale, work: Path) -> list[Row]:
    """Pairs of normalised float32 images and latents in batches, as a training loop receives them, from data in the
    system's page cache. `ViewLoader` decodes and normalises in 2 threads.

    The reference is a usual loader for the authors' files: two `PIL.Image.open` and two `np.load` for each pair,
    torchvision's Resize, ToTensor and Normalize, and a `DataLoader` with 2 processes. Images are those of our
    renderer; in the last three rows their files have about the size of 3DIEBench's (quality 75, 4:2:0)."""
    rows, (few, many), data = [], scale.objects, scale.data
    for size, count, views, batch, released in (
        (data.size, many, data.views, scale.batches[1], False),
        (scale.large, few, 6, scale.batches[0], False),
        (scale.large, few, 6, scale.batches[0], True),
    ):
        ((rate, kilobytes),) = fresh(load_rates, scale, work, size, count, views, batch, released, threads=2)
        what = f"{size} px, {kilobytes:.1f} kB files{' as released' * released}, "
        reference = what + "image and latent files, DataLoader with 2 processes"
        rows += [
            Row(reference, rate["files"], "pairs/s"),
            Row(what + "decoded on access, 2 threads", rate["jpeg"], "pairs/s", reference),
            Row(what + "decoded in memory, 2 threads", rate["memory"], "pairs/s", reference),
        ]
    return rows


# ---- scale


def of_full_number(scale: Scale, work: Path) -> ViewDataset:
    """A data set with 3DIEBench's number of objects and views, images of its size, and names of its length. Its files
    are links to two, so that it takes little space on the disk. Offsets, names and latents are as many as they
    would be, and every file is mapped separately."""
    import pyarrow as pa

    from sie.data.storage import ObjectRow, _write_table, write_shard

    small, folder, (objects, train, views) = (
        as_released(rendered(scale, work, scale.large, scale.objects[0], 6), work),
        work / "full-number",
        scale.full,
    )
    folder.mkdir()
    jpegs = [bytes(small.jpeg(k, view)) for k in range(len(small)) for view in range(6)]
    rng, names, shards = np.random.default_rng(0), [f"{k:032x}" for k in range(objects)], []
    synsets = [CLASSES[k * len(CLASSES) // objects].synset for k in range(objects)]
    for start in range(0, objects, scale.shard):
        path, count = folder / f"shard-{len(shards):05d}.arrow", min(scale.shard, objects - start)
        if start and count == scale.shard:
            os.link(folder / "shard-00000.arrow", path)
        else:
            write_shard(
                path,
                [
                    ObjectRow(
                        synsets[k],
                        names[k],
                        sample_latents(views, rng),
                        [jpegs[(k * views + view) % len(jpegs)] for view in range(views)],
                    )
                    for k in range(start, start + count)
                ],
            )
        shards.append(dict(file=path.name, objects=count, bytes=path.stat().st_size))
    split = np.where(rng.permutation(objects) < train, "train", "val").tolist()
    labels = [next(c.label for c in CLASSES if c.synset == s) for s in dict.fromkeys(synsets)]
    index = dict(
        synset=synsets,
        object_id=names,
        label=np.array(labels)[[list(dict.fromkeys(synsets)).index(s) for s in synsets]],
        split=split,
    )
    _write_table(folder / "index.arrow", pa.record_batch(index))
    (folder / "dataset.json").write_text(
        json.dumps(small.info | dict(views=views, objects=objects, train=train, val=objects - train, shards=shards))
    )
    return ViewDataset(folder)


def held() -> float:
    "Memory of this process that is no mapped file, MiB."
    import psutil

    status = Path("/proc/self/status")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    return (
        int(lines["RssAnon"].split()[0]) / 2**10 if "RssAnon" in lines else psutil.Process().memory_info().rss / 2**20
    )


def open_cost(scale: Scale, work: Path) -> tuple[float, float]:
    "Seconds to open the whole set, latents and first image included, and the memory that it then holds, MiB."
    before = held()

    def opened():
        nonlocal views
        dataset = ViewDataset(work / "full-number")
        views = load_views(dataset, in_memory=False)
        dataset.decode([len(dataset) - 1], [dataset.views - 1])

    views = None
    return timed(opened), held() - before


def full_rates(scale: Scale, work: Path) -> dict[str, float]:
    dataset, files = ViewDataset(work / "full-number"), ViewDataset(work / f"released-{scale.large}")
    loader, batch = (
        ViewLoader(load_views(dataset, dataset.split("train"), in_memory=False), scale.batches[0], 0),
        scale.batches[0],
    )

    def some():
        for _k, pairs in zip(range(scale.pairs // batch), loader.epoch(0)):
            yield pairs

    usual_files = file_views(work / f"released-files-{scale.large}", files, scale.pairs)
    return rates({"whole": some, "files": usual(usual_files, batch)}, scale.repeats)


def scale(scale: Scale, work: Path) -> list[Row]:
    """A data set with 3DIEBench's number of objects and views, images repeated, in files of about its size, from the
    page cache. The reference loads the same images from a few files, which favours it, because they stay in faster
    caches.

    From a disk, a pair is two reads of one image each: pairs/s = 1 / max(1 / pairs/s measured here, 2 x (seconds of
    a read) / (reads at a time), 2 x (bytes of an image) / (bytes/s of the disk)). Reads at a time are as many as
    threads."""
    (dataset,) = fresh(of_full_number, scale, work)
    opens = [fresh(open_cost, scale, work)[0] for _ in range(scale.repeats)]
    (rate,) = fresh(full_rates, scale, work, threads=2)
    size = sum(shard["bytes"] for shard in dataset.info["shards"]) / 1e9
    what = f"{len(dataset):,} objects x {dataset.views} views, {size:.1f} GB, "
    reference = f"{scale.large} px as released, image and latent files, DataLoader with 2 processes"
    return [
        Row(what + "opening", median(o[0] for o in opens), "s"),
        Row(what + "memory held when open", median(o[1] for o in opens), "MiB"),
        Row(reference, rate["files"], "pairs/s"),
        Row(what + "decoded on access, 2 threads", rate["whole"], "pairs/s", reference),
    ]


# ---- training


class Materialised(torch.nn.Module):
    "A hypernetwork as it is usually written: the matrix W is made for each sample and then multiplied."

    def __init__(self, hypernetwork):
        super().__init__()
        self.hypernetwork = hypernetwork

    def forward(self, z, g):
        (w,) = self.hypernetwork.matrices(g)
        return (w @ z[..., None].to(w.dtype))[..., 0]


def own_step(settings, materialised: bool = False) -> Callable[[Batch], Any]:
    "A training step on a batch of pairs on the CPU, as `sie.method.pretraining.pretrain` does it, with a new model."
    from lightning_fabric import Fabric

    from sie.method.optimisers import OPTIMISERS
    from sie.method.pretraining import new_model, train_step

    model = new_model(settings).to(memory_format=torch.channels_last)
    if materialised:
        model.predictor = Materialised(model.predictor)
    optimiser = OPTIMISERS[settings.optimiser](model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    fabric = Fabric(accelerator="cpu", devices=1, precision=settings.precision)
    model, optimiser = fabric.setup(model, optimiser)
    return lambda pairs: train_step(model, optimiser, fabric, pairs, settings)


def train_rate(scale: Scale, size: int, changes: dict, materialised: bool = False) -> float:
    "Pairs per second of training steps on one and the same batch, with the preset's settings but for some changes."
    settings = replace(scale.params.settings("sie_matrix", 0), **changes)
    rng, batch = np.random.default_rng(0), settings.batch_size

    views = settings.views
    images = torch.randn(views, batch, size, size, 3).movedim(-1, 2)  # channels_last
    latents = torch.from_numpy(sample_latents(views * batch, rng)).unflatten(0, (views, batch))
    drawn = Batch(images, latents, torch.arange(batch) % len(CLASSES), torch.arange(batch))
    step = own_step(settings, materialised)
    return batch / typical(lambda: step(drawn), scale.seconds)


def training(scale: Scale, work: Path) -> list[Row]:
    """Training steps: forward, loss, backward and optimiser, with the data in memory. The first rows have the default
    preset (`small`, method `sie_matrix`). Their reference is one process that uses 2 threads in float32, as torch
    does by default; the pipeline trains two seeds side by side.

    The other rows have ResNet-18 with the paper's projectors (method `sie`). Their reference is the same in float32
    with W materialised for each sample. On a CPU without instructions for bf16, which computes it many times
    slower, the larger batch is in float32 only."""
    from sie.method.pretraining import best_precision

    rows, default, size, image = [], SimpleNamespace(**scale.values["pretrain"]), scale.data.size, scale.data.image
    what = f"{default.encoder}, {image} px, batch {default.batch_size}, "
    for precision in ("32-true", "bf16-mixed"):
        for how, threads, copies in (
            ("1 process of 2 threads", 2, 1),
            ("1 process of 1 thread", 1, 1),
            ("2 processes of 1 thread", 1, 2),
        ):
            rate = sum(fresh(train_rate, scale, image, dict(precision=precision), threads=threads, copies=copies))
            rows.append(Row(f"{what}{how}, {precision}", rate, "pairs/s", f"{what}1 process of 2 threads, 32-true"))
    for batch in scale.batches:
        paper = dict(method="sie", encoder="resnet18", widths=[scale.widths] * 3, batch_size=batch)
        what = f"resnet18, {size} px, batch {batch}, 2 threads, "
        for precision, materialised in (("32-true", True), ("32-true", False), ("bf16-mixed", False)):
            if (
                precision != "32-true"
                and batch > min(scale.batches)
                and best_precision(torch.device("cpu")) != precision
            ):
                continue
            (rate,) = fresh(train_rate, scale, size, dict(paper, precision=precision), materialised, threads=2)
            rows.append(
                Row(
                    f"{what}{precision}{', W materialised' * materialised}",
                    rate,
                    "pairs/s",
                    f"{what}32-true, W materialised",
                )
            )
    return rows


# ---- training, side by side with the release's way


def beside_data(scale: Scale, work: Path, size: int) -> tuple[ViewDataset, Path]:
    "A small data set, and the folder of its files in the authors' layout; made by whoever asks first."
    dataset = rendered(scale, work, size, scale.objects[1], scale.data.views)
    folder = work / f"files-{dataset.path.name}"
    if not folder.exists():
        export_layout(dataset, folder)
    return dataset, folder


def timed_steps(batches, step: Callable[[Any], Any]) -> tuple[float, float]:
    """Seconds of a step, and of this process's work for it, on all batches but the first, which is for warm-up.
    Batches are made beside the steps, as in a long run."""
    batches = iter(batches)
    step(next(batches))
    start, work, steps = time.perf_counter(), time.process_time(), 0
    for batch in batches:
        step(batch)
        steps += 1
    return (time.perf_counter() - start) / steps, (time.process_time() - work) / steps


def release_steps(scale: Scale, work: Path, steps: int) -> Callable[[], tuple[float, float]]:
    "What measures some training steps of the release's way, as `timed_steps`."
    from release_way import SIE, adam, file_loader, training_step

    dataset, folder = beside_data(scale, work, scale.data.size)
    batch = scale.batches[1]
    batches = file_loader(file_views(folder, dataset, (1 + steps) * batch), batch)
    model = SIE(scale.widths)
    optimiser = adam(model)
    return lambda: timed_steps(batches, partial(training_step, model, optimiser))


def own_steps(scale: Scale, work: Path, steps: int) -> Callable[[], tuple[float, float]]:
    "What measures the same steps of `sie`."
    from sie.method.pretraining import Settings

    dataset, _ = beside_data(scale, work, scale.data.size)
    batch = scale.batches[1]
    settings = Settings("sie", widths=[scale.widths] * 3, batch_size=batch, precision="32-true")
    views = load_views(dataset, dataset.split("train"), in_memory=False)
    pairs = ViewLoader(views, batch, 0, draws=-(-(1 + steps) * batch // len(views)))
    step = own_step(settings)
    return lambda: timed_steps((few for few, _k in zip(pairs.epoch(0), range(1 + steps))), step)


def beside_times(scale: Scale, work: Path, steps: int) -> list[list[tuple[float, float]]]:
    "For each repetition, `timed_steps` of the release's way and of `sie`, one after the other."
    ways = [release_steps(scale, work, steps), own_steps(scale, work, steps)]
    return [[measure() for measure in ways] for _ in range(scale.repeats)]


def peak_of_steps(scale: Scale, work: Path, way: Callable) -> float:
    "Peak memory of this process after training steps of one way, MiB."
    way(scale, work, 1)()
    return peak()


def convolutions(scale: Scale, work: Path) -> float:
    "The share of convolutions, forward and backward, in the time of a training step of `sie`."
    from torch.profiler import profile

    measure = own_steps(scale, work, 1)
    with profile() as profiler:
        measure()
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return sum(time for name, time in spent.items() if "convolution" in name) / sum(spent.values())


def training_side_by_side(scale: Scale, work: Path) -> list[Row]:
    """Training of `sie` with ResNet-18 (torchvision's), the paper's projectors and Adam in float32, beside the same
    work as it is usually written (`release_way.py`, after the description of the authors' release): image and latent
    files that a `DataLoader` with 2 processes opens one by one, W made for each sample, torch's default memory layout
    and optimiser. `tests/test_benchmarks.py` compares losses and gradients of the two.

    Both decode every image from its JPEG file, and take turns in one process. Times better is the median of the
    ratios of neighbouring turns. The processor's time of a step is measured on 1 thread; it depends less on what else
    the machine does. Memory is the peak of a process that trains. Neither counts the reference's two loaders.

    The encoder's convolutions are the same work in both ways, and take most of a step of `sie`. If all else took no
    time, it would be (the ratio of the processor's times) / (the share of convolutions) times better."""
    fresh(beside_data, scale, work, scale.data.size)
    what = f"resnet18, {scale.data.size} px, batch {scale.batches[1]}, 32-true, "
    theirs, ours = what + "the release's way", what + "sie"

    def compared(ending: str, unit: str, turns: list[tuple[float, float]]) -> list[Row]:
        release, own = (median(values) for values in zip(*turns))
        ratio = median(b / a if "/" in unit else a / b for a, b in turns)
        return [Row(theirs + ending, release, unit), Row(ours + ending, own, unit, theirs + ending, ratio)]

    (turns,) = fresh(beside_times, scale, work, scale.steps, threads=2)
    rows = compared(", 2 threads", "pairs/s", [tuple(scale.batches[1] / wall for wall, _ in turn) for turn in turns])
    (turns,) = fresh(beside_times, replace(scale, repeats=1), work, 1)
    rows += compared(": processor, a step", "s", [tuple(busy for _, busy in turn) for turn in turns])
    share = fresh(convolutions, scale, work)[0]
    rows.append(Row(ours + ": convolutions", 100 * share, "%"))
    memory = tuple(fresh(peak_of_steps, scale, work, way, threads=2)[0] for way in (release_steps, own_steps))
    return rows + compared(": memory", "MiB", [memory])


# ---- what the paper's run costs

KINDS = {
    "fused kernels": "triton_",
    "convolutions and products of matrices": "conv|gemm|cutlass|xmma|nvjet|fprop|dgrad|wgrad|sm[89]0_",
    "batch normalisation": "batch_norm|batchnorm|bn_|_bn",
    "optimiser": "adam|multi_tensor",
}  # of kernels, by their names


def kernel_shares(step: Callable, steps: int = 5) -> dict[str, float]:
    "Shares of a step's time in kernels of each of `KINDS`, in the others, copies among them, and in none."
    from torch.profiler import DeviceType, ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        wall = timed(lambda: [step() for _ in range(steps)])
    spent = dict.fromkeys([*KINDS, "other kernels"], 0.0)
    for event in profiler.key_averages():
        if event.device_type != DeviceType.CUDA:
            continue
        kind = next((kind for kind, names in KINDS.items() if re.search(names, event.key.lower())), "other kernels")
        spent[kind] += event.self_device_time_total / 1e6 / wall
    return spent | {"no kernel": 1 - sum(spent.values())}


def paper_rate(scale: Scale, precision: str, channels_last: bool, compiled: bool) -> dict[str, Any]:
    """On this machine's GPU, or its CPU: the time of training steps of the paper's run, their FLOP per pair, and the
    FLOP per second of large matrix products in the same precision."""
    from torch.utils.flop_counter import FlopCounterMode

    from sie.method.optimisers import OPTIMISERS
    from sie.method.pretraining import make_fabric, new_model, train_step

    settings, fabric = replace(scale, preset="paper").params.settings("sie", 0), make_fabric(precision)
    cuda, layout = fabric.device.type == "cuda", torch.channels_last if channels_last else torch.contiguous_format
    torch.set_num_threads(os.cpu_count())

    def finished(work):
        def call():
            work()
            if cuda:
                torch.cuda.synchronize()

        return call

    def stepping(batch):
        rng, size = np.random.default_rng(0), scale.large

        images = torch.randn(2 * batch, 3, size, size, device=fabric.device).to(memory_format=layout)
        latents = torch.from_numpy(sample_latents(2 * batch, rng)).to(fabric.device)
        objects = torch.arange(batch, device=fabric.device)
        both = (2, batch)
        drawn = Batch(images.unflatten(0, both), latents.unflatten(0, both), objects % len(CLASSES), objects)
        model = new_model(replace(settings, widths=[scale.widths] * 3)).to(memory_format=layout)
        model, optimiser = fabric.setup(
            torch.compile(model) if compiled else model,
            OPTIMISERS[settings.optimiser](model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay),
        )
        step = finished(lambda: train_step(model, optimiser, fabric, drawn, settings))
        step()
        return step

    batch, found = settings.batch_size if cuda else min(scale.batches) // 2, {"cuda": cuda}
    step = None
    while step is None:
        try:
            step = stepping(batch)
        except torch.OutOfMemoryError:
            if batch < 4:
                raise
        if step is None:
            batch //= 2
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    seconds = typical(step, scale.seconds)
    if not compiled:
        with FlopCounterMode(display=False) as counter:
            step()
        found["flop"] = counter.get_total_flops() / batch
    if cuda:
        found |= {"GiB": torch.cuda.max_memory_allocated() / 2**30}
    if cuda and precision != "32-true":
        found["kernels"] = kernel_shares(step)
    del step
    n = 8192 if cuda else scale.widths
    a = torch.randn(n, n, device=fabric.device, dtype=torch.bfloat16 if precision.startswith("bf16") else torch.float32)
    return found | {
        "pairs": batch / seconds,
        "batch": batch,
        "products": 2 * n**3 / typical(finished(lambda: a @ a), scale.seconds),
    }


def paper(scale: Scale, work: Path) -> list[Row]:
    """Training steps of the paper's run (`make repro PRESET=paper`, one seed of `sie`: ResNet-18, 256 px) on this
    machine's GPU, or its CPU, with the data in memory. The batch is the paper's, or the largest half, quarter, ...
    of it that fits into the memory. In bf16 there is also the share of the FLOP per second of large matrix
    products, and on a GPU the kinds of kernels that a step's time is spent in.

    The steps of the whole run take hours = 2000 epochs x 41,920 pairs / (3600 x n x pairs/s) on n GPUs. With more
    than one GPU nothing is compiled, and the exchange of gradients (4 bytes for each of 22 million weights a step)
    is not included. Costs are those hours x n x $3 for a GPU and hour. Loading is in `paper_loading`: decoding on
    the CPU runs beside the steps, decoding by nvJPEG takes time of the same GPU."""
    from sie.method.pretraining import best_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    best, rows = best_precision(device), []
    ways = (
        [("32-true", False, False)] * (device.type == "cuda")
        + [("32-true", True, False)]
        + [(best, True, False)] * (best != "32-true")
        + [(best, True, True)] * scale.compiled
    )
    flop = None
    for precision, channels_last, compiled in ways:
        (found,) = fresh(paper_rate, scale, precision, channels_last, compiled)
        flop = found.get("flop") or flop  # the first way is not compiled, so it is known
        name = torch.cuda.get_device_name() if found["cuda"] else f"CPU, {os.cpu_count()} threads"
        options = [option for option, on in (("channels_last", channels_last), ("torch.compile", compiled)) if on]
        what = ", ".join([name, f"batch {found['batch']}", precision, *options])
        rows.append(Row(what, found["pairs"], "pairs/s", rows[0].setting if rows else what))
        if precision == "bf16-mixed":
            rows.append(
                Row(
                    f"{what}: share of the products' {found['products'] / 1e12:.3g} TFLOP/s",
                    100 * found["pairs"] * flop / found["products"],
                    "%",
                )
            )  # in 32-true the convolutions of a GPU have fewer bits than its products
        if found["cuda"]:
            rows += [
                Row(f"{what}: memory", 1024 * found["GiB"], "MiB"),
                *(
                    Row(f"{what}: time in {kind}", 100 * share, "%")
                    for kind, share in found.get("kernels", {}).items()
                    if share
                ),
            ]
    alone, shared = (
        max(r.value for r in rows if r.unit == "pairs/s" and (n == 1 or "compile" not in r.setting)) for n in (1, 8)
    )
    for n, rate in ((1, alone), (8, shared)) if device.type == "cuda" else ((1, alone),):
        hours = 2000 * scale.full[1] / 3600 / rate
        rows.append(Row(f"steps of the paper's run on {n} such device{'s' * (n > 1)}", hours / n, "h"))
        if device.type == "cuda":
            rows.append(Row(f"steps of the paper's run on {n} such device{'s' * (n > 1)}", 3 * hours, "$"))
    return rows


FIRST = "stride in the first convolution, "  # of rows of `paper` that were measured with another network


def step_arithmetic(size: int, stride_first: bool) -> float:
    """FLOP of a training step of the paper's `sie` for one pair, with the release's encoder, or with the stride of a
    halving block in its first convolution."""
    from torch.utils.flop_counter import FlopCounterMode

    from sie.method.encoders import ReleaseBlock
    from sie.method.pretraining import Settings, new_model

    settings, batch = Settings("sie", encoder="resnet18_release"), 2
    model = new_model(settings)
    if stride_first:
        for block in (m for m in model.encoder.modules() if isinstance(m, ReleaseBlock) and m.conv2.stride == (2, 2)):
            block.conv1.stride, block.conv2.stride, block.conv2.padding = (2, 2), (1, 1), (1, 1)
    images, latents = (
        torch.randn(2, batch, 3, size, size),
        torch.from_numpy(sample_latents(2 * batch, np.random.default_rng(0))).unflatten(0, (2, batch)),
    )
    with FlopCounterMode(display=False) as counter:
        outputs = model(*images, *latents, torch.zeros(batch, dtype=torch.long))
        settings.declaration.loss(outputs, settings.equivariance_weight)[0].backward()
    return counter.get_total_flops() / batch


def paper_scaled(scale: Scale, work: Path) -> list[Row]:
    """The time of the steps of the paper's whole run, **scaled from a measurement**, not measured. The rates in
    `paper` that begin with "stride in the first convolution" are of a network that has the stride of a halving
    block in its first convolution.

    The release's network has it in the second, which is more arithmetic. The ratio of the FLOP of a training step,
    forward and backward, is counted here, and the measured time is multiplied by it. (Convolutions are a third of
    that time on the GPU; the rest need not grow by the same factor.)"""
    ratio = step_arithmetic(scale.large, False) / step_arithmetic(scale.large, True)
    with (HERE / "results.csv").open(newline="") as file:
        measured = {
            r["setting"]: float(r["value"])
            for r in csv.DictReader(file)
            if r["benchmark"] == "paper" and r["unit"] == "pairs/s" and r["setting"].startswith(FIRST)
        }
    rows = [
        Row(
            "arithmetic of a training step, the release's network over one with the stride in the first convolution",
            ratio,
            "times",
        )
    ]
    for n in (1, 8) if measured else ():
        rate = max(value for setting, value in measured.items() if n == 1 or "compile" not in setting) / ratio
        hours = 2000 * scale.full[1] / 3600 / rate
        rows += [
            Row(f"NVIDIA H100, rate for {n}, scaled", rate, "pairs/s"),
            Row(f"steps of the paper's run on {n} such device{'s' * (n > 1)}, scaled", hours / n, "h"),
            Row(f"steps of the paper's run on {n} such device{'s' * (n > 1)}, scaled", 3 * hours, "$"),
        ]
    return rows


# ---- loading for a GPU


def paper_load_rates(scale: Scale, work: Path, size: int, batch: int) -> dict[str, float]:
    "Pairs per second, ready on the GPU, of some ways to get them there, and GB/s of copies to it."
    from sie.data import storage

    torch.set_num_threads(os.cpu_count())
    storage._decode_by_torchvision(
        [rendered(scale, work, size, scale.objects[0], scale.data.views).jpeg(0, 0)], torch.device("cuda")
    )  # raises where there is no nvJPEG
    dataset = as_released(rendered(scale, work, size, scale.objects[0], scale.data.views), work)
    objects, by_gpu = dataset.split("train"), storage._decode_by_torchvision

    def by_cpu(jpegs, device):
        raise RuntimeError("in this benchmark the CPU decodes")

    def ready(way, decode):
        def epoch():
            storage._decode_by_torchvision = decode
            try:
                yield from way(0)
            finally:
                storage._decode_by_torchvision = by_gpu
                torch.cuda.synchronize()

        return epoch

    def loader(in_memory):
        return ViewLoader(
            load_views(dataset, objects, in_memory=in_memory, device="cuda"),
            batch,
            0,
            draws=-(-4 * scale.pairs // len(objects)),
        ).epoch

    found = rates(
        {
            "nvJPEG": ready(loader(False), by_gpu),
            "CPU": ready(loader(False), by_cpu),
            "memory": ready(loader(True), by_gpu),
        },
        scale.repeats,
    )
    for name, pixels in {
        "pageable": torch.empty(2**28, dtype=torch.uint8),
        "pinned": torch.empty(2**28, dtype=torch.uint8, pin_memory=True),
    }.items():

        def copy(pixels=pixels):
            pixels.to("cuda", non_blocking=True)
            torch.cuda.synchronize()

        found[name] = len(pixels) / 1e9 / typical(copy, scale.seconds / 4)
    return found


def paper_loading(scale: Scale, work: Path) -> list[Row]:
    """Batches of the paper's 1,024 pairs of normalised 256 px images, ready on the GPU, from JPEG files of about the
    size of 3DIEBench's. With nvJPEG the GPU decodes. Otherwise the CPU decodes, in as many threads as it has cores,
    into pinned memory, and the images are copied while the CPU continues. Both work one batch ahead. Data in the
    GPU's memory need no decoding."""
    (found,) = fresh(paper_load_rates, scale, work, scale.large, 1024 if scale.compiled else 4)
    what, reference = (
        f"{scale.large} px as released, to {torch.cuda.get_device_name()}, ",
        f"decoded by {os.cpu_count()} threads of the CPU, pinned memory",
    )
    return [
        Row(what + reference, found["CPU"], "pairs/s"),
        Row(what + "decoded by nvJPEG", found["nvJPEG"], "pairs/s", what + reference),
        Row(what + "decoded before, in its memory", found["memory"], "pairs/s", what + reference),
        Row(what + "copied from pageable memory", found["pageable"], "GB/s"),
        Row(what + "copied from pinned memory", found["pinned"], "GB/s", what + "copied from pageable memory"),
    ]


# ---- predictor


def predictor_cost(scale: Scale, batch: int, materialised: bool) -> tuple[float, float]:
    """Milliseconds of forward and backward of the predictor, and the memory that they need beyond that of one sample,
    MiB."""
    from sie.method.predictors import Hypernetwork

    torch.manual_seed(0)
    dim = scale.widths // 2
    factored = Hypernetwork(4, dim)
    predictor = Materialised(factored) if materialised else factored
    z, g, out = torch.randn(batch, dim, requires_grad=True), torch.randn(batch, 4), torch.randn(batch, dim)

    def step(size=batch):
        predictor.zero_grad()
        z.grad = None
        predictor(z[:size], g[:size]).backward(out[:size])

    step(1)  # the libraries' own memory, and the gradient of H
    before = peak()
    seconds = typical(step, scale.seconds)
    needed = peak() - before
    torch.testing.assert_close(predictor(z[:4], g[:4]), factored(z[:4], g[:4]), rtol=1e-3, atol=1e-3)
    return 1000 * seconds, needed


def predictor(scale: Scale, work: Path) -> list[Row]:
    """Forward and backward of the linear hypernetwork in float32 on 2 threads, and the growth of the process's peak
    memory beyond that of a single sample. The reference makes the matrix W for each sample and multiplies with it;
    `sie.method.predictors` never makes it."""
    rows = []
    for batch in scale.batches:
        what = f"{scale.widths // 2} dimensions, batch {batch}, "
        costs = {
            how: fresh(predictor_cost, scale, batch, how == "W materialised", threads=2)[0]
            for how in ("W materialised", "factored")
        }
        for k, unit in enumerate(("ms", "MiB")):
            rows += [Row(f"{what}{how}", cost[k], unit, f"{what}W materialised") for how, cost in costs.items()]
    return rows


# ---- evaluation


@dataclass(frozen=True)
class Repeated(ProceduralRenderer):
    "Views of a few rendered objects again and again: a large data set in seconds."

    source: str = ""

    def __call__(self, synset, object_id, latents, seed):
        dataset = ViewDataset(self.source)
        return dataset.decode([seed % len(dataset)] * dataset.views, range(dataset.views)).permute(0, 2, 3, 1).numpy()


def full_size(scale: Scale, work: Path) -> ViewDataset:
    "A data set with as many objects, views and pixels as the preset's, made by whoever asks first."
    data = scale.data
    source = rendered(scale, work, data.image, scale.objects[1], data.views)
    renderer = Repeated(size=data.image, samples=data.samples, source=str(source.path))
    return render_dataset(work / "full", data.objects, renderer, views=data.views, workers=0)


def any_embedded(scale: Scale, settings):
    "An untrained model, and random numbers of the shapes that it would make of the data."
    from sie.evaluation.probes import Embedded
    from sie.method.pretraining import new_model

    data, model, rng = scale.data, new_model(settings).eval(), np.random.default_rng(0)
    labels = np.arange(len(data.objects)) // data.objects_per_class
    shape, embedding = (len(labels), data.views), model.heads["equivariant"][-1].out_features
    latents = torch.from_numpy(np.stack([sample_latents(data.views, rng) for _ in labels]))
    split = split_objects([synset for synset, _ in data.objects], data.val_fraction, data.test_fraction, data.seed)
    return model, Embedded(
        torch.randn(*shape, model.encoder.dim),
        latents,
        torch.from_numpy(labels),
        embeddings=torch.randn(*shape, embedding),
        **{name: torch.from_numpy(np.flatnonzero(split == name)) for name in ("train", "val", "test")},
    )


def evaluate_briefly(scale: Scale, settings, probe) -> float:
    "Seconds of a whole evaluation whose heads are trained for one epoch."
    from sie.evaluation.protocol import evaluate

    model, e = any_embedded(scale, settings)
    return timed(lambda: evaluate(e, model.split, replace(probe, epochs=1), model))


def embed_once(dataset: ViewDataset, settings) -> float:
    "Seconds to embed every view of a data set."
    from sie.evaluation.probes import embed
    from sie.method.pretraining import ImageFormat, new_model

    model = new_model(settings)
    return timed(lambda: embed(model, dataset, ImageFormat.of(dataset), settings.crop))


class HeadCosts(NamedTuple):
    "Seconds, measured on samples."

    release_epoch: float  # of training all heads in the release's way, one after another
    heads: int
    embedding: float  # of all views
    epoch: float  # of training all heads on the embeddings


def head_costs(scale: Scale, work: Path, settings, probe, size: int) -> HeadCosts:
    """What a data set of the preset's numbers of objects and views costs in both ways, which take turns: a third of
    the heads in the release's way, the embedding of a small data set, some epochs of all heads on embeddings."""
    from release_way import Head, file_loader

    from sie.evaluation.probes import read_off
    from sie.evaluation.protocol import _heads

    model, e = any_embedded(scale, settings)
    heads = _heads(e, model.split)
    few = replace(e, val=e.val[: len(e.val) // 50 + 1])  # scores are not part of an epoch
    encoder = model.encoder.train()  # as the release does, which moves the running statistics
    dataset, folder = beside_data(scale, work, size)
    cut = model.split.size("invariant")
    parts = {"all": slice(None), "invariant": slice(cut), "equivariant": slice(cut, None)}
    items = (1 + scale.steps) * probe.batch_size
    loaders = {n: file_loader(file_views(folder, dataset, items, n), probe.batch_size) for n in (1, 2)}

    def release_step(part: str, target: str, linear: bool) -> float:
        classes = int(e.labels.max()) + 1
        head = Head(encoder, parts[part], target, None if linear else probe.hidden, model.encoder.dim, classes)
        return timed_steps(loaders[head.views], head.step)[0]

    steps, embeddings, epochs = [], [], []
    for turn in range(3):
        embeddings.append(embed_once(dataset, settings) / len(dataset) / dataset.views)
        brief = replace(probe, epochs=scale.steps)
        epochs.append(timed(lambda: read_off(few, [*heads.values()], brief)) / brief.epochs)
        steps += [release_step(*head) for head in list(heads)[turn::3]]
    release_epoch = sum(steps) * len(e.train) / probe.batch_size
    return HeadCosts(release_epoch, len(heads), median(embeddings) * e.latents[..., 0].numel(), median(epochs))


def evaluation(scale: Scale, work: Path) -> list[Row]:
    """All that `sie evaluate` delivers of one checkpoint, on data of the default preset's numbers of objects and
    views: 27 heads (class, rotation, Euler angles, own rotation, colour; whole, invariant, equivariant; linear and,
    except for the class, MLP), trained for the paper's 300 epochs with batches of 256, and retrieval and PRE. Once
    with ResNet-18, the paper's projectors and heads (1,024 wide), once with the default preset's. All with 2 threads.

    The reference is the release's way (`release_way.py`): one head after another, each through the frozen encoder in
    training mode, on images from files that a `DataLoader` with 2 processes opens. It is **extrapolated** from a few
    training steps of each head:

    seconds = sum over the 27 heads of 300 epochs x (training objects / 256) x (seconds of a step of this head)

    In its favour, its validation, its start, and retrieval and PRE cost nothing. `sie` embeds every view once and
    trains all heads side by side on the embeddings:

    seconds = views x (seconds to embed a view) + 300 epochs x (seconds of an epoch of all heads) + scores

    The first two are extrapolated from 1,000 views and from a few epochs; "scores" (of the heads on every validation
    view, retrieval and PRE) is measured on the whole. Samples of both ways take turns in one process."""
    from sie.evaluation.probes import Probe
    from sie.method.pretraining import Settings

    rows, data = [], scale.data
    paper = Settings("sie", widths=[scale.widths] * 3, precision="32-true")
    default = scale.params.settings("sie_matrix", 0)
    for settings, size, hidden in (
        (paper, data.size, scale.widths // 2),
        (default, data.image, scale.params.probe().hidden),
    ):
        probe = Probe(hidden=hidden, batch_size=scale.batches[1])
        fresh(beside_data, scale, work, size)
        (costs,) = fresh(head_costs, scale, work, settings, probe, size, threads=2)
        scores = fresh(evaluate_briefly, scale, settings, probe, threads=2)[0]
        training = probe.epochs * costs.epoch
        what = f"{settings.encoder}, {size} px, "
        reference = f"{what}{costs.heads} heads in the release's way, extrapolated"
        views = len(data.objects) * data.views
        total = costs.embedding + training + scores
        rows += [
            Row(reference, probe.epochs * costs.release_epoch, "s"),
            Row(f"{what}embedding, {costs.heads} heads, retrieval and PRE, extrapolated", total, "s", reference),
            Row(f"{what}of it embedding of {views:,} views", costs.embedding, "s"),
            Row(f"{what}of it training of heads", training, "s"),
            Row(f"{what}of it scores of heads, retrieval and PRE", scores, "s"),
        ]
    return rows


# ---- memory


def pretrain_briefly(scale: Scale, work: Path) -> None:
    from sie.method.pretraining import pretrain

    pretrain(ViewDataset(work / "full"), replace(scale.params.settings("sie_matrix", 0), epochs=2), work / "model")


def render_all(scale: Scale, work: Path) -> None:
    data = scale.data
    render_dataset(
        work / "again",
        mixed(scale, scale.objects[1]),
        ProceduralRenderer(size=data.size, samples=data.samples),
        views=data.views,
    )


def memory(scale: Scale, work: Path) -> list[Row]:
    """Peak resident memory of each process at the default preset's size, libraries included (those that processes
    share are counted in each). Rendering needs the same memory for any number of objects, because it holds one
    unfinished shard of 32. The pipeline trains and evaluates one run on each core, so there are as many such
    processes."""
    fresh(full_size, scale, work)  # for those below to find
    settings = scale.params.settings("sie_matrix", 0)
    ((main, worker),) = fresh(peaks, render_all, scale, work)
    alone = {
        "training": (pretrain_briefly, scale, work),
        "embedding": (embed_once, ViewDataset(work / "full"), settings),
        "evaluation": (evaluate_briefly, scale, settings, scale.params.probe()),
    }
    return [
        Row("rendering, main process", main, "MiB"),
        Row("rendering, each worker", worker, "MiB"),
        *(Row(name, fresh(peaks, *call)[0][0], "MiB") for name, call in alone.items()),
    ]


# ---- results

BENCHMARKS = {
    f.__name__: f
    for f in (
        rendering,
        blender,
        packing,
        loading,
        scale,
        training,
        training_side_by_side,
        paper,
        paper_scaled,
        paper_loading,
        predictor,
        evaluation,
        memory,
    )
}
COLUMNS = ("benchmark", "setting", "value", "unit", "reference", "ratio", "command", "machine")


def tidy(name: str, rows: list[Row]) -> list[dict]:
    "Rows of the table; the ratio says how many times better than the reference."
    values = {(row.setting, row.unit): row.value for row in rows}

    def ratio(row):
        if row.reference in ("", row.setting):
            return ""
        if row.ratio is not None:
            return f"{row.ratio:.3g}"
        theirs = values[row.reference, row.unit]
        return f"{row.value / theirs if '/' in row.unit else theirs / max(row.value, 1e-9):.3g}"

    return [
        dict(
            zip(
                COLUMNS,
                (
                    name,
                    row.setting,
                    f"{row.value:.4g}",
                    row.unit,
                    "" if row.reference == row.setting else row.reference,
                    ratio(row),
                    f"python benchmarks/run.py --only {name}",
                    machine(),
                ),
            )
        )
        for row in rows
    ]


def machine() -> str:
    "One line on what was measured on."
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = models[0] if models else platform.processor() or platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{cpu}, {os.cpu_count()} cores, {gib:.0f} GiB of memory; {versions}"


def report(results: list[dict]) -> str:
    "The tables of README.md."
    lines = []
    for name, function in BENCHMARKS.items():
        rows = [r for r in results if r["benchmark"] == name]
        if not rows:
            continue
        lines += [
            "### " + name.replace("_", " ").capitalize(),
            "",
            *(line.strip() for line in function.__doc__.splitlines()),
            "",
            f"`{rows[0]['command']}` on {rows[0]['machine']}",
            "",
            "| setting | value | unit | times better | than |",
            "|---|---:|---|---:|---|",
        ]
        lines += [
            f"| {r['setting']} | {float(r['value']):,.3g} | {r['unit']} | {r['ratio']} | {r['reference']} |"
            for r in rows
        ] + [""]
    return "\n".join(lines[:-1])


def write(results: list[dict], names: list[str]) -> None:
    "Put new results in the place of old ones of these benchmarks, in results.csv and README.md."
    table, readme = HERE / "results.csv", HERE / "README.md"
    if table.exists():
        with table.open(newline="") as file:
            results = [r for r in csv.DictReader(file) if r["benchmark"] not in names] + results
    results.sort(key=lambda r: list(BENCHMARKS).index(r["benchmark"]))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(results)
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{report(results)}\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=BENCHMARKS,
        default=list(BENCHMARKS),
        metavar="NAME",
        help=f"which benchmarks: {', '.join(BENCHMARKS)}",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing is written")
    args = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    results, names = [], args.only
    if "blender" in names and importlib.util.find_spec("bpy") is None:
        print('blender, skipped and its old rows kept: its module bpy is not there (`pip install "sie[blender]"`)')
        names = [name for name in names if name != "blender"]
    if "paper_loading" in names and not torch.cuda.is_available():
        print("paper_loading, skipped and its old rows kept: there is no GPU")
        names = [name for name in names if name != "paper_loading"]
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            start = time.perf_counter()
            rows = tidy(name, BENCHMARKS[name](QUICK if args.quick else Scale(), Path(work)))
            print(f"{name}, {time.perf_counter() - start:.0f} s")
            for r in rows:
                print(
                    f"  {r['setting']}: {r['value']} {r['unit']}"
                    + f"   ({r['ratio']} times better than {r['reference']})" * bool(r["ratio"]),
                    flush=True,
                )
            results += rows
    if not args.quick:
        write(results, names)


if __name__ == "__main__":
    main()

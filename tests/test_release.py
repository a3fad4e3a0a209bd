"""The authors' release end to end, small, from a server on this machine: download, faults on the way, the pipeline.

Before that, generated data that is killed and made in parts."""

import hashlib
import http.server
import os
import re
import signal
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from copies import BIN, ROOT, change, copy_of_the_repository, environment, run
from test_dataset import Stripes

from sie.data.layout import LIST_NAMES, export_layout
from sie.data.rendering import render_dataset
from sie.data.storage import ViewDataset
from sie.objects.classes import CLASS_BY_SYNSET

OFFICIAL = ROOT.parent / "shared" / "official_splits"
SMALL = {
    "methods": ["sie"],
    "pretrain.epochs": 2,
    "pretrain.batch_size": 8,
    "pretrain.warmup": 1,
    "pretrain.log_every": 2,
    "evaluate.epochs": 2,
    "data.classes": ["airplane", "car", "chair", "mug"],
    "data.objects_per_class": 42,
    "data.views": 2,
}
RELEASE = {"data.source": "3diebench", "data.input": "data/3diebench"}


def objects() -> list[tuple[str, str]]:
    """Objects of the authors' validation list where it is at hand, else such names.

    3DIEBench has ids of 32 hexadecimal digits and ids that begin with u."""
    if OFFICIAL.is_dir():
        names = [tuple(name.strip("/").split("/")) for name in np.load(OFFICIAL / "val_images.npy").tolist()]
    else:
        names = [
            (synset, f"{'u' * (k % 2)}{hashlib.md5(f'{synset}{k}'.encode()).hexdigest()}")
            for synset in CLASS_BY_SYNSET
            for k in range(6)
        ]
    return [name for synset in list(CLASS_BY_SYNSET)[:24:6] for name in [n for n in names if n[0] == synset][:6]]


class Server(http.server.ThreadingHTTPServer):
    "Serves a dictionary of files; of those in `cut`, only the first half comes, as if the connection had broken."

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.asked = {}, set(), []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def log_message(self, *_):
        pass

    def answer(self, body: bool):
        name = self.path.rpartition("/")[2]
        self.server.asked.append(name)
        if (data := self.server.files.get(name)) is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
        self.end_headers()
        try:
            if body:
                self.wfile.write(data[: len(data) // 2] if name in self.server.cut else data)
        except ConnectionError:
            pass  # the client only wanted the headers


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> dict[str, bytes]:
    "Files as the authors have them: the archive with a top folder and licence, the lists apart."
    folder = tmp_path_factory.mktemp("release")
    export_layout(render_dataset(folder / "set", objects(), Stripes(24), views=6, workers=0), folder / "3DIEBench")
    for kind in ("images", "labels"):  # the authors have two lists: what is for testing here is their `val`
        arrays = {split: np.load(folder / f"3DIEBench/{split}_{kind}.npy") for split in ("train", "val", "test")}
        np.save(folder / f"3DIEBench/train_{kind}.npy", np.concatenate([arrays["train"], arrays["val"]]))
        np.save(folder / f"3DIEBench/val_{kind}.npy", arrays["test"])
        (folder / f"3DIEBench/test_{kind}.npy").unlink()
    lists = {name: (folder / "3DIEBench" / name).read_bytes() for name in LIST_NAMES}
    for name in LIST_NAMES:
        (folder / "3DIEBench" / name).unlink()
    (folder / "3DIEBench" / "LICENSE").write_text("CC-BY-NC")
    with tarfile.open(folder / "3DIEBench.tar.gz", "w:gz") as tar:
        tar.add(folder / "3DIEBench", "3DIEBench")
    return {"3DIEBench.tar.gz": (folder / "3DIEBench.tar.gz").read_bytes(), **lists}


@pytest.fixture(scope="module")
def repo(tmp_path_factory, server) -> Path:
    "A copy of the repository whose imports come from the server; the preset's sizes, few epochs."
    repo = copy_of_the_repository(tmp_path_factory.mktemp("clone") / "sie", "smoke")
    imports = [repo / "data.dvc", *sorted(repo.glob("splits/*.dvc"))]
    assert len(imports) == 5
    for path in imports:
        path.write_text(re.sub(r"https://\S+/", server.url + "/", path.read_text()))
    change(repo, **SMALL)
    return repo


def reproduce(repo: Path, *targets: str) -> tuple[int, str]:
    result = run(repo, "dvc", "repro", *targets)
    return result.returncode, result.stdout + result.stderr


ARCHIVE = Path("data/3diebench/3DIEBench.tar.gz")


def test_nothing_is_downloaded_unless_asked_for(repo, server):
    assert not {"data.dvc", "splits"} & set(re.split(r'["/\s]', run(repo, "dvc", "dag", "--dot", "report").stdout))
    assert (
        run(repo, "dvc", "status", "dvc.yaml").returncode == 0
        and run(repo, "dvc", "repro", "--dry", "fetch").returncode == 0
    )
    assert not server.asked and not (repo / "data").exists()
    change(repo, **RELEASE)
    dag = run(repo, "dvc", "dag", "--dot", "report").stdout
    assert "data.dvc" in dag and all(f"splits/{name}.dvc" in dag for name in LIST_NAMES)
    change(repo, **{"data.source": "procedural", "data.input": "sie/objects/gallery.py"})


def test_a_rendering_killed_under_dvc_goes_on_in_parts(repo, server):
    out = repo / "data/shards"

    def stamps():
        return {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.arrow")}

    process = subprocess.Popen(
        ["dvc", "repro", "fetch"],
        cwd=repo,
        env=environment(repo),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.time() + 300
    while not stamps():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while (now := stamps()) != (time.sleep(3), stamps())[1]:
        pass  # the notebook's kernel sees within a second that its parent is gone
    assert 0 < len(now) < 6 and not (out / "dataset.json").exists()
    code = run(repo, str(BIN / "sie"), "fetch", "1", "2").returncode  # what a job of an array does
    part = stamps()
    assert code == 0 and set(part) == set(now) | {f"shard-{k:05d}.arrow" for k in (1, 3, 5)} and part == part | now
    assert reproduce(repo, "fetch")[0] == 0
    assert len(stamps()) == 6 and stamps() == stamps() | part and len(ViewDataset(out)) == 4 * 42 and not server.asked


def test_broken_downloads_and_archives_stop_before_anything_is_packed(repo, server, release):
    whole = release["3DIEBench.tar.gz"]
    change(repo, **RELEASE)
    server.files.update(release)
    server.cut = {"3DIEBench.tar.gz"}  # the connection breaks
    code, said = reproduce(repo, "fetch")
    assert code and "3DIEBench.tar.gz" in said and not (repo / ARCHIVE).exists(), said
    server.cut = set()
    for broken, what in (
        (whole[: len(whole) // 2], "truncated or damaged"),  # half a file on the server
        (whole[:-8] + bytes(4) + whole[-4:], "truncated or damaged: CRC check failed"),
    ):  # a wrong checksum
        server.files["3DIEBench.tar.gz"] = broken
        code, said = reproduce(repo, "fetch")
        assert code and f"{ARCHIVE} is {what}" in said and not (repo / "data/views/dataset.json").exists(), said
    server.files.update(
        {"3DIEBench.tar.gz": whole, "val_labels.npy": release["val_labels.npy"][:-8]}
    )  # a list that is cut off
    code, said = reproduce(repo, "fetch")
    assert code and "val_labels.npy is not a NumPy array" in said, said


def test_mended_it_goes_on_to_the_report(repo, server, release):
    change(repo, **RELEASE)
    server.files.update(release)
    code, said = reproduce(repo)
    assert code == 0, said[-3000:]
    dataset = ViewDataset(repo / "data/views")
    assert (
        sorted(zip(dataset.synsets.tolist(), dataset.object_ids.tolist())) == sorted(objects()) and dataset.views == 6
    )
    test = dataset.split("test")
    names = {f"/{s}/{o}/" for s, o in zip(dataset.synsets[test], dataset.object_ids[test])}
    assert names == set(np.load(repo / "data/3diebench/val_images.npy").tolist())
    assert len(dataset.split("val")) >= 4  # one of each class
    assert (repo / "results/metrics.csv").is_file() and dataset.info["source"] == {
        "source": "3DIEBench.tar.gz",
        "lists": True,
        "val_fraction": 0.1,
        "seed": 0,
        "held_out": [],
    }
    code, said = reproduce(repo)
    assert code == 0 and "Running stage" not in said and "Importing" not in said and "up to date" in said
    assert not any((repo / ".dvc/cache").rglob(hashlib.md5(release["3DIEBench.tar.gz"]).hexdigest()[2:])), (
        "17 GB are stored twice"
    )

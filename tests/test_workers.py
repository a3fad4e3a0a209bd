"""Worker processes end with their parent, and a script without a main guard is reported.

Also the cores and the memory that a container has."""

import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from sie.data import storage
from sie.evaluation.probes import Probe
from sie.method.system import _group_memory, cores, free_memory, map_in_workers

OBJECTS = [(synset, f"{k:06d}") for synset in ("02691156", "02747177") for k in range(6)]


def for_ever():
    "What never returns, in a worker."
    if mp.parent_process() is None:
        return
    Path(sys.argv[1], "started").touch()
    time.sleep(3600)


@dataclass(frozen=True)
class Noise:
    "Stand-in renderer."

    size: int = 16

    def __call__(self, synset, object_id, latents, seed):
        return np.random.default_rng(seed).integers(0, 256, (len(latents), self.size, self.size, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Slow(Noise):
    def __call__(self, synset, object_id, latents, seed):
        for_ever()


class SlowAxis(str):
    def __eq__(self, other):
        return for_ever() or str.__eq__(self, other)

    __hash__ = str.__hash__


@dataclass(frozen=True)
class SlowProbe(Probe):
    def __getattribute__(self, name):
        if name == "epochs":
            for_ever()
        return super().__getattribute__(name)


# For each pool of the package: a script that would run for ever, and a file that exists once its workers are at work.
IMPORTS = """
import sys
from pathlib import Path
import test_workers as t

from sie.data.mesh_files import usable_models
from sie.data.rendering import render_dataset
from sie.evaluation.probes import embed
from sie.evaluation.protocol import evaluate_all
from sie.method.pretraining import ImageFormat, load_model, pretrain_all, Settings

here = Path(sys.argv[1])
tiny = dict(encoder="small", widths=(8, 8), batch_size=4, log_every=2, probe_views=0)


def run():
"""
POOLS = {
    "rendering": (
        "started",
        """
    render_dataset(here / "set", t.OBJECTS, t.Slow(), views=2, workers=2)
""",
    ),
    "checks of models": (
        "started",
        """
    models = {("02691156", str(k)): here / f"{k}.obj" for k in range(16)}
    for path in models.values():
        path.write_text("v 0 0 0\\nv 1 0 0\\nv 0 1 0\\nv 0 0 1\\nf 1 2 3\\nf 1 2 4\\nf 1 3 4\\nf 2 3 4\\n")
    usable_models(models, up=t.SlowAxis("y"), workers=2)
""",
    ),
    "pretraining": (
        "checkpoints",
        """
    data = render_dataset(here / "set", t.OBJECTS, t.Noise(), views=2, workers=0)
    runs = {str(seed): Settings(method="sie", seed=seed, epochs=10 ** 6, **tiny) for seed in range(2)}
    pretrain_all(data, runs, here / "models", here / "logs", here / "checkpoints", workers=2)
""",
    ),
    "evaluation": (
        "started",
        """
    names = "01"
    if not (here / "ready").exists():
        data = render_dataset(here / "set", t.OBJECTS, t.Noise(), views=2, workers=0)
        runs = {name: Settings(method="random", seed=int(name), **tiny) for name in names}
        pretrain_all(data, runs, here / "models", here / "logs", here / "checkpoints")
        for name in names: embed(load_model(here / "models" / name)[0], data, ImageFormat.of(data)).save(here / name)
        (here / "ready").touch()
    evaluate_all({name: here / name for name in names}, {name: here / "models" / name for name in names}, t.SlowProbe())
""",
    ),
}


def start(folder, pool, end):
    "A process that runs a pool, and what is there as soon as its workers are at work."
    begun, body = POOLS[pool]
    (folder / "script.py").write_text(IMPORTS + body + end)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(storage.__file__).parents[2])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONPATH": path}
    command = [sys.executable, folder / "script.py", folder]
    options = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options), folder / begun


def at_work(process, begun):
    "A process's children once they are at work, and those that are workers."
    deadline = time.time() + 120
    while not begun.is_file() and not (begun.is_dir() and any(begun.iterdir())):
        assert process.poll() is None and time.time() < deadline, process.stderr.read()
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    return children, [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.mark.parametrize("pool", POOLS)
def test_ctrl_c_is_the_parents_alone(tmp_path, pool):
    process, begun = start(tmp_path, pool, "\n\nif __name__ == '__main__': run()\n")
    children, workers = at_work(process, begun)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    try:
        said = process.communicate(timeout=60)[1]
        assert len(workers) >= 1 and not psutil.wait_procs(children, timeout=15)[1], "workers outlived their parent"
    finally:
        for child in children:
            if child.is_running():
                child.kill()
    assert process.returncode and said.count("Traceback (most") == 1, said
    assert said.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("pool", POOLS)
def test_workers_end_with_their_parent(tmp_path, pool):
    process, begun = start(tmp_path, pool, "\n\nif __name__ == '__main__': run()\n")
    children, workers = at_work(process, begun)
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        assert len(workers) >= 1 and not psutil.wait_procs(children, timeout=15)[1], "workers outlived their parent"
    finally:
        for child in children:
            if child.is_running():
                child.kill()


@pytest.mark.parametrize("pool", POOLS)
def test_a_script_without_a_main_guard_is_told_so(tmp_path, pool):
    process, _ = start(tmp_path, pool, "\n\nrun()\n")
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and not (tmp_path / "started").exists()
    assert error.count("Traceback") == 1 and "bootstrapping" not in error, error
    assert "worker processes import the script that starts them" in error and 'if __name__ == "__main__":' in error, (
        error
    )


SCRIPT = """
import sys

from sie.method.system import map_in_workers, start_worker

if __name__ == "__main__":
    print(list(map_in_workers(pow, [(2, 3)], int(sys.argv[1]))), flush=True)
    process = start_worker(print, "worked")
    process.join()
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_script_from_standard_input_is_told_to_be_a_file(tmp_path, workers):
    process = subprocess.run(
        [sys.executable, "-", str(workers)], input=SCRIPT, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 1 and process.stdout == ("" if workers else "[8]\n"), process.stderr
    assert process.stderr.count("Traceback") == 1 and "<stdin> is not a file" in process.stderr, process.stderr
    assert "Save the script as a file" in process.stderr and 'if __name__ == "__main__":' in process.stderr


@pytest.mark.parametrize("how", ["file", "-c", "-m"])
def test_scripts_that_workers_can_import(tmp_path, how):
    "A file is found from where the script was started, too."
    (tmp_path / "script.py").write_text(SCRIPT.replace("    print(", "    import os; os.chdir('/')\n    print("))
    command = {"file": ["script.py"], "-c": ["-c", SCRIPT], "-m": ["-m", "script"]}[how]
    process = subprocess.run([sys.executable, *command, "1"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0 and process.stdout == "[8]\nworked\n", process.stderr


def ended(how):
    os.kill(os.getpid(), signal.SIGKILL) if how == "killed" else os._exit(int(how))


def test_a_worker_that_ends_too_early():
    assert list(map_in_workers(pow, [(2, 3), (3, 2), (5, 1)], 0)) == [8, 9, 5]
    with pytest.raises(RuntimeError, match="memory ran out"):
        list(map_in_workers(ended, [("killed",)], 1))
    with pytest.raises(RuntimeError, match=r"\(exit code 3\); see its output above"):
        list(map_in_workers(ended, [("3",)], 1))
    results = map_in_workers(divmod, [(7, 2), (1, 0)], 1)
    assert next(results) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


# Cores and memory

GIB = 2**30
UNLIMITED = 9223372036854771712  # version 1's way to say so
GROUPS = {  # membership, files -> cores, GiB that are left (None: no limit)
    "no groups": ("", {}, 64, None),
    "version 2": ("0::/\n", {"cpu.max": "200000 100000", "memory.max": 4 * GIB, "memory.current": GIB}, 2, 3),
    "no limit": ("0::/a\n", {"a/cpu.max": "max 100000", "a/memory.max": "max", "a/memory.current": GIB}, 64, None),
    "part of a core": ("0::/\n", {"cpu.max": "20000 100000"}, 1, None),
    "a core and a half": ("0::/\n", {"cpu.max": "150000 100000"}, 2, None),
    "more than there are": ("0::/\n", {"cpu.max": "9900000 100000"}, 64, None),
    "nested, the outer less": (
        "0::/a/b\n",
        {
            "a/cpu.max": "300000 100000",
            "a/memory.max": 8 * GIB,
            "a/memory.current": 6 * GIB,
            "a/b/cpu.max": "max 100000",
            "a/b/memory.max": 7 * GIB,
            "a/b/memory.current": GIB,
        },
        3,
        2,
    ),
    "nested, the inner less": (
        "0::/a/b\n",
        {
            "a/cpu.max": "800000 100000",
            "a/memory.max": "max",
            "a/memory.current": 6 * GIB,
            "a/b/cpu.max": "400000 100000",
            "a/b/memory.max": 3 * GIB,
            "a/b/memory.current": GIB,
        },
        4,
        2,
    ),
    "other groups": ("0::/a\n", {"b/cpu.max": "100000 100000", "b/memory.max": GIB, "b/memory.current": 0}, 64, None),
    "cached files": (
        "0::/\n",
        {
            "memory.max": 4 * GIB,
            "memory.current": 3 * GIB,
            "memory.stat": f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB}",
        },
        64,
        3,
    ),
    "over the limit": ("0::/\n", {"memory.max": GIB, "memory.current": 2 * GIB}, 64, 0),
    "the host's path": (
        "0::/system.slice/docker-123.scope\n",
        {"cpu.max": "100000 100000", "memory.max": 2 * GIB, "memory.current": 0},
        1,
        2,
    ),
    "outside of the namespace": ("0::/../other\n", {"cpu.max": "100000 100000"}, 1, None),
    "version 1": (
        "5:memory:/job\n4:cpu,cpuacct:/job\n0::/\n",
        {
            "memory/job/memory.limit_in_bytes": 4 * GIB,
            "memory/job/memory.usage_in_bytes": 2 * GIB,
            "memory/memory.limit_in_bytes": UNLIMITED,
            "memory/memory.usage_in_bytes": 40 * GIB,
            "memory/job/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}\ntotal_active_file 0",
            "cpu,cpuacct/job/cpu.cfs_quota_us": 300000,
            "cpu,cpuacct/job/cpu.cfs_period_us": 100000,
        },
        3,
        3,
    ),
    "version 1, no limit": (
        "5:memory:/job\n4:cpu:/job\n",
        {
            "memory/job/memory.limit_in_bytes": UNLIMITED,
            "memory/job/memory.usage_in_bytes": 2 * GIB,
            "cpu/job/cpu.cfs_quota_us": -1,
            "cpu/job/cpu.cfs_period_us": 100000,
        },
        64,
        None,
    ),
    "version 1, the host's path": (
        "5:memory:/docker/123\n4:cpu:/docker/123\n",
        {
            "memory/memory.limit_in_bytes": 4 * GIB,
            "memory/memory.usage_in_bytes": GIB,
            "cpu/cpu.cfs_quota_us": 200000,
            "cpu/cpu.cfs_period_us": 100000,
        },
        2,
        3,
    ),
    "both versions": (
        "5:memory:/job\n0::/job\n",
        {
            "memory/job/memory.limit_in_bytes": 4 * GIB,
            "memory/job/memory.usage_in_bytes": GIB,
            "unified/job/cpu.max": "500000 100000",
        },
        5,
        3,
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_cores_and_memory_are_those_of_the_container(tmp_path, monkeypatch, case):
    membership, files, count, left = GROUPS[case]
    (tmp_path / "membership").write_text(membership)
    root = tmp_path / "root"
    root.mkdir()
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64))
    assert cores(root, tmp_path / "membership") == count
    free = _group_memory(root, tmp_path / "membership")
    assert free > 2**60 if left is None else free == left * GIB
    monkeypatch.setattr("sie.method.system._group_memory", lambda: free)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7 * GIB))
    assert free_memory(torch.device("cpu")) == (7 if left is None else left) * GIB


def test_without_control_groups(tmp_path):
    assert cores(tmp_path, tmp_path / "none") == len(os.sched_getaffinity(0)) and _group_memory(
        tmp_path, tmp_path / "none"
    ) == float("inf")
    assert 1 <= cores() <= os.cpu_count() and free_memory(torch.device("cpu")) > 0

"""Several processes give the losses, gradients and training of one process with the joined batch.

A killed process ends the job, which can then be resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sie.data.rendering import ProceduralRenderer, procedural_objects, render_dataset
from sie.data.storage import ViewDataset
from sie.method.pretraining import read_curves

WORKER = """
import torch, torch.distributed as dist
from sie.method.methods import METHODS, ViewOutputs, view_pairs

def outputs(method, leaves, labels):
    u, z, W = leaves
    pairs = view_pairs(len(u))
    g = torch.stack([u[j, :, :4].detach() for _, j in pairs])
    made = ViewOutputs(h=u, labels=labels, g=g, u=None, z=None, logits=None)
    if "invariant" in method.heads:
        made.u = u
    if "equivariant" in method.heads:
        made.z, made.predicted = z, torch.stack([z[i] @ W for i, _ in pairs])
    if "classifier" in method.heads:
        made.logits = u
    if "regressor" in method.heads:
        made.regressed = torch.stack([(u[i] * z[j])[:, :4] for i, j in pairs])
    return made

def gradient(x):
    return torch.zeros_like(x) if x.grad is None else x.grad

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
share = slice(rank * 12 // world, (rank + 1) * 12 // world)
labels = torch.arange(12) % 6
for views in (2, 3):
    joined = [*torch.randn(2, views, 12, 6, dtype=torch.float64), torch.randn(6, 6, dtype=torch.float64)]
    for method in METHODS.values():
        if not method.terms:
            continue
        whole = [x.clone().requires_grad_() for x in joined]
        expected, expected_terms = method.loss(outputs(method, whole, labels), .45)
        expected.backward()
        mine = [x.clone().requires_grad_() for x in [*(x[:, share] for x in joined[:2]), joined[2]]]
        loss, terms = method.loss(outputs(method, mine, labels[share]).gathered(), .45)
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        for name in terms:
            torch.testing.assert_close(terms[name], expected_terms[name], rtol=1e-12, atol=1e-12)
        for a, b in zip(mine[:2], whole):
            torch.testing.assert_close(gradient(a) / world, gradient(b)[:, share], rtol=1e-10, atol=1e-12)
        shared = gradient(mine[2]).clone()   # of the one parameter, which DistributedDataParallel averages
        dist.all_reduce(shared)
        torch.testing.assert_close(shared / world, gradient(whole[2]), rtol=1e-10, atol=1e-12)
        if rank == 0:
            print(method.name, len(terms), "terms")
dist.destroy_process_group()
"""


@pytest.mark.parametrize("processes", [2, 4])
def test_losses_and_gradients_are_those_of_the_joined_batch(tmp_path: Path, processes: int):
    from sie.method.methods import METHODS

    (tmp_path / "worker.py").write_text(WORKER)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        str(tmp_path / "worker.py"),
    ]
    result = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {line.split()[0] for line in result.stdout.splitlines()} == {m.name for m in METHODS.values() if m.terms}


# ---- a whole training

PLAIN = """
import sys
import torch
from torch import nn

class Affine(nn.Module):
    "Replaces batch normalisation, which on a CPU uses the statistics of each process's own share."

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        shape = (-1, *[1] * (x.ndim - 2))
        return x * self.weight.view(shape) + self.bias.view(shape)

nn.BatchNorm1d = nn.BatchNorm2d = Affine
from sie.method.pretraining import main
main(sys.argv[1])
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ViewDataset:
    return render_dataset(
        tmp_path_factory.mktemp("data") / "views",
        procedural_objects(7, ["02691156", "02958343", "03001627"]),
        ProceduralRenderer(size=24, samples=4),
        views=5,
        workers=0,
    )


def train(
    folder: Path, dataset: ViewDataset, processes: int, program=("-m", "sie.method.pretraining"), **settings
) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    common = dict(
        encoder="small",
        widths=(32, 32, 32),
        predictor={"init": "scaled"},
        batch_size=8,
        probe_views=40,
    )
    (folder / "run.json").write_text(
        json.dumps(
            {
                "dataset": str(dataset.path),
                "out": str(folder / "model"),
                "logs": str(folder / "logs"),
                "settings": common | settings,
            }
        )
    )
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            *program,
            str(folder / "run.json"),
        ],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(run: subprocess.Popen) -> str:
    _, said = run.communicate()
    assert run.returncode == 0, said[-3000:]
    return said


@pytest.mark.parametrize("views, optimiser", [(2, "adam"), (4, "adam"), (4, "muon")])
def test_any_number_of_processes_ends_in_the_same_weights(tmp_path, dataset, views, optimiser):
    (tmp_path / "plain.py").write_text(PLAIN)
    for n in (1, 2, 4):
        finish(
            train(
                tmp_path / str(n),
                dataset,
                n,
                [str(tmp_path / "plain.py")],
                views=views,
                optimiser=optimiser,
                precision="64-true",
                probe_views=0,
                epochs=6,
                log_every=5,
                lr=1e-3,
            )
        )
    one, two, four = (load_file(tmp_path / n / "model/model.safetensors") for n in "124")
    assert one["heads.invariant.0.weight"].dtype == torch.float64
    for name in one:
        for other in (two, four):
            torch.testing.assert_close(other[name], one[name], rtol=1e-6, atol=1e-8)
    curves = [read_curves(tmp_path / n / "logs").drop(columns="seconds") for n in "124"]
    assert len(curves[0]) == 2 and all(np.allclose(c[curves[0].columns], curves[0], atol=1e-6) for c in curves[1:])


def read_info(checkpoint: Path) -> dict:
    with safe_open(checkpoint, "pt") as file:
        return json.loads(file.metadata()["info"])


def rank_of(pid: int) -> str | None:
    try:
        found = re.search(rb"\0RANK=(\d+)\0", b"\0" + Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return None
    return found and found[1].decode()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="tells the processes apart by /proc")
def test_a_killed_rank_ends_the_job_and_the_next_start_goes_on(tmp_path, dataset):
    settings = dict(epochs=150, log_every=20)
    finish(train(tmp_path / "whole", dataset, 2, **settings))
    run, checkpoints = train(tmp_path / "killed", dataset, 2, **settings), tmp_path / "killed/checkpoints"
    while run.poll() is None and not list(checkpoints.glob("*.safetensors")):
        time.sleep(0.005)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(next(int(pid) for pid in workers if rank_of(pid) == "1"), signal.SIGKILL)
    _, said = run.communicate(timeout=120)
    assert run.returncode and re.search(r"rank\s*: 1 ", said) and "Signal 9 (SIGKILL)" in said, said[-3000:]
    assert not (tmp_path / "killed/model").exists() and not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    step = read_info(next(checkpoints.glob("*.safetensors")))["step"]
    finish(train(tmp_path / "killed", dataset, 2, **settings))
    rows = [read_curves(tmp_path / name / "logs").drop(columns="seconds") for name in ("killed", "whole")]
    assert 0 < step < rows[1]["step"].iloc[-1] and rows[0].equals(rows[1])
    assert (tmp_path / "killed/model/model.safetensors").read_bytes() == (
        tmp_path / "whole/model/model.safetensors"
    ).read_bytes()


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, dataset):
    run = train(tmp_path / "run", dataset, 2, batch_size=7)
    _, said = run.communicate()
    assert run.returncode and "2 processes cannot share batches of 7 equally" in said

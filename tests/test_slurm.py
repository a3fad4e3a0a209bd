"The SLURM scripts, with stand-ins for SLURM's commands: what they start, and what happens at the end of a job's time."
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from copies import BIN, ROOT, change, copy_of_the_repository, environment, run
from sie.dataset import ViewDataset
from sie.pretraining import read_curves

COMMANDS = {
    "srun": 'exec "$@"',
    "scontrol": '[ "$1" = show ] && echo localhost || echo "$@" >> scontrol.log',
}


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    repo = copy_of_the_repository(tmp_path_factory.mktemp("slurm") / "sie", "smoke")
    (repo / ".venv").symlink_to(BIN.parent)
    (repo / "fake").mkdir()
    for name, body in COMMANDS.items(): (repo / "fake" / name).write_text(f"#!/bin/sh\n{body}\n"); (repo / "fake" / name).chmod(0o755)
    change(repo, **{"methods": ["sie_matrix"], "data.classes": ["airplane", "chair", "mug", "sofa"], "pretrain.epochs": 300, "pretrain.batch_size": 8, "pretrain.log_every": 5})
    return repo


def start(repo: Path, script: str, *args: str, **slurm) -> subprocess.Popen:
    env = environment(repo)
    env |= {"PATH": f"{repo}/fake:{env['PATH']}", "SLURM_SUBMIT_DIR": str(repo), **{f"SLURM_{k}": str(v) for k, v in slurm.items()}}
    return subprocess.Popen(["bash", str(ROOT / "slurm" / script), *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_an_array_renders_and_one_job_finishes(repo):
    for task in (3, 4):
        job = start(repo, "fetch.sbatch", ARRAY_TASK_ID=task, ARRAY_TASK_MIN=3, ARRAY_TASK_COUNT=2)
        said, _ = job.communicate()
        assert job.returncode == 0, said
    shards = {p: p.stat().st_mtime_ns for p in (repo / "data/views").glob("shard-*.arrow")}
    assert shards and not (repo / "data/views/dataset.json").exists()
    assert run(repo, "dvc", "repro", "fetch").returncode == 0
    assert len(ViewDataset(repo / "data/views")) == 12 and all(p.stat().st_mtime_ns == stamp for p, stamp in shards.items())


def test_a_job_out_of_time_goes_back_into_the_queue_and_on(repo):
    job = dict(JOB_ID=7, JOB_NODELIST="localhost", NNODES=1, GPUS_ON_NODE=1, CPUS_PER_TASK=1)
    first = start(repo, "train.sbatch", "sie_matrix", "0", **job)
    checkpoints = repo / "runs/checkpoints"
    while first.poll() is None and not list(checkpoints.glob("*.safetensors")): time.sleep(.01)
    first.send_signal(signal.SIGUSR1)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 0 and "goes back into the queue" in said and (repo / "scontrol.log").read_text() == "requeue 7\n", said
    assert list(checkpoints.glob("*.safetensors")) and not (repo / "models").exists()
    second = start(repo, "train.sbatch", "sie_matrix", "0", **job)
    said, _ = second.communicate()
    assert second.returncode == 0, said
    left, = checkpoints.glob("*.safetensors")
    with safe_open(left, "pt") as file: history = json.loads(file.metadata()["info"])["history"]
    result = run(repo, "dvc", "repro", "pretrain")
    assert result.returncode == 0, result.stderr
    assert (repo / "models/sie_matrix/seed-0/model.safetensors").exists() and not left.exists()
    assert np.allclose(read_curves(repo / "results/pretrain/sie_matrix/seed-0")["seconds"], [row["seconds"] for row in history])   # taken up, not trained again

"The SLURM scripts, with stand-ins for SLURM's commands: what they start, and what happens at the end of a job's time."

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from copies import BIN, ROOT, change, copy_of_the_repository, environment, run
from safetensors import safe_open

from sie.data.rendering import ProceduralRenderer, procedural_objects, render_dataset
from sie.data.storage import ViewDataset
from sie.method.pretraining import launched, read_curves

COMMANDS = {
    "srun": 'exec "$@"',
    "scontrol": '[ "$1" = show ] && echo localhost || echo "$@" >> scontrol.log',
}


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    repo = copy_of_the_repository(tmp_path_factory.mktemp("slurm") / "sie", "smoke")
    (repo / ".venv").symlink_to(BIN.parent)
    (repo / "fake").mkdir()
    for name, body in COMMANDS.items():
        (repo / "fake" / name).write_text(f"#!/bin/sh\n{body}\n")
        (repo / "fake" / name).chmod(0o755)
    change(
        repo,
        **{
            "methods": ["sie_matrix"],
            "data.classes": ["airplane", "chair", "mug", "sofa"],
            "pretrain.epochs": 300,
            "pretrain.batch_size": 8,
            "pretrain.log_every": 5,
        },
    )
    return repo


def start(repo: Path, script: str, *args: str, **slurm) -> subprocess.Popen:
    env = environment(repo)
    env |= {
        "PATH": f"{repo}/fake:{env['PATH']}",
        "SLURM_SUBMIT_DIR": str(repo),
        **{f"SLURM_{k}": str(v) for k, v in slurm.items()},
    }
    return subprocess.Popen(
        ["bash", str(ROOT / "slurm" / script), *args],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_an_array_renders_and_one_job_finishes(repo):
    for task in (3, 4):
        job = start(repo, "fetch.sbatch", ARRAY_TASK_ID=task, ARRAY_TASK_MIN=3, ARRAY_TASK_COUNT=2)
        said, _ = job.communicate()
        assert job.returncode == 0, said
    shards = {p: p.stat().st_mtime_ns for p in (repo / "data/shards").glob("shard-*.arrow")}
    assert shards and not (repo / "data/shards/dataset.json").exists()
    assert run(repo, "dvc", "repro", "fetch").returncode == 0
    assert len(ViewDataset(repo / "data/views")) == 16 and all(
        p.stat().st_mtime_ns == stamp for p, stamp in shards.items()
    )


def test_a_job_out_of_time_goes_back_into_the_queue_and_on(repo):
    job = dict(JOB_ID=7, JOB_NODELIST="localhost", NNODES=1, GPUS_ON_NODE=1, CPUS_PER_TASK=1)
    first = start(repo, "train.sbatch", "sie_matrix", "0", **job)
    checkpoints = repo / "checkpoints"
    while first.poll() is None and not list(checkpoints.glob("*.safetensors")):
        time.sleep(0.01)
    first.send_signal(signal.SIGUSR1)
    said, _ = first.communicate(timeout=60)
    assert (
        first.returncode == 0
        and "goes back into the queue" in said
        and (repo / "scontrol.log").read_text() == "requeue 7\n"
    ), said
    assert list(checkpoints.glob("*.safetensors")) and not (repo / "models").exists()
    second = start(repo, "train.sbatch", "sie_matrix", "0", **job)
    said, _ = second.communicate()
    assert second.returncode == 0, said
    (left,) = checkpoints.glob("*.safetensors")
    with safe_open(left, "pt") as file:
        history = json.loads(file.metadata()["info"])["history"]
    result = run(repo, "dvc", "repro", "pretrain")
    assert result.returncode == 0, result.stderr
    assert (repo / "models/sie_matrix/seed-0/model.safetensors").exists() and not left.exists()
    assert np.allclose(
        read_curves(repo / "results/pretrain/sie_matrix/seed-0")["seconds"], [row["seconds"] for row in history]
    )  # taken up, not trained again


# ---- which processes SLURM's variables concern

JOB = {
    "SLURM_JOB_ID": "41007",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "1",
    "SLURM_NODELIST": "localhost",
}
SCRIPT = JOB | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
ALONE = {
    "salloc": JOB,
    "salloc --ntasks-per-node": JOB | {"SLURM_NTASKS_PER_NODE": "4"},
    "the script of sbatch": SCRIPT,
    "the script of sbatch on two machines": SCRIPT
    | {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_NODELIST": "gpu[3-4]"},
    "an interactive step": SCRIPT | {"SLURM_STEP_ID": str(0xFFFFFFFA)},
    "the script as a step": SCRIPT | {"SLURM_STEP_ID": str(0xFFFFFFFB)},
    "srun --ntasks=1": SCRIPT | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    "srun --pty bash": SCRIPT | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PTY_PORT": "40000"},
    "a kernel of srun --ntasks=4": SCRIPT | {"SLURM_STEP_ID": "0", "JPY_PARENT_PID": "1"},
    "torchrun's variables without torchrun": {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "RANK": "0"},
}
FABRIC = """
from sie.method.pretraining import make_fabric
fabric = make_fabric("32-true")
print(fabric.world_size, fabric.global_rank)
"""


def without_slurm() -> dict[str, str]:
    return {name: value for name, value in environment(ROOT).items() if not name.startswith(("SLURM_", "JPY_"))}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("situation", ALONE)
def test_slurms_variables_alone_change_nothing(situation, monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "JPY_"))]:
        monkeypatch.delenv(name)
    for name, value in ALONE[situation].items():
        monkeypatch.setenv(name, value)
    assert launched() is None


@pytest.mark.parametrize(
    "situation", ["salloc", "the script of sbatch on two machines", "torchrun's variables without torchrun"]
)
def test_a_process_in_a_job_trains_alone(situation):
    result = subprocess.run(
        [BIN / "python", "-c", FABRIC],
        env=without_slurm() | ALONE[situation],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == ["1", "0"]


def test_variables_of_a_task_on_several_machines(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    task = JOB | {
        "SLURM_STEP_ID": "2",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
        "SLURM_NNODES": "2",
        "SLURM_NODELIST": "gpu[07-08],big1",
    }
    for name, value in task.items():
        monkeypatch.setenv(name, value)
    found = launched()
    assert found == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": found["MASTER_PORT"],
    }
    assert 15_000 <= int(found["MASTER_PORT"]) < 25_000
    monkeypatch.setenv("SLURM_NTASKS", "5")
    with pytest.raises(ValueError, match="5 tasks on 2 machines"):
        launched()


TASK = JOB | {"SLURM_STEP_ID": "2", "SLURM_PROCID": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
BAD_VARIABLES = [
    (TASK, "SLURM_NTASKS", "abc"),
    (TASK, "SLURM_NTASKS", "0"),
    (TASK, "SLURM_NTASKS", "-1"),
    (TASK, "SLURM_NTASKS", "²"),
    (TASK, "SLURM_NTASKS", "4(x2)"),
    (TASK, "SLURM_STEP_NUM_TASKS", "2.0"),
    (TASK, "SLURM_NNODES", "0"),
    (TASK, "SLURM_STEP_NUM_NODES", "1-2"),
    (TASK, "SLURM_PROCID", "first"),
    (TASK, "SLURM_LOCALID", "0,1"),
    (TASK, "SLURM_NODEID", "gpu1"),
    (TASK, "SLURM_JOB_ID", "41007_1"),
    (TASK, "SLURM_STEP_ID", "9" * 20),
    (TORCHRUN, "WORLD_SIZE", "two"),
    (TORCHRUN, "WORLD_SIZE", ""),
    (TORCHRUN, "LOCAL_WORLD_SIZE", "0"),
    (TORCHRUN, "RANK", "-1"),
    (TORCHRUN, "LOCAL_RANK", None),
]


@pytest.mark.parametrize(("variables", "name", "value"), BAD_VARIABLES)
def test_a_variable_of_a_task_that_is_no_number_is_named(variables, name, value, monkeypatch):
    for other in [n for n in os.environ if n.startswith(("SLURM_", "JPY_"))]:
        monkeypatch.delenv(other)
    for key, said in (variables | {name: value}).items():
        if said is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, said)
    says = (
        f"variable {name} is {re.escape(repr(value))}; it must be a whole number"
        if value
        else f"variable {name} is not set"
    )
    with pytest.raises(ValueError, match=says):
        launched()


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "SLURM_NNODES", "SLURM_STEP_ID", "SLURM_PROCID"])
def test_a_variable_that_is_no_number_does_not_matter_to_a_process_alone(name, monkeypatch):
    for other in [n for n in os.environ if n.startswith(("SLURM_", "JPY_"))]:
        monkeypatch.delenv(other)
    for key, said in (JOB | {name: "abc"}).items():
        monkeypatch.setenv(key, said)
    assert launched() is None


def test_tasks_of_srun_train_together_as_processes_of_torchrun_do(tmp_path):
    dataset = render_dataset(
        tmp_path / "views",
        procedural_objects(6, ["02691156", "02958343"]),
        ProceduralRenderer(size=24, samples=1),
        views=3,
        workers=0,
    )
    settings = {
        "encoder": "small",
        "widths": [16, 16, 16],
        "epochs": 2,
        "batch_size": 4,
        "log_every": 2,
        "probe_views": 0,
    }
    for name in ("srun", "torchrun"):
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"dataset": str(dataset.path), "out": str(tmp_path / name), "settings": settings})
        )
    program = ["-m", "sie.method.pretraining"]
    task = JOB | {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0", "MASTER_PORT": str(free_port())}
    started = []
    for rank in "01":
        variables = without_slurm() | task | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        started.append(
            subprocess.Popen(
                [BIN / "python", *program, tmp_path / "srun.json"], env=variables, stderr=subprocess.PIPE, text=True
            )
        )
    for process in started:
        _, said = process.communicate(timeout=180)
        assert process.returncode == 0, said[-3000:]
    command = [
        BIN / "python",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        *program,
        tmp_path / "torchrun.json",
    ]
    assert subprocess.run(command, env=without_slurm()).returncode == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("srun", "torchrun")]
    assert weights[0] == weights[1]

"Pretraining under faults: killed at any moment, it goes on and ends in the same weights; runs side by side."

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sie.data.rendering import ProceduralRenderer, procedural_objects, render_dataset
from sie.data.storage import ViewDataset, _decode_by_torchvision
from sie.evaluation.probes import Probe, embed
from sie.evaluation.protocol import evaluate_all
from sie.method.pretraining import (
    ImageFormat,
    Settings,
    _train,
    checkpoint_path,
    load_model,
    new_model,
    pretrain,
    pretrain_all,
    read_curves,
)

SMALL = dict(
    encoder="small",
    widths=(32, 32, 32),
    predictor={"init": "scaled"},
    epochs=40,
    batch_size=8,
    log_every=7,
    probe_views=40,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ViewDataset:
    return render_dataset(
        tmp_path_factory.mktemp("data") / "views",
        procedural_objects(7, ["02691156", "02958343", "03001627"]),
        ProceduralRenderer(size=24, samples=4),
        views=5,
        workers=0,
    )


def start(folder: Path, dataset: ViewDataset, **settings) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(
        json.dumps(
            {
                "dataset": str(dataset.path),
                "out": str(folder / "model"),
                "logs": str(folder / "logs"),
                "settings": {**SMALL, **settings},
            }
        )
    )
    return subprocess.Popen(
        [sys.executable, "-m", "sie.method.pretraining", str(folder / "run.json")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(
    "settings",
    [{"method": "sie_matrix"}, {"method": "supervised"}, {"method": "sie_matrix", "optimiser": "muon", "views": 4}],
    ids=["sie_matrix", "supervised", "muon"],
)
def test_killed_and_started_again_ends_in_the_same_weights(tmp_path, dataset, settings):
    whole = start(tmp_path / "whole", dataset, **settings)
    assert whole.wait() == 0, whole.stderr.read()
    kills = 0
    for _ in range(20):
        run = start(tmp_path / "killed", dataset, **settings)
        checkpoints, before = tmp_path / "killed/checkpoints", _newest(tmp_path / "killed/checkpoints")
        while run.poll() is None and (kills >= 3 or _newest(checkpoints) == before):
            time.sleep(0.005)  # kill it soon after its next checkpoint
        if run.poll() is not None:
            break
        time.sleep(0.013 * kills)
        run.send_signal(signal.SIGKILL)
        run.wait()
        kills += run.returncode == -signal.SIGKILL
    assert run.returncode == 0, run.stderr.read()
    assert kills >= 2, "the run was over before it could be killed twice"
    assert (tmp_path / "killed/model/model.safetensors").read_bytes() == (
        tmp_path / "whole/model/model.safetensors"
    ).read_bytes()
    curves = [read_curves(tmp_path / name / "logs").drop(columns="seconds") for name in ("killed", "whole")]
    assert curves[0].equals(curves[1]) and len(curves[0]) > 3
    assert not list(checkpoints.iterdir())


def _newest(folder: Path) -> float:
    return max((p.stat().st_mtime_ns for p in folder.glob("*.safetensors")), default=0)


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path, dataset):
    run = start(tmp_path, dataset)
    while run.poll() is None and not _newest(tmp_path / "checkpoints"):
        time.sleep(0.005)
    run.kill()
    run.wait()
    other = start(tmp_path, dataset, lr=2e-3)
    assert other.wait() == 0, other.stderr.read()
    assert load_model(tmp_path / "model")[1].lr == 2e-3
    assert read_curves(tmp_path / "logs")["lr"].eq(2e-3).all()


def test_seeds_side_by_side_are_what_they_are_alone(tmp_path, dataset):
    runs = {f"seed-{s}": Settings(**SMALL, seed=s) for s in range(2)}
    curves = pretrain_all(dataset, runs, tmp_path / "models", tmp_path / "logs", tmp_path / "checkpoints", workers=2)
    assert [c["step"].iloc[-1] for c in curves] == [40, 40]
    alone = start(tmp_path / "alone", dataset, seed=1)
    assert alone.wait() == 0, alone.stderr.read()
    weights = [
        load_model(p)[0].state_dict()
        for p in (tmp_path / "models/seed-1", tmp_path / "alone/model", tmp_path / "models/seed-0")
    ]
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values()))
    assert not all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[2].values()))


def test_one_run_needs_no_process_and_is_evaluated_as_beside_others(tmp_path, dataset, monkeypatch):
    def one_or_two(names):
        return evaluate_all(
            {n: tmp_path / f"{n}.safetensors" for n in names},
            {n: tmp_path / "models" / n for n in names},
            Probe(epochs=3, hidden=8),
        )

    for seed in range(2):
        with monkeypatch.context() as without:
            without.setattr("sie.method.pretraining.mp.get_context", None)
            (curves,) = pretrain_all(
                dataset,
                {f"seed-{seed}": Settings(**SMALL, seed=seed)},
                tmp_path / "models",
                tmp_path / "logs",
                tmp_path / "checkpoints",
            )
        assert curves["step"].iloc[-1] == 40
        embed(load_model(tmp_path / f"models/seed-{seed}")[0], dataset, ImageFormat.of(dataset)).save(
            tmp_path / f"seed-{seed}.safetensors"
        )
    both = one_or_two(["seed-0", "seed-1"])
    alone = one_or_two(["seed-1"])
    assert alone["value"].notna().all() and len(alone) * 2 == len(both)
    assert abs(alone["value"].to_numpy() - both[both["name"] == "seed-1"]["value"].to_numpy()).max() < 1e-4


def test_a_failed_run_is_named(tmp_path, dataset):
    runs = {"good": Settings(**SMALL), "bad": Settings(**{**SMALL, "batch_size": 10_000})}
    with pytest.raises(RuntimeError, match="bad"):
        pretrain_all(dataset, runs, tmp_path / "models", tmp_path / "logs", tmp_path / "checkpoints", workers=2)
    assert (tmp_path / "models/good/model.safetensors").exists() and not (tmp_path / "models/bad").exists()
    finished = read_curves(tmp_path / "logs/good")["seconds"].tolist()
    for name in ("models", "logs"):
        shutil.rmtree(tmp_path / name)  # as DVC does
    runs["bad"] = Settings(**{**SMALL, "seed": 1, "epochs": 2})
    curves = pretrain_all(dataset, runs, tmp_path / "models", tmp_path / "logs", tmp_path / "checkpoints", workers=2)
    assert curves[0]["seconds"].tolist() == finished


STAGE = """
import json, sys
from pathlib import Path
from sie.data.storage import ViewDataset
from sie.method.pretraining import ImageFormat, pretrain_all, Settings
if __name__ == "__main__":
    folder, path, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    runs = {f"seed-{seed}": Settings(**settings, seed=seed) for seed in range(2)}
    pretrain_all(ViewDataset(path), runs, folder / "models", folder / "logs", folder / "checkpoints", workers=1)
"""


def stage(folder: Path, dataset: ViewDataset, **settings) -> subprocess.Popen:
    "Two seeds, one after the other, as DVC starts the stage: without what it made before."
    shutil.rmtree(folder / "models", ignore_errors=True)
    shutil.rmtree(folder / "logs", ignore_errors=True)
    folder.mkdir(exist_ok=True)
    (folder / "stage.py").write_text(STAGE)
    command = [
        sys.executable,
        str(folder / "stage.py"),
        str(folder),
        str(dataset.path),
        json.dumps({**SMALL, **settings}),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_the_second_seed(run: subprocess.Popen, folder: Path) -> None:
    "Until the first model is written and the second run has a checkpoint."
    while run.poll() is None and not list((folder / "checkpoints").glob("*-1-*.safetensors")):
        time.sleep(0.005)
    assert run.poll() is None, "the stage was over before it could be stopped: " + run.stderr.read()
    assert (folder / "models/seed-0/model.safetensors").exists()


def seconds(folder: Path, seed: int) -> list[float]:
    "When the points of a curve were reached: other values if the run is trained again."
    return read_curves(folder / f"logs/seed-{seed}")["seconds"].tolist()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stage_stopped_before_its_last_seed_keeps_the_finished_one(tmp_path, dataset, how):
    whole = stage(tmp_path / "whole", dataset)
    assert whole.wait() == 0, whole.stderr.read()
    run, folder = stage(tmp_path / "stopped", dataset), tmp_path / "stopped"
    wait_for_the_second_seed(run, folder)
    finished = seconds(folder, 0)
    os.kill(run.pid, how) if how == signal.SIGKILL else os.killpg(run.pid, how)
    assert run.wait(20) != 0
    (begun,) = (folder / "checkpoints").glob("*-1-*.safetensors")
    with safe_open(begun, "pt") as file:
        step = json.loads(file.metadata()["info"])["step"]
    again = stage(folder, dataset)
    assert again.wait() == 0, again.stderr.read()
    assert seconds(folder, 0) == finished  # taken up, not trained again
    assert 0 < step < 40
    for seed in range(2):
        models = [tmp_path / name / f"models/seed-{seed}/model.safetensors" for name in ("whole", "stopped")]
        assert models[0].read_bytes() == models[1].read_bytes()
    assert not list((folder / "checkpoints").glob("*.safetensors"))


def test_a_finished_seed_of_other_settings_or_code_is_not_taken_up(tmp_path, dataset, monkeypatch):
    folders = [tmp_path / name for name in ("models", "logs", "checkpoints")]
    steps = []

    def runs(**settings):
        return {"run": Settings(**{**SMALL, "epochs": 2, **settings})}

    monkeypatch.setattr("sie.method.pretraining._train", lambda *args: steps.append(args[1].lr) or _train(*args))
    for settings in ({}, {}, {"lr": 2e-3}):
        pretrain_all(dataset, runs(**settings), *folders)
    assert steps == [1e-3, 2e-3]
    monkeypatch.setattr("sie.method.pretraining._code", lambda: "other")
    pretrain_all(dataset, runs(lr=2e-3), *folders)
    assert steps == [1e-3, 2e-3, 2e-3]


def test_leftovers_go_with_the_next_stage_that_has_all_of_its_runs(tmp_path, dataset, monkeypatch):
    folders = [tmp_path / name for name in ("models", "logs", "checkpoints")]
    settings = Settings(**{**SMALL, "epochs": 2})
    monkeypatch.setattr("sie.method.pretraining._code", lambda: "older")
    pretrain(dataset, settings, None, checkpoints=folders[2])
    monkeypatch.undo()
    (folders[2] / "of-another-run.safetensors").touch()
    pretrain_all(dataset, {"run": settings}, *folders)

    def left():
        return sorted(str(p.relative_to(folders[2])) for p in folders[2].rglob("*.safetensors"))

    assert left() == [f"done/{checkpoint_path('', dataset, settings)}", "of-another-run.safetensors"]
    other = Settings(**{**SMALL, "epochs": 3})
    pretrain_all(dataset, {"run": other}, *folders)
    assert left() == [f"done/{checkpoint_path('', dataset, other)}", "of-another-run.safetensors"]


def test_a_damaged_checkpoint_is_named(tmp_path, dataset):
    settings = stopped(dataset, tmp_path)
    checkpoint = checkpoint_path(tmp_path / "checkpoints", dataset, settings)
    whole = checkpoint.read_bytes()
    for damaged in (b"", whole[:7], whole[:1000], b"\0" * len(whole), whole[:-1000]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{checkpoint.name} is damaged .*remove it"):
            pretrain(dataset, settings, tmp_path / "model")
    checkpoint.write_bytes(whole)
    pretrain(dataset, settings, tmp_path / "model")


def test_random_is_the_untrained_encoder(tmp_path, dataset):
    settings = Settings(**{**SMALL, "method": "random", "seed": 3})
    pretrain_all(dataset, {"random": settings}, tmp_path / "models", tmp_path / "logs", tmp_path / "checkpoints")
    model, fresh = load_model(tmp_path / "models/random")[0], new_model(settings)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), fresh.state_dict().values()))


def test_damaged_models_are_refused(tmp_path, dataset):
    run = start(tmp_path, dataset, epochs=1)
    assert run.wait() == 0, run.stderr.read()
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["settings"]["widths"] = [32, 32, 16]
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="heads.invariant"):
        load_model(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        load_model(tmp_path / "model")


class Stop(Exception):
    pass


def stopped(dataset: ViewDataset, folder: Path, at: int = 20) -> Settings:
    "What a run was started with that was stopped at a step."

    def progress(step, steps, loss):
        if step == at:
            raise Stop

    settings = Settings("sie_matrix", **SMALL)
    with pytest.raises(Stop):
        pretrain(dataset, settings, folder / "model", progress=progress)
    return settings


def test_a_checkpoint_of_other_code_is_not_used(tmp_path, dataset, monkeypatch):
    settings, seen = stopped(dataset, tmp_path), []
    with monkeypatch.context() as patch:
        patch.setattr("sie.method.pretraining._code", lambda: "other")
        pretrain(
            dataset,
            settings,
            tmp_path / "other",
            checkpoints=tmp_path / "checkpoints",
            progress=lambda step, steps, loss: seen.append(step),
        )
    assert seen[0] == 1
    seen.clear()
    pretrain(dataset, settings, tmp_path / "model", progress=lambda step, steps, loss: seen.append(step))
    assert seen[0] == 15  # the last checkpoint was at step 14


def test_curves_are_written_while_a_run_goes_on(tmp_path, dataset, monkeypatch):
    settings, logs, seen = Settings("sie_matrix", **SMALL), tmp_path / "logs", {}

    def progress(step, steps, loss):
        seen[step] = loss, read_curves(logs)["step"].tolist()

    history = pretrain(dataset, settings, tmp_path / "model", logs, progress=progress)
    losses = [row["train/loss"] for row in history]
    assert seen[6] == (None, []) and seen[7] == (losses[0], [7])
    assert seen[20] == (losses[1], [7]) and seen[40] == (losses[-1], [7])  # not even 15 seconds have passed
    assert read_curves(logs)["step"].tolist() == [7, 14, 21, 28, 35, 40]
    monkeypatch.setattr("sie.method.pretraining._LiveCurves.EVERY", 0)
    pretrain(dataset, settings, tmp_path / "again/model", logs, progress=progress)
    assert seen[20] == (losses[1], [7, 14])


def test_the_progress_of_runs_side_by_side_is_one_file(tmp_path, dataset):
    state, seen = tmp_path / "progress.json", []
    os.environ["SIE_PROGRESS"] = str(state)
    try:
        run = stage(tmp_path / "stage", dataset)
    finally:
        del os.environ["SIE_PROGRESS"]
    while run.poll() is None:
        if state.exists():
            seen.append(json.loads(state.read_text()))
        time.sleep(0.005)
    assert run.returncode == 0, run.stderr.read()
    last = json.loads(state.read_text())
    assert {shown["what"] for shown in seen} == {"pretraining"}  # nothing from the processes of the runs
    assert last["done"] == last["total"] == 80 and re.fullmatch(r"loss \S+, \S+", last["note"])
    times = sorted({shown["time"] for shown in seen} | {last["time"]})
    assert all(after - before >= 0.99 for before, after in zip(times[1:-1], times[2:-1]))
    assert [path.name for path in tmp_path.glob("progress*")] == [state.name]


def test_tensorboard_has_each_point_of_an_interrupted_run_once(tmp_path, dataset):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = stopped(dataset, tmp_path)
    history = pretrain(dataset, settings, tmp_path / "model")
    events = EventAccumulator(str(tmp_path / "tensorboard/sie_matrix-0")).Reload()
    points = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert points == [(row["step"], pytest.approx(row["train/loss"])) for row in history]


def test_a_compiled_run_that_was_stopped_goes_on_and_ends_in_the_same_weights(tmp_path, dataset, monkeypatch):
    seen, compile = [], torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **_: seen.append(model) or compile(model, backend="eager", fullgraph=True)
    )  # Inductor takes a minute
    settings = stopped(dataset, tmp_path)
    assert not seen  # nothing is compiled on a CPU by itself
    whole, resumed = (
        pretrain(dataset, settings, tmp_path / name / "model", checkpoints=tmp_path / name2, compiled=True)
        for name, name2 in (("whole", "new"), ("resumed", "checkpoints"))
    )
    assert seen and [row["step"] for row in whole] == [row["step"] for row in resumed]
    states = [load_model(tmp_path / name / "model")[0].state_dict() for name in ("whole", "resumed")]
    assert states[0].keys() == states[1].keys() and all(
        torch.equal(a, b) for a, b in zip(*(s.values() for s in states))
    )


def test_what_is_long_enough_is_compiled_where_it_can_be(tmp_path, dataset, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: seen.append(model) or model)
    monkeypatch.setattr("sie.method.pretraining._can_compile", lambda device: True)
    settings = Settings("sie_matrix", **{**SMALL, "epochs": 2})
    steps = pretrain(dataset, settings, None, checkpoints=tmp_path / "few")[-1]["step"]
    for limit in (1, 0):
        monkeypatch.setattr("sie.method.pretraining.COMPILED_FROM", steps * 8 * 24 * 24 + limit)
        assert not seen
        pretrain(dataset, settings, None, checkpoints=tmp_path / str(limit))
    assert seen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_interrupted_run_goes_on_and_is_evaluated_on_a_gpu(tmp_path, dataset):
    history = pretrain(dataset, stopped(dataset, tmp_path), tmp_path / "model")
    assert [row["step"] for row in history] == [7, 14, 21, 28, 35, 40]
    embed(load_model(tmp_path / "model")[0].to("cuda"), dataset, ImageFormat.of(dataset)).save(
        tmp_path / "e.safetensors"
    )
    results = evaluate_all({"run": tmp_path / "e.safetensors"}, {"run": tmp_path / "model"}, Probe(epochs=2, hidden=8))
    assert results["value"].notna().all() and {"pre", "mrr", "top1", "rotation_r2_pooled", "rotation_degrees"} <= set(
        results["metric"]
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_compiled_or_not_trains_as_the_cpu_does(dataset, tmp_path, monkeypatch):
    from lightning_fabric import Fabric

    settings = Settings("sie_matrix", **{**SMALL, "epochs": 3, "log_every": 2, "precision": "32-true"})
    losses, seen, compile = {}, [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: seen.append(model) or compile(model, **options))
    for name, device, compiled in (("cpu", "cpu", False), ("gpu", "cuda", False), ("compiled", "cuda", True)):
        history = pretrain(
            dataset,
            settings,
            None,
            checkpoints=tmp_path / name,
            fabric=Fabric(accelerator=device, devices=1),
            compiled=compiled,
        )
        losses[name] = torch.tensor([row["train/loss"] for row in history])
        assert bool(seen) == compiled
    torch.testing.assert_close(
        losses["gpu"], losses["cpu"], rtol=0.02, atol=0
    )  # convolutions have 10 bits of mantissa there
    torch.testing.assert_close(losses["compiled"], losses["cpu"], rtol=0.02, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_both_ways_to_decode_for_a_gpu_agree(dataset, monkeypatch):
    objects, views = [0, 3, 5], [1, 4, 0]

    def refuse(jpegs, device):
        raise RuntimeError

    _decode_by_torchvision([dataset.jpeg(0, 0)], torch.device("cuda"))  # else both would be the CPU's
    by_gpu = dataset.decode(objects, views, 16, "cuda")
    monkeypatch.setattr("sie.data.storage._decode_by_torchvision", refuse)
    by_cpu = dataset.decode(objects, views, 16, "cuda")
    assert by_gpu.is_cuda and by_cpu.is_cuda and by_gpu.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(by_cpu.cpu(), dataset.decode(objects, views, 16))
    assert (by_gpu.int() - by_cpu.int()).abs().max() <= 4 and (by_gpu.int() - by_cpu.int()).abs().float().mean() < 1

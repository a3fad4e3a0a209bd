"""A pipeline that is killed ten times at random moments, or in the middle of a stage, still ends as an undisturbed run.

Results are equal to the bit. The moments are drawn with the seed SIE_KILL_SEED (0 by default); a failed test shows
the seed and the moments."""

import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
from copies import change, copy_of_the_repository, environment, run

from sie.method.pretraining import read_curves
from sie.pipeline.places import check_dvc

SEED, KILLS = int(os.environ.get("SIE_KILL_SEED", 0)), 10
TINY = {
    "methods": ["sie"],
    "pretrain.seeds": [0],
    "pretrain.widths": [16, 16, 16],
    "pretrain.epochs": 40,
    "pretrain.batch_size": 8,
    "pretrain.log_every": 10,
    "pretrain.probe_views": 20,
    "data.classes": ["airplane", "chair"],
    "data.objects_per_class": 6,
    "evaluate.epochs": 3,
    "evaluate.hidden": 8,
}


STAGES = ("fetch", "pretrain@sie", "embed@sie", "evaluate@sie", "report")


class Pipeline:
    "`dvc repro` as the leader of a process group, and when it began each of its stages, in seconds from its own start."

    def __init__(self, repo: Path, *arguments: str, **options):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(
            ["dvc", "repro", *arguments], cwd=repo, env=environment(repo), start_new_session=True, **pipes, **options
        )
        self.started, self.said, self.stages = time.monotonic(), [], {}
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.match("Running stage '(.*)':", line):
                self.stages[found[1]] = self.seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def duration(self, stage: str) -> float:
        "Seconds that a stage takes, with what DVC does about it until the next one begins; waits until that is known."
        names = list(STAGES)
        following = names[names.index(stage) + 1 :]
        while self.running and not self.stages.keys() & following:
            time.sleep(0.05)
        until = min([self.stages[s] for s in following if s in self.stages], default=self.seconds)
        assert stage in self.stages, "".join(self.said)[-3000:]
        return until - self.stages[stage]

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def signal_group(self, what: int) -> None:
        try:
            os.killpg(self.process.pid, what)
        except ProcessLookupError:
            pass  # it is over

    def end(self) -> int:
        code = self.process.wait()
        self.reader.join()
        return code


def copy(folder: Path) -> Path:
    repo = copy_of_the_repository(folder / "sie", "smoke")
    change(repo, **TINY)
    return repo


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, Pipeline]:
    "A copy of the repository in which nothing disturbs the pipeline, which runs beside what is killed."
    repo = copy(tmp_path_factory.mktemp("whole"))
    pipeline = Pipeline(repo)
    yield repo, pipeline
    pipeline.signal_group(signal.SIGKILL)  # of a failed test: it is over else
    pipeline.end()


def finished(undisturbed: tuple[Path, Pipeline]) -> Path:
    "The undisturbed copy, when all is made."
    repo, pipeline = undisturbed
    assert pipeline.end() == 0, "".join(pipeline.said)[-3000:]
    return repo


def left(repo: Path, seconds: float = 10) -> list[str]:
    """Command lines of the processes that still work in the copy after so many seconds.

    Kernels and workers have process groups of their own, and a kernel checks once a second whether its parent lives."""
    until = time.monotonic() + seconds
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(repo):
                    found.append(" ".join(process.cmdline()))
            except (psutil.Error, OSError):
                pass
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.1)


def made(repo: Path) -> dict[str, bytes]:
    "Every metric, table, model, embedding and picture that the pipeline made."
    files = [*repo.glob("results/**/*.csv"), *repo.glob("results/**/*.json"), *repo.glob("results/tables/*")]
    for folder in ("models", "embeddings", "data/views"):
        files += (repo / folder).rglob("*")
    return {str(f.relative_to(repo)): f.read_bytes() for f in files if f.is_file()}


def kill(repo: Path, stage: str, after: float) -> tuple[float, bool]:
    """Run the pipeline and kill it `after` seconds after a stage has begun. If it ends sooner, run that stage by force
    and kill it in half the time. Returns the seconds after which it was killed, and whether the stage was forced."""
    pipeline, forced = Pipeline(repo), False
    while True:
        while pipeline.running and (stage not in pipeline.stages or pipeline.seconds < pipeline.stages[stage] + after):
            time.sleep(0.005)
        pipeline.signal_group(signal.SIGKILL)
        code = pipeline.end()
        assert code in (-signal.SIGKILL, 0), "".join(pipeline.said)[-3000:]
        if code:
            return after, forced
        after, forced = after / 2, True
        pipeline = Pipeline(repo, "--force", "--single-item", stage)


def mend_lock(repo: Path) -> None:
    "DVC does not write dvc.lock in one piece. If a kill has cut it off, do what `sie repro` says."
    try:
        check_dvc(repo)
    except ValueError as error:
        assert "half-written" in str(error) and "rm dvc.lock" in str(error), error
        (repo / "dvc.lock").unlink()


def test_ten_kills_at_random_moments_change_nothing(undisturbed, tmp_path):
    repo, drawn = copy(tmp_path), random.Random(SEED)
    moments = sorted((drawn.randrange(len(STAGES)), drawn.random()) for _ in range(KILLS))
    trained_again = False
    print(f"seed {SEED}")
    for number, part in moments:
        stage = STAGES[number]
        after, forced = kill(repo, stage, part * undisturbed[1].duration(stage))
        print(f"killed {after:.2f} s after the start of {stage}{', run by force' * forced}")
        trained_again |= forced and stage == "pretrain@sie"
        found = left(repo)
        assert not found, found
        mend_lock(repo)
    whole = finished(undisturbed)
    result = run(repo, "dvc", "repro")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert not left(repo)
    files, expected = made(repo), made(whole)
    assert (
        files.keys() == expected.keys()
        and {"models/sie/seed-0/model.safetensors", "results/metrics.csv"} < files.keys()
    )
    assert not [name for name in files if files[name] != expected[name]]
    # The stage embed removes finished checkpoints. DVC skips it if a forced stage made the same models again: they
    # stay in `done` until pretrain or embed runs next. No others are left.
    left_over = {path.parent.name for path in (repo / "checkpoints").rglob("*.safetensors")}
    assert left_over <= ({"done"} if trained_again else set()), left_over


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="one core, so that seeds are trained one after the other"
)
@pytest.mark.parametrize("how", ["the kernel is killed", "Ctrl-C"])
def test_a_stopped_stage_does_not_train_finished_seeds_again(undisturbed, tmp_path, how):
    repo = Path(shutil.copytree(finished(undisturbed), tmp_path / "sie"))
    change(repo, **{"pretrain.epochs": 300, "pretrain.seeds": [0, 1]})
    model, checkpoints = repo / "models/sie/seed-0/model.safetensors", repo / "checkpoints"

    def one_core():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it, and so would the stage
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    pipeline = Pipeline(repo, "pretrain", preexec_fn=one_core)
    while pipeline.running and not (model.exists() and list(checkpoints.glob("sie-1-*.safetensors"))):
        time.sleep(0.005)
    assert pipeline.running, "".join(pipeline.said)[-3000:]
    weights, seconds = model.read_bytes(), read_curves(repo / "results/pretrain/sie/seed-0")["seconds"].tolist()
    if how == "Ctrl-C":
        pipeline.signal_group(signal.SIGINT)
    else:
        (kernel,) = (
            p
            for p in psutil.Process(pipeline.process.pid).children(recursive=True)
            if "ipykernel_launcher" in " ".join(p.cmdline())
        )
        kernel.kill()
    assert pipeline.end() != 0
    assert not (found := left(repo)), found
    result = run(repo, "dvc", "repro", "pretrain")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert model.read_bytes() == weights
    assert (
        read_curves(repo / "results/pretrain/sie/seed-0")["seconds"].tolist() == seconds
    )  # taken up, not trained again
    assert (repo / "models/sie/seed-1/model.safetensors").exists()

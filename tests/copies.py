"Copies of the repository that tests run the pipeline in."

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from sie.pipeline.params import write_preset

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def copy_of_the_repository(repo: Path, preset: str) -> Path:
    "What git knows of or would add, without results, as a repository of its own with a preset applied."
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(lambda f: f and (ROOT / f).is_file() and not f.startswith("comparisons/"), files):
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, repo / name)
    subprocess.run(
        "git init -q && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm copy",
        shell=True,
        cwd=repo,
        check=True,
    )
    write_preset(preset, repo / "params.yaml", repo / "presets.yaml", repo / "params.yaml")
    return repo


def environment(repo: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repo)}


def run(repo: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=repo, env=environment(repo), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def change(repo: Path, **values) -> None:
    "Set keys of params.yaml."
    params = YAML(typ="safe").load(repo / "params.yaml")
    for key, value in values.items():
        *sections, last = key.split(".")
        section = params
        for part in sections:
            section = section[part]
        section[last] = value
    with open(repo / "params.yaml", "w") as file:
        YAML().dump(params, file)

"The package as users install it: a wheel, in an environment that knows nothing of the checkout."

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from test_extras import BLOCKED

ROOT = Path(__file__).parents[1]
FIVE_LINES = """
import numpy as np
from sie.method.weights import SIE

model = SIE.from_pretrained("sie_matrix-small")
images = np.random.default_rng(0).integers(0, 256, (8, *model.size, 3), np.uint8)
h = model.embed(images)

import sie
print(sie.__file__, *h.shape)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    "Built from a copy, as building leaves files in the tree."
    copy, out = tmp_path_factory.mktemp("source") / "sie", tmp_path_factory.mktemp("wheel")
    copy.mkdir()
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "sie", copy / "sie", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "uv", "build", "--wheel", "--no-build-isolation", "--out-dir", str(out), str(copy)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (path,) = out.glob("*.whl")
    return path


def test_a_wheel_holds_every_module_and_nothing_else(wheel):
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {*ROOT.glob("sie/**/*.py"), ROOT / "sie/py.typed"}
    models = {p for p in ROOT.glob("sie/pretrained/*/*") if p.is_file()}
    assert sum(path.stat().st_size for path in models) < 6_000_000
    static = {ROOT / "sie/static" / name for name in ("steering.js", "steering.css")}
    assert len(models) >= 3 and found == {p.relative_to(ROOT).as_posix() for p in modules | models | static}


def test_a_wheel_installs_and_is_imported_from_there(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env/bin/python"
    install = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--python",
        str(python),
        str(wheel),
    ]
    subprocess.run(install, check=True)
    (site,) = (tmp_path / "env/lib").glob("python*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")  # torch and others, not a second time
    run = subprocess.run([python, "-I", "-c", BLOCKED + FIVE_LINES], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    where, *shape = run.stdout.split()
    assert Path(where).is_relative_to(site) and shape == ["8", "128"]

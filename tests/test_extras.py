"A package that is not installed is named with the extra that installs it."

import subprocess
import sys

import pytest

OPTIONAL = (
    "PIL",
    "huggingface_hub",
    "jaxtyping",
    "lightning_fabric",
    "matplotlib",
    "mitsuba",
    "pandas",
    "psutil",
    "pyarrow",
    "pydantic",
    "sklearn",
    "torchvision",
    "tqdm",
    "trimesh",
)
BLOCKED = f"import sys\nsys.modules.update(dict.fromkeys({OPTIONAL}))\n"  # None: as if it was not installed
USES = {
    "psutil": "from sie.method.system import free_memory\nfree_memory(torch.device('cpu'))",
    "sklearn": "from sie.method.pretraining import ridge\nridge(torch.randn(9, 2), torch.randn(9, 1))",
    "lightning_fabric": "from sie.method.pretraining import make_fabric\nmake_fabric()",
    "pandas": "from sie.method.pretraining import read_curves\nread_curves('nowhere')",
    "PIL": "import pathlib, sys\nfrom sie.method.weights import Images\npathlib.Path(sys.argv[1], 'a.png').touch()\n"
    "Images(sys.argv[1], (8, 8))[0]",
}


def run(code: str, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BLOCKED + code, *args], capture_output=True, text=True)


def test_the_method_is_imported_and_embeds_images_without_optional_packages(tmp_path):
    code = """
import torch
from sie.method import methods, pairs, pretraining, system, weights
settings = pretraining.Settings(encoder="small", widths=[16, 16, 16])
model = pretraining.new_model(settings)
images = pretraining.ImageFormat(32, 32, [0.5] * 3, [0.1] * 3)
print(*weights.SIE(model, settings, images).embed(torch.zeros(2, 3, 32, 32)).shape)
weights.SIE(model, settings, images).save_pretrained(sys.argv[1] + "/model")
again = weights.SIE.from_pretrained(sys.argv[1] + "/model")
assert again.settings == settings and again.images == images
with system.Progress("counting", total=2) as shown:
    shown.update()
"""
    done = run(code, str(tmp_path))
    assert done.stdout == "2 96\n", done.stderr
    assert not done.stderr


@pytest.mark.parametrize("package", USES)
def test_a_missing_package_is_named_with_its_extra(tmp_path, package):
    done = run("import torch\n" + USES[package], str(tmp_path))
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: {package} is not installed; pip install 'sie["), done.stderr


@pytest.mark.parametrize(
    ("module", "missing"),
    [("statistics", "pandas"), ("protocol", "pandas"), ("figures", "matplotlib"), ("analysis", "matplotlib")],
)
def test_the_evaluation_names_its_extra(module, missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import sie.evaluation.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert f"sie.evaluation.{module} needs {missing}" in last and "pip install 'sie[evaluation]'" in last

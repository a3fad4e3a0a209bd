"""The method needs torch, NumPy, SciPy and safetensors: its modules import where nothing else is installed."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NEEDED = ("torch", "numpy", "scipy", "safetensors")
MODULES = (
    "sie",
    "sie.method.rotations",
    "sie.method.encoders",
    "sie.method.predictors",
    "sie.method.losses",
    "sie.method.methods",
    "sie.method.system",
    "sie.method.pairs",
    "sie.method.pretraining",
    "sie.method.weights",
)

# Run in a fresh interpreter: every finder of modules answers only for what is allowed, as if nothing else were there.
ONLY_THESE = """
import sys

allowed = sys.stdlib_module_names | set(sys.argv[2].split())


class Only:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return self.finder.find_spec(name, path, target) if name.partition(".")[0] in allowed else None

    def invalidate_caches(self):
        pass


sys.meta_path = [Only(finder) for finder in sys.meta_path]
for name in [name for name in sys.modules if name.partition(".")[0] not in allowed]:
    del sys.modules[name]  # what a .pth file has imported at the start
exec(sys.argv[1])
"""

A_STEP = """
import numpy as np
import torch
from sie.method.methods import METHODS, Model
from sie.method.rotations import sample_latents

method = METHODS["sie_matrix"]
model = Model(method, "small", widths=(16, 16, 16))
latents = torch.from_numpy(sample_latents(8, np.random.default_rng(0)))
loss, _ = method.loss(model(torch.randn(2, 4, 3, 32, 32), latents.unflatten(0, (2, 4)), torch.arange(4)))
loss.backward()
"""


def with_dependencies(names: tuple[str, ...]) -> set[str]:
    "Names of the distributions and of all that they require here, extras left out."
    found, left = set(), list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name in found:
            continue
        try:
            needs = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:  # required on another platform only
            continue
        found.add(name)
        left += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def run_with(code: str, distributions: set[str]) -> subprocess.CompletedProcess:
    "Run code in a process that sees `sie`, the standard library and these distributions only."
    packages = {
        package
        for package, owners in packages_distributions().items()
        if any(canonicalize_name(owner) in distributions for owner in owners)
    }
    command = [sys.executable, "-c", ONLY_THESE, code, " ".join({"sie", *packages})]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("code", [*(f"import {module}" for module in MODULES), A_STEP], ids=[*MODULES, "a step"])
def test_the_method_runs_with_four_packages(code):
    run = run_with(code, with_dependencies(NEEDED))
    assert run.returncode == 0, run.stderr[-2000:]


def test_an_encoder_that_needs_another_package_names_it():
    run = run_with("from sie.method.encoders import make_encoder; make_encoder('resnet18')", with_dependencies(NEEDED))
    assert run.returncode and "install torchvision, or use 'resnet18_release' or 'small'" in run.stderr


@pytest.mark.parametrize("missing", ["torch", "jaxtyping"])
def test_a_package_that_is_not_allowed_is_not_found(missing):
    "The tests above can fail: what is left out cannot be imported."
    run = run_with(f"import {missing}", with_dependencies(("numpy",)))
    assert run.returncode and re.search(f"ModuleNotFoundError: No module named '{missing}'", run.stderr)

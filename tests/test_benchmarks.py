"""The references of benchmarks/ do the same work as `sie`, and every line of the new ones runs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sie.evaluation.probes import TARGETS
from sie.method.methods import METHODS, Model
from sie.method.rotations import sample_latents

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("release_way", ROOT / "benchmarks/release_way.py")
release_way = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release_way)


@pytest.fixture
def latents() -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    return [torch.from_numpy(sample_latents(8, rng)).double() for _ in range(2)]


def test_reference_of_training_has_the_same_loss_and_gradient(latents):
    torch.manual_seed(0)
    ours = Model(METHODS["sie"], "resnet18", (32, 32, 32)).double()
    theirs = release_way.SIE(32).double()
    theirs.encoder.load_state_dict(ours.encoder.state_dict())
    for head in ("invariant", "equivariant"):
        getattr(theirs, head).load_state_dict(ours.heads[head].state_dict())
    h = ours.predictor.layers[0].H  # (4, outputs, inputs); theirs has a row for each entry of W
    with torch.no_grad():
        theirs.hypernetwork.weight.copy_(h.flatten(1).T)

    x1, x2 = torch.randn(2, 8, 3, 64, 64, dtype=torch.float64)
    labels = torch.zeros(8, dtype=torch.long)
    loss, _ = METHODS["sie"].loss(ours(torch.stack([x1, x2]), torch.stack(latents), labels), 0.45)
    g = release_way.relative_rotation(*latents).double()
    reference = theirs.loss(x1, x2, g)
    torch.testing.assert_close(reference, loss, rtol=1e-6, atol=0)

    loss.backward()
    reference.backward()
    pairs = {"encoder": (theirs.encoder, ours.encoder), "invariant": (theirs.invariant, ours.heads["invariant"])}
    for name, modules in pairs.items():
        for (key, a), b in zip(modules[0].named_parameters(), modules[1].parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=f"{name}.{key}")
    torch.testing.assert_close(theirs.hypernetwork.weight.grad, h.grad.flatten(1).T, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", ["rotation", "rotation_euler", "individual_rotation", "colour"])
def test_reference_of_evaluation_predicts_the_same(target, latents):
    ours = TARGETS[target].values(*latents[: TARGETS[target].views])
    theirs = release_way.target_values(target, latents, torch.zeros(8))
    torch.testing.assert_close(theirs.double(), ours.double(), rtol=1e-5, atol=1e-6)


def test_heads_of_the_reference_learn_through_a_frozen_encoder(latents):
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 6))
    frozen = encoder[1].weight.clone()
    head = release_way.Head(encoder, slice(2, None), "rotation", 16, 6, 5)
    assert head.net[0].in_features == 2 * 4 and head.net[-1].out_features == 4
    batch = (*torch.randn(2, 8, 3, 2, 2), *latents, torch.zeros(8, dtype=torch.long))
    before = head.net[0].weight.clone()
    head.step(batch)
    assert not torch.equal(head.net[0].weight, before)
    assert torch.equal(encoder[1].weight, frozen)


def test_side_by_side_benchmarks_run():
    command = [sys.executable, "benchmarks/run.py", "--quick", "--only", "training_side_by_side", "evaluation"]
    before = (ROOT / "benchmarks/results.csv").read_bytes()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    ratios = re.findall(r"^  (.+): \S+ (pairs/s|s|MiB)   \((\S+) times better than (.+)\)$", done.stdout, re.M)
    assert [unit for _, unit, _, _ in ratios] == ["pairs/s", "s", "MiB", "s", "s"]
    assert all("release's way" in reference and float(ratio) > 0 for _, _, ratio, reference in ratios)
    assert (ROOT / "benchmarks/results.csv").read_bytes() == before  # a quick run writes nothing

"""The losses of two and four processes are those of one with the joined batch: values and gradients."""
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import torch, torch.distributed as dist
from sie.methods import METHODS, Outputs

def outputs(leaves, labels):
    u1, u2, z1, z2, W = leaves
    return Outputs(h1=u1, h2=u2, g=u2[:, :4].detach(), labels=labels, u1=u1, u2=u2, z1=z1, z2=z2, predicted=z1 @ W, logits1=u1, logits2=z2, regressed=(u1 * z1)[:, :4])

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
joined = [*torch.randn(4, 12, 6, dtype=torch.float64), torch.randn(6, 6, dtype=torch.float64)]
labels = torch.arange(12) % 6
share = slice(rank * 12 // world, (rank + 1) * 12 // world)
for method in METHODS.values():
    if not method.terms: continue
    if method.heads.keys() == {"equivariant"}: only = lambda o: Outputs(**{k: v for k, v in vars(o).items() if k not in ("u1", "u2")})
    elif "equivariant" not in method.heads: only = lambda o: Outputs(**{k: v for k, v in vars(o).items() if k not in ("z1", "z2")})
    else: only = lambda o: o
    whole = [x.clone().requires_grad_() for x in joined]
    expected, expected_terms = method.loss(only(outputs(whole, labels)), .45)
    expected.backward()
    mine = [x.clone().requires_grad_() for x in [*(x[share] for x in joined[:4]), joined[4]]]
    loss, terms = method.loss(only(outputs(mine, labels[share])).gathered(), .45)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for name in terms: torch.testing.assert_close(terms[name], expected_terms[name], rtol=1e-12, atol=1e-12)
    zeros = lambda x: torch.zeros_like(x) if x.grad is None else x.grad
    for a, b in zip(mine[:4], whole): torch.testing.assert_close(zeros(a) / world, zeros(b)[share], rtol=1e-10, atol=1e-12)
    shared = zeros(mine[4]).clone()   # the one parameter: what DistributedDataParallel makes of it
    dist.all_reduce(shared)
    torch.testing.assert_close(shared / world, zeros(whole[4]), rtol=1e-10, atol=1e-12)
    if rank == 0: print(method.name, len(terms), "terms")
dist.destroy_process_group()
"""


@pytest.mark.parametrize("processes", [2, 4])
def test_losses_and_gradients_are_those_of_the_joined_batch(tmp_path: Path, processes: int):
    from sie.methods import METHODS
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", str(tmp_path / "worker.py")]
    result = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {line.split()[0] for line in result.stdout.splitlines()} == {m.name for m in METHODS.values() if m.terms}

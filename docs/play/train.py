"""Train the two models of the page "W(g) in motion", and keep their weights at every point of the curves.

`python docs/play/train.py FOLDER` renders the data of params.yaml in FOLDER and trains `sie` and `sie_matrix`, seed 0,
with its settings: half an hour on one core, less the next time. `docs/play/record.py FOLDER` then measures them.
"""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from sie.data.storage import ViewDataset
from sie.method.pretraining import checkpoint_path, pretrain
from sie.pipeline.command import fetch
from sie.pipeline.params import Params, load_params

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("sie", "sie_matrix")
LOG_EVERY = 100  # steps between two points of the curves; changes no weights


def train(params: Params, method: str, dataset: ViewDataset) -> None:
    "Train one method, and copy its checkpoint at every point of its curves to METHOD/STEP.safetensors."
    settings = replace(params.settings(method, 0), log_every=LOG_EVERY)
    checkpoint = checkpoint_path("checkpoints", dataset, settings)
    kept = Path(method)
    kept.mkdir(exist_ok=True)

    def keep(step: int, steps: int, loss: float | None) -> None:
        if step % LOG_EVERY == 0 or step == steps:
            shutil.copy(checkpoint, kept / f"{step:05d}.safetensors")
            print(f"{method}: step {step} of {steps}, loss {loss:.3f}", flush=True)

    pretrain(dataset, settings, f"models/{method}", f"curves/{method}", "checkpoints", progress=keep)


def main(folder: str) -> None:
    given = load_params(ROOT / "params.yaml")
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    dataset = fetch(given)
    for method in METHODS:
        train(given, method, dataset)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

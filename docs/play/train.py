"""Train the two models of the figure "How it is learnt", and keep their weights at every point of the curves.

`python docs/play/train.py RUN` takes parameters and data of a run that is there, such as runs/default, and trains `sie`
and `sie_matrix`, seed 0, in RUN/motion: as long as these two runs take in the pipeline. A second call goes on where the
first was stopped. `docs/play/record.py RUN` then measures them.
"""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from sie.data.storage import ViewDataset
from sie.method.pretraining import checkpoint_path, pretrain
from sie.pipeline.params import Params, load_params

METHODS = ("sie", "sie_matrix")
POINTS = 40  # of the curves, at least; changes no weights


def train(params: Params, method: str, dataset: ViewDataset) -> None:
    "Train one method, and copy its checkpoint at every point of its curves to METHOD/STEP.safetensors."
    settings = params.settings(method, 0)
    every = max(1, settings.steps(len(dataset.split("train"))) // POINTS)
    settings = replace(settings, log_every=every)
    checkpoint = checkpoint_path("checkpoints", dataset, settings)
    kept = Path(method)
    kept.mkdir(exist_ok=True)

    def keep(step: int, steps: int, loss: float | None) -> None:
        if step % every == 0 or step == steps:
            shutil.copy(checkpoint, kept / f"{step:05d}.safetensors")
            print(f"{method}: step {step} of {steps}, loss {loss:.3f}", flush=True)

    pretrain(dataset, settings, f"models/{method}", f"curves/{method}", "checkpoints", progress=keep)


def main(run: str | Path) -> None:
    params = load_params(Path(run) / "params.yaml")
    dataset = ViewDataset(Path(run).resolve() / "data/views")
    folder = Path(run) / "motion"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    for method in METHODS:
        train(params, method, dataset)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

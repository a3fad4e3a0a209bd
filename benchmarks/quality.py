"""Time to quality: seconds of one core until the representation is good.

A recipe is the section `pretrain` of params.yaml with the changes that are given. It is trained on one thread with each
seed, from the first step to the last of its schedule, and then evaluated as in the pipeline, on the validation objects.
A recipe is *fast* if its rotation R2 (pooled; `sie_matrix`, the whole representation) passes the goal: 0.75 on five
classes, 0.45 on all 55. Seconds are CPU time of the training steps and the loading of batches, without the watching
probes. So they hardly depend on what else the machine does.

    python benchmarks/quality.py five                                     # the recipe of params.yaml
    python benchmarks/quality.py all --set epochs=12 --keep "12 epochs"   # another, added to quality.csv
    python benchmarks/quality.py five --method vicreg
"""

import argparse
import csv
import datetime
import os
import statistics
import time
from pathlib import Path

import torch
from ruamel.yaml import YAML
from run import machine

from sie.data.rendering import ProceduralRenderer, procedural_objects, render_dataset
from sie.data.storage import ViewDataset
from sie.evaluation.probes import Probe, embed
from sie.evaluation.protocol import evaluate
from sie.method.methods import METHODS
from sie.method.optimisers import OPTIMISERS
from sie.method.pairs import ViewLoader, load_views
from sie.method.pretraining import ImageFormat, Settings, make_fabric, new_model, train_step
from sie.objects.classes import CLASSES

HERE = Path(__file__).parent
GOALS = {"five": 0.75, "all": 0.45}
FIVE = ("airplane", "car", "chair", "sofa", "table")
OBJECTS = {"five": 500, "all": 60}  # of each class
SCORES = {
    "rotation R2": ("all", "rotation_r2_pooled"),
    "invariant part": ("invariant", "rotation_r2_pooled"),
    "equivariant part": ("equivariant", "rotation_r2_pooled"),
    "top-1": ("all", "top1"),
    "MRR": ("equivariant", "mrr"),
}
COLUMNS = ("date", "classes", "method", "what", "changes", "images", "seconds", *SCORES, "seeds", "machine")
BEGIN, END = "<!-- measured: written by quality.py -->", "<!-- /measured by quality.py -->"


def data(classes: str, folder: Path) -> ViewDataset:
    "The objects, 20 views of 32 px each, rendered at the first call."
    if not (folder / classes).exists():
        synsets = [c.synset for c in CLASSES if classes == "all" or c.name in FIVE]
        objects = procedural_objects(OBJECTS[classes], synsets)
        render_dataset(folder / classes, objects, ProceduralRenderer(size=64, crop=32, samples=4), views=20)
    return ViewDataset(folder / classes)


def settings(method: str, changes: dict) -> Settings:
    "The settings of params.yaml with these changes; keys with a dot are the predictor's."
    values = YAML(typ="safe").load(HERE.parent / "params.yaml")["pretrain"]
    del values["seeds"]
    for key, value in changes.items():
        *section, last = key.split(".")
        (values[section[0]] if section else values)[last] = value
    return Settings(**{"method": method, **values, "probe_views": 0})


def trained(dataset: ViewDataset, run: Settings) -> tuple[torch.nn.Module, float]:
    "A trained model, and the seconds of CPU time that it took."
    fabric = make_fabric(run.precision)
    plain = new_model(run).to(memory_format=torch.channels_last)
    objects = dataset.split("train")
    loader = ViewLoader(load_views(dataset, objects, run.crop), run.batch_size, run.seed, run.views)
    optimiser = OPTIMISERS[run.optimiser](plain.parameters(), lr=run.lr, weight_decay=run.weight_decay)
    model, optimiser = fabric.setup(plain, optimiser)
    step, steps = 0, run.steps(len(objects))
    start = time.process_time()
    for epoch in range(run.epochs):
        for batch in loader.epoch(epoch):
            for group in optimiser.param_groups:
                group["lr"] = run.learning_rate(step, steps)
            train_step(model, optimiser, fabric, batch, run)
            step += 1
    return plain.eval(), time.process_time() - start


def scored(dataset: ViewDataset, model: torch.nn.Module) -> dict[str, float]:
    "The scores on the validation objects, as in the pipeline."
    probe = Probe(**YAML(typ="safe").load(HERE.parent / "params.yaml")["evaluate"])
    scores = evaluate(embed(model, dataset, ImageFormat.of(dataset)), model.split, probe, model)
    scores = scores[scores["split"] == "val"].set_index(["part", "metric"])["value"]
    return {name: float(scores.get(key, float("nan"))) for name, key in SCORES.items()}


def table(rows: list[dict]) -> str:
    "The history as a table, oldest first."
    shown = ("date", "classes", "method", "what", "changes", "images", "seconds", *SCORES, "seeds")
    lines = ["| " + " | ".join(shown) + " |", "|" + "---|" * 5 + "---:|" * (len(shown) - 5)]
    lines += ["| " + " | ".join(row[column] for column in shown) + " |" for row in rows]
    return "\n".join(lines)


def keep(row: dict) -> None:
    "Add a row to quality.csv and to the table in README.md."
    path, readme = HERE / "quality.csv", HERE / "README.md"
    with path.open(newline="") as file:
        rows = [*csv.DictReader(file), row]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", choices=GOALS)
    parser.add_argument("--method", choices=METHODS, default="sie_matrix", metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to params.yaml's pretrain")
    parser.add_argument("--keep", metavar="WHAT", help="add the result to quality.csv and README.md, with this title")
    parser.add_argument("--data", type=Path, default=HERE.parent / "runs" / "quality", help="where the objects are")
    args = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    yaml = YAML(typ="safe")
    changes = {key: yaml.load(value) for key, value in (change.split("=", 1) for change in args.set)}
    dataset = data(args.classes, args.data)
    torch.set_num_threads(1)
    results = []
    for seed in args.seeds:
        run = settings(args.method, {**changes, "seed": seed})
        model, seconds = trained(dataset, run)
        results.append({"seconds": seconds, **scored(dataset, model)})
        print(f"seed {seed}:", ", ".join(f"{name} {value:.3f}" for name, value in results[-1].items()), flush=True)
    medians = {name: statistics.median(result[name] for result in results) for name in results[0]}
    images = run.steps(len(dataset.split("train"))) * run.batch_size * run.views
    passed = "passes" if medians["rotation R2"] >= GOALS[args.classes] else "misses"
    print("median:", ", ".join(f"{name} {value:.3f}" for name, value in medians.items()))
    print(f"{passed} the rotation R2 of {GOALS[args.classes]}; {images:,} images")
    if args.keep:
        keep(
            {
                "date": datetime.date.today().isoformat(),
                "classes": "5" if args.classes == "five" else "55",
                "method": args.method,
                "what": args.keep,
                "changes": " ".join(args.set),
                "images": f"{images:,}",
                "seconds": f"{medians['seconds']:.0f}",
                **{name: f"{medians[name]:.3f}" for name in SCORES},
                "seeds": str(len(args.seeds)),
                "machine": machine(),
            }
        )


if __name__ == "__main__":
    main()

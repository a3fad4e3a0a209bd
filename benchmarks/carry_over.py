"""What is learnt on generated objects, on real ones: one training on one thread, scored on both.

Of the generated objects the first N of each class are taken: three quarters for training, the rest to be scored. Of the
real ones half of each class is scored; on the other half heads are trained, and with `--and-real` the encoder too.
Images of the real ones are normalised as in training. One row for each set of heads is added to a table.

    python benchmarks/carry_over.py TABLE --generated VIEWS --real VIEWS --method sie_matrix --change "as they are"

VIEWS are data sets as `render_dataset` makes them. Without `--generated`, the encoder is trained on real objects only.
"""

import argparse
import csv
import datetime
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML

from sie.data.storage import ViewDataset
from sie.evaluation.probes import Head, Probe, chance_scores, embed, fit_heads
from sie.evaluation.retrieval import chance_retrieval, predict_views, retrieval
from sie.method.encoders import PARTS
from sie.method.methods import Model
from sie.method.optimisers import OPTIMISERS
from sie.method.pairs import ArrayDataset, ViewLoader, load_views
from sie.method.pretraining import ImageFormat, Settings, make_fabric, new_model, train_step

RECIPE = dict(
    views=8, batch_size=32, optimiser="muon", lr=0.024, encoder="patch", precision="bf16-mixed", probe_views=0
)
COLUMNS = (
    *("date", "change", "trained on", "method", "heads", "scored on", "rotation R2", "invariant", "equivariant"),
    *("top-1", "MRR", "R2 of a constant", "chance of MRR", "steps", "seconds", "seed"),
)


def arrays(path: Path, chosen=None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    "Images, latents and labels of a data set, and the rank of each object in its class; of some objects."
    data = ViewDataset(path)
    rank = np.array([np.sum(data.labels[:k] == label) for k, label in enumerate(data.labels)])
    objects = np.arange(len(data)) if chosen is None else np.flatnonzero(chosen(rank))
    images = data.decode_all(objects=objects).movedim(2, -1).numpy()
    return images, data.conditions[objects], np.asarray(data.labels)[objects], rank[objects]


def half(labels: np.ndarray) -> np.ndarray:
    "Indices of half of the objects of each class, drawn with seed 0: those that are scored."
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return np.sort(np.concatenate([own[len(own) // 2 :] for own in drawn]))


def joined(sets: list[tuple], scored: list[np.ndarray]) -> ArrayDataset:
    "One data set of several; its validation objects are those to be scored."
    starts = np.cumsum([0, *(len(images) for images, *_ in sets)])
    images, latents, labels = (np.concatenate([parts[k] for parts in sets]) for k in range(3))
    return ArrayDataset(images, latents, labels, np.concatenate([s + k for s, k in zip(scored, starts)]))


def trained(data: ArrayDataset, settings: Settings) -> tuple[Model, int, float]:
    "A model after all steps of its schedule, their number, and the seconds of this core."
    fabric = make_fabric(settings.precision)
    model = new_model(settings).to(memory_format=torch.channels_last)
    objects = data.split("train")
    loader = ViewLoader(load_views(data, objects), settings.batch_size, settings.seed, settings.views)
    optimiser = OPTIMISERS[settings.optimiser](model.parameters(), settings.lr, weight_decay=settings.weight_decay)
    module, optimiser = fabric.setup(model, optimiser)
    module.train()
    steps, step, start = settings.steps(len(objects)), 0, time.process_time()
    for epoch in range(settings.epochs):
        for batch in loader.epoch(epoch):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate(step, steps)
            train_step(module, optimiser, fabric, batch, settings)
            step += 1
    return model.eval(), steps, time.process_time() - start


def scores(fitted, e, model: Model) -> dict[str, float]:
    "R2 of the relative rotation from each part, top-1, and the MRR of the validation objects."
    *rotation, top = fitted.scores(e, "val")
    found = dict(zip(("rotation R2", "invariant", "equivariant"), (score["r2_pooled"] for score in rotation)))
    found["top-1"] = top["top1"]
    if model.predictor is not None:
        form, colour = model.method.form, model.method.colour
        predicted = predict_views(e, e.val, model.predictor, form, colour)
        found["MRR"] = retrieval(predicted, e.embeddings[e.val])["mrr"]
    return found


def rows(model: Model, sets: dict[str, ArrayDataset], images: ImageFormat):
    "Heads of each set, and their scores on it and on the real objects."
    parts = {part: partial(model.split, part=part) for part in PARTS}
    heads = [*(Head("rotation", part=part) for part in parts.values()), Head("class", part=parts["all"])]
    embedded = {name: embed(model, data, images) for name, data in sets.items()}
    for name, e in embedded.items():
        # as many steps on a few hundred objects as on thousands
        epochs = max(120, 600 * 256 // max(256, len(e.train))) if name == "real" else 120
        fitted = fit_heads(e, heads, Probe(epochs=epochs, hidden=256))
        for other in dict.fromkeys((name, "real")):
            chance = chance_scores(embedded[other], "rotation", fitted=e)["r2_pooled"]
            levels = {"R2 of a constant": chance, "chance of MRR": chance_retrieval(sets[other].views)["mrr"]}
            yield {"heads": name, "scored on": other, **scores(fitted, embedded[other], model), **levels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path, help="CSV to add to")
    parser.add_argument("--generated", type=Path)
    parser.add_argument("--objects", type=int, default=40, help="of each class")
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--and-real", action="store_true", help="train the encoder on half of the real objects too")
    parser.add_argument("--method", default="sie_matrix")
    parser.add_argument("--change", default="", help="what is tried, for the table")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    real = arrays(given.real)
    sets, train = {}, [(real, half(real[2]))] if given.and_real or not given.generated else []
    if given.generated:
        some = arrays(given.generated, lambda rank: rank < given.objects)
        train.insert(0, (some, np.flatnonzero(some[3] >= given.objects * 3 // 4)))
        sets["generated"] = joined(*([part] for part in train[0]))
    sets["real"] = joined([real], [half(real[2])])
    data = joined(*zip(*train))
    base = YAML(typ="safe").load(Path(__file__).parents[1].joinpath("params.yaml").read_text())["pretrain"]
    base = {key: value for key, value in base.items() if key in Settings.__dataclass_fields__}
    wanted = dict(method=given.method, epochs=given.epochs, seed=given.seed, classes=int(data.labels.max()) + 1)
    model, steps, seconds = trained(data, Settings(**base | RECIPE | wanted))
    on = ("generated, half of real" if given.and_real else "generated") if given.generated else "half of real"
    new = not given.table.exists()
    with given.table.open("a", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            table.writeheader()
        about = {"date": datetime.date.today(), "change": given.change, "trained on": on, "method": given.method}
        about |= {"steps": steps, "seconds": round(seconds), "seed": given.seed}
        for row in rows(model, sets, ImageFormat.of(data)):
            row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
            table.writerow(about | row)
            print(row, flush=True)


if __name__ == "__main__":
    main()

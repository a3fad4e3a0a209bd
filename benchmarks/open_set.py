"""The open set: what `PRESET=open` would make, how long it takes, and whether two people have the same.

The preset describes 55 classes of 950 objects in 50 views of 128 px each, the size of 3DIEBench, from our families of
objects. An object depends on its class, its number and the seed alone. So a sample of it, the first object of each
class, says what the whole takes, and its digests are those that the whole set has.

    python benchmarks/open_set.py measure        # render the sample on one core; writes open_set.csv and README.md
    python benchmarks/open_set.py check FOLDER   # are these objects in a data set the same? Names those that are not
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from run import machine

from sie.data.rendering import procedural_objects, render_dataset
from sie.objects.classes import CLASSES
from sie.pipeline.params import Params, write_preset

HERE = Path(__file__).parent
TABLE, README = HERE / "open_set.csv", HERE / "README.md"
BEGIN, END = "<!-- measured: written by open_set.py -->", "<!-- /measured by open_set.py -->"


def preset() -> Params:
    "The parameters of the preset `open`."
    root = HERE.parent
    with tempfile.TemporaryDirectory() as folder:
        return write_preset("open", root / "params.yaml", root / "presets.yaml", Path(folder) / "params.yaml")


def digests(folder: Path) -> dict[tuple[str, str], str]:
    "The digest of each object of a data set, by synset and id, as its shards hold it."
    found = {}
    for path in sorted(folder.glob("shard-*.arrow")):
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
            columns = (table.column(name).to_pylist() for name in ("synset", "object_id", "sha256"))
            found |= {(synset, object_id): digest.hex() for synset, object_id, digest in zip(*columns)}
    return found


def sample(params: Params) -> tuple[dict[tuple[str, str], str], float, int]:
    "Digests of the first object of each class, rendered on one core; the seconds of CPU time and the bytes it took."
    data = params.data
    options = {name: getattr(data, name) for name in ("views", "ranges", "seed", "jpeg_quality")}
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        render_dataset(folder, procedural_objects(1), params.renderer, test_only=True, workers=0, **options)
        seconds = time.process_time() - start
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        return digests(Path(folder)), seconds, size


def estimate(params: Params, seconds: float, size: int) -> str:
    "What the whole set takes, by the sample, as a table."
    objects = params.data.objects_per_class * len(CLASSES)
    images = objects * params.data.views
    hours = seconds / len(CLASSES) * objects / 3600
    lines = [
        "| the open set | |",
        "|---|---:|",
        f"| objects | {objects:,} |",
        f"| images of {params.data.image} px | {images:,} |",
        f"| images/s of one core | {images / hours / 3600:.1f} |",
        f"| hours of one core | {hours:.1f} |",
        f"| of 2 cores, by division | {hours / 2:.1f} |",
        f"| of 16 cores, by division | {hours / 16:.1f} |",
        f"| gigabytes | {size / len(CLASSES) * objects / 1e9:.1f} |",
        "",
        f"Measured on {machine()}.",
    ]
    return "\n".join(lines)


def measure() -> None:
    "Render the sample, write its digests, and put the estimate into README.md."
    params = preset()
    found, seconds, size = sample(params)
    with TABLE.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["synset", "object_id", "sha256"])
        table.writerows([*name, digest] for name, digest in found.items())
    before, rest = README.read_text().split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n\n{estimate(params, seconds, size)}\n\n{END}{rest.split(END)[1]}")


def different(folder: Path) -> list[str]:
    "Objects of the sample that a data set lacks, or has otherwise."
    there = digests(folder)
    with TABLE.open(newline="") as file:
        return [
            f"{row['synset']}/{row['object_id']}"
            for row in csv.DictReader(file)
            if there.get((row["synset"], row["object_id"])) != row["sha256"]
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("measure")
    commands.add_parser("check").add_argument("folder", type=Path)
    args = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    if args.command == "measure":
        measure()
        return
    wrong = different(args.folder)
    if wrong:
        sys.exit(f"{len(wrong)} objects of the sample differ or are missing: {', '.join(wrong)}")
    print("all objects of the sample are the same")


if __name__ == "__main__":
    main()

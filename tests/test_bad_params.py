"""Mistakes in params.yaml, presets, settings and DVC's own files are refused.

`bad_inputs/params.yaml` has the mistakes and a part of the message that each must give."""

import shutil
import subprocess
from pathlib import Path

import pytest
from copies import BIN, ROOT, environment
from ruamel.yaml import YAML

from sie.method.pretraining import Settings
from sie.pipeline.params import load_params, write_preset
from sie.pipeline.places import check_dvc, place

TABLE = YAML(typ="safe").load(Path(__file__).parent / "bad_inputs/params.yaml")
TEXT = (ROOT / "params.yaml").read_text()


def written(folder: Path, values: dict) -> Path:
    with open(folder / "params.yaml", "w") as file:
        YAML().dump(values, file)
    return folder / "params.yaml"


def with_value(folder: Path, key: str, value) -> Path:
    "The project's parameters with one key changed."
    values = section = YAML(typ="safe").load(TEXT)
    *sections, last = key.split(".")
    for name in sections:
        section = section[name]
    section[last] = value
    return written(folder, values)


def refused(path: Path, says: str) -> None:
    with pytest.raises(ValueError) as refusal:
        load_params(path)
    assert says in str(refusal.value) and str(path) in str(refusal.value)
    assert len(str(refusal.value)) < 10_000


@pytest.mark.parametrize(("key", "value", "says"), TABLE["values"])
def test_values(tmp_path, key, value, says):
    refused(with_value(tmp_path, key, value), says)


@pytest.mark.parametrize(
    ("held_out", "says"),
    [
        (["mug"], "data.held_out names 'mug', which is none of data.classes"),
        (["airplane", "car", "chair", "sofa"], "leaves fewer than 2 of the 5 classes"),
    ],
)
def test_classes_that_are_held_out_are_some_of_those_chosen(tmp_path, held_out, says):
    values = YAML(typ="safe").load(TEXT)
    values["data"] |= {"classes": ["airplane", "car", "chair", "sofa", "table"], "held_out": held_out}
    refused(written(tmp_path, values), says)


@pytest.mark.parametrize(
    ("tuned", "says"),
    [
        (["sie+lr=0.01", "sie+lr=0.02"], "tuned: sie is there more than once"),
        (["sea+lr=0.01"], "unknown method 'sea'"),
        (["vicreg+predictor.gain=2"], "tuned: 'vicreg+predictor.gain=2' changes predictor.gain, which has no effect"),
        (["sie+lr=0.024"], "tuned: 'sie+lr=0.024' changes lr, which has no effect"),
        ("sie+lr=0.01", "tuned: given 'sie+lr=0.01': it must be a list"),
    ],
)
def test_tuned_settings(tmp_path, tuned, says):
    refused(with_value(tmp_path, "tuned", tuned), says)


def test_a_variant_overrides_what_is_tuned(tmp_path):
    values = YAML(typ="safe").load(TEXT)
    names = ["sie", "sie+lr=0.02", "sie+lr=0.024", "vicreg"]  # 0.024 is the value of `pretrain`
    values |= {"tuned": ["sie+lr=0.01+predictor.gain=2.0"], "methods": names}
    params = load_params(written(tmp_path, values))
    found = [params.settings(name, 0) for name in names]
    assert [settings.lr for settings in found] == [0.01, 0.02, 0.024, 0.024]
    assert [settings.predictor["gain"] for settings in found] == [2.0, 2.0, 2.0, 1.7]


@pytest.mark.parametrize(("name", "says"), TABLE["methods"])
def test_variants(tmp_path, name, says):
    refused(with_value(tmp_path, "methods", ["sie", name]), says)


@pytest.mark.parametrize("name", TABLE["changes"])
def test_variants_that_change_something(tmp_path, name):
    params = load_params(with_value(tmp_path, "methods", [name.partition("+")[0], name]))
    assert params.settings(name, 0) != params.settings(params.methods[0], 0)


@pytest.mark.parametrize(("names", "says"), TABLE["same"])
def test_variants_that_are_the_same(tmp_path, names, says):
    refused(with_value(tmp_path, "methods", names), says)


def changed(folder: Path, line: str, instead: str) -> Path:
    assert line in TEXT
    path = folder / "params.yaml"
    path.write_bytes(TEXT.replace(line, instead).encode())
    return path


@pytest.mark.parametrize(("line", "instead", "says"), TABLE["lines"])
def test_lines(tmp_path, line, instead, says):
    number = TEXT[: TEXT.index(line)].count("\n") + 1
    says = says.replace("line N+1", f"line {number + 1}").replace("line N", f"line {number}")
    refused(changed(tmp_path, line, instead), says)


@pytest.mark.parametrize(("text", "says"), TABLE["texts"])
def test_whole_files(tmp_path, text, says):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    refused(path, says)


@pytest.mark.parametrize(("encoding", "says"), TABLE["encodings"])
def test_encodings(tmp_path, encoding, says):
    path = tmp_path / "params.yaml"
    path.write_bytes(f"# a\n# \u00e9\n{TEXT}".encode(encoding))
    refused(path, says)


@pytest.mark.parametrize(("line", "instead"), TABLE["valid"])
def test_valid_ways_to_write_the_same(tmp_path, line, instead):
    assert load_params(changed(tmp_path, line, instead)) == load_params(ROOT / "params.yaml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_accents_and_a_byte_order_mark_are_read(tmp_path, encoding):
    path = tmp_path / "params.yaml"
    path.write_bytes(f"# \u00e9\n{TEXT}".encode(encoding))
    assert load_params(path) == load_params(ROOT / "params.yaml")


def test_a_number_of_too_many_digits_is_named(tmp_path):
    "Of more digits than Python reads."
    line = "  epochs: 22 "
    number = TEXT[: TEXT.index(line)].count("\n") + 1
    refused(changed(tmp_path, line, "  epochs: " + 5_000 * "1"), f"line {number}: '1111")


def test_a_variant_of_too_long_a_name_is_refused(tmp_path):
    "Results have it in the names of files."
    longest = "sie+widths=[" + "1" * 187 + "]"
    refused(with_value(tmp_path, "methods", [longest]), "sets widths.0: given 111")
    refused(with_value(tmp_path, "methods", [longest + " "]), "has 201 characters; at most 200 are allowed")


def test_deep_nesting_is_refused(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("[" * 1_000 + "]" * 1_000)
    refused(path, "too deeply")


@pytest.mark.parametrize(("key", "value", "says"), TABLE["settings"])
def test_settings(key, value, says):
    with pytest.raises(ValueError) as refusal:
        Settings(**{key: value})
    assert says in str(refusal.value)


def test_a_preset_is_not_applied_to_a_broken_file(tmp_path):
    path = tmp_path / "params.yaml"
    for text, says in {"a: \0": "line 1", "": "holds no keys", "a: [": "this is not YAML"}.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            write_preset("smoke", path, ROOT / "presets.yaml", path)
        assert path.read_text() == text


# ---- DVC's own files

PIPELINE = """
stages:
  first: {cmd: cp in.txt a.txt, deps: [in.txt], outs: [a.txt]}
  second: {cmd: cp a.txt b.txt, deps: [a.txt], outs: [b.txt]}
"""


def dvc(repo: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["dvc", *arguments], cwd=repo, env=environment(repo), capture_output=True, text=True)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> Path:
    "A small repository with a pipeline that ran."
    repo = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q"], cwd=repo, check=True)
    assert dvc(repo, "init", "-q").returncode == 0
    (repo / "dvc.yaml").write_text(PIPELINE)
    (repo / "in.txt").write_text("1")
    assert dvc(repo, "repro").returncode == 0
    return repo


@pytest.fixture
def repository(reproduced, tmp_path) -> Path:
    return Path(shutil.copytree(reproduced, tmp_path / "repository"))


def test_whole_files_of_dvc_pass(repository):
    check_dvc(repository)
    (repository / "dvc.lock").unlink()
    check_dvc(repository)


def test_a_lock_that_was_cut_short_is_recognised(repository):
    "Wherever DVC itself fails, and where it would take what is left for a whole file with half a stage."
    lock = repository / "dvc.lock"
    whole = lock.read_bytes()
    lines = [k for k in range(len(whole)) if whole[k - 1 : k] == b"\n"]
    between = whole.index(b"  second:")  # the first stage is whole: so DVC writes a lock before the second has run
    for cut in {0, 1, 5, *range(20, len(whole), 37), *lines} - {between}:
        lock.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="rm dvc.lock"):
            check_dvc(repository)
    for damaged in (
        b"\0" * 100,
        b"\xff\xfe" + whole,
        b"[]\n",
        b"schema: '2.0'\nstages: 3\n",
        whole.replace(b"'2.0'", b"'9'"),
    ):
        lock.write_bytes(damaged)
        with pytest.raises(ValueError, match="rm dvc.lock"):
            check_dvc(repository)


def test_what_to_do_about_a_lock_helps(repository):
    "DVC takes no damaged lock. Without one, everything comes back from its cache and nothing runs."
    lock = repository / "dvc.lock"
    whole = lock.read_bytes()
    for damage in (b"", b"schema: '2"):
        lock.write_bytes(damage)
        assert dvc(repository, "repro").returncode != 0
    lock.unlink()
    for name in ("a.txt", "b.txt"):
        (repository / name).unlink()
    result = dvc(repository, "repro")
    assert result.returncode == 0 and "Running stage" not in result.stdout, result.stdout
    assert lock.read_bytes() == whole and (repository / "b.txt").read_text() == "1"


@pytest.mark.parametrize("damage", [b"", b'{"write": {"a', b"[]", b"\0" * 50, b"\xff\xfe", b'{"write": 3}'])
def test_a_damaged_rwlock_is_recognised(repository, damage):
    rwlock = repository / ".dvc/tmp/rwlock"
    rwlock.write_bytes(damage)
    (repository / "in.txt").write_text("2")
    assert dvc(repository, "repro").returncode != 0
    with pytest.raises(ValueError, match="rm .*rwlock"):
        check_dvc(repository)
    rwlock.unlink()
    check_dvc(repository)
    assert dvc(repository, "repro").returncode == 0


def test_what_stands_in_dvcs_other_locks_does_not_matter(repository):
    for name in ("lock", "rwlock.lock"):
        for text in ("", "999999", "\0\0"):
            (repository / ".dvc/tmp" / name).write_text(text)
    (repository / "in.txt").write_text("2")
    assert dvc(repository, "repro").returncode == 0
    check_dvc(repository)


@pytest.mark.parametrize("arguments", [["check", "--preset", "smoke"], ["repro", "smoke"]])
def test_make_repro_says_so_before_dvc_runs(repository, arguments):
    for name in ("params.yaml", "presets.yaml"):
        shutil.copy(ROOT / name, repository)
    folder = place("smoke", repository)
    (folder / "dvc.lock").write_bytes(b"")
    assert "sie repro" in (ROOT / "Makefile").read_text()
    command = [BIN / "sie", *arguments]
    result = subprocess.run(command, cwd=repository, env=environment(ROOT), capture_output=True, text=True)
    assert result.returncode != 0 and "rm dvc.lock" in result.stderr and "Traceback" not in result.stderr

"""Shards of a screen: every input in one of them, and merged, the bytes of a run without shards."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from crystalpredict.errors import UsageError
from crystalpredict.io.entries import start_of
from crystalpredict.io.sources import sources_of
from crystalpredict.prediction.shards import Shard

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NACL = (EXAMPLES / "NaCl.cif").read_text()
FRAME = '2\nLattice="4.1 0 0 0 4.1 0 0 0 4.1"\nCs 0 0 0\nCl 2.05 2.05 2.05\n'
PLAIN = {"lattice": [4.1, 4.1, 4.1, 90, 90, 90], "species": ["Cs", "Br"], "frac_coords": [[0, 0, 0], [0.5] * 3]}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[str]:
    """One of everything: 40 sources or so, damaged ones, some of several structures."""
    folder = tmp_path_factory.mktemp("in")
    for number in range(5):
        shutil.copy(EXAMPLES / "NaCl.cif", folder / f'{number}\n",é.cif')
    (folder / "several.json").write_text(json.dumps([PLAIN, {}, PLAIN]))
    (folder / "frames.xyz").write_text(FRAME * 6)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name in ("a.cif", "notes.txt", "b.cif", "in.zip", "c.cif"):
            archive.writestr(name, NACL)
    with tarfile.open(folder / "whole.tar.gz", "w:gz") as tar:
        for _ in range(7):
            tar.add(EXAMPLES / "NaCl.cif", "x/a.cif")
    for name, share in (("cut.tar.gz", 0.7), ("cut.zip", 0.9)):
        whole = (folder / ("a.zip" if name == "cut.zip" else "whole.tar.gz")).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])
    with tarfile.open(folder / "plain.tar", "w") as tar:
        for _ in range(4):
            tar.add(EXAMPLES / "NaCl.cif", "a.cif")
    for size in (9, 600):  # cut off between members, and within one
        content = (folder / "plain.tar").read_bytes()
        (folder / f"{size}.tar").write_bytes(content[: 3 * (len(NACL) // 512 + 2) * 512 + size])
    (folder / "t.csv").write_text("id,path,cif\n" + '1,x,"data_a"\n2\n3,y,\n1,z,"nonsense"\n')
    (folder / "none.csv").write_text("a,b\n1,2\n3,4\n")
    tables = [str(folder / "t.csv"), str(folder / "none.csv")]
    return [str(folder), *tables, str(folder / "frames.xyz"), str(folder / "nowhere.zip"), str(folder / "nowhere.cif")]


def expanded(inputs: list[str]) -> list[str]:
    from crystalpredict.cli.inputs import expand

    return list(expand(inputs))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 100])
def test_every_source_is_in_one_shard_and_no_shard_has_two_more_than_another(inputs, count) -> None:
    names = expanded(inputs)
    shards = [Shard(number, count) for number in range(1, count + 1)]
    found = [list(sources_of(names, None, shard.takes)) for shard in shards]
    sizes = [len(sources) for sources in found]
    assert max(sizes) - min(sizes) <= 1
    assert len({json.dumps(shard.sums()) for shard in shards}) == 1
    merged = [found[place % count][place // count] for place in range(sum(sizes))]
    everything = list(sources_of(names))
    assert [start_of(source) for source in merged] == [start_of(source) for source in everything]
    assert len(everything) > 40


def test_files_of_other_shards_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(10):
            archive.writestr(f"{number}.cif", NACL)
    opened = []
    real = zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, info: opened.append(info.filename) or real(self, info))
    list(sources_of([str(tmp_path / "a.zip")], None, Shard(2, 5).takes))
    assert opened == ["1.cif", "6.cif"]


def run(program, inputs, folder: Path, count: int, suffix: str = ".csv", *options: str) -> list[Path]:
    """The files of all shards."""
    paths = [folder / f"{number}{suffix}" for number in range(1, count + 1)]
    for number, path in enumerate(paths, start=1):
        outcome = program("predict", *inputs, "--jobs", "1", "--shard", f"{number}/{count}", "-o", path, *options)
        assert outcome.code in (0, 3, 4)
    return paths


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> Path:
    """What a run without shards writes: .csv, .jsonl."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("whole")
    for name in ("a.csv", "a.jsonl"):
        command = [sys.executable, "-m", "crystalpredict", "predict", "-q", "--jobs", "1", *inputs, "-o", folder / name]
        assert subprocess.run(command, check=False).returncode == 3
    return folder / "a"


@pytest.mark.parametrize(("suffix", "count"), [(".csv", 3), (".jsonl", 2)])
def test_merged_shards_have_the_bytes_of_one_run(program, inputs, whole, tmp_path, suffix, count) -> None:
    paths = run(program, inputs, tmp_path, count, suffix, "--resume")
    outcome = program("merge", *reversed(paths), "-o", tmp_path / f"all{suffix}")
    assert (outcome.code, outcome.stdout) == (0, "")
    expected = whole.with_suffix(suffix).read_bytes()
    assert (tmp_path / f"all{suffix}").read_bytes() == expected
    assert program("merge", *paths).stdout.encode() == expected
    assert f"{count} shards" in outcome.stderr


def test_rows_of_a_condition_keep_their_places(program, inputs, tmp_path) -> None:
    condition = ("--where", "n_atoms > 2 or index == 2")
    paths = run(program, inputs, tmp_path, 3, ".csv", *condition)
    program("predict", *inputs, "-q", "--jobs", "1", *condition, "-o", tmp_path / "whole.csv")
    assert program("merge", *paths, "-o", tmp_path / "all.csv").code == 0
    assert (tmp_path / "all.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    plain = run(program, inputs, tmp_path, 3)
    assert program("merge", *plain, *condition).stdout == (tmp_path / "whole.csv").read_text()


def test_merge_sorts_and_writes_parquet(program, inputs, tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = run(program, inputs, tmp_path, 2, ".jsonl")
    order = ("--sort", "-gap", "--top", "3")
    program("predict", *inputs, "-q", "--jobs", "1", *order, "-o", tmp_path / "whole.parquet")
    assert program("merge", *paths, *order, "-o", tmp_path / "all.parquet").code == 0
    assert parquet.read_table(tmp_path / "all.parquet") == parquet.read_table(tmp_path / "whole.parquet")
    sorted_rows = program("merge", *paths, *order).stdout.splitlines()
    assert [json.loads(row) for row in sorted_rows] == parquet.read_table(tmp_path / "all.parquet").to_pylist()


def test_an_interrupted_shard_goes_on_with_the_places_of_its_rows(program, tmp_path, monkeypatch) -> None:
    from crystalpredict.io import reader as reading
    from crystalpredict.prediction.predictor import Predictor

    monkeypatch.setattr(reading, "WINDOW_ENTRIES", 10)
    cif = str(EXAMPLES / "NaCl.cif")
    (tmp_path / "list").write_text(f"{cif}\n" * 50)
    listed = [f"@{tmp_path}/list", "--where", "index == 0"]
    real = Predictor._in_batches

    def once(self, crystals, neighbors, compute):
        if len(crystals) < 10:
            raise KeyboardInterrupt
        return real(self, crystals, neighbors, compute)

    monkeypatch.setattr(Predictor, "_in_batches", once)
    command = ("predict", *listed, "-q", "--jobs", "1", "--shard", "1/2", "-o", tmp_path / "1.csv", "--resume")
    assert program(*command).code == 130
    refused(program("merge", tmp_path / "1.csv", tmp_path / "2.csv"), "1.csv", "--resume")
    refused(program("merge", tmp_path / "1.csv.part"), "1.csv.part", "--resume")
    monkeypatch.undo()
    assert "after 20 rows" in program(*[part for part in command if part != "-q"]).stderr
    paths = [tmp_path / "1.csv", tmp_path / "2.csv"]
    assert program("predict", *listed, "-q", "--jobs", "1", "--shard", "2/2", "-o", paths[1]).code == 0
    assert program("merge", *paths).stdout.count(f"\n{cif},0,") == 50


# What is refused


def refused(outcome, *words: str) -> None:
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert all(word in line for word in words), line


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/2/3", "²/3", ""])
def test_what_is_no_shard_is_refused(text) -> None:
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)


@pytest.mark.parametrize("arguments", [[], ["-o", "a.json"], ["-o", "a.csv.gz"], ["-o", "a.csv", "--sort", "gap"]])
def test_a_shard_needs_a_file_that_grows(program, tmp_path, monkeypatch, arguments) -> None:
    monkeypatch.chdir(tmp_path)
    refused(program("predict", "a.cif", "--shard", "1/2", *arguments), "--shard needs -o FILE")


@pytest.fixture
def two(program, tmp_path) -> list[Path]:
    return run(program, [str(EXAMPLES)], tmp_path, 2)


def test_a_shard_does_not_take_the_place_of_another(program, two) -> None:
    for resume in ([], ["--resume"]):
        refused(program("predict", EXAMPLES, "--shard", "2/2", "-o", two[0], *resume), "holds shard 1/2")
        (two[1].parent / "x.csv").write_text("precious")
        refused(program("predict", EXAMPLES, "--shard", "2/2", "-o", two[1].parent / "x.csv", *resume), "not known")
    assert "complete" in program("predict", EXAMPLES, "--shard", "1/2", "-o", two[0], "--resume").stderr


def test_what_cannot_be_merged_is_named(program, two, tmp_path) -> None:
    one, other = two
    refused(program("merge", one), "1 of 2 shards missing: 2")
    begun = other.with_name("2.csv.part")
    begun.write_text("")
    refused(program("merge", one, other), "2.csv: not complete", "--resume")
    begun.unlink()
    refused(program("merge", one, one, other), "shard 1/2 again")
    refused(program("merge", one, tmp_path / "x.csv"), "x.csv: cannot be read")
    refused(program("merge", one, other, "-o", other), "one of the shards")
    refused(program("merge", one, other, "-o", tmp_path / "a.jsonl"), "shards are CSV")
    refused(program("merge", one, other, "--where", "x > 1"), "no column 'x'")
    content = other.read_bytes()
    other.write_bytes(content.replace(b"0.", b"1.", 1) + b"\n")
    refused(program("merge", one, other), "altered since")
    other.write_bytes(content)
    plain = tmp_path / "plain.csv"
    program("predict", EXAMPLES, "-q", "-o", plain)
    refused(program("merge", one, plain), "plain.csv", "no record", "--shard")
    record = other.with_name("2.csv.shard")
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"{}\n")
    refused(program("merge", one, other), "2.csv.shard: damaged")
    record.write_bytes(lines[0] + lines[-1])
    refused(program("merge", one, other, "-o", tmp_path / "all.csv"), "2.csv: more rows")
    record.write_bytes(lines[0] + lines[1] * 2 + lines[2])
    refused(program("merge", one, other, "-o", tmp_path / "all.csv"), "2.csv: fewer rows")
    assert not (tmp_path / "all.csv").exists()


def test_shards_of_other_runs_are_not_mixed(program, two, tmp_path) -> None:
    def another(number: str, *arguments: str | Path) -> Path:
        path = tmp_path / "other.csv"
        path.unlink(missing_ok=True)
        assert program("predict", "-q", *arguments, "--shard", number, "-o", path).code == 0
        return path

    refused(program("merge", two[0], another("2/3", EXAMPLES)), "number of shards differs (2 and 3)")
    refused(program("merge", two[0], another("2/2", EXAMPLES, "-t", "gap")), "columns differs")
    refused(program("merge", two[0], another("2/2", EXAMPLES, EXAMPLES)), "inputs differs")
    (tmp_path / "in").mkdir()
    for number in range(3):
        shutil.copy(EXAMPLES / "NaCl.cif", tmp_path / "in" / f"{number}.cif")
    first = run(program, [str(tmp_path / "in")], tmp_path, 2)[0]
    (tmp_path / "in" / "2.cif").rename(tmp_path / "in" / "3.cif")
    refused(program("merge", first, another("2/2", tmp_path / "in")), "the inputs changed")

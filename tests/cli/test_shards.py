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
from crystalpredict.prediction.shards import Shard, last_line
from tests.in_process import exit_code_of
from tests.same import alike

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
    from crystalpredict.io.inputs import expand

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
    folder = tmp_path_factory.mktemp("whole")
    for name in ("a.csv", "a.jsonl"):
        assert exit_code_of("predict", "-q", "--jobs", "1", *inputs, "-o", folder / name) == 3
    return folder / "a"


@pytest.mark.parametrize(("suffix", "count"), [(".csv", 3), (".jsonl", 2)])
def test_merged_shards_have_the_rows_of_one_run(program, inputs, whole, tmp_path, suffix, count) -> None:
    paths = run(program, inputs, tmp_path, count, suffix, "--resume")
    outcome = program("merge", *reversed(paths), "-o", tmp_path / f"all{suffix}")
    assert (outcome.code, outcome.stdout) == (0, "")
    expected = whole.with_suffix(suffix).read_bytes()
    assert alike((tmp_path / f"all{suffix}").read_bytes(), expected)
    assert alike(program("merge", *paths).stdout, expected)
    assert f"{count} shards" in outcome.stderr


def test_rows_of_a_condition_keep_their_places(program, inputs, tmp_path) -> None:
    condition = ("--where", "n_atoms > 2 or index == 2")
    paths = run(program, inputs, tmp_path, 3, ".csv", *condition)
    program("predict", *inputs, "-q", "--jobs", "1", *condition, "-o", tmp_path / "whole.csv")
    assert program("merge", *paths, "-o", tmp_path / "all.csv").code == 0
    assert alike((tmp_path / "all.csv").read_bytes(), (tmp_path / "whole.csv").read_bytes())
    plain = run(program, inputs, tmp_path, 3, ".csv", "--force")
    assert alike(program("merge", *plain, *condition).stdout, (tmp_path / "whole.csv").read_text())


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
        refused(
            program("predict", EXAMPLES, "--shard", "2/2", "-o", two[1].parent / "x.csv", *resume), "without a record"
        )
    assert "complete" in program("predict", EXAMPLES, "--shard", "1/2", "-o", two[0], "--resume").stderr


def test_what_cannot_be_merged_is_named(program, two, tmp_path) -> None:
    one, other = two
    refused(program("merge", one), "1 of 2 shards missing: 2")
    begun = other.with_name("2.csv.part")
    begun.write_text("")
    refused(program("merge", one, other), "2.csv: not complete", "--resume")
    begun.unlink()
    refused(program("merge", one, one, other), "shard 1/2 is also in")
    refused(program("merge", one, tmp_path / "x.csv"), "x.csv: cannot be read")
    refused(program("merge", one, other, "-o", other), "also named as a shard")
    refused(program("merge", one, other, "-o", tmp_path / "a.jsonl"), "shards are CSV")
    refused(program("merge", one, other, "--where", "x > 1"), "no column 'x'")
    content = other.read_bytes()
    other.write_bytes(content.replace(b"0.", b"1.", 1) + b"\n")
    refused(program("merge", one, other), "changed since")
    other.write_bytes(content)
    plain = tmp_path / "plain.csv"
    program("predict", EXAMPLES, "-q", "-o", plain)
    refused(program("merge", one, plain), "plain.csv", "no record", "--shard")
    record = other.with_name("2.csv.shard")
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"{}\n")
    refused(program("merge", one, other), "2.csv.shard: damaged")

    def altered(*kept: bytes) -> None:
        sums = {name: value for name, value in json.loads(lines[-1]).items() if name != "digest"}
        record.write_bytes(b"".join(kept) + last_line(b"".join(kept), sums, other))

    altered(lines[0])
    refused(program("merge", one, other, "-o", tmp_path / "all.csv"), "2.csv: more rows")
    places = json.loads(lines[1])["places"]
    altered(lines[0], json.dumps({"places": [*places, places[-1]]}).encode() + b"\n")
    refused(program("merge", one, other, "-o", tmp_path / "all.csv"), "2.csv: fewer rows")
    assert not (tmp_path / "all.csv").exists()


def test_shards_of_other_runs_are_not_mixed(program, two, tmp_path) -> None:
    def another(number: str, *arguments: str | Path) -> Path:
        path = tmp_path / "other.csv"
        path.unlink(missing_ok=True)
        assert program("predict", "-q", *arguments, "--shard", number, "-o", path).code == 0
        return path

    refused(program("merge", two[0], another("2/3", EXAMPLES)), "number of shards differs (2 and 3)")
    refused(program("merge", two[0], another("2/2", EXAMPLES, "-t", "gap")), "columns differ (")
    refused(program("merge", two[0], another("2/2", EXAMPLES, EXAMPLES)), "inputs differ (")
    (tmp_path / "in").mkdir()
    for number in range(3):
        shutil.copy(EXAMPLES / "NaCl.cif", tmp_path / "in" / f"{number}.cif")
    first = run(program, [str(tmp_path / "in")], tmp_path, 2, ".csv", "--force")[0]
    (tmp_path / "in" / "2.cif").rename(tmp_path / "in" / "3.cif")
    refused(program("merge", first, another("2/2", tmp_path / "in")), "the inputs changed")


def test_shards_that_keep_other_columns_are_refused_in_words_of_the_options(program, tmp_path) -> None:
    """Each difference is said as a user would undo it, not by the name that a journal has for it."""
    table = tmp_path / "t.csv"
    table.write_text(f"path,price,note\n{EXAMPLES / 'NaCl.cif'},1.5,x\n{EXAMPLES / 'MgO.cif'},2.5,y\n")

    def shard(number: int, *options: str | Path) -> Path:
        path = tmp_path / f"{number}.csv"
        assert (
            program("predict", "-q", "-j1", table, "--shard", f"{number}/2", "-o", path, "--force", *options).code == 0
        )
        return path

    one, begin = shard(1), f"{tmp_path / '1.csv'} and {tmp_path / '2.csv'}: not of the same run: "
    columns = "columns that --keep takes from tables differ: "
    for options, said in [
        (("--keep", "note"), f"{columns}only 1.csv has price"),
        (("--keep", "none"), f"{columns}only 1.csv has price, note"),
        (("--keep", "note,price"), f"{columns}they are in another order"),
        (("--write-structures", tmp_path / "hits"), "only 2.csv has --write-structures"),
        (("--elements", "Mg"), "the elements of --elements, --exclude-elements or --chemsys differ"),
        (("--no-reference",), "the known phases of --entries or --no-reference differ"),
    ]:
        outcome = program("merge", one, shard(2, *options))
        assert (outcome.code, outcome.stderr) == (2, f"crystalpredict: error: {begin}{said}\n")
    table.write_text(table.read_text().replace("1.5", "cheap"))
    outcome = program("merge", one, shard(2))
    assert outcome.stderr == f"crystalpredict: error: {begin}{columns}price has the kind number or text\n"


# What is damaged, or made to do harm


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Two shards of CSV and two of JSON lines."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "list").write_text("".join(f"{EXAMPLES / 'NaCl.cif'}\nnowhere.cif\n" for _ in range(3)))
    for name, number in (("a.csv", 1), ("b.csv", 2), ("a.jsonl", 1), ("b.jsonl", 2)):
        command = ("predict", "-q", "-j1", f"@{folder}/list", "--shard", f"0{number}/02", "-o", folder / name)
        assert exit_code_of(*command) in (0, 3, 4)
    return folder


def test_numbers_of_shards_are_the_same_with_and_without_zeros(program, shards, tmp_path) -> None:
    shutil.copytree(shards, tmp_path, dirs_exist_ok=True)
    for number in ("1/2", "01/02", "001/2"):
        command = ("predict", f"@{tmp_path}/list", "--shard", number, "-o", tmp_path / "a.csv", "--resume")
        assert "complete" in program(*command).stderr
    assert json.loads((shards / "a.csv.shard").read_text().splitlines()[0])["shard"] == "1/2"
    refused(program("predict", "-q", "nowhere.cif", "--shard", f"1/{'9' * 5000}", "-o", tmp_path / "c.csv"), "--shard")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_no_flipped_byte_is_merged(program, shards, tmp_path, kind) -> None:
    shutil.copytree(shards, tmp_path, dirs_exist_ok=True)
    one, other = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    for file in (other, other.with_name(f"b.{kind}.shard")):
        content = file.read_bytes()
        for place in range(0, len(content), 97):
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            refused(program("merge", one, other), other.name)
        file.write_bytes(content)
    assert program("merge", one, other).code == 0


ODD = ["null", "1", '"x"', "[]", "{}", "true", "-1", "0.5", "1e999", "NaN", '"\\ud800"', "["]
ODD += ["9" * 400, "9" * 5000, "[" * 100_000]


@pytest.mark.parametrize("value", ODD, ids=lambda value: value[:12])
def test_records_of_odd_values_are_one_line(program, shards, tmp_path, value) -> None:
    shutil.copytree(shards, tmp_path, dirs_exist_ok=True)
    one, other = tmp_path / "a.csv", tmp_path / "b.csv"
    record = other.with_name("b.csv.shard")
    facts, window, ending = (json.loads(line) for line in record.read_bytes().splitlines())
    sums = {name: each for name, each in ending.items() if name != "digest"}
    marker = "a place for the value"

    def of(*lines: dict) -> bytes:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        return text.replace(json.dumps(marker), value).encode()

    for name in (*facts, "new"):
        lines = of({**facts, name: marker}, window)
        record.write_bytes(lines + last_line(lines, sums, other))
        said = program("merge", one, other)
        if json.dumps(facts.get(name)) != value:
            refused(said)
    for name in window:
        lines = of(facts, {**window, name: marker})
        record.write_bytes(lines + last_line(lines, sums, other))
        assert program("merge", one, other, "-o", tmp_path / "all.csv", "--force").code in (0, 2)
    lines = of(facts, {**window, "places": [marker]})
    record.write_bytes(lines + last_line(lines, sums, other))
    refused(program("merge", one, other, "-o", tmp_path / "never.csv"))
    for name in ending:
        record.write_bytes(of(facts, window, {**ending, name: marker}))
        refused(program("merge", one, other))
    for line in (value, f"{value}\n", f"{value}\n" * 3):
        record.write_text(line)
        refused(program("merge", one, other))
    assert not (tmp_path / "never.csv").exists()


@pytest.mark.parametrize("value", [*ODD, "\udcff", "1,2,3", '"'], ids=lambda value: value[:12])
def test_rows_of_odd_values_under_a_right_digest_are_one_line(program, shards, tmp_path, value) -> None:
    shutil.copytree(shards, tmp_path, dirs_exist_ok=True)
    for kind, options in (("jsonl", ["-o", tmp_path / "all.parquet"]), ("csv", ["--sort", "gap"])):
        one, other = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
        record = other.with_name(f"b.{kind}.shard")
        *lines, last = record.read_bytes().splitlines(keepends=True)
        sums = {name: each for name, each in json.loads(last).items() if name != "digest"}
        first, *rows = other.read_text().splitlines()
        fields = json.loads(first) if kind == "jsonl" else first.split(",")
        for place in (*range(len(fields)), None):
            if place is None:
                changed = value
            elif kind == "csv":
                changed = ",".join([*rows[0].split(",")[:place], value, *rows[0].split(",")[place + 1 :]])
            else:
                names = list(fields)
                changed = json.dumps({**fields, names[place]: "a place"}).replace('"a place"', value)
            content = "\n".join([changed, *rows, ""] if kind == "jsonl" else [first, changed, *rows[1:], ""])
            other.write_bytes(content.encode("utf-8", "surrogateescape"))
            size = {**sums, "size": other.stat().st_size}
            record.write_bytes(b"".join(lines) + last_line(b"".join(lines), size, other))
            outcome = program("merge", one, other, *options, *(["--force"] if kind == "jsonl" else []))
            assert outcome.code in (0, 2)
            assert "unforeseen" not in outcome.stderr


def test_the_missing_of_very_many_shards_are_counted_not_listed(program, shards, tmp_path) -> None:
    if pytest.importorskip("resource"):
        assert program("predict", "-q", "x.cif", "--shard", "1/3000000000", "-o", tmp_path / "a.csv").code == 4
        refused(program("merge", tmp_path / "a.csv"), "2999999999 of 3000000000 shards missing: 2, 3, 4, 5, 6, ...")


@pytest.mark.parametrize("name", ["", ".", "x" * 300, "long/" * 1000, "/dev/null", "fifo"])
def test_names_of_no_shard_are_one_line(program, tmp_path, monkeypatch, name) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    os.mkfifo("fifo.shard")
    refused(program("merge", name))

"""Parquet, conditions, orders and the summary, as the program writes them; places that cannot be written to."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crystalpredict.cli.progress import Forecast
from crystalpredict.cli.tally import Tally, reason_of
from crystalpredict.prediction.predictor import Prediction
from tests.labelled import rows, write
from tests.same import alike

VALUES = ["bandgap_eV", "formation_energy_eV_per_atom", "e_above_hull_eV_per_atom", "bulk_modulus_GPa",
          "shear_modulus_GPa"]  # fmt: skip
ENDS = [column + end for column in VALUES for end in ("", "_lo90", "_hi90")]


def python(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crystalpredict", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=300, **options)


# Parquet


def test_parquet_has_the_rows_of_the_csv(program, examples, tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    inputs = [*examples[:3], "nowhere.cif"]
    expected = program("predict", *inputs).rows
    outcome = program("predict", *inputs, "-o", tmp_path / "a.parquet")
    assert (outcome.code, outcome.stdout) == (3, "")
    program("predict", *inputs, "-f", "parquet", "-o", tmp_path / "b")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table == parquet.read_table(tmp_path / "b")
    assert table.column_names == ["path", "index", "formula", "n_atoms", *ENDS, "warnings", "error"]
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == inputs
    assert [[row[name] for name in ENDS] for row in rows[:3]] == [
        [float(row[name]) for name in ENDS] for row in expected[:3]
    ]
    assert [row["n_atoms"] for row in rows] == [int(row["n_atoms"]) for row in expected[:3]] + [None]
    assert (rows[3]["bandgap_eV"], rows[3]["error"], rows[0]["warnings"]) == (None, expected[3]["error"], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b"]


def test_parquet_without_rows_has_its_columns_still(program, examples, tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    outcome = program("predict", examples[0], "-o", tmp_path / "a.parquet", "-t", "K", "--where", "K < 0")
    assert outcome.code == 0
    table = parquet.read_table(tmp_path / "a.parquet")
    ends = ["bulk_modulus_GPa", "bulk_modulus_GPa_lo90", "bulk_modulus_GPa_hi90"]
    assert (table.num_rows, table.column_names[4:-2]) == (0, ends)
    program("predict", examples[0], "-o", tmp_path / "a.parquet", "-t", "K", "--no-uncertainty", "--force")
    assert parquet.read_table(tmp_path / "a.parquet").column_names[4:-2] == ends[:1]


def test_parquet_to_stdout_is_refused(program, examples, tmp_path) -> None:
    for arguments in ([], ["-o", tmp_path / "a.gz"]):
        outcome = program("predict", examples[0], "-f", "parquet", *arguments)
        assert outcome.code == 2
        assert "needs -o FILE" in outcome.stderr
    assert program("predict", examples[0], "-o", tmp_path / "a.parquet.gz").code == 2


# Rows that are wanted


def test_where_sort_and_top_choose_rows_but_all_are_counted(program, examples) -> None:
    every = program("predict", *examples).rows
    gaps = [float(row["bandgap_eV"]) for row in every]
    inputs = [*examples, "nowhere.cif"]
    chosen = program("predict", *inputs, "--where", "bandgap_eV > 1 and n_atoms < 12")
    assert chosen.code == 3
    wanted = [row for row, gap in zip(every, gaps, strict=True) if gap > 1 and int(row["n_atoms"]) < 12]
    assert alike(chosen.rows, wanted)
    assert 1 < len(chosen.rows) < 13
    assert "12 predicted, 1 failed (1 no such file), 1 not computed (no match)" in chosen.stderr
    descending = program("predict", *inputs, "--sort", "-bandgap_eV").rows
    assert alike([row["bandgap_eV"] for row in descending[:13]], [f"{gap:.4f}" for gap in sorted(gaps, reverse=True)])
    assert descending[13]["path"] == "nowhere.cif"
    assert alike(program("predict", *inputs, "--sort", "-gap", "--top", "3").rows, descending[:3])


def test_rows_may_be_chosen_by_the_ends_of_intervals_and_by_derived_columns(program, examples) -> None:
    every = program("predict", *examples).rows
    sure = program("predict", *examples, "--where", "bandgap_eV_lo90 > 0.5").rows
    assert sure == [row for row in every if float(row["bandgap_eV_lo90"]) > 0.5]
    assert 0 < len(sure) < len(every)
    derived = program("predict", *examples, "-t", "youngs_modulus,gap", "--sort", "-youngs_modulus", "--top", "2").rows
    stiffest = [row["youngs_modulus_GPa"] for row in program("predict", *examples, "-t", "youngs_modulus").rows]
    assert [row["youngs_modulus_GPa"] for row in derived] == sorted(stiffest, key=float, reverse=True)[:2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--where", "bandgap_eV_lo90 > 1", "--no-uncertainty"], "no column 'bandgap_eV_lo90'"),
        (["--where", "bandgab_eV > 1"], "did you mean 'bandgap_eV'"),
        (["--where", "bandgap_eV > 1", "-t", "K"], "no column 'bandgap_eV'"),
        (["--where", "exit()"], "cannot have"),
        (["--sort", "-colour"], "no column 'colour'"),
        (["--top", "3"], "--top needs --sort"),
        (["--sort", "index", "-o", "a.csv", "--resume"], "--resume needs"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(program, examples, options, said) -> None:
    outcome = program("predict", "-q", examples[0], *options)
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert said in line


def test_reasons_are_counted_without_what_is_peculiar_to_a_file() -> None:
    tally = Tally()
    errors = ["Cs (site 1) and Cl (site 2) are 0.07 Å apart: remove it", "Na and Na are 0.1 Å apart: x"]
    errors += [f"broken CIF (line {n}): check" for n in range(3)] + [
        f"unknown element 'X{n}' at site {n}: x" for n in "12"
    ]
    for error in [*errors, ""]:
        tally.add(Prediction("a", 0, "", None, error=error))
    assert "1 predicted, 7 failed (3 broken CIF; 2 atoms too close; 2 unknown element at site …) in" in tally.summary()
    assert reason_of("cell lengths [1.0, -2.0, 3.0] Å: x") == reason_of("cell lengths [4.5, 0.0, 1e-3] Å: x")
    for number in range(3000):
        tally.add(Prediction("a", 0, "", None, error=chr(1000 + number)))
    assert len(tally.reasons) < 1010
    assert tally.failed == 3007


# Places


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("kind", ["csv", "json", "table"])
def test_a_full_disk_is_one_line_and_exit_code_1(examples, kind) -> None:
    with Path("/dev/full").open("w") as full:
        done = python("predict", "-q", examples[0], "-f", kind, stdout=full)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot be written (No space left on device)" in line


@pytest.mark.skipif(os.name == "nt", reason="no limits there")
@pytest.mark.parametrize("options", [["-o", "a.json"], ["-o", "a.csv", "--sort", "gap"], ["-o", "a.csv"]])
def test_a_disk_without_room_for_a_row_is_one_line_that_names_the_file(examples, tmp_path, options: list[str]) -> None:
    limited = f'ulimit -f 0; exec "{sys.executable}" -m crystalpredict "$@"'
    files = [str(Path(name).absolute()) for name in examples[:2]]
    command = ["bash", "-c", limited, "bash", "predict", "-q", *files, *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"crystalpredict: error: {options[1]}")
    assert "cannot be written (File too large): free some space, and run it again" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="no limits there")
def test_a_disk_that_fills_keeps_the_rows_to_go_on_with(program, tmp_path) -> None:
    (tmp_path / "list").write_text("nowhere.cif\n" * 3500)
    whole = tmp_path / "whole.csv"
    assert program("predict", "-q", f"@{tmp_path}/list", "-o", whole).code == 4
    limited = f"ulimit -f 100; trap '' XFSZ; exec {sys.executable} -m crystalpredict predict -q @{tmp_path}/list"
    shell = ["bash", "-c", f"{limited} -o {tmp_path}/a.csv"]  # blocks of 1024 bytes
    done = subprocess.run(shell, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "a.csv.part" in line
    assert "--resume" in line
    assert not (tmp_path / "a.csv").exists()
    assert program("predict", "-q", f"@{tmp_path}/list", "-o", tmp_path / "a.csv", "--resume").code == 4
    assert alike((tmp_path / "a.csv").read_bytes(), whole.read_bytes())


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there is no such device")
def test_a_device_is_not_replaced_by_a_file(program, examples) -> None:
    outcome = program("predict", examples[0], "-o", "/dev/null", "-f", "json")
    assert outcome.code == 2
    assert "no regular file" in outcome.stderr


def test_any_letter_may_be_in_a_name(program, tmp_path: Path, examples) -> None:
    names = [tmp_path / f"a{letter}b.cif" for letter in '\r\n,"; é']
    for name in names:
        name.write_bytes(Path(examples[0]).read_bytes())
    done = program("predict", "-q", *names, "-o", tmp_path / "out.csv")
    assert done.code == 0, done.stderr
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["path"] for row in found] == [str(name) for name in names]
    assert len({row["bandgap_eV"] for row in found}) == 1


# Surroundings


# CSV, then the table, by one process: to start one for each would take twice as long
BOTH_KINDS = """
import sys
from crystalpredict.cli.app import main, program
files = sys.argv[1:]
sys.argv = ["crystalpredict", "predict", *files, "-f", "csv"]
try:
    main()
except SystemExit as end:
    assert end.code == 3
print("----", flush=True)
sys.argv[-1] = "table"
program()
"""


@pytest.mark.skipif(os.name == "nt", reason="a Unix environment")
def test_neither_home_nor_locale_nor_colour_matters(examples, tmp_path) -> None:
    overfull = tmp_path / "é.vasp"
    overfull.write_text("CsCl\n4\n1 0 0\n0 1 0\n0 0 1\nCs Cl\n1 1\nDirect\n0 0 0\n0.01 0 0\n")
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    plain = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    surroundings = [
        {"HOME": str(home), "LC_ALL": "C.UTF-8"},
        {},
        {"HOME": "/nonexistent", "NO_COLOR": "1", "TERM": "dumb"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
    ]
    texts = []
    for extra in surroundings:
        command = [sys.executable, "-c", BOTH_KINDS, examples[0], str(overfull)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, env=plain | extra, errors="replace", check=False
        )
        assert (done.returncode, "Traceback" in done.stderr, "\x1b" in done.stdout) == (3, False, False)
        rows, table = done.stdout.split("----\n")
        assert rows.startswith("path,")
        assert "band gap" in table
        texts.append(done.stdout)
    assert len(set(texts[:3])) == 1
    assert list(home.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes")
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_head_ends_the_program_without_a_word(examples, tmp_path, kind) -> None:
    (tmp_path / "list").write_text("nowhere.cif\n" * 5000)
    command = f"{sys.executable} -m crystalpredict predict -q -f {kind} @{tmp_path}/list | head -n 2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 2)


def test_two_runs_at_once_to_two_files_give_the_same(examples, tmp_path) -> None:
    command = [sys.executable, "-m", "crystalpredict", "predict", "-q", *examples[:3], "-o"]
    runs = [subprocess.Popen([*command, str(tmp_path / name)]) for name in ("a.csv", "b.csv")]
    assert [run.wait(300) for run in runs] == [0, 0]
    assert (tmp_path / "a.csv").read_bytes() != b""
    assert alike((tmp_path / "a.csv").read_bytes(), (tmp_path / "b.csv").read_bytes())


# What a result must not take the place of


@pytest.mark.parametrize("name", ["k.json", "k.csv.gz", "k.csv"])
def test_an_interrupt_leaves_an_earlier_result_as_it_was(program, examples, tmp_path, monkeypatch, name: str) -> None:
    whole = Forecast.rows

    def interrupted(*arguments, **options):
        yield from itertools.islice(whole(*arguments, **options), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(Forecast, "rows", interrupted)
    (tmp_path / name).write_text("of an earlier run")
    outcome = program("predict", *examples[:4], "-o", tmp_path / name, "--sort", "path", "--force")
    assert outcome.code == 130
    assert f"2 rows are complete in {tmp_path / name}.interrupted" in outcome.stderr
    assert (tmp_path / name).read_text() == "of an earlier run"
    monkeypatch.undo()
    part = tmp_path / f"{name}.interrupted"
    content = gzip.decompress(part.read_bytes()) if name.endswith(".gz") else part.read_bytes()
    assert all(example.encode() in content for example in examples[:2])
    assert examples[2].encode() not in content


def test_a_result_does_not_take_the_place_of_what_is_read(program, examples, tmp_path) -> None:
    table = tmp_path / "data.csv"
    table.write_text(f"id,path,gap\na,{Path(examples[0]).absolute()},1\n")
    names = tmp_path / "list.jsonl"
    names.write_text(f"{examples[0]}\n")
    (tmp_path / "link.csv").symlink_to(table)
    for arguments in (
        ("predict", table, "-o", table),
        ("predict", table, "-o", tmp_path / "link.csv"),
        ("predict", f"@{names}", "-o", names),
        ("embed", table, "-o", table),
        ("evaluate", table, "--predictions", table),
    ):
        outcome = program(*arguments)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert "it is read, too" in outcome.stderr
    both = tmp_path / "r.csv"
    assert "name two files" in program("evaluate", table, "--predictions", both, "--report", both).stderr
    assert table.read_text().startswith("id,path,gap\n")
    assert names.read_text() == f"{examples[0]}\n"


@pytest.mark.parametrize(("name", "starts"), [("r.csv", "path,"), ("r.json", "[\n"), ("r", '{"path"')])
def test_a_suffix_goes_before_a_format_that_was_set(program, examples, tmp_path, monkeypatch, name, starts) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_FORMAT", "jsonl")
    assert program("predict", examples[0], "-o", tmp_path / name).code == 0
    assert (tmp_path / name).read_text().startswith(starts)
    assert program("predict", examples[0], "-o", tmp_path / f"2{name}", "-f", "jsonl").code == 0
    assert (tmp_path / f"2{name}").read_text().startswith('{"path"')


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&-"])
def test_without_a_standard_stream_the_output_is_whole(tmp_path: Path, examples, closed: str) -> None:
    output = tmp_path / "out.csv"
    command = f"exec {sys.executable} -m crystalpredict predict {examples[0]} -o {output} {closed}"
    assert subprocess.run(["bash", "-c", command], capture_output=True, timeout=300).returncode == 0
    assert len(output.read_text().splitlines()) == 2


def test_results_for_a_closed_standard_output_are_an_error(examples) -> None:
    command = f"exec {sys.executable} -m crystalpredict predict -q {examples[0]} >&-"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert ended.stderr == "crystalpredict: error: the output cannot be written (Bad file descriptor)\n"


def test_a_terminal_of_few_letters_gets_the_table_of_an_evaluation(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", rows(4))
    command = [sys.executable, "-m", "crystalpredict", "evaluate", path, "-f", "table"]
    ended = subprocess.run(command, capture_output=True, timeout=300, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert ended.returncode == 0, ended.stderr
    assert b"R\\u00b2" in ended.stdout


def test_json_stays_json_where_letters_are_few(tmp_path: Path) -> None:
    path = tmp_path / "Å\N{GRINNING FACE}\udcff.vasp"
    path.write_text("Ar\n1\n30 0 0\n0 30 0\n0 0 30\nAr\n1\nDirect\n0 0 0\n")
    for kind in ("json", "jsonl"):
        command = [sys.executable, "-m", "crystalpredict", "predict", path, "-q", "-f", kind]
        env = os.environ | {"PYTHONIOENCODING": "ascii"}
        ended = subprocess.run(command, capture_output=True, timeout=300, env=env)
        content = json.loads(ended.stdout.decode("ascii"))
        row = content[0] if kind == "json" else content
        assert (row["path"], "within 6 Å" in row["warnings"][0]) == (str(path), True)


@pytest.mark.parametrize("name", ["r.csv", "r.csv.gz", "r.json", "e.npz"])
def test_a_symbolic_link_stays_one_and_its_file_gets_the_result(program, examples, tmp_path, name) -> None:
    store = tmp_path / "store"
    store.mkdir()
    link, file = tmp_path / name, store / "blob"
    link.symlink_to("store/blob")  # not there yet
    command = "embed" if name == "e.npz" else "predict"
    mask = os.umask(0)
    os.umask(mask)
    for again in (False, True):
        assert program(command, examples[0], "-o", link, *["--force"] * again).code == 0
        assert link.is_symlink()
        assert [path.name for path in store.iterdir()] == ["blob"]
        content = gzip.decompress(file.read_bytes()) if name.endswith(".gz") else file.read_bytes()
        assert name == "e.npz" or Path(examples[0]).name.encode() in content
        assert file.stat().st_mode & 0o777 == (0o600 if again else 0o666 & ~mask)
        file.chmod(0o600)


def test_shards_behind_symbolic_links_are_merged_and_resumed(program, examples, tmp_path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    links = [tmp_path / f"{number}.csv" for number in (1, 2)]
    for number, link in enumerate(links, start=1):
        link.symlink_to(store / link.name)
        assert program("predict", *examples[:3], "--shard", f"{number}/2", "-o", link).code == 0
    assert alike(program("merge", *links).stdout, program("predict", *examples[:3], "-f", "csv").stdout)
    (store / "1.csv").rename(store / "1.csv.part")  # as if it had been killed at its end
    assert "not complete" in program("merge", *links).stderr

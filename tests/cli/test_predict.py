import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
import torch
from pymatgen.core import Lattice, Structure

import crystalpredict
from crystalpredict import load_model
from crystalpredict.cli.prediction_table import TableWriter
from tests.same import alike

VALUES = {
    "bandgap_eV": 1.01e-4,
    "formation_energy_eV_per_atom": 1.01e-4,
    "e_above_hull_eV_per_atom": 1.01e-4,
    "bulk_modulus_GPa": 1.01e-2,
    "shear_modulus_GPa": 1.01e-2,
}  # columns of values, and one and a bit of their last digit
ENDS = [column + end for column in VALUES for end in ("", "_lo90", "_hi90")]
COLUMNS = ["path", "index", "formula", "n_atoms", *ENDS, "warnings", "error"]
CSCL = "CsCl\n4.1\n1 0 0\n0 1 0\n0 0 1\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
OVERFULL = CSCL.replace("0.5 0.5 0.5", "0.01 0 0")


@pytest.fixture
def cscl(tmp_path) -> str:
    return written(tmp_path / "cscl.vasp", CSCL)


def written(path: Path, text: str = CSCL) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def typed(text: str) -> io.TextIOWrapper:
    """A stdin."""
    return io.TextIOWrapper(io.BytesIO(text.encode()))


def same(one: list[dict], other: list[dict]) -> bool:
    """Whether rows agree in every value, to the last digit but one."""
    assert len(one) == len(other)
    return all(
        abs(float(a[column]) - float(b[column])) <= last
        for a, b in zip(one, other, strict=True)
        for column, last in VALUES.items()
    )


def foreseen(outcome, *parts: str) -> None:
    """A wrong usage: one line on stderr that holds `parts`, nothing on stdout, exit code 2."""
    assert outcome.code == 2
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("crystalpredict: error: ")
    for part in parts:
        assert part in line


# Rows


def test_examples_are_rows_in_order_with_the_values_each_has_alone(program, examples) -> None:
    outcome = program("predict", *reversed(examples))
    assert outcome.code == 0
    assert outcome.stdout.split("\n")[0] == ",".join(COLUMNS)
    assert [row["path"] for row in outcome.rows] == examples[::-1]
    for row in outcome.rows:
        assert (row["index"], row["error"]) == ("0", "")
        assert row["warnings"] == ""
        assert int(row["n_atoms"]) >= 2
        assert all(float(row[column]) >= 0 for column in VALUES if column != "formation_energy_eV_per_atom")
        assert [len(row[column].split(".")[1]) for column in VALUES] == [4, 4, 4, 2, 2]
    assert len({row["formation_energy_eV_per_atom"] for row in outcome.rows}) == 13
    assert "13 predicted, 0 failed" in outcome.stderr
    model = crystalpredict.load_model()
    assert same(outcome.rows, [model.predict(path)[0].values for path in reversed(examples)])


def test_the_cell_does_not_matter(program, examples) -> None:
    files = ["examples/GaAs.cif", "examples/Si.vasp", "examples/Al2O3.cif"]
    reduced, given = program("predict", *files), program("predict", "--no-reduce", *files)
    assert [row["n_atoms"] for row in reduced.rows] == ["8", "8", "30"] == [row["n_atoms"] for row in given.rows]
    assert same(reduced.rows, given.rows)


def test_the_number_of_readers_does_not_matter(examples, tmp_path) -> None:
    paths = written(tmp_path / "list.txt", "\n".join([*examples, "nowhere.cif"] * 8))
    outcomes = [python("-m", "crystalpredict", "predict", f"@{paths}", "-q", "--jobs", jobs) for jobs in "130"]
    assert len(outcomes[0].stdout.splitlines()) == 1 + 14 * 8
    assert all(alike(outcome.stdout, outcomes[0].stdout) for outcome in outcomes)
    assert {(outcome.returncode, outcome.stderr) for outcome in outcomes} == {(3, "")}


def test_cif_poscar_and_json_of_a_structure_give_the_same_numbers(program, tmp_path) -> None:
    lattice = Lattice.from_parameters(3.9, 4.2, 5.3, 80, 95, 105)
    structure = Structure(lattice, ["Sr", "Ti", "O", "O"], [[0, 0, 0], [0.5, 0.4, 0.5], [0.1, 0.5, 0.8], [0.6, 0, 0.4]])
    paths = [tmp_path / name for name in ("a.cif", "POSCAR_a", "a.json")]
    for path, kind in zip(paths, ("cif", "poscar", "json"), strict=True):
        path.write_text(structure.to(fmt=kind))
    rows = program("predict", *paths).rows
    assert [row["formula"] for row in rows] == ["SrTiO2"] * 3
    assert same([rows[0]] * 2, rows[1:])


def test_every_structure_asked_for_is_a_row_in_its_place(program, tmp_path, cscl) -> None:
    several = [json.loads(Structure.from_str(CSCL, fmt="poscar").to_json()), None]
    many = written(tmp_path / "two.json", json.dumps(several))
    nowhere = str(tmp_path / "nowhere.cif")
    outcome = program("predict", nowhere, cscl, many, cscl)
    assert [(row["path"], row["index"]) for row in outcome.rows] == [
        (nowhere, "0"), (cscl, "0"), (many, "0"), (many, "1"), (cscl, "0"),
    ]  # fmt: skip
    assert [bool(row["error"]) for row in outcome.rows] == [True, False, False, True, False]
    assert [row["bandgap_eV"] == "" for row in outcome.rows] == [True, False, False, True, False]
    assert outcome.code == 3
    assert "3 predicted, 2 failed" in outcome.stderr


def test_failures_are_one_line_each_on_stderr_with_the_name_of_the_file(program, tmp_path, cscl) -> None:
    empty, close = written(tmp_path / "empty.cif", ""), written(tmp_path / "close.vasp", OVERFULL)
    outcome = program("predict", empty, cscl, close)
    assert outcome.code == 3
    lines = [line for line in outcome.stderr.splitlines() if "predicted" not in line and "model " not in line]
    assert lines[0] == f"crystalpredict: {empty}: {outcome.rows[0]['error']}"
    assert lines[1] == f"crystalpredict: {close}: {outcome.rows[2]['error']}"
    assert len(lines) == 2
    assert "empty file" in lines[0]
    assert "Å apart" in lines[1]
    assert outcome.rows[2]["formula"] == "CsCl"


def test_exit_code_4_if_all_failed(program, tmp_path) -> None:
    outcome = program("predict", tmp_path / "a.cif", tmp_path / "b.cif")
    assert outcome.code == 4
    assert [row["error"] for row in outcome.rows] == ["no such file: check the path"] * 2


def test_a_warning_is_a_column_and_no_failure(program, tmp_path) -> None:
    structure = Structure.from_str(CSCL, fmt="poscar")
    structure[0] = {"Cs": 0.5, "Rb": 0.25}
    outcome = program("predict", written(tmp_path / "a.json", structure.to_json()))
    assert outcome.code == 0
    assert "1 of 2 sites partly occupied" in outcome.rows[0]["warnings"]
    assert float(outcome.rows[0]["bulk_modulus_GPa"]) > 0


def test_quiet_says_nothing_even_of_failures(program, tmp_path, cscl) -> None:
    for arguments, code in (([cscl], 0), ([cscl, tmp_path / "a.cif"], 3), ([tmp_path / "a.cif"], 4)):
        outcome = program("predict", "-q", *arguments)
        assert (outcome.code, outcome.stderr) == (code, "")
        assert len(outcome.rows) == len(arguments)


# Formats


def test_json_and_json_lines_hold_the_numbers_of_the_csv(program, tmp_path, cscl) -> None:
    files = [cscl, tmp_path / "nowhere.cif"]
    (row, failed) = program("predict", *files).rows
    whole = json.loads(program("predict", "--format", "json", *files).stdout)
    lines = [json.loads(line) for line in program("predict", "-f", "jsonl", *files).stdout.splitlines()]
    assert whole == lines
    assert [list(item) for item in whole] == [COLUMNS] * 2
    assert {column: whole[0][column] for column in VALUES} == {column: float(row[column]) for column in VALUES}
    assert (whole[0]["index"], whole[0]["n_atoms"], whole[0]["error"]) == (0, 2, None)
    assert "; ".join(whole[0]["warnings"]) == row["warnings"]
    assert (whole[1]["formula"], whole[1]["n_atoms"], whole[1]["bandgap_eV"]) == (None, None, None)
    assert whole[1]["error"] == failed["error"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("width", "targets", "lines"), [(140, (), 1), (80, (), 3), (60, (), 6), (60, ("gap",), 1)])
def test_a_table_folds_no_number_and_puts_notes_below_their_rows(
    cscl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, targets: tuple[str, ...], lines: int
) -> None:
    """Rows of `lines` lines, then their notes; no line is wider than the terminal but for names that are."""
    model = load_model(device="cpu", targets=targets)
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "far.vasp", "Ar\n1\n30 0 0\n0 30 0\n0 0 30\nAr\n1\nDirect\n0 0 0\n")
    written(tmp_path / "a_name_of_more_than_forty_letters_to_try.vasp", "")
    rows = model.predict(sorted(path.name for path in tmp_path.iterdir()))
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    writer = TableWriter(stream, model.properties, intervals=True)
    for row in rows:
        writer.write(row)
    writer.close()
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    shown = text.splitlines()
    assert all(len(line) <= width or line.startswith(("a_name", "[..]")) for line in shown)
    assert "…" not in text
    first = next(number for number, line in enumerate(shown) if re.match(r"cscl\.vasp(,|  )", line))
    values = " ".join(shown[first : first + lines])
    for prop, column in zip(model.properties, model.columns, strict=True):
        assert f"{rows[1][column]:.{prop.decimals - 1}f}" in values.replace("[", " ").split()
    assert len(re.findall(r"\[-?[0-9.]+\.\.-?[0-9.]+\]", values)) == len(model.properties)
    assert "    error: empty file" in text
    assert "    warning: 1 atom has no neighbour" in " ".join(text.split("\n"))
    assert "unlike the training data" in " ".join(text.split())


def test_a_table_shows_every_file_with_its_numbers_and_its_error(program, tmp_path, cscl) -> None:
    outcome = program("predict", "-f", "table", cscl, written(tmp_path / "[red]empty.cif", ""))
    assert outcome.code == 3
    assert "CsCl" in outcome.stdout
    for word in ("band gap", "eV/atom", "GPa", "empty file"):
        assert word in outcome.stdout
    text = "".join(outcome.stdout.split())
    assert "[red]empty.cif" in text
    assert "\x1b" not in outcome.stdout
    (row,) = program("predict", "-q", cscl).rows
    assert f"{float(row['bandgap_eV']):.3f}" in text


def test_letters_of_any_language_pass_through_every_format(program, tmp_path) -> None:
    path = written(tmp_path / 'Kochsalz, "№ 1" 食塩.vasp')
    assert program("predict", path).rows[0]["path"] == path
    assert json.loads(program("predict", "-f", "json", path).stdout)[0]["path"] == path


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.CSV", "a.csv.gz", "a.json.gz", "a.jsonl.gz"])
def test_the_suffix_of_the_output_file_decides_its_format(program, tmp_path, cscl, name) -> None:
    outcome = program("predict", cscl, "-o", tmp_path / name)
    assert (outcome.code, outcome.stdout) == (0, "")
    content = (tmp_path / name).read_bytes()
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
    suffix = name.lower().removesuffix(".gz").split(".")[1]
    rows = {
        "csv": lambda: list(csv.DictReader(io.StringIO(text))),
        "json": lambda: json.loads(text),
        "jsonl": lambda: [json.loads(line) for line in text.splitlines()],
    }[suffix]()
    assert [row["path"] for row in rows] == [cscl]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "cscl.vasp"])


def test_an_output_file_is_replaced_and_the_same_to_the_byte_again(program, tmp_path, cscl) -> None:
    output = tmp_path / "a.csv.gz"
    contents = []
    for _ in range(2):
        program("predict", cscl, "-o", output, "--force")
        contents.append(output.read_bytes())
    assert contents[0] == contents[1]
    text = tmp_path / "a.txt"
    program("predict", cscl, "-o", text, "-f", "jsonl")
    assert json.loads(text.read_text())["path"] == cscl


@pytest.mark.parametrize(
    ("output", "parts"),
    [
        ("a.xlsx", ("a.xlsx", ".csv")),
        ("a", (".csv",)),
        ("a.gz", (".csv",)),
        ("a.csv.xz", (".csv",)),
        ("nowhere/a.csv", ("nowhere", "create it")),
        (".", ("directory",)),
        ("folder.csv", ("directory",)),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(program, tmp_path, cscl, output, parts) -> None:
    (tmp_path / "folder.csv").mkdir()
    foreseen(program("predict", cscl, "-o", tmp_path / output), *parts)
    foreseen(program("predict", cscl, "-f", "csv", "-o", tmp_path / "a.csv.bz2"), "only gzip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cscl.vasp", "folder.csv"]


# Targets


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        (["-t", "gap"], ["bandgap_eV"]),
        (["--target", "K"], ["bulk_modulus_GPa"]),
        (["-t", "G,K"], ["shear_modulus_GPa", "bulk_modulus_GPa"]),
        (["-t", "eform", "-t", "ehull"], ["formation_energy_eV_per_atom", "e_above_hull_eV_per_atom"]),
        (["-t", "gap, bandgap,Band-Gap", "-t", "Eg"], ["bandgap_eV"]),
        (["-t", "bulk_modulus_GPa,,"], ["bulk_modulus_GPa"]),
        (["-t", "shear_modulus,bandgap,e_above_hull"], ["shear_modulus_GPa", "bandgap_eV", "e_above_hull_eV_per_atom"]),
    ],
)
def test_targets_and_their_aliases_choose_the_columns_in_their_order(program, cscl, options, columns) -> None:
    outcome = program("predict", cscl, *options, "--no-uncertainty")
    assert outcome.code == 0
    assert list(outcome.rows[0]) == ["path", "index", "formula", "n_atoms", *columns, "warnings", "error"]
    assert all(outcome.rows[0][column] for column in columns)


def test_a_target_alone_has_the_value_it_has_among_all(program, cscl) -> None:
    whole, one = program("predict", cscl).rows[0], program("predict", cscl, "-t", "K").rows[0]
    assert alike(one["bulk_modulus_GPa"], whole["bulk_modulus_GPa"])


def test_an_unknown_target_is_refused_with_a_suggestion(program, cscl) -> None:
    foreseen(program("predict", cscl, "-t", "bandgab"), "'bandgab'", "did you mean 'bandgap'?")
    foreseen(program("predict", cscl, "-t", "gap,colour"), "'colour'", "shear_modulus")


def test_a_target_that_only_other_models_predict_is_refused_with_their_names(program, cscl) -> None:
    ensemble, elastic = ("-m", "crystalformer-mp-ensemble"), ("-m", "crystalframer-elastic")
    foreseen(program("predict", cscl, "-t", "HSE", *ensemble), "does not predict 'HSE'", "that do: crystalformer-mp")
    said = "that do: crystalformer-mp, crystalformer-mp-ensemble, crystalframer-mp, crystalformer-mp-unrelaxed"
    foreseen(program("predict", cscl, "-t", "hull_distance", *elastic), "does not predict 'hull_distance'", said)
    foreseen(program("predict", cscl, "-t", "bandgab", *ensemble), "did you mean 'bandgap'?")


# Inputs


def test_a_directory_stands_for_the_structure_files_below_it(program, tmp_path) -> None:
    names = ["POSCAR", "b/CONTCAR.relaxed", "b/x.CIF", "a.vasp", "c.poscar.gz"]
    for name in names:
        written(tmp_path / "in" / name)
    for name in ("notes.txt", "INCAR", "b/POSCARS", "README.md"):
        written(tmp_path / "in" / name)
    outcome = program("predict", tmp_path / "in")
    assert outcome.code == 0
    assert [row["path"] for row in outcome.rows] == sorted(str(tmp_path / "in" / name) for name in names)


def test_patterns_lists_and_stdin_name_files(program, tmp_path, monkeypatch) -> None:
    one, two, three = (written(tmp_path / name) for name in ("a1.vasp", "a 2.vasp", "b/3.vasp"))
    pattern, deep = str(tmp_path / "a*.vasp"), str(tmp_path / "**" / "3.vasp")
    paths = written(tmp_path / "list.txt", f"\ufeff{two}\r\n\n  \n{three}\n")
    monkeypatch.setattr(sys, "stdin", typed(f"\n{three}\n\n{one}\n"))
    outcome = program("predict", pattern, deep, f"@{paths}", "-")
    assert outcome.code == 0
    assert [row["path"] for row in outcome.rows] == [two, one, three, two, three, three, one]


def test_lines_of_a_list_are_paths_and_no_patterns(program, tmp_path) -> None:
    one, missing = written(tmp_path / "a[1].vasp"), str(tmp_path / "b[2].vasp")
    outcome = program("predict", "@" + written(tmp_path / "list.txt", f"{one}\n{missing}"))
    assert outcome.code == 3
    assert [row["path"] for row in outcome.rows] == [one, missing]


def test_isolated_atoms_are_a_warning(program, tmp_path) -> None:
    outcome = program("predict", written(tmp_path / "gas.vasp", CSCL.replace("4.1", "30.0")))
    first, second = outcome.rows[0]["warnings"].split("; ")
    assert first == "2 atoms have no neighbour within 6 Å"
    assert second.startswith("unlike the training data: ")
    assert "a layer of 15 Å without atoms" in second


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(program, tmp_path) -> None:
    path = written(tmp_path / "a[1].vasp")
    assert [row["path"] for row in program("predict", path).rows] == [path]


def test_inputs_that_name_nothing_are_refused(program, tmp_path, monkeypatch) -> None:
    foreseen(program("predict", tmp_path / "*.cif"), "*.cif", "matches no file")
    foreseen(program("predict", tmp_path), str(tmp_path), "no CIF")
    foreseen(program("predict", f"@{tmp_path}/nowhere.txt"), "nowhere.txt", "cannot be read")
    foreseen(program("predict", "@" + written(tmp_path / "blank.txt", "\n \n")), "no structures")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    foreseen(program("predict", f"@{tmp_path}/binary.txt"), "binary.txt", "cannot be read")
    monkeypatch.setattr(sys, "stdin", typed(""))
    foreseen(program("predict", "-"), "no structures")


def test_a_list_with_a_null_byte_is_an_error_and_no_traceback(program, tmp_path, cscl) -> None:
    outcome = program("predict", "@" + written(tmp_path / "list.txt", f"a\0b\n{cscl}\n"))
    assert outcome.code in (2, 3)


def test_no_arguments_at_all_are_refused(program) -> None:
    assert program("predict").code == 2
    assert program("predict", "--formta", "csv", "a.cif").code == 2
    assert program("predict", "-f", "xml", "a.cif").code == 2
    assert program("predcit", "a.cif").code == 2


# Models and devices


def test_a_checkpoint_folder_serves_as_a_model(program, cscl, folder) -> None:
    assert alike(program("predict", cscl, "--model", folder).rows, program("predict", cscl).rows)
    assert alike(program("predict", cscl, "-m", "crystalformer-mp").rows, program("predict", cscl).rows)


def test_an_unknown_model_is_refused_with_a_suggestion(program, tmp_path, cscl) -> None:
    foreseen(program("predict", cscl, "-m", "crystalformer"), "did you mean 'crystalformer-mp'?")
    foreseen(program("predict", cscl, "-m", "zzz"), "'zzz'", "choose from crystalformer-mp, crystalframer-elastic")
    foreseen(program("predict", cscl, "-m", cscl), "cscl.vasp")


def test_a_folder_that_is_no_checkpoint_is_one_line_and_exit_code_2(program, tmp_path, cscl) -> None:
    outcome = program("predict", cscl, "-m", tmp_path)
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert "config.json" in line


@pytest.mark.parametrize("device", ["bogus", "cuda:x", "cpu:0", "mps", "", "CUDA"])
def test_an_unknown_device_is_refused(program, cscl, device) -> None:
    foreseen(program("predict", cscl, "--device", device), "auto, cpu, cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_without_cuda_is_refused(program, cscl) -> None:
    foreseen(program("predict", cscl, "--device", "cuda"), "--device cpu")
    foreseen(program("predict", cscl, "--device", "cuda:0"), "--device cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_cpu_and_cuda_agree(program, examples) -> None:
    assert same(program("predict", "examples", "--device", "cpu").rows, program("predict", "examples").rows)


# From Python


def test_python_takes_paths_and_structures_in_any_order(examples) -> None:
    model = crystalpredict.load_model(targets=["K", "gap"])
    structure = Structure.from_file("examples/NiAl.vasp")
    rows = model.predict(["nowhere.cif", "examples/NiAl.vasp", structure, Path("examples/Si.vasp")])
    assert [row.formula for row in rows] == ["", "AlNi", "AlNi", "Si"]
    assert rows[0].error == "no such file: check the path"
    assert list(rows[1].values) == model.columns == ["bulk_modulus_GPa", "bandgap_eV"]
    assert rows[1]["bandgap_eV"] == pytest.approx(rows[2]["bandgap_eV"], abs=1e-4)
    assert rows[1].values != rows[3].values
    assert model.predict("examples/Si.vasp")[0].values == pytest.approx(rows[3].values, abs=1e-4)
    assert model.predict(structure)[0].formula == "AlNi"
    assert model.predict([]) == []


def test_python_meets_foreseen_errors_as_exceptions() -> None:
    with pytest.raises(crystalpredict.CrystalPredictError, match="no model 'zzz'"):
        crystalpredict.load_model("zzz")
    with pytest.raises(crystalpredict.CrystalPredictError, match="unknown target"):
        crystalpredict.load_model(targets=["colour"])


# Processes: imports, interrupts, pipes


def python(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, **options)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_neither_torch_nor_pymatgen(option) -> None:
    done = python("-X", "importtime", "-m", "crystalpredict", option)
    assert done.returncode == 0
    assert ("Usage" if option == "--help" else crystalpredict.__version__) in done.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported
    assert imported.isdisjoint({"torch", "pymatgen", "numpy", "spglib", "vesin", "safetensors"})


def test_the_prediction_of_a_plain_cif_imports_no_more_than_it_needs() -> None:
    path = Path(__file__).parents[2] / "examples" / "NaCl.cif"
    done = python("-X", "importtime", "-m", "crystalpredict", "predict", str(path), "-f", "csv")
    assert done.returncode == 0
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "numpy" in imported
    assert imported.isdisjoint({"torch", "ase", "scipy", "spglib", "pandas", "matplotlib", "dask", "sympy"})


def start(*arguments: str, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "crystalpredict", "predict", *arguments]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE)


def interrupted(program: subprocess.Popen[bytes]) -> str:
    """What a program says on stderr when Ctrl-C is pressed; it must end with exit code 130."""
    program.send_signal(signal.SIGINT)
    said = program.communicate(timeout=300)[1].decode()
    assert program.returncode == 130
    assert "Traceback" not in said
    return said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_an_interrupt_leaves_whole_rows_and_exit_code_130(tmp_path, cscl) -> None:
    # as many rows as are predicted at once, which cost nothing, then more work than the test waits for
    paths = written(tmp_path / "list.txt", "nowhere.cif\n" * 999 + f"{cscl}\n" * 20_000)
    output = tmp_path / "output"
    with output.open("wb") as stdout:
        program = start(f"@{paths}", "-f", "json", stdout=stdout)
        while output.read_bytes().count(b"\n") < 999 and program.poll() is None:
            time.sleep(0.05)
        said = interrupted(program)
    rows = json.loads(output.read_text())
    assert len(rows) >= 998
    assert all(set(row) == set(COLUMNS) and row["error"] == rows[0]["error"] for row in rows[:998])
    assert all(row["bulk_modulus_GPa"] > 0 for row in rows[999:])
    assert "rows are complete" in said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_an_interrupt_before_the_first_rows_is_exit_code_130_too(tmp_path, cscl) -> None:
    output = tmp_path / "output.json"
    program = start("-o", str(output), *[cscl] * 20_000)
    assert b"model " in program.stderr.readline()
    assert "interrupted" in interrupted(program)
    part = tmp_path / "output.json.interrupted"
    assert not part.exists() or json.loads(part.read_text()) == []
    assert {path.name for path in tmp_path.iterdir()} <= {part.name, "cscl.vasp"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_reader_outlives_the_program(tmp_path, cscl, ending) -> None:
    paths = written(tmp_path / "list.txt", f"{cscl}\n" * 100_000)
    command = [sys.executable, "-m", "crystalpredict", "predict", f"@{paths}", "--jobs", "2", "-q"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert program.stdout.readline() + program.stdout.readline() != b""
    if ending == signal.SIGINT:
        os.killpg(program.pid, ending)  # as a terminal does
    else:
        program.kill()
    said = program.communicate(timeout=300)[1]
    assert program.returncode == (130 if ending == signal.SIGINT else -signal.SIGKILL)
    assert said == b""
    with pytest.raises(ProcessLookupError):  # noqa: PT012  the loop waits for the last one to go
        for _ in range(1000):
            os.killpg(program.pid, 0)
            time.sleep(0.1)


def test_an_interrupt_while_the_names_are_read_is_exit_code_130(program, monkeypatch) -> None:
    class Interrupted(io.BytesIO):
        def readline(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Interrupted(b"a.cif\n")))
    outcome = program("predict", "-")
    assert (outcome.code, outcome.stdout) == (130, "")
    assert outcome.stderr == "crystalpredict: interrupted\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes")
def test_a_reader_that_has_seen_enough_is_no_traceback(tmp_path) -> None:
    paths = written(tmp_path / "list.txt", "nowhere.cif\n" * 5000)
    program = start(f"@{paths}", "-q")
    assert program.stdout.readline().decode() == ",".join(COLUMNS) + "\n"
    program.stdout.close()
    said = program.stderr.read()
    program.stderr.close()
    assert (program.wait(300), said) == (141, b"")


# Intervals, warnings and derived quantities


def test_intervals_have_columns_unless_they_are_left_out(program, examples) -> None:
    outcome = program("predict", *examples)
    for row in outcome.rows:
        for column in VALUES:
            low, value, high = (float(row[column + end]) for end in ("_lo90", "", "_hi90"))
            assert low <= value <= high
            assert (low == high) == (column == "bandgap_eV" and value == 0)  # of metals, whose gap is sure
    assert same(outcome.rows, program("predict", *examples, "--no-uncertainty").rows)
    line = json.loads(program("predict", examples[0], "-t", "gap", "-f", "jsonl").stdout)
    assert list(line)[4:7] == ["bandgap_eV", "bandgap_eV_lo90", "bandgap_eV_hi90"]
    table = program("predict", examples[0], "-t", "gap", "-f", "table").stdout
    assert f"[{line['bandgap_eV_lo90']:.2f}..{line['bandgap_eV_hi90']:.2f}]" in table


def test_a_failed_row_has_empty_intervals(program, tmp_path) -> None:
    outcome = program("predict", written(tmp_path / "bad.vasp", OVERFULL), "-t", "gap")
    assert outcome.rows[0]["bandgap_eV_lo90"] == ""


def test_derived_quantities_are_columns_when_asked_for(program) -> None:
    outcome = program("predict", "examples/MgO.cif", "-t", "K,G,young,nu,Pugh")
    row = outcome.rows[0]
    bulk, shear = float(row["bulk_modulus_GPa"]), float(row["shear_modulus_GPa"])
    assert float(row["youngs_modulus_GPa"]) == pytest.approx(9 * bulk * shear / (3 * bulk + shear), rel=1e-3)
    assert float(row["poisson_ratio"]) == pytest.approx((3 * bulk - 2 * shear) / (6 * bulk + 2 * shear), abs=1e-3)
    assert float(row["pugh_ratio"]) == pytest.approx(bulk / shear, abs=1e-3)
    for column in ("youngs_modulus_GPa", "poisson_ratio", "pugh_ratio"):
        assert float(row[f"{column}_lo90"]) < float(row[column]) < float(row[f"{column}_hi90"])
    assert not any("young" in column for column in program("predict", "examples/MgO.cif").rows[0])


def test_a_crystal_unlike_the_training_data_is_predicted_with_a_warning(program, tmp_path) -> None:
    outcome = program("predict", written(tmp_path / "wide.vasp", CSCL.replace("4.1", "5.6")))
    assert outcome.code == 0
    assert outcome.rows[0]["warnings"].startswith("unlike the training data: ")
    assert outcome.rows[0]["bandgap_eV"] != ""

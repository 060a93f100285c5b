"""Tables of labelled crystals: what is read, what is left out and why, and what is no table."""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from crystalpredict.data.labels import LabelledTable, NewTargets, read_labelled
from crystalpredict.errors import DataError, UsageError
from crystalpredict.io import table_formats as table_files
from crystalpredict.io.entries import Inline
from tests.labelled import rows, write

NEW = NewTargets()


def same(one: LabelledTable, two: LabelledTable) -> bool:
    labels = np.array_equal(one.labels, two.labels, equal_nan=True)
    return labels and (one.ids, one.sources, one.properties) == (two.ids, two.sources, two.properties)


def test_a_csv_of_cifs(tmp_path: Path) -> None:
    table = read_labelled(write(tmp_path / "t.csv", rows(5)))
    assert table.ids == ("x0", "x1", "x2", "x3", "x4")
    assert table.rows.tolist() == [1, 2, 3, 4, 5]
    assert [prop.name for prop in table.properties] == ["bandgap", "bulk_modulus"]
    assert table.labels.tolist() == [[2.0, 20], [2.3, 35], [2.6, 50], [2.9, 65], [3.2, 80]]
    assert table.sources[2] == Inline("t.csv, row 3", rows(5)[2]["cif"])
    assert (table.dropped, table.dropped_labels, set(table.splits)) == ((), (), {""})


def as_utf16(path: Path) -> None:
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))


def with_bom(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def with_windows_lines(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def packed(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize("change", [as_utf16, with_bom, packed])
def test_encodings_and_compression_do_not_matter(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = write(tmp_path / "t.csv", rows(5))
    expected = read_labelled(path)
    change(path)
    assert same(read_labelled(path), expected)


@pytest.mark.parametrize("delimiter", ["\t", ";", "|"])
def test_delimiters_are_found(tmp_path: Path, delimiter: str) -> None:
    expected = read_labelled(write(tmp_path / "t.csv", rows(5)))
    assert same(read_labelled(write(tmp_path / "t.csv", rows(5), delimiter=delimiter)), expected)


def test_paths_are_relative_to_the_table_whatever_the_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("File,Band Gap\nsub/a.cif,1.5\n")
    with_windows_lines(path)
    table = read_labelled(path)
    assert table.sources == (str(tmp_path / "sub" / "a.cif"),)
    assert table.ids == ("row 1",)
    assert table.labels.tolist() == [[1.5]]


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("kind", ["lines", "list", "matbench", "columns"])
def test_json_of_four_kinds(tmp_path: Path, kind: str, gzipped: bool) -> None:
    content = [{"id": row["id"], "structure": row["cif"], "gap": float(row["bandgap"])} for row in rows(3)]
    text = {
        "lines": "".join(json.dumps(row) + "\n" for row in content),
        "list": json.dumps(content, indent=1),
        "matbench": json.dumps(
            {
                "index": [row["id"] for row in content],
                "columns": ["structure", "gap pbe"],
                "data": [[row["structure"], row["gap"]] for row in content],
            }
        ),
        "columns": pandas.DataFrame(content, index=[4, 2, 7]).to_json(),
    }[kind]
    path = tmp_path / "t.json"
    path.write_bytes(gzip.compress(text.encode()) if gzipped else text.encode())
    table = read_labelled(path)
    assert table.ids == ("x0", "x1", "x2")
    assert table.labels[:, 0].tolist() == [2.0, 2.3, 2.6]
    assert [source.text for source in table.sources if isinstance(source, Inline)] == [r["cif"] for r in rows(3)]


def test_a_row_that_is_a_structure_itself_and_one_of_jarvis_tools(tmp_path: Path) -> None:
    lattice, species, frac_coords = [3, 3, 3, 90, 90, 90], ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    own = {"id": "a", "lattice": lattice, "species": species, "frac_coords": frac_coords, "bandgap": None, "k": 9}
    (tmp_path / "own.jsonl").write_text(json.dumps(own) + "\n")
    table = read_labelled(tmp_path / "own.jsonl", ["k"])
    atoms = {"lattice_mat": [[3, 0, 0], [0, 3, 0], [0, 0, 3]], "elements": species, "coords": frac_coords}
    (tmp_path / "jarvis.json").write_text(
        json.dumps([{"jid": "JVASP-1", "atoms": atoms | {"cartesian": False}, "formation_energy_peratom": -1.5}])
    )
    jarvis = read_labelled(tmp_path / "jarvis.json")
    assert (jarvis.ids, jarvis.properties[0].name, jarvis.labels.tolist()) == (
        ("JVASP-1",),
        "formation_energy",
        [[-1.5]],
    )
    for read, kind in ((table, "lattice"), (jarvis, "lattice_mat")):
        (source,) = read.sources
        assert isinstance(source, Inline)
        assert kind in json.loads(source.text)


def test_a_logarithm_in_the_name_of_a_column_is_undone(tmp_path: Path) -> None:
    lines = [row | {"log10(K_VRH)": str(number)} for number, row in enumerate(rows(3))]
    table = read_labelled(write(tmp_path / "t.csv", lines, ["cif", "log10(K_VRH)"]))
    assert table.properties[0].column == "bulk_modulus_GPa"
    assert table.labels[:, 0] == pytest.approx([1, 10, 100])


def test_cgcnn_and_alignn_folders(tmp_path: Path) -> None:
    for row in rows(2):
        (tmp_path / f"{row['id']}.cif").write_text(row["cif"])
    (tmp_path / "id_prop.csv").write_text("x0,1.5\nx1.cif,2.5\nx9,3\n")
    table = read_labelled(tmp_path, ["seebeck"], new=NewTargets(("µV/K",)))
    assert table.labels[:, 0].tolist() == [1.5, 2.5, 3]
    assert table.sources == tuple(str(tmp_path / f"{name}.cif") for name in ("x0", "x1", "x9"))
    assert table.properties[0].column == "seebeck_uV_per_K"
    with pytest.raises(DataError, match="--target NAME"):
        read_labelled(tmp_path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_labels_of_a_folder_may_be_packed_but_not_broken(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(b"x0,1.5\nx1,2.5\n")
    (tmp_path / "id_prop.csv").write_bytes(packed)
    assert read_labelled(tmp_path, ["gap"]).labels.tolist() == [[1.5], [2.5]]
    for broken in (packed[:-5], packed[:20] + b"?" + packed[21:]):
        (tmp_path / "id_prop.csv").write_bytes(broken)
        with pytest.raises(DataError, match=r"id_prop\.csv: cannot be read"):
            read_labelled(tmp_path, ["gap"])


def matbench(rows: list[dict[str, str]], names: list[str], **others: object) -> str:
    return json.dumps({"columns": names, "data": [[row[name] for name in names] for row in rows], **others})


def test_an_index_is_an_id_only_where_there_is_no_other_and_it_tells_rows_apart(tmp_path: Path) -> None:
    lines = [{"mpid": f"mp-{row}", "cif": each["cif"], "gap": "1"} for row, each in enumerate(rows(4))]
    path = tmp_path / "t.json"
    for names, index, ids in (
        (["mpid", "cif", "gap"], [0, 1, 0, 1], ("mp-0", "mp-1", "mp-2", "mp-3")),
        (["mpid", "cif", "gap"], None, ("mp-0", "mp-1", "mp-2", "mp-3")),
        (["cif", "gap"], [3, 1, 4, 2], ("3", "1", "4", "2")),
        (["cif", "gap"], [0, 1, 0, 1], ("row 1", "row 2", "row 3", "row 4")),
        (["cif", "gap"], None, ("row 1", "row 2", "row 3", "row 4")),
    ):
        path.write_text(matbench(lines, names, **({"index": index} if index else {})))
        assert read_labelled(path).ids == ids


@pytest.mark.parametrize(
    "change",
    [
        {"data": None}, {"data": 3}, {"data": [None]}, {"data": [[1]]}, {"columns": 5}, {"columns": "ab"},
        {"columns": ["cif", ["gap"]]}, {"columns": ["gap", "gap"]}, {"index": 7, "data": [[1, 2], None]},
    ],
)  # fmt: skip
def test_columns_and_data_that_do_not_fit_are_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    content = json.loads(matbench(rows(2), ["cif", "bandgap"]))
    (tmp_path / "t.json").write_text(json.dumps(content | change))
    with pytest.raises((DataError, UsageError)) as caught:
        read_labelled(tmp_path / "t.json", ["gap"])
    assert "\n" not in str(caught.value)


def test_blank_lines_of_json_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n \n" + "\n\n".join(map(json.dumps, rows(3))) + "\n")
    assert read_labelled(tmp_path / "t.jsonl").ids == ("x0", "x1", "x2")


def test_the_first_label_of_a_folder_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "id_prop.csv").write_text("x0,\nx1,2.5\n")
    table = read_labelled(tmp_path, ["gap"])
    assert (table.ids, table.rows.tolist()) == (("x1",), [2])


def test_the_first_row_of_a_folder_may_be_names_with_a_comma_too_many(tmp_path: Path) -> None:
    (tmp_path / "id_prop.csv").write_text("id,bandgap,\nx0,1,\nx1,2.5,\n")
    table = read_labelled(tmp_path)
    assert (table.ids, table.labels.tolist()) == (("x0", "x1"), [[1], [2.5]])


@pytest.mark.parametrize("missing", ["na", "nan", "-"])
def test_the_first_row_of_a_folder_may_lack_its_value(tmp_path: Path, missing: str) -> None:
    (tmp_path / "id_prop.csv").write_text(f"0,{missing}\n1,1.2\n")
    table = read_labelled(tmp_path, ["bandgap"])
    assert (table.ids, [each.row for each in table.dropped]) == (("1",), [1])


def test_paths_are_those_beside_the_table_or_else_those_from_here(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "a.cif").write_text(rows(1)[0]["cif"])
    path = tmp_path / "out" / "t.csv"
    path.write_text("path,gap\na.cif,1\nnowhere.cif,1\n")
    monkeypatch.chdir(tmp_path)
    assert read_labelled(path).sources == ("a.cif", str(tmp_path / "out" / "nowhere.cif"))
    (tmp_path / "out" / "a.cif").write_text(rows(1)[0]["cif"])
    assert read_labelled(path).sources[0] == str(tmp_path / "out" / "a.cif")


def test_names_of_files_in_a_column_of_structures_are_told_where_they_belong(tmp_path: Path) -> None:
    lines = [row | {"cif": "cifs/0.cif"} for row in rows(2)]
    sources = read_labelled(write(tmp_path / "t.csv", lines)).sources
    assert {source.error for source in sources} == {
        "a file name in the column cif, which holds structures: rename the column to path"
    }


def test_a_unit_for_all_is_that_of_the_new_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [row | {"x": "1", "y": "2"} for row in rows(2)])
    table = read_labelled(path, ["bandgap,x,K,y"], new=NewTargets(("W",)))
    assert [prop.unit for prop in table.properties] == ["eV", "W", "GPa", "W"]
    with pytest.raises(UsageError, match="bulk_modulus is known as bulk modulus in GPa: convert"):
        read_labelled(path, ["bandgap,K"], new=NewTargets(("eV",)))
    for new in (NewTargets(("W",)), NewTargets(log=True)):
        with pytest.raises(UsageError, match="--target"):
            read_labelled(path, new=new)


def test_new_targets_bring_their_unit_and_logarithm_and_known_ones_keep_theirs(tmp_path: Path) -> None:
    lines = [row | {"Debye T (K)": "300"} for row in rows(3)]
    path = write(tmp_path / "t.csv", lines)
    table = read_labelled(path, ["Debye T (K)", "K"], new=NewTargets(("kelvin", "GPa"), log=True))
    debye, bulk = table.properties
    assert (debye.name, debye.column, debye.transform) == ("Debye_T_K", "Debye_T_K_kelvin", "log10")
    assert (bulk.name, bulk.unit) == ("bulk_modulus", "GPa")
    assert same(read_labelled(path, ["Debye T (K),K"], new=NewTargets(("kelvin", "GPa"), log=True)), table)
    assert read_labelled(path, ["Debye T (K)"], new=NEW).properties[0].column == "Debye_T_K"


def test_a_unit_in_brackets_is_no_part_of_the_name(tmp_path: Path) -> None:
    lines = [
        {"id": row["id"], "cif": row["cif"], "Band Gap [eV]": "1", "kappa (W/m K)": "2", "K (Pa)": "3"}
        for row in rows(3)
    ]
    path = write(tmp_path / "t.csv", lines)
    assert [prop.name for prop in read_labelled(path).properties] == ["bandgap"]  # K is not known in Pa
    (kappa,) = read_labelled(path, ["kappa (W/m K)"], new=NewTargets(("W/m K",))).properties
    assert (kappa.name, kappa.unit, kappa.column) == ("kappa", "W/m K", "kappa_W_per_m_K")
    (pascal,) = read_labelled(path, ["K (Pa)"], new=NewTargets(("Pa",))).properties
    assert pascal.name == "K_Pa"
    again = read_labelled(path, known=(kappa,))  # as a model knows it that has learnt from this table
    assert again.properties == (kappa,)
    assert again.labels.tolist() == [[2.0]] * 3


def test_rows_and_labels_left_out_are_named_with_the_reason(tmp_path: Path) -> None:
    lines = rows(9)
    lines[1]["cif"] = " "
    lines[2]["bandgap"] = lines[2]["bulk_modulus"] = "n/a"
    lines[3]["bandgap"] = "wide"
    lines[4]["bulk_modulus"] = "-5"
    lines[5]["bandgap"] = "inf"
    lines[0]["bandgap"] = "-1e200"
    lines[6]["id"] = "x0"
    lines[7]["bandgap"] = lines[7]["bulk_modulus"] = "1_31"
    path = write(tmp_path / "t.csv", lines)
    with path.open("a") as file:
        file.write("x9,one,two,three,four,five\n")
    table = read_labelled(path)
    assert table.rows.tolist() == [1, 4, 5, 6, 9]
    reasons = {drop.row: drop.reason for drop in table.dropped}
    assert "no structure" in reasons[2]
    assert reasons[3] == "no label"
    assert "id of an earlier row" in reasons[7]
    assert "bandgap is not a number ('1_31')" in reasons[8]
    assert "6 fields where the header has 4" in reasons[10]
    assert {hole.row: hole.reason for hole in table.dropped_labels} == {
        1: "bandgap is -1e+200, which is out of range",
        4: "bandgap is not a number ('wide')",
        5: "bulk_modulus is not positive and has no logarithm",
        6: "bandgap is infinite",
    }
    assert np.isnan(table.labels).sum() == 4


def test_words_for_splits(tmp_path: Path) -> None:
    words = ["Training", "valid", "TEST", "", "hold"]
    lines = [row | {"Split": word} for row, word in zip(rows(5), words, strict=True)]
    assert read_labelled(write(tmp_path / "t.csv", lines)).splits == ("train", "val", "test", "", "hold")


def test_a_short_name_is_a_property_only_if_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{"cif": row["cif"], "g": "7"} for row in rows(3)])
    with pytest.raises(UsageError, match="no column is a known property; there are cif, g"):
        read_labelled(path)
    assert read_labelled(path, ["g"]).properties[0].name == "shear_modulus"
    (own,) = read_labelled(path, ["g"], new=NEW, known=()).properties
    assert read_labelled(path, known=(own,)).properties == (own,)  # of a model that has learnt it under this name


def test_columns_that_differ_in_case_only_are_two(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [row | {"N": "1", "n": str(i)} for i, row in enumerate(rows(3), start=2)])
    for name, labels in {"n": [2, 3, 4], "N": [1, 1, 1]}.items():
        table = read_labelled(path, [name], new=NEW)
        assert (table.properties[0].name, table.labels[:, 0].tolist()) == (name, labels)
    both = read_labelled(path, ["n", "N"], new=NEW)
    assert [prop.name for prop in both.properties] == ["n", "N"]
    assert both.labels.tolist() == [[2, 1], [3, 1], [4, 1]]


@pytest.mark.parametrize(
    ("label", "unit", "column"),
    [
        ("S (µV/K)", "µV/K", "S_uV_per_K"),
        ("κ", "W m⁻¹ K^-1", "kappa_W_per_m_per_K"),
        ("resistivity", "mΩ·cm", "resistivity_mohm_cm"),
        ("ΔH", "kJ·mol-1", "deltaH_kJ_per_mol"),
        ("density of carriers", "cm-3", "density_of_carriers_per_cm3"),
        ("expansion", "10 cm-10/°C", "expansion_10_per_cm10_per_degC"),
        ("Tc-2", "", "Tc_2"),
        ("alpha", "1e-6/K", "alpha_1e_6_per_K"),
    ],
)
def test_letters_of_units_are_spelt_out(tmp_path: Path, label: str, unit: str, column: str) -> None:
    path = write(tmp_path / "t.csv", [row | {label: "1"} for row in rows(2)])
    (prop,) = read_labelled(path, [label], new=NewTargets((unit,))).properties
    assert (prop.column, prop.unit) == (column, unit)
    again = read_labelled(path, [label], new=NewTargets((unit.replace(" ", ""),)), known=(prop,))
    assert again.properties == (prop,)


def test_what_is_known_is_not_learnt_as_a_logarithm(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [row | {"x": "1"} for row in rows(2)])
    notes = read_labelled(path, ["bandgap,x,K"], new=NewTargets(log=True)).notes
    assert [note for note in notes if "--log" in note] == ["bandgap is a known property, which --log does not change"]


@pytest.mark.parametrize(
    ("targets", "new", "message"),
    [
        (["bandgab"], NEW, "did you mean 'bandgap'"),
        (["seebeck"], NEW, "no column 'seebeck'"),
        (["id"], None, "the model does not predict 'id'"),
        (["bandgap"], NewTargets(("meV",)), "known as band gap in eV: convert"),
        (["bandgap"], NewTargets(("eV", "GPa")), "2 units for 1 targets"),
        (["bandgap", "Band Gap"], NEW, "more than one column for bandgap"),
        (["egap"], None, "more than one column for egap: name one of bandgap, Band Gap"),
        (["id"], NEW, "the column id holds text ('x0')"),
        (["index"], NEW, "cannot be the name of a property"),
    ],
)
def test_targets_that_make_no_sense(tmp_path: Path, targets: list[str], new: NewTargets | None, message: str) -> None:
    path = write(tmp_path / "t.csv", [row | {"index": "1", "Band Gap": "2"} for row in rows(4)])
    with pytest.raises((UsageError, DataError)) as caught:
        read_labelled(path, targets, new=new)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    expected = read_labelled(write(tmp_path / "t.csv", rows(5)))
    columns = {name: [row[name] for row in rows(5)] for name in ("id", "cif", "bulk_modulus")}
    columns["bandgap"] = [float(row["bandgap"]) for row in rows(5)]
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    table = read_labelled(tmp_path / "t.parquet", ["bandgap", "bulk_modulus"])
    assert table.labels.tolist() == expected.labels.tolist()
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:200])
    with pytest.raises(DataError, match="broken Parquet"):
        read_labelled(tmp_path / "bad.parquet")


def test_an_integer_beyond_all_floats_is_a_label_left_out(tmp_path: Path) -> None:
    lines = [row | {"bandgap": number} for row, number in zip(rows(3), (1, 10**400, -(10**400)), strict=True)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = read_labelled(tmp_path / "t.jsonl", ["bandgap"])
    assert table.labels.tolist() == [[1.0]]
    assert [drop.reason for drop in table.dropped] == ["bandgap is infinite"] * 2


@pytest.mark.parametrize("nothing", [None, float("nan"), "", " ", "-", "N/A"])
def test_rows_without_an_id_are_all_kept(tmp_path: Path, nothing: object) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({**row, "id": nothing}) + "\n" for row in rows(3)))
    table = read_labelled(path)
    assert table.ids == ("row 1", "row 2", "row 3")
    assert table.dropped == ()


def test_sodium_is_an_id(tmp_path: Path) -> None:
    table = read_labelled(write(tmp_path / "t.csv", [{**row, "id": "Na"} for row in rows(1)]))
    assert table.ids == ("Na",)


def test_a_word_under_the_name_of_a_structure_makes_a_row_no_less_a_structure(tmp_path: Path) -> None:
    row = {
        "lattice": [4.1] * 3 + [90] * 3,
        "species": ["Cs"],
        "frac_coords": [[0, 0, 0]],
        "bandgap": 1,
        "structure": "bcc",
    }
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "a", **row}) + "\n" + json.dumps({"id": "b", **row}))
    table = read_labelled(tmp_path / "t.jsonl")
    assert [json.loads(source.text)["species"] for source in table.sources] == [["Cs"]] * 2


@pytest.mark.parametrize(
    ("name", "content", "limit", "said"),
    [
        ("a.csv.gz", "id,structure\n1," + "a" * 2000 + "\n", "MAX_FILE_BYTES", "a line of more than"),
        ("a.csv.gz", "id,structure" + "a" * 2000 + "\n1,2\n", "MAX_FILE_BYTES", "a line of more than"),
        ("a.csv.gz", 'id,structure\n1,"' + "a\n" * 2000 + '"\n', "MAX_FILE_BYTES", "field larger than field limit"),
        ("a.jsonl.gz", '{"id": 1}\n{"id": "' + "a" * 2000 + '"}\n', "MAX_FILE_BYTES", "a line of more than"),
        ("a.json.gz", '[{"id": "' + "a" * 2000 + '"}]', "MAX_DOCUMENT_CHARACTERS", "of JSON: write a line for each"),
    ],
)
def test_what_is_packed_to_fill_the_memory_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, limit: str, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()))
    assert len(list(table_files.rows_of(path))) >= 1
    before = csv.field_size_limit()
    monkeypatch.setattr(table_files, limit, 1000)
    for read in (lambda: list(table_files.rows_of(path)), lambda: table_files.read_table(path, lambda name: True)):
        with pytest.raises(DataError, match=said):
            read()
    csv.field_size_limit(before)

"""`crystalpredict mcp`, by the client of the SDK, over the pipes of a process of its own."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the SDK is not installed: pip install 'crystalpredict[mcp]'")

import anyio
from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client

from crystalpredict import load_model
from crystalpredict.errors import UsageError
from crystalpredict.integrations import mcp_server
from crystalpredict.integrations.mcp_tools import MAX_ATOMS
from crystalpredict.integrations.root_folder import MAX_STRUCTURE_BYTES
from tests.disordered import rock_salt

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NACL, SILICON = ((EXAMPLES / name).read_text() for name in ("NaCl.cif", "Si.vasp"))
DEFORMED = "sheared, an atom moved\n1.0\n5.9 0.2 0\n0 5.6 0\n0.1 0 5.5\nNa Cl\n4 4\nDirect\n" + "\n".join(
    ["0.03 0 0", "0 .5 .5", ".5 0 .5", ".5 .5 0", ".5 .5 .5", ".5 0 0", "0 .5 0", "0 0 .5"]
)
LARGE = "large\n100.0\n1 0 0\n0 1 0\n0 0 1\nH\n{count}\nDirect\n{places}"


def lattice_gas(count: int) -> str:
    """A POSCAR of hydrogen on a coarse grid."""
    side = round(count ** (1 / 3) + 0.5)
    grid = [(x, y, z) for x in range(side) for y in range(side) for z in range(side)][:count]
    return LARGE.format(count=count, places="\n".join(" ".join(str(i / side) for i in place) for place in grid))


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "text and path": ("predict", {"structures": [SILICON], "paths": ["NaCl.cif"], "properties": ["gap", "K"]}),
    "all properties": ("predict", {"paths": ["NaCl.cif"]}),
    "a folder": ("predict", {"paths": ["inside"], "properties": ["formation_energy"]}),
    "derived": ("predict", {"paths": ["NaCl.cif"], "properties": ["decomposes_to", "debye_temperature"]}),
    "unrelaxed": ("predict", {"paths": ["NaCl.cif"], "unrelaxed": True, "properties": ["volume_change"]}),
    "orderings": ("predict", {"structures": [rock_salt(0.25), NACL], "properties": ["gap"], "orderings": 3}),
    "a broken text": ("predict", {"structures": ["data_x\nno atoms", NACL], "properties": ["gap"]}),
    "a hull": ("hull", {"system": "Na-Cl", "paths": ["NaCl.cif"], "within_eV_per_atom": 0.02}),
    "a hull of structures": ("hull", {"structures": [NACL, SILICON], "system": "NaCl"}),
    "volumes": ("relax", {"structures": [NACL.replace("5.64", "6.2")]}),
    "a deformed cell": ("relax", {"structures": [DEFORMED]}),
    "a deformed cell, predicted": (
        "predict",
        {"structures": [DEFORMED], "unrelaxed": True, "properties": ["volume_change", "strain", "displacement"]},
    ),
    "a potential": ("relax", {"paths": ["NiAl.vasp"], "method": "potential", "force_eV_per_A": 0.01}),
    "a potential in one step": ("relax", {"paths": ["NiAl.vasp", "NaCl.cif"], "method": "potential", "steps": 1}),
    "scores": ("evaluate", {"data": "labels.jsonl"}),
    "scores of files outside": ("evaluate", {"data": "outside.csv", "properties": ["bandgap=gap"]}),
    "models": ("list_models", {}),
    "properties": ("list_properties", {}),
    "properties of another model": ("list_properties", {"model": "crystalframer-elastic"}),
    "outside": ("predict", {"paths": ["../secret.cif"]}),
    "outside, absolute": ("predict", {"paths": ["/etc/passwd"]}),
    "outside, missing": ("predict", {"paths": ["../nothing/at/all"]}),
    "a link that leaves": ("predict", {"paths": ["link.cif"]}),
    "a folder that leaves": ("predict", {"paths": ["folder/secret.cif"]}),
    "a table outside": ("evaluate", {"data": "../labels.jsonl"}),
    "missing": ("predict", {"paths": ["nowhere.cif"]}),
    "a pipe": ("predict", {"paths": ["pipe.cif"]}),
    "an empty path": ("predict", {"paths": ["", "NaCl.cif"]}),
    "names as given": ("predict", {"paths": ["inside/alias.cif", "./NaCl.cif", "odd.zip"]}),
    "a large file": ("predict", {"paths": ["large.cif"]}),
    "a large file by a long path": ("predict", {"paths": ["inside/" + "../inside/" * 30 + "../large.cif"]}),
    "a broken table": ("evaluate", {"data": "broken.cif"}),
    "a folder without labels": ("evaluate", {"data": "inside"}),
    "an empty folder": ("predict", {"paths": ["empty"]}),
    "broken paths": ("predict", {"paths": ["NaCl.cif", "nowhere.cif", "broken.cif", "../secret.cif", "NiAl.vasp"]}),
    "a hull with a missing path": ("hull", {"system": "Na-Cl", "paths": ["nowhere.cif", "NaCl.cif"]}),
    "a volume of a missing path": ("relax", {"paths": ["nowhere.cif", "NaCl.cif"]}),
    "nothing": ("predict", {}),
    "too many": ("predict", {"paths": ["NaCl.cif"] * 201}),
    "too long": ("predict", {"structures": ["x" * (2**20 + 1)]}),
    "too large": ("predict", {"structures": [lattice_gas(MAX_ATOMS + 1)]}),
    "another type": ("predict", {"paths": "NaCl.cif"}),
    "another number": ("relax", {"paths": ["NaCl.cif"], "steps": 10**9}),
    "unknown argument": ("predict", {"path": ["NaCl.cif"]}),
    "unknown property": ("predict", {"paths": ["NaCl.cif"], "properties": ["bandgapp"]}),
    "a model by its path": ("predict", {"paths": ["NaCl.cif"], "model": str(EXAMPLES)}),
    "unknown system": ("hull", {"system": "Na-Xx"}),
    "unknown tool": ("forces", {}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of structures with links that leave it, and what lies outside."""
    outside = tmp_path_factory.mktemp("server")
    root = outside / "root"
    (root / "inside").mkdir(parents=True)
    for name in ("NaCl.cif", "NiAl.vasp"):
        (root / name).write_bytes((EXAMPLES / name).read_bytes())
    (root / "empty").mkdir()
    (root / "broken.cif").write_text("data_x\nno atoms")
    (root / "large.cif").write_bytes(b"#" * (MAX_STRUCTURE_BYTES + 1))
    with zipfile.ZipFile(root / "odd.zip", "w") as archive:
        archive.writestr("../up/NaCl.cif", NACL)
    (root / "inside" / "MgO.cif").write_bytes((EXAMPLES / "MgO.cif").read_bytes())
    (root / "inside" / "alias.cif").symlink_to(root / "NaCl.cif")
    (outside / "secret.cif").write_text(NACL)
    for name in ("link.cif", "inside/link.cif"):
        (root / name).symlink_to(outside / "secret.cif")
    (root / "folder").symlink_to(outside)
    os.mkfifo(root / "pipe.cif")
    rows = [{"id": name, "structure": text, "bandgap": gap} for name, text, gap in (("a", NACL, 5), ("b", SILICON, 1))]
    for folder in (root, outside):
        (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "outside.csv").write_text(f"path,gap\n{outside / 'secret.cif'},5\n../secret.cif,5\nNaCl.cif,5\n")
    return root


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The tools of a server, and its answer to each of CALLS."""
    arguments = ["-m", "crystalpredict", "mcp", "--root", str(root), "--relax", "ase.calculators.emt:EMT", "-q"]
    log = (root / "log").open("w")
    parameters = StdioServerParameters(
        command=sys.executable, args=arguments, env={"PYTHONPATH": os.pathsep.join(sys.path)}
    )

    async def ask() -> tuple[Any, dict[str, Any]]:
        async with Client(stdio_client(parameters, errlog=log)) as client:
            tools = (await client.list_tools()).tools
            return tools, {name: await client.call_tool(*call) for name, call in CALLS.items()}

    with log:
        yield anyio.run(ask)
    assert (root / "log").read_text() == ""


@pytest.fixture(scope="module")
def answers(served: tuple[Any, dict[str, Any]]) -> dict[str, Any]:
    """The answer to each of CALLS."""
    return served[1]


def test_schemas_have_units_intervals_and_warnings(served: tuple[Any, dict[str, Any]]) -> None:
    tools = {tool.name: tool for tool in served[0]}
    assert list(tools) == ["predict", "hull", "relax", "evaluate", "list_models", "list_properties"]
    for tool in tools.values():
        assert tool.input_schema["type"] == tool.output_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert tool.annotations.read_only_hint
    value = tools["predict"].output_schema["$defs"]["PropertyValue"]["properties"]
    assert "Unit of value" in value["unit"]["description"]
    assert "90 % interval" in value["low90"]["description"]
    row = tools["predict"].output_schema["$defs"]["PredictedStructure"]["properties"]
    assert "doubt" in row["warnings"]["description"]
    assert tools["relax"].input_schema["properties"]["force_eV_per_A"]["description"].endswith("eV/Å.")


def test_predictions_are_those_of_python(answers: dict[str, Any]) -> None:
    found = answers["text and path"].structured_content["results"]
    assert [row["name"] for row in found] == ["structures[0]", "NaCl.cif"]
    model = load_model(targets=["bandgap", "bulk_modulus"])
    for row, here in zip(found, model.predict([EXAMPLES / "Si.vasp", EXAMPLES / "NaCl.cif"]), strict=True):
        assert [value["unit"] for value in row["values"]] == ["eV", "GPa"]
        for value, column in zip(row["values"], ("bandgap_eV", "bulk_modulus_GPa"), strict=True):
            assert value["value"] == pytest.approx(here[column], abs=6e-3)
            assert (value["low90"], value["high90"]) == pytest.approx(here.interval(column), abs=6e-3)
        assert (row["formula"], row["warnings"]) == (here.formula, list(here.warnings))
    assert len(answers["all properties"].structured_content["results"][0]["values"]) == 5
    inside = answers["a folder"].structured_content["results"]
    assert [(row["name"], row["error"] is None) for row in inside] == [
        ("inside/MgO.cif", True),
        ("inside/alias.cif", True),
        ("inside/link.cif", False),
    ]
    assert "outside the folder" in inside[2]["error"]
    words, debye = answers["derived"].structured_content["results"][0]["values"]
    assert "NaCl" in words["value"]
    assert debye["unit"] == "K"
    alloy, ordered = (row["values"][0] for row in answers["orderings"].structured_content["results"])
    assert alloy["orderings"]["count"] == 3
    assert 1 < alloy["orderings"]["lowest"] <= alloy["orderings"]["mean"] <= alloy["orderings"]["highest"]
    assert ordered["orderings"] is None
    broken, good = answers["a broken text"].structured_content["results"]
    assert broken["error"].startswith("no unit cell")
    assert (broken["values"], good["error"]) == ([], None)
    assert json.loads(answers["derived"].content[0].text) == answers["derived"].structured_content


def test_a_hull_has_the_structures_in_it(answers: dict[str, Any]) -> None:
    found = answers["a hull"].structured_content
    assert found["elements"] == ["Na", "Cl"]
    (own,) = (phase for phase in found["phases"] if phase["source"] == "predicted")
    assert own["name"] == "NaCl.cif"
    assert own["formation_energy_low90"] < own["formation_energy_eV_per_atom"] < own["formation_energy_high90"]
    assert found["stable"] >= 3
    assert answers["a hull of structures"].structured_content["left_out"] == ["structures[1]"]


def test_relaxed_cells(answers: dict[str, Any]) -> None:
    (salt,) = answers["volumes"].structured_content["results"]
    assert salt["volume_A3"] == pytest.approx(6.2**3, abs=0.01)
    assert -30 < salt["volume_change_low90"] < salt["volume_change_percent"] < salt["volume_change_high90"] < -15
    assert "data_NaCl" in salt["cif"]
    assert (salt["strain_percent"], salt["displacement_A"]) == (0, 0)  # its symmetry allows neither
    (deformed,) = answers["a deformed cell"].structured_content["results"]
    names = ("volume_change_percent", "strain_percent", "displacement_A")
    (row,) = answers["a deformed cell, predicted"].structured_content["results"]
    assert [deformed[name] for name in names] == [each["value"] for each in row["values"]]
    assert deformed["strain_percent"] > 1
    assert deformed["displacement_A"] > 0.03
    found = answers["a potential"].structured_content
    assert (found["results"][0]["strain_percent"], found["results"][0]["displacement_A"]) == (None, None)
    assert found["method"] == "ase.calculators.emt:EMT"
    assert (found["results"][0]["error"], found["results"][0]["warnings"]) == (None, [])
    nickel, refused = answers["a potential in one step"].structured_content["results"]
    assert "after 1 step" in nickel["warnings"][0]
    assert "cannot be relaxed" in refused["error"]
    (change,) = answers["unrelaxed"].structured_content["results"][0]["values"]
    assert change["unit"] == "%"


def test_scores_and_lists(answers: dict[str, Any]) -> None:
    found = answers["scores"].structured_content
    (gap,) = found["scores"]
    assert (found["rows"], found["predicted"], gap["crystals"], gap["unit"]) == (2, 2, 2, "eV")
    assert 0 < gap["mean_absolute_error"] < 1
    outside = answers["scores of files outside"].structured_content
    assert (outside["rows"], outside["predicted"]) == (3, 1)
    assert "outside the folder" in outside["lost"][0]
    models = answers["models"].structured_content
    assert [model["name"] for model in models["models"] if model["default"]] == ["crystalformer-mp"]
    assert models["potential"] == "ase.calculators.emt:EMT"
    names = {entry["name"]: entry for entry in answers["properties"].structured_content["properties"]}
    assert names["bandgap"]["by_default"]
    assert names["hull_distance"]["unit"] == "eV/atom"
    assert "bandgap" not in str(answers["properties of another model"].structured_content)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("a table outside", "../labels.jsonl: outside the folder of this server"),
        ("nothing", "no structures"),
        ("too many", "arguments: paths is a list of 201"),
        ("too long", "arguments: structures[0] is"),
        ("another type", "arguments: paths is 'NaCl.cif': expected a list"),
        ("another number", "arguments: steps is 1000000000"),
        ("unknown argument", "did you mean 'paths'?"),
        ("unknown property", "did you mean 'bandgap'?"),
        ("a model by its path", "no model"),
        ("unknown system", "no element 'Xx'"),
        ("unknown tool", "no tool 'forces'"),
        ("a broken table", "broken.cif: "),
        ("a folder without labels", "inside/id_prop.csv: No such file or directory: check the path"),
    ],
)
def test_errors_are_one_line(answers: dict[str, Any], call: str, said: str) -> None:
    (content,) = answers[call].content
    assert (answers[call].is_error, said in content.text) == (True, True), content.text
    assert "\n" not in content.text
    assert len(content.text) < 700


@pytest.mark.parametrize(
    ("call", "name", "said"),
    [
        ("outside", "../secret.cif", "outside the folder of this server: name a file below it, or give the text"),
        ("outside, absolute", "/etc/passwd", "outside the folder of this server"),
        ("outside, missing", "../nothing/at/all", "outside the folder of this server"),
        ("a link that leaves", "link.cif", "outside the folder of this server"),
        ("a folder that leaves", "folder/secret.cif", "outside the folder of this server"),
        ("missing", "nowhere.cif", "No such file or directory: check the path"),
        ("a pipe", "pipe.cif", "not a regular file"),
        ("a large file", "large.cif", "more than 4 MiB"),
        ("an empty folder", "empty", "no CIF, POSCAR, *.vasp, XYZ or JSON file and no archive in this directory"),
    ],
)
def test_a_wrong_path_is_an_error_of_its_row(answers: dict[str, Any], call: str, name: str, said: str) -> None:
    assert not answers[call].is_error
    (row,) = answers[call].structured_content["results"]
    assert (row["name"], row["values"]) == (name, [])
    assert row["error"].startswith(said)
    assert "\n" not in row["error"]


def test_the_other_paths_are_answered(answers: dict[str, Any], root: Path) -> None:
    rows = answers["broken paths"].structured_content["results"]
    assert [row["name"] for row in rows] == ["NaCl.cif", "nowhere.cif", "broken.cif", "../secret.cif", "NiAl.vasp"]
    assert [row["error"] is None for row in rows] == [True, False, False, False, True]
    assert str(root) not in json.dumps(rows)
    hull = answers["a hull with a missing path"].structured_content
    assert hull["failed"] == ["nowhere.cif: No such file or directory: check the path"]
    assert [phase["name"] for phase in hull["phases"] if phase["source"] == "predicted"] == ["NaCl.cif"]
    missing, salt = answers["a volume of a missing path"].structured_content["results"]
    assert missing["error"].startswith("No such file")
    assert salt["volume_A3"] > 0


def test_rows_have_the_names_of_the_paths_given(answers: dict[str, Any]) -> None:
    rows = answers["names as given"].structured_content["results"]
    assert [row["name"] for row in rows[:2]] == ["inside/alias.cif", "./NaCl.cif"]
    assert rows[2]["name"].startswith("odd.zip")
    assert rows[2]["name"].endswith("../up/NaCl.cif")
    assert [row["error"] for row in rows] == [None] * 3
    empty, salt = answers["an empty path"].structured_content["results"]
    assert (empty["name"], empty["error"].startswith("an empty path"), salt["error"]) == ("", True, None)


def test_no_answer_has_the_path_of_the_folder(answers: dict[str, Any], root: Path) -> None:
    for name, answer in answers.items():
        said = str(answer.structured_content) + "".join(part.text for part in answer.content)
        assert str(root.resolve().parent) not in said, name


def test_a_cell_that_is_too_large_is_an_error_of_its_row(answers: dict[str, Any]) -> None:
    (row,) = answers["too large"].structured_content["results"]
    assert row["error"].startswith(f"{MAX_ATOMS + 1:,} atoms")


def test_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.in_process import exit_code_of

    assert exit_code_of("mcp", "--root", tmp_path / "nowhere") == 2
    assert exit_code_of("mcp", "--relax", "no_such_module:f") == 2
    assert exit_code_of("mcp", "--model", "none-such") == 2
    monkeypatch.setattr(mcp_server, "version", lambda name: "1.27.0")
    with pytest.raises(UsageError, match=r"pip install 'crystalpredict\[mcp\]'"):
        mcp_server.refuse_missing_sdk()

"""Command line over environment over file over default."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from crystalpredict.cli.settings import SETTINGS, settings_file, variable_of

SI = "examples/Si.vasp"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of settings, still to be written."""
    monkeypatch.setenv("CRYSTALPREDICT_CONFIG", str(tmp_path / "config.toml"))
    return tmp_path / "config.toml"


def lines_of(outcome) -> dict[str, str]:
    """What `config` says of each setting."""
    assert (outcome.code, outcome.stderr) == (0, "")
    lines = [line.partition(" = ") for line in outcome.stdout.splitlines()]
    return {name: value for name, _, value in lines if value}


def refused(outcome, *parts: str) -> None:
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    for part in ("crystalpredict: error: ", *parts):
        assert part in line


def test_command_line_goes_before_environment_before_file_before_default(program, file, monkeypatch) -> None:
    file.touch()
    assert program("predict", SI).stdout.startswith("path,")  # CSV in a pipe
    file.write_text('format = "json"\nquiet = true\n')
    assert program("predict", SI).stdout.startswith("[")
    assert program("predict", SI).stderr == ""
    monkeypatch.setenv("CRYSTALPREDICT_FORMAT", "jsonl")
    assert program("predict", SI).stdout.startswith("{")
    assert program("predict", SI, "-f", "csv").stdout.startswith("path,")


def test_config_says_each_value_its_source_and_what_it_stands_for(program, file, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(3)), raising=False)
    file.write_text('jobs = 3\nmodel = "mine"\ntimeout-per-file = 7\nbatch-atoms = 500\n')
    monkeypatch.setenv("CRYSTALPREDICT_JOBS", "5")
    monkeypatch.setenv("CRYSTALPREDICT_DEVICE", "cpu")
    outcome = program("config")
    assert f"# {file}: read" in outcome.stdout
    assert lines_of(outcome) == {
        "model": '"mine"  # the file',
        "device": '"cpu"  # CRYSTALPREDICT_DEVICE',
        "jobs": "5  # CRYSTALPREDICT_JOBS, not 3 of the file",
        "batch-atoms": '"500"  # the file',
        "format": '"auto"  # default; a table on a terminal, CSV in a pipe, the suffix of -o',
        "timeout-per-file": "7.0  # the file",
        "quiet": "false  # default",
    }
    assert "# memory-per-process has no value: each reader process may have " in outcome.stdout
    file.write_text("timeout-per-file = 0\nmemory-per-process = 2\n")
    monkeypatch.setenv("CRYSTALPREDICT_JOBS", "0")
    found = lines_of(program("config"))
    assert found["model"] == '"crystalformer-mp"  # default'
    assert found["jobs"] == "0  # CRYSTALPREDICT_JOBS; here 3"
    assert found["batch-atoms"] == '"auto"  # default; here 1,000 atoms'
    assert found["timeout-per-file"] == "0.0  # the file; no limit"
    assert found["memory-per-process"] == "2.0  # the file"
    monkeypatch.delenv("CRYSTALPREDICT_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert lines_of(program("config"))["device"] == '"auto"  # default; here cpu'


def test_what_config_prints_may_stand_in_the_file(program, file, monkeypatch) -> None:
    monkeypatch.delenv("CRYSTALPREDICT_CONFIG")
    text = program("config").stdout
    monkeypatch.setenv("CRYSTALPREDICT_CONFIG", str(file))
    file.write_text(text)
    again = program("config").stdout
    assert lines_of(program("config")).keys() == {line.split(" = ")[0] for line in text.splitlines() if " = " in line}
    assert again.replace("# the file", "# default").splitlines()[1:] == text.splitlines()[1:]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("modle = 'x'", ("unknown setting 'modle'", "did you mean 'model'?")),
        ("[predict]\nmodel = 'x'", ("unknown setting 'predict'", "choose from model, device")),
        ("jobs = 'many'", ("jobs = 'many': ", "integer")),
        ("jobs = -1", ("jobs = -1: ", "0")),
        ("format = 'xml'", ("format = 'xml': ", "jsonl")),
        ("jobs = [1]", ("jobs must be a text or a number",)),
        ("jobs = ", ("cannot be read",)),
        ("jobs = 1\njobs = 2", ("cannot be read",)),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line_with_its_path(program, file, text, parts) -> None:
    file.write_text(text)
    refused(program("predict", SI), str(file), *parts)
    refused(program("config"), str(file), *parts)


def test_a_file_that_is_named_must_be_there(program, file) -> None:
    refused(program("predict", SI), str(file), "no such file", "CRYSTALPREDICT_CONFIG")


def test_a_variable_that_makes_no_sense_is_named(program, monkeypatch) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_JOBS", "many")
    outcome = program("predict", SI)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "CRYSTALPREDICT_JOBS" in outcome.stderr
    monkeypatch.delenv("CRYSTALPREDICT_JOBS")
    monkeypatch.setenv("CRYSTALPREDICT_DEVCIE", "cpu")
    said = program("config").stdout
    assert "# CRYSTALPREDICT_DEVCIE is not a setting: did you mean 'CRYSTALPREDICT_DEVICE'?" in said


def test_settings_reach_every_command_that_has_them_and_no_other(program, file, folder, tmp_path) -> None:
    file.write_text(f"model = '{folder}'\nquiet = true\nformat = 'jsonl'\n")
    (tmp_path / "t.csv").write_text(f"file,bandgap_eV\n{Path(SI).resolve()},1\n")
    assert program("evaluate", tmp_path / "t.csv").stdout.splitlines()[1].startswith("copy,")
    assert program("embed", SI, "-o", tmp_path / "a.csv").stderr == ""
    (folder / "config.json").unlink()
    assert program("predict", SI).code == 1
    assert program("models", "verify", "crystalformer-mp").code == 0


def test_the_file_is_in_the_users_configuration_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("CRYSTALPREDICT_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert settings_file().name == "config.toml"
    assert "crystalpredict" in settings_file().parts
    assert [variable_of(name) for name in SETTINGS][3] == "CRYSTALPREDICT_BATCH_ATOMS"

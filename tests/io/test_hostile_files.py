"""Files from a stranger: nothing in them is executed, what they ask for is refused in a line (docs/security.md)."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.numpy
import torch

from crystalpredict.checkpoints.checkpoint import load_checkpoint
from crystalpredict.checkpoints.registry import bundled_models, config_of_model, install_model, models_folder
from crystalpredict.cli.prediction_table import TableWriter
from crystalpredict.cli.terminal import say
from crystalpredict.errors import CheckpointError, StructureError, UsageError
from crystalpredict.io.entries import Inline, read_entries
from crystalpredict.prediction.predictor import Prediction
from tests.checkpoints.test_registry_and_checkpoint import edit, refused, write_weights

# Structures


def test_json_that_names_a_module_imports_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    trap = {"@module": "stranger", "@class": "Trap", "@version": "1"}
    site = {"species": [{"element": "Po", "occu": 1, "properties": trap}], "abc": [0, 0, 0]}
    crystal = {"lattice": {"matrix": [[3.3, 0, 0], [0, 3.3, 0], [0, 0, 3.3]], "trap": trap}}
    crystal |= {"sites": [site | {"properties": {"x": trap}, "label": trap}], "properties": trap, "charge": trap}
    for text in (json.dumps(crystal), json.dumps([crystal | trap]), json.dumps({"structure": crystal, "data": trap})):
        (entry,) = read_entries(Inline("a", text), 6.0)
        assert (entry.error, entry.formula) == ("", "Po")
    for text in (json.dumps(trap), json.dumps({"sites": trap, "lattice": trap}), json.dumps([trap])):
        (entry,) = read_entries(Inline("a", text), 6.0)
        assert "JSON" in entry.error
    assert "stranger" not in sys.modules


def test_operations_are_read_and_not_evaluated(tmp_path: Path) -> None:
    made = tmp_path / "made"
    operation = f"open({str(made)!r}.lower(), chr(119)),y,z"
    loop = f'loop_\n_symmetry_equiv_pos_as_xyz\n"{operation}"\n'
    text = (Path(__file__).resolve().parents[2] / "examples" / "MgO.cif").read_text()
    list(read_entries(Inline("a", text.replace("loop_", f"{loop}loop_", 1)), 6.0))
    assert not made.exists()


def test_names_cannot_command_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a.zip/\x1b]0;title\x07\x9b31m\u202e.cif"
    say(f"{name}: no atoms")
    table = TableWriter(sys.stdout, ())
    table.write(Prediction(name, 0, "", None, error=str(StructureError("unknown element \x1b[2J"))))
    table.close()
    said = capsys.readouterr()
    assert said.err == "crystalpredict: a.zip/\\x1b]0;title\\x07\\x9b31m\\u202e.cif: no atoms\n"
    assert "\\x1b]0;title\\x07\\x9b31m\\u202e.cif" in said.out
    assert "\x1b" not in said.out


# Checkpoints


def header(entries: dict[str, object], size: int = 0) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", size or len(text)) + text


WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "a pickle behind the tensors": lambda good: good + b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "one byte more": lambda good: good + b"\0",
    "a header longer than the file": lambda good: header({"a": 1}, 2**30),
    "a header of 2^63 bytes": lambda good: struct.pack("<Q", 2**63) + good[8:],
    "a header of a million names": lambda good: header({str(n): {} for n in range(10**6)}),
    "a tensor of 10^18 elements": lambda good: (
        header({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}) + bytes(4)
    ),
    "offsets before the beginning": lambda good: (
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]}}) + bytes(4)
    ),
    "tensors that overlap": lambda good: (
        header({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}) + bytes(4)
    ),
    "names of paths": lambda good: safetensors.numpy.save({"../../a": torch.zeros(1).numpy()}),
    "a gigabyte": lambda good: good[:1000],  # and then a hole
}


@pytest.mark.parametrize("attack", WEIGHTS)
def test_weights_made_to_harm_are_refused_with_a_right_checksum_too(folder: Path, attack: str) -> None:
    path = folder / "model.safetensors"
    write_weights(folder, WEIGHTS[attack](path.read_bytes()))
    if attack == "a gigabyte":
        with path.open("r+b") as file:
            file.truncate(2**30)
    started = time.monotonic()
    refused(folder, "model.safetensors")
    assert time.monotonic() - started < 60  # not the hours or the memory that it asks for


@pytest.mark.parametrize(
    "change",
    [
        {"width": 4096, "heads": 1, "blocks": 400},
        {"width": 10**9},
        {"blocks": 10**9},
        {"radial_basis": 10**12},
        {"outputs": 2**63},
        {"radius": 1e9},
        {"radius": float("inf")},
        {"r_max": float("nan")},
        {"attention": "framed", "direction_basis": 10**9},
        {"attention": "dual", "reciprocal_reach": 10**9},
    ],
    ids=str,
)
def test_a_network_without_bounds_is_never_made(folder: Path, change: dict[str, object]) -> None:
    edit(folder / "config.json", lambda c: (c.update(format_version=2), c["model"].update(change)))
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert time.monotonic() - started < 60
    if "radius" in change:
        assert config_of_model(folder) is None  # readers, which begin first, must not search so far


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "golden.json", "calibration.safetensors"])
def test_links_in_a_checkpoint_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    for target in (tmp_path / "elsewhere", Path("/dev/zero"), Path("nowhere"), folder / name):
        (folder / name).symlink_to(target)
        refused(folder, name, "link")
        (folder / name).unlink()


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_installing_follows_no_link_and_no_path(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_MODELS", str(tmp_path / "models"))
    for name in ("../mine", "..", ".", "a/b", "/tmp/mine", "", "a\nb", "-m"):
        with pytest.raises(UsageError, match="cannot be the name of a model"):
            install_model(folder, name)
    (folder / "secret.py").write_text("print('hello')")
    assert not (install_model(folder, "mine") / "secret.py").exists()
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="a symbolic link"):
        install_model(folder, "other")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]


@pytest.mark.parametrize("place", ["folder", "file"])
def test_the_index_cannot_lead_out_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    index = json.loads((models_folder() / "index.json").read_text())
    entry = next(iter(index["models"].values()))
    if place == "folder":
        entry["folder"] = "../elsewhere"
    else:
        entry["files"]["../../elsewhere"] = {"sha256": "", "bytes": 0}
    (tmp_path / "index.json").write_text(json.dumps(index))
    monkeypatch.setattr("crystalpredict.checkpoints.registry.models_folder", lambda: tmp_path)
    with pytest.raises(CheckpointError, match=r"expected a text (that can be a file's name|of 64 hexadecimal digits)"):
        bundled_models()


@pytest.mark.parametrize("name", ["config.json", "golden.json"])
def test_json_without_end_is_refused_unread(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(2**30)
    refused(folder, name, "far too many for this file")
    (folder / name).write_text('{"a":' * 100_000)
    refused(folder, name)


def test_a_card_cannot_command_a_terminal(folder: Path) -> None:
    (folder / "README.md").write_text("# A card\n\tof \x1b[31mmine\n")
    command = [sys.executable, "-m", "crystalpredict", "models", "info", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "# A card\n\tof \\x1b[31mmine\n\n")


def test_an_upstream_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "made"),))

    content = io.BytesIO()
    torch.save({"state_dict": {}, "hyper_parameters": Trap()}, content)
    (tmp_path / "a.ckpt").write_bytes(content.getvalue())
    command = [sys.executable, "-m", "crystalpredict", "models", "import", str(tmp_path / "a.ckpt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert not (tmp_path / "made").exists()

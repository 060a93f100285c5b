"""JSON of checkpoints, of the index and of runs with one value changed: refused in one line, or as good as before."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalpredict._schema import SchemaError, parse_json, read_json_file, read_record, record, record_of
from crystalpredict.checkpoints import files as checkpoint_files
from crystalpredict.checkpoints.checkpoint import load_checkpoint, verify_golden
from crystalpredict.checkpoints.model_index import Index
from crystalpredict.checkpoints.registry import default_model, models_folder, properties_of_model
from crystalpredict.data.dataset import CrystalTable
from crystalpredict.errors import CheckpointError, CrystalPredictError, DataError, UsageError
from crystalpredict.nn import ModelConfig
from crystalpredict.properties import Property
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.finetune import check_labels
from crystalpredict.training.plan import Plan
from crystalpredict.uncertainty.calibration import CALIBRATION_FILE, Calibration

BUNDLED = default_model().folder
# JSON texts; what is left out, stands twice, or has an unknown key beside it comes with them
HOSTILE = [
    "null", "true", "0", "-1", "1.5", "1e999", "NaN", "-Infinity", "9" * 400, "9" * 5000, '""', '"x"', '"a\\u001b[2Jb"',
    '"\\ud800"', json.dumps("x" * 5000), "[]", "{}", "[[]]", '{"a": 1}', "[" * 3000 + "]" * 3000, "1e300", '["x", 7]',
]  # fmt: skip
MARK = '"a mark that stands nowhere else"'


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all values in plain data; of a long list, of the first and the last."""
    if path:
        yield path
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in dict.fromkeys([*keys[:1], *keys[-1:]]) if isinstance(value, list) else keys:
        yield from places(value[key], (*path, key))


def mutants(value: Any) -> Iterator[tuple[str, str]]:
    """Texts with one change each, and a word for it."""
    for path in places(value):
        changed = copy.deepcopy(value)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        name = ".".join(map(str, path))
        old = holder[path[-1]]
        holder[path[-1]] = json.loads(MARK)
        text = json.dumps(changed)
        for hostile in HOSTILE:
            yield text.replace(MARK, hostile), f"{name} = {hostile[:30]}"
        del holder[path[-1]]
        yield json.dumps(changed), f"no {name}"
        if isinstance(holder, dict):
            holder[path[-1]] = old
            twice = json.dumps({**holder, MARK: old}).replace(json.dumps(MARK), json.dumps(path[-1]))
            yield from (
                (json.dumps(changed).replace(json.dumps(holder), each, 1), f"{name} {what}")
                for each, what in ((twice, "twice"), (json.dumps({**holder, "odd": 1}), "and an odd key"))
            )


def original(name: str) -> Any:
    return json.loads((BUNDLED / name).read_text())


def config() -> dict[str, Any]:
    facts = {"learnt": [["bandgap", "eV", "none"]], "elements_seen": [1, 8], "free": {"text": 1.5}}
    return original("config.json") | {"training": facts}


def index() -> dict[str, Any]:
    name = default_model().name
    whole = json.loads((models_folder() / "index.json").read_text())
    return {**whole, "default": name, "unrelaxed": name, "models": {name: whole["models"][name]}}


def provenance() -> dict[str, Any]:
    base = {"name": "b", "folder": "/b", "sha256": "0" * 64, "learnt": [["a", "eV", "none"]], "elements_seen": [1, 8]}
    plan = Plan(
        ["crystalpredict", "finetune"], {"path": "x.csv", "sha256": "0" * 64}, None, ["bandgap"], ModelConfig(),
        TrainingConfig(weights={"bandgap": 2.0}), 0, ["note"], {"torch": "2"}, "2026",
    )  # fmt: skip
    return {**json.loads(json.dumps(asdict(plan))), "base": base}


def read_plan(folder: Path) -> Plan:
    return Plan.load(folder)


def read_index(folder: Path) -> Index:
    return record_of(read_json_file(folder / "index.json"), Index, folder / "index.json")


FILES: dict[str, tuple[Callable[[], Any], Callable[[Path], Any]]] = {
    "config.json": (config, checkpoint_files.read_config),
    "golden.json": (lambda: original("golden.json"), checkpoint_files.read_golden),
    "index.json": (index, read_index),
    "provenance.json": (provenance, read_plan),
}


def complaint(read: Callable[[Path], object], folder: Path) -> str | None:
    """What the program says of a folder; None if it is sound. Another exception fails the test."""
    try:
        read(folder)
    except CrystalPredictError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FILES)
def test_every_mutant_is_refused_in_one_line_or_is_sound(tmp_path: Path, name: str) -> None:
    value, read = FILES[name]
    (tmp_path / name).write_text(json.dumps(value()))
    read(tmp_path)
    count, sound = 0, []
    for text, what in mutants(value()):
        count += 1
        (tmp_path / name).write_text(text)
        message = complaint(read, tmp_path)
        if message is None:
            sound.append(what)
            assert all(math.isfinite(number) for number in numbers_in(read(tmp_path))), what
            continue
        assert str(tmp_path) in message, what
        assert message.isprintable(), what
        assert len(message) < 600, what
        assert "msgspec" not in message, what
    assert count > 500
    # free texts and figures may be what they like, numbers may be others within their bounds, and what has a default
    # may be left out
    allowed = {"config.json": 0.45, "golden.json": 0.2, "index.json": 0.25, "provenance.json": 0.5}
    assert len(sound) < allowed[name] * count, sound


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from numbers_in(item)
    elif hasattr(value, "__dataclass_fields__"):
        for field in value.__dataclass_fields__:
            yield from numbers_in(getattr(value, field))
    elif isinstance(value, float):
        yield value


@pytest.mark.parametrize("name", ["config.json", "golden.json"])
def test_what_is_sound_loads_and_repeats_its_outputs_or_is_refused(folder: Path, name: str) -> None:
    value, read = FILES[name]
    sample = [text for text, what in mutants(value()) if not what.startswith("training")][::9]
    verified = 0
    for text in sample:
        (folder / name).write_text(text)
        if complaint(read, folder):
            continue
        said = complaint(load_checkpoint, folder)
        if not said:
            checkpoint = load_checkpoint(folder)
            said = complaint(lambda folder, own=checkpoint: verify_golden(own, folder), folder)
        assert said is None or str(folder) in said
        verified += said is None
    assert verified


@pytest.mark.parametrize(
    "lattice",
    [
        [[1e4, 0, 0], [0, 1e4, 0], [0, 0, 1.1e-8]],
        [[1e4, 0, 0], [0, 0.05, 0], [0, 0, 0.05]],
        [[0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[3, 0, 0], [3, 0, 0], [0, 0, 3]],
        [[2e4, 0, 0], [0, 3, 0], [0, 0, 3]],
    ],
)
def test_an_example_with_a_cell_that_no_crystal_has_is_refused(folder: Path, lattice: list[list[float]]) -> None:
    golden = original("golden.json")
    golden["crystals"][0]["lattice"] = lattice
    (folder / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(
        CheckpointError, match=r"crystals\[0\].lattice: (each atom and its periodic image|the cell (has|is)) .* Å"
    ):
        verify_golden(load_checkpoint(folder), folder)


def test_an_example_of_many_atoms_packed_densely_is_refused(folder: Path) -> None:
    edge, places_ = 9.7, np.random.default_rng(0).uniform(0, 9.7, (900, 3)).tolist()
    dense = {
        "lattice": (edge * np.eye(3)).tolist(),
        "positions": places_,
        "numbers": [6] * 900,
        "outputs": [0.0] * len(properties_of_model(folder)),
    }
    (folder / "golden.json").write_text(json.dumps({"crystals": [dense]}))
    with pytest.raises(CheckpointError, match="too many atoms"):
        verify_golden(load_checkpoint(folder), folder)


@pytest.mark.parametrize(
    "values",
    [
        {"width": 4096, "feedforward": 4096, "blocks": 100},
        {"blocks": 4096, "width": 1024},
        {"radius": 100.0},
        {"reciprocal_reach": 4096},
        {"reciprocal_cutoff": 500.0},
        {"members": 101},
    ],
    ids=str,
)
def test_a_config_that_would_take_gigabytes_or_hours_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SchemaError):
        record(values, ModelConfig)


def test_json_is_read_as_every_program_reads_it() -> None:
    for text in (b"\xff", "{}".encode("utf-16"), b"{", b"", b"NaN", b"[1] 2", b"[" * 10**6, b'{"a": 1, "a": 1}'):
        with pytest.raises(SchemaError) as caught:
            parse_json(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(SchemaError, match=r"width is 128\.5: expected an integer"):
        read_record('{"width": 128.5}', ModelConfig)
    assert read_record('{"radius": 6}', ModelConfig).radius == 6.0


# Files of tensors


def rewritten(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A file of tensors with another header."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    return struct.pack("<Q", len(new)) + new + content[8 + length :]


HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    f"{key} is {value!r}": lambda header, key=key, value=value: header[max(header)].update({key: value})
    for key, values in {
        "dtype": ("F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "F4", "C64", "", 7, None, []),
        "shape": ([], [0], [1], [-1], [2**63], [2**31, 2**31, 2**31], ["x"], None, [1.5], [1] * 100),
        "data_offsets": ([0, 0], [0, 4], [4, 0], [-4, 0], [0, 2**62], [0], None, ["a", "b"]),
    }.items()
    for value in values
} | {
    "no tensors": lambda header: header.clear(),
    "a tensor less": lambda header: header.pop(max(header)),
    "another name": lambda header: header.update(x=header.pop(max(header))),
    "one is a list": lambda header: header.update({max(header): []}),
    "metadata": lambda header: header.update(__metadata__={"x": 7}),
    "a key too many": lambda header: header[max(header)].update(x=1),
}  # fmt: skip


@pytest.mark.parametrize("damage", HEADERS)
@pytest.mark.parametrize("name", ["model.safetensors", CALIBRATION_FILE])
def test_a_file_of_tensors_with_another_header_is_refused_in_one_line(folder: Path, name: str, damage: str) -> None:
    path, sound = folder / name, (folder / name).read_bytes()
    path.write_bytes(rewritten(sound, HEADERS[damage]))
    config = original("config.json")
    config["weights_sha256" if name == "model.safetensors" else "calibration_sha256"] = hashlib.sha256(
        path.read_bytes()
    ).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    said = complaint(load_checkpoint, folder)
    if said:
        assert str(path) in said
        assert "\n" not in said
    else:
        assert "too many" in damage  # which the reader passes over
        assert verify_golden(load_checkpoint(folder), folder) < 1e-4


def test_statistics_that_make_no_sense_are_refused() -> None:
    calibration = Calibration.from_bytes(
        (BUNDLED / CALIBRATION_FILE).read_bytes(), len(properties_of_model(BUNDLED)), 128
    )
    assert calibration.domain
    fills: tuple[Callable[[Any], Any], ...] = (
        lambda old: np.full_like(old, np.nan), lambda old: np.full_like(old, np.inf), lambda old: -np.abs(old) - 1,
        lambda old: old * 0 + 3e38, lambda old: old[..., ::-1] + 0, lambda old: old[..., :0], lambda old: old[..., 0],
        lambda old: old * 0, lambda old: np.concatenate([old, old]),
    )  # fmt: skip
    sizes, features = np.array([1, 8, 500]), np.zeros((3, 128), dtype=np.float32)
    refused = 0
    for part, name in (
        (each, field.name) for each in ("errors", "domain") for field in fields(getattr(calibration, each))
    ):
        for fill in fills:
            own = getattr(calibration, part)
            old = getattr(own, name)
            if old.dtype.kind != "f":
                continue
            with np.errstate(all="ignore"):
                try:
                    changed = replace(calibration, **{part: replace(own, **{name: fill(old)})})
                    again = Calibration.from_bytes(changed.to_bytes(), len(properties_of_model(BUNDLED)), 128)
                except (ValueError, IndexError):
                    refused += 1
                    continue
            halves = again.errors.halfwidths(np.zeros((3, 5)), sizes, features)
            assert np.isfinite(halves).all(), name
            assert (np.diff(halves, axis=2) >= 0).all(), name
    assert refused > 60


def test_a_plan_of_a_run_that_is_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        Plan.load(tmp_path)
    (tmp_path / "provenance.json").write_text(json.dumps(provenance() | {"folds": 10**9}))
    with pytest.raises(UsageError, match=r"folds is 1000000000: expected an integer <= 10000.*start the run again"):
        Plan.load(tmp_path)


def test_a_column_whose_name_no_checkpoint_can_hold_is_refused_before_training() -> None:
    odd = Property("x", "gap\u202e", "eV", "eV")
    table = CrystalTable(*(np.zeros((0, 3)) for _ in range(7)), properties=(odd,))
    with pytest.raises(DataError, match=r"rename the column \(label is .* without control characters"):
        check_labels(table, [])

"""JSON of checkpoints, of the index and of runs with one value changed: refused in one line, or as good as before."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalpredict import checkpoint_files
from crystalpredict.calibration import CALIBRATION_FILE, Calibration
from crystalpredict.checkpoint import load_checkpoint, verify_golden
from crystalpredict.errors import CheckpointError, CrystalPredictError, UsageError
from crystalpredict.model_index import Index
from crystalpredict.nn import ModelConfig
from crystalpredict.provenance import Plan
from crystalpredict.registry import default_model, models_folder
from crystalpredict.schema import SchemaError, parse_json, read_json_file, read_record, record, record_of
from crystalpredict.training_config import TrainingConfig

BUNDLED = default_model().folder
# JSON texts; what is left out, stands twice, or has an unknown key beside it comes with them
HOSTILE = [
    "null", "true", "0", "-1", "1.5", "1e999", "NaN", "-Infinity", "9" * 400, "9" * 5000, '""', '"x"', '"a\\u001b[2Jb"',
    '"\\ud800"', json.dumps("x" * 5000), "[]", "{}", "[[]]", '{"a": 1}', "[" * 3000 + "]" * 3000, "1e300", '["x", 7]',
]  # fmt: skip
MARK = '"a mark that stands nowhere else"'
FREE = ("training.", "summary", "label", "unit", "crystalpredict", "aliases", "command", "notes", "versions", "started")


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
            yield from ((json.dumps(changed).replace(json.dumps(holder), each, 1), f"{name} {what}")
                        for each, what in ((twice, "twice"), (json.dumps({**holder, "odd": 1}), "and an odd key")))


def original(name: str) -> Any:
    return json.loads((BUNDLED / name).read_text())


def provenance() -> dict[str, Any]:
    base = {"name": "b", "folder": "/b", "sha256": "0" * 64, "learnt": [["a", "eV", "none"]], "elements_seen": [1, 8]}
    plan = Plan(
        ["crystalpredict", "finetune"], {"path": "x.csv", "sha256": "0" * 64}, None, ["bandgap"], ModelConfig(),
        TrainingConfig(weights={"bandgap": 2.0}), 0, ["note"], {"torch": "2"}, "2026",
    )  # fmt: skip
    from dataclasses import asdict

    return {**json.loads(json.dumps(asdict(plan))), "base": base}


def read_plan(folder: Path) -> Plan:
    return Plan.load(folder)


def read_index(folder: Path) -> Index:
    return record_of(read_json_file(folder / "index.json"), Index, folder / "index.json")


FILES: dict[str, tuple[Callable[[], Any], Callable[[Path], Any]]] = {
    "config.json": (lambda: original("config.json"), checkpoint_files.read_config),
    "golden.json": (lambda: original("golden.json"), checkpoint_files.read_golden),
    "index.json": (lambda: json.loads((models_folder() / "index.json").read_text()), read_index),
    "provenance.json": (provenance, read_plan),
}


@pytest.mark.parametrize("name", FILES)
def test_every_mutant_is_refused_in_one_line_or_is_sound(tmp_path: Path, name: str) -> None:
    value, read = FILES[name]
    (tmp_path / name).write_text(json.dumps(value()))
    read(tmp_path)
    count, sound = 0, []
    for text, what in mutants(value()):
        count += 1
        (tmp_path / name).write_text(text)
        try:
            found = read(tmp_path)
        except CrystalPredictError as error:
            message = str(error)
            assert str(tmp_path) in message, what
            assert message.isprintable(), what
            assert len(message) < 600, what
            assert "msgspec" not in message, what
        else:
            sound.append(what)
            assert all(math.isfinite(number) for number in numbers_in(found)), what
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

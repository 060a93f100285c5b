"""A folder that is no checkpoint: the message says what it is, and what to give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crystalpredict.checkpoints.registry import default_model, find_model
from crystalpredict.errors import UsageError
from tests.cli.conftest import program as program

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "NaCl.cif"


def fill(folder: Path, files: list[str], models: list[str]) -> Path:
    """A folder with files, and checkpoints in it, which are links to the bundled one."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in models:
        (folder / name).symlink_to(default_model().folder)
    return folder


CURVE = [f"train-{percent}-percent" for percent in ("100", "12.5", "25", "50")]
FOLDERS: dict[str, tuple[list[str], list[str], str]] = {
    "a curve": (["learning-curve.csv", "learning-curve.json"], CURVE, "a learning curve, with a model for each"),
    "a curve that has just begun": (["learning-curve.json", "train-12.5-percent/log.csv"], [], "none of which has"),
    "folds": (["provenance.json", "metrics.json", "x"], [f"fold-{n}" for n in range(1, 11)], "a cross-validation"),
    "a run": (["provenance.json", "training/state.npz"], [], "finetune --resume"),
    "a training": (["config.json", "state.npz", "log.csv"], [], "give the folder of the run, which is above"),
    "models": (["index.json"], ["mine", "yours"], "a folder of models: give one of them"),
    "results": (["screen.csv"], [], "no checkpoint, it has no config.json: give a folder that finetune"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_it_says_what_the_folder_is(program, tmp_path, name) -> None:
    files, models, said = FOLDERS[name]
    folder = fill(tmp_path / "it", files, models)
    outcome = program("predict", EXAMPLE, "--model", folder)
    assert outcome.code == 2
    assert outcome.stderr.startswith(f"crystalpredict: error: {folder}: ")
    assert said in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert "damaged" not in outcome.stderr
    for command in (("models", "info"), ("models", "verify"), ("models", "install")):
        assert (program(*command, folder).code, said in outcome.stderr) == (2, True)


def test_the_models_that_are_named_can_be_given(tmp_path) -> None:
    folder = fill(tmp_path / "it", *FOLDERS["a curve"][:2])
    with pytest.raises(UsageError) as caught:
        find_model(folder)
    named = re.findall(rf"{folder}/[\w.-]*\w", str(caught.value))
    assert [Path(path).name for path in named] == [CURVE[1], CURVE[2], CURVE[3], CURVE[0]]
    assert all(find_model(path) == Path(path) for path in named)
    folds = fill(tmp_path / "folds", *FOLDERS["folds"][:2])
    with pytest.raises(UsageError, match=r"fold-7, \S+fold-8, \S+fold-9, \S+fold-10 or another of its 10"):
        find_model(folds)

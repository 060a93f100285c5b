import json
import shutil
from pathlib import Path

import pytest

from crystalpredict.checkpoints.registry import bundled_models, default_model
from tests.checkpoints.test_import_upstream import ANGLES, PLAIN, changed, written


def failed(outcome, *parts: str) -> None:
    """One line on stderr that holds `parts`, nothing on stdout, exit code 1."""
    assert (outcome.code, outcome.stdout) == (1, "")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("crystalpredict: error: ")
    for part in parts:
        assert part in line


def test_list_stars_the_default_and_names_sizes_and_properties(program) -> None:
    outcome = program("models", "list")
    assert (outcome.code, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert [line for line in lines if line.startswith("* ")] == [lines[0]]
    assert default_model().name in lines[0]
    for model in bundled_models().values():
        assert f"{model.size / 1e6:.1f} MB" in outcome.stdout
        assert ", ".join(model.properties) in outcome.stdout
        assert model.summary in outcome.stdout


def test_info_prints_the_card(program, folder) -> None:
    card = (default_model().folder / "README.md").read_text(encoding="utf-8")
    for arguments in ([], [default_model().name], [folder]):
        outcome = program("models", "info", *arguments)
        assert (outcome.code, outcome.stdout, outcome.stderr) == (0, card + "\n", "")


def test_info_of_a_folder_without_a_card_says_so(program, folder) -> None:
    (folder / "README.md").unlink()
    outcome = program("models", "info", folder)
    assert outcome.code == 0
    assert "no card" in outcome.stdout


def test_info_of_an_unknown_model_is_refused(program) -> None:
    outcome = program("models", "info", "crystalformer")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "did you mean 'crystalformer-mp'?" in outcome.stderr


def test_verify_checks_bundled_models_and_folders(program, folder) -> None:
    outcome = program("models", "verify")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert len(outcome.stdout.splitlines()) == len(bundled_models())
    outcome = program("models", "verify", folder, default_model().name, "--device", "cpu")
    assert outcome.code == 0
    assert [line.split(":")[0] for line in outcome.stdout.splitlines()] == ["copy", default_model().name]


def test_verify_refuses_unknown_devices_and_models(program) -> None:
    assert program("models", "verify", "--device", "bogus").code == 2
    assert program("models", "verify", "zzz").code == 2


def test_of_a_model_that_is_linked_the_link_is_removed(program, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(folder)
    assert "mine" in program("models", "list").stdout
    assert program("models", "remove", "mine").code == 0
    assert (folder / "config.json").exists()
    assert not list((tmp_path / "models").iterdir())


def test_an_installed_model_and_another_in_a_folder_of_its_name_are_told_apart(
    program, folder, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_MODELS", str(tmp_path / "models"))
    example = Path("examples/Si.vasp").absolute()
    assert program("models", "install", folder, "--name", "mine").code == 0
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "mine")
    assert program("predict", example, "-m", "mine").code == 0  # the same
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config | {"training": {}}))
    outcome = program("predict", example, "-m", "mine")
    assert outcome.code == 2
    assert "mine: the name of an installed model and of another one in this folder: use ./mine or" in outcome.stderr
    assert program("predict", example, "-m", "./mine").code == 0


def test_models_alone_shows_its_commands(program) -> None:
    outcome = program("models")
    assert outcome.code == 2
    for command in ("list", "info", "verify", "import"):
        assert command in outcome.stdout + outcome.stderr


# Damage: the program ends with one line, whether the model is verified or predicts


def flip(folder) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[5000] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def other_version(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 9}))


def unknown_key(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["layers"] = 4
    (folder / "config.json").write_text(json.dumps(config))


def no_weights(folder) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "part"),
    [(flip, "sha256"), (other_version, "format 9"), (unknown_key, "'layers'"), (no_weights, "model.safetensors")],
)
def test_a_damaged_checkpoint_neither_verifies_nor_predicts(program, folder, damage, part) -> None:
    damage(folder)
    failed(program("models", "verify", folder), str(folder), part)
    failed(program("predict", "examples/Si.vasp", "-m", folder), str(folder), part)


def alias_of_no_text(config) -> str:
    config["properties"][0]["aliases"] = [7, {"a": 1}]
    return json.dumps(config)


def long_integer(config) -> str:
    return json.dumps(config).replace('"blocks": 4', f'"blocks": {"9" * 400}')


def key_twice(config) -> str:
    return json.dumps(config).replace('"blocks": 4', '"blocks": 4, "blocks": 4')


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (alias_of_no_text, "properties[0].aliases[0] is 7: expected a text"),
        (long_integer, "an integer of 400 digits"),
        (key_twice, "the key 'blocks' occurs twice"),
    ],
)
def test_every_command_that_takes_a_model_refuses_a_config_in_one_line(
    program, folder, tmp_path, monkeypatch, change, part
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(change(config))
    table = tmp_path / "mine.csv"
    table.write_text("poscar,bandgap\n,1.0\n")
    monkeypatch.setenv("CRYSTALPREDICT_MODELS", str(tmp_path / "models"))
    for arguments in (
        ("models", "verify", folder), ("models", "info", folder), ("models", "install", folder),
        ("predict", "examples/Si.vasp", "-m", folder), ("evaluate", table, "-m", folder),
        ("finetune", table, "-m", folder, "-o", tmp_path / "run"),
    ):  # fmt: skip
        failed(program(*arguments), str(folder / "config.json"), part)
    assert program("models", "list").code == 0
    assert not (tmp_path / "run").exists()


def test_golden_json_that_disagrees_does_not_verify(program, folder) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    golden["crystals"][0]["outputs"][0] += 0.01
    (folder / "golden.json").write_text(json.dumps(golden))
    failed(program("models", "verify", folder), "differ from golden.json by 0.01")


# Checkpoints of the authors' programs


@pytest.mark.parametrize(
    "settings", [PLAIN, PLAIN | {"domain": "multihead"}, PLAIN | ANGLES], ids=["plain", "dual", "framed"]
)
def test_an_imported_checkpoint_verifies_and_predicts(program, tmp_path, settings) -> None:
    outcome = program("models", "import", written(tmp_path / "best.ckpt", settings))
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "formation_energy" in outcome.stdout
    assert "running means" in outcome.stdout
    folder = tmp_path / "best"
    assert program("models", "verify", folder).code == 0
    assert "best.ckpt" in program("models", "info", folder).stdout
    outcome = program("predict", "examples/Si.vasp", "examples/MgO.cif", "-m", folder)
    assert outcome.code == 0
    assert len({row["formation_energy_eV_per_atom"] for row in outcome.rows}) == 2
    if settings != PLAIN:
        assert "all atoms" in outcome.stderr


def test_a_folder_that_exists_is_not_written_over(program, tmp_path, folder) -> None:
    path = written(tmp_path / "best.ckpt", PLAIN)
    before = (folder / "config.json").read_bytes()
    outcome = program("models", "import", path, "-o", folder)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert f"{folder}: exists" in outcome.stderr
    assert (folder / "config.json").read_bytes() == before
    assert program("models", "import", path, "-o", tmp_path / "no" / "where").code == 2
    (tmp_path / "empty").mkdir()
    assert program("models", "import", path, "-o", tmp_path / "empty").code == 0


def test_an_import_that_fails_is_one_line_and_leaves_nothing(program, tmp_path) -> None:
    failed(program("models", "import", written(tmp_path / "odd.ckpt", dict(PLAIN), changed(magic=1))), "'magic'")
    (tmp_path / "text.ckpt").write_text("text")
    failed(program("models", "import", tmp_path / "text.ckpt"), "text.ckpt")
    for arguments in ([tmp_path / "nowhere.ckpt"], [written(tmp_path / "b.ckpt", PLAIN | {"targets": "hardness"})]):
        outcome = program("models", "import", *arguments)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert len(outcome.stderr.splitlines()) == 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".ckpt"}
    assert program("models", "import", tmp_path / "b.ckpt", "-t", "shear").code == 0

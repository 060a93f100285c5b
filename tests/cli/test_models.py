import json

import pytest

from crystalpredict.registry import bundled_models, default_model


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


def test_models_alone_shows_its_commands(program) -> None:
    outcome = program("models")
    assert outcome.code == 2
    for command in ("list", "info", "verify"):
        assert command in outcome.stdout + outcome.stderr


# Damage: the program ends with one line, whether the model is verified or predicts


def flip(folder) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[5000] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def other_version(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 3}))


def unknown_key(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["layers"] = 4
    (folder / "config.json").write_text(json.dumps(config))


def no_weights(folder) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "part"),
    [(flip, "sha256"), (other_version, "format 3"), (unknown_key, "'layers'"), (no_weights, "model.safetensors")],
)
def test_a_damaged_checkpoint_neither_verifies_nor_predicts(program, folder, damage, part) -> None:
    damage(folder)
    failed(program("models", "verify", folder), str(folder), part)
    failed(program("predict", "examples/Si.vasp", "-m", folder), str(folder), part)


def test_golden_json_that_disagrees_does_not_verify(program, folder) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    golden["crystals"][0]["outputs"][0] += 0.01
    (folder / "golden.json").write_text(json.dumps(golden))
    failed(program("models", "verify", folder), "differ from golden.json by 0.01")

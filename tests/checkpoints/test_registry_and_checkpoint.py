import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from crystalpredict._files import file_sha256
from crystalpredict.checkpoints.checkpoint import load_checkpoint, save_checkpoint, verify_golden
from crystalpredict.checkpoints.registry import bundled_models, default_model, find_model
from crystalpredict.errors import CheckpointError, UsageError
from crystalpredict.prediction.predictor import load_model
from tests.sample_crystals import random_crystal, rock_salt


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights and set their checksum right."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    write_weights(folder, safetensors.torch.save(tensors))


def write_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    checksum = hashlib.sha256(content).hexdigest()
    edit(folder / "config.json", lambda config: config.update(weights_sha256=checksum))


def refused(folder: Path, *parts: str) -> None:
    """Loading and verifying the folder ends in one line that holds `parts`."""
    with pytest.raises(CheckpointError) as caught:
        verify_golden(load_checkpoint(folder), folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(folder), *parts):
        assert part in message


# The index of bundled models


def test_the_index_names_one_default_whose_files_are_unaltered() -> None:
    models = bundled_models()
    assert [model.name for model in models.values() if model.default] == [default_model().name]
    for name, model in models.items():
        model.verify_files()
        head = {"relaxation.safetensors"} if (model.folder / "relaxation.safetensors").exists() else set()
        assert set(model.sha256) == head | {
            "README.md", "calibration.safetensors", "config.json", "golden.json", "metrics.json", "model.safetensors",
        }  # fmt: skip
        assert model.size == sum((model.folder / file).stat().st_size for file in model.sha256)
        config = json.loads((model.folder / "config.json").read_text())
        assert [entry["name"] for entry in config["properties"]] == list(model.properties)
        assert config["format_version"] == model.format_version
        assert find_model(name) == model.folder


def test_no_name_and_default_name_the_default_model() -> None:
    assert find_model() == find_model("default") == default_model().folder


def test_a_folder_is_found_by_its_path_and_a_file_is_not(folder, monkeypatch) -> None:
    assert find_model(str(folder)) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_model("~/copy") == folder
    with pytest.raises(UsageError, match="neither by name nor as a folder"):
        find_model(str(folder / "config.json"))
    with pytest.raises(UsageError, match="did you mean 'crystalformer-mp'"):
        find_model("crystalformer_mp")


def test_a_path_is_no_name_of_another_model(folder, monkeypatch) -> None:
    named = folder.rename(folder.parent / "crystalformer-mp")
    monkeypatch.chdir(folder.parent)
    assert find_model("crystalformer-mp") == default_model().folder
    assert find_model("./crystalformer-mp") == named
    assert find_model(str(find_model("./crystalformer-mp"))) == named
    (named / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(Path("crystalformer-mp"))
    load_model("crystalformer-mp")


def test_an_altered_or_missing_bundled_file_is_refused(folder) -> None:
    model = default_model()
    copy = type(model)(**{**vars(model), "folder": folder})
    copy.verify_files()
    with (folder / "README.md").open("a") as card:
        card.write("more")
    with pytest.raises(CheckpointError, match=r"README\.md: altered"):
        copy.verify_files()
    (folder / "README.md").unlink()
    with pytest.raises(CheckpointError, match=r"README\.md: missing"):
        copy.verify_files()


def test_file_sha256_is_that_of_the_content(tmp_path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea")


# Checkpoint folders


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_defaults_of_another_program_do_not_change_a_model(folder, dtype: torch.dtype) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "NaCl.cif"
    expected = load_model(device="cpu").predict(example)[0].values
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            model = load_model(device="cpu")
        assert model.predict(example)[0].values == pytest.approx(expected, rel=1e-5)
    finally:
        torch.set_default_dtype(before)


def test_a_checkpoint_repeats_its_golden_outputs(folder) -> None:
    checkpoint = load_checkpoint(folder)
    assert verify_golden(checkpoint, folder) <= 1e-4
    assert checkpoint.name == "copy"
    assert not checkpoint.model.training
    assert len(checkpoint.properties) == len(checkpoint.mean) == len(checkpoint.deviation)


def test_what_is_saved_is_loaded(folder, tmp_path) -> None:
    checkpoint = load_checkpoint(folder)
    again = tmp_path / "again"
    save_checkpoint(checkpoint, again, [rock_salt(), random_crystal(0)], "# A card\n")
    loaded = load_checkpoint(again)
    assert verify_golden(loaded, again) <= 1e-6
    assert loaded.properties == checkpoint.properties
    assert (loaded.mean == checkpoint.mean).all()
    assert (loaded.deviation == checkpoint.deviation).all()
    assert loaded.model.config == checkpoint.model.config
    assert (again / "README.md").read_text() == "# A card\n"
    outputs = np.zeros((1, len(loaded.mean)))
    gap = loaded.decode(outputs)["bandgap"]
    assert gap == pytest.approx(checkpoint.mean[0])


@pytest.mark.parametrize("place", [0, 100, 5000, -1])
def test_one_flipped_bit_of_the_weights_is_found(folder, place) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[place] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors", "sha256")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "golden.json"])
def test_a_missing_or_empty_file_is_named(folder, name) -> None:
    (folder / name).write_bytes(b"")
    refused(folder, name)
    (folder / name).unlink()
    refused(folder, name)
    (folder / name).mkdir()
    refused(folder, name)


@pytest.mark.parametrize("name", ["config.json", "golden.json"])
@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000], ids=["cut", "list", "null", "bytes", "deep"]
)
def test_json_that_is_none_is_named(folder, name, content) -> None:
    (folder / name).write_bytes(content)
    refused(folder, name)


@pytest.mark.parametrize("version", [0, 7, 99, "1", None, 1.5])
def test_another_format_version_is_refused(folder, version) -> None:
    edit(folder / "config.json", lambda config: config.update(format_version=version))
    refused(folder, f"format {version!r}", "reads 1 to 6")


CONFIGS: dict[str, tuple[Callable[[Any], object], tuple[str, ...]]] = {
    "misspelt key": (lambda c: c["model"].update(wdith=128), ("model has a key 'wdith'", "did you mean 'width'")),
    "unknown key": (lambda c: c["model"].update(qqq=1), ("'qqq'",)),
    "no blocks": (lambda c: c["model"].update(blocks=0), ("blocks",)),
    "seven heads": (lambda c: c["model"].update(heads=7), ("heads",)),
    "negative radius": (lambda c: c["model"].update(radius=-1), ("radius",)),
    "radius in words": (lambda c: c["model"].update(radius="six"), ()),
    "half a channel": (lambda c: c["model"].update(width=128.5), ()),
    "model is a number": (lambda c: c.update(model=7), ()),
    "no model": (lambda c: c.pop("model"), ("model",)),
    "no properties": (lambda c: c.pop("properties"), ("properties",)),
    "no checksum": (lambda c: c.pop("weights_sha256"), ("weights_sha256",)),
    "a property too few": (lambda c: c["properties"].pop(), ("15 properties for 16 outputs",)),
    "property with unknown key": (lambda c: c["properties"][0].update(colour="red"), ("properties[0]", "'colour'")),
    "property without unit": (lambda c: c["properties"][0].pop("unit"), ("unit",)),
    "property without mean": (lambda c: c["properties"][0].pop("mean"), ("mean",)),
    "property is a number": (lambda c: c["properties"].__setitem__(0, 7), ()),
    "mean in words": (lambda c: c["properties"][0].update(mean="much"), ()),
    "mean not a number": (lambda c: c["properties"][0].update(mean=float("nan")), ("NaN is not a finite number",)),
    "deviation 0": (lambda c: c["properties"][0].update(deviation=0), ("deviation",)),
    "unknown transform": (lambda c: c["properties"][0].update(transform="ln"), ("transform",)),
    "properties of a later format": (
        lambda c: (c.update(format_version=3), c["model"].pop("readout_of_states")),
        ("format 3 has no such properties",),
    ),
    "readout of a later format": (
        lambda c: c.update(format_version=5),
        ("format 5 has no stages, readout_of_states or kernel_points",),
    ),
    "attention of a later format": (
        lambda c: (
            c.update(format_version=1, properties=c["properties"][:5]),
            c["model"].update(attention="framed", outputs=5, readout_of_states=0),
        ),
        ("format 1 has no framed",),
    ),
    "no volume for unrelaxed crystals": (
        lambda c: (c["training"].update(unrelaxed=True), c["properties"][-1].update(name="other")),
        ("must predict the volume change",),
    ),
    "unknown attention": (lambda c: c["model"].update(attention="frame"), ("'frame'", "framed")),
    "training is a number": (lambda c: c.update(training=7), ("damaged",)),
}


@pytest.mark.parametrize("damage", CONFIGS)
def test_a_config_that_makes_no_sense_is_refused(folder, damage) -> None:
    change, parts = CONFIGS[damage]
    edit(folder / "config.json", change)
    refused(folder, "config.json", *parts)


def test_weights_of_another_network_are_refused(folder) -> None:
    edit(folder / "config.json", lambda config: config["model"].update(blocks=3))
    refused(folder, "model.safetensors", "does not fit", "blocks.3")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: t.update(extra=torch.zeros(1)), "'extra'"),
        (lambda t: t.pop("embedding.weight"), "'embedding.weight'"),
        (lambda t: t.update({"embedding.weight": torch.zeros(98, 64)}), "'embedding.weight'"),
        (lambda t: t.clear(), "does not fit"),
        (lambda t: t["embedding.weight"][3].fill_(float("nan")), "embedding.weight holds values that are not finite"),
        (lambda t: t["embedding.weight"][0, :1].fill_(float("-inf")), "embedding.weight holds"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, part) -> None:
    edit_weights(folder, change)
    refused(folder, "model.safetensors", part)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a pickle in a zip", b"\xff" * 64, b"\x08" + bytes(7) + b"{}      "]
)
def test_weights_that_are_no_safetensors_are_refused_even_with_a_right_checksum(folder, content) -> None:
    write_weights(folder, content)
    refused(folder, "model.safetensors")


def test_weights_rounded_to_half_precision_disagree_with_golden_json(folder) -> None:
    edit_weights(folder, lambda t: t.update({name: value.half() for name, value in t.items()}))
    refused(folder, "differ from golden.json")


def test_weights_that_differ_a_little_disagree_with_golden_json(folder) -> None:
    edit_weights(folder, lambda t: t["embedding.weight"].mul_(1.01))
    refused(folder, "differ from golden.json")


GOLDENS: dict[str, tuple[Callable[[Any], object], str]] = {
    "another output": (lambda g: g["crystals"][0]["outputs"].__setitem__(0, 3.0), "differ from golden.json"),
    "output not a number": (lambda g: g["crystals"][-1]["outputs"].__setitem__(-1, float("nan")), "golden.json"),
    "another element": (lambda g: g["crystals"][0]["numbers"].__setitem__(0, 92), "differ from golden.json"),
    "crystals of none": (lambda g: g["crystals"].clear(), "crystals is a list of 0"),
    "nothing": (lambda g: g.clear(), "crystals is missing"),
    "no outputs": (lambda g: g["crystals"][0].pop("outputs"), "golden.json"),
    "no lattice": (lambda g: g["crystals"][0].pop("lattice"), "golden.json"),
    "an output too few": (lambda g: g["crystals"][0]["outputs"].pop(), "golden.json"),
    "a position too few": (lambda g: g["crystals"][0]["positions"].pop(), "golden.json"),
    "element 120": (lambda g: g["crystals"][0]["numbers"].__setitem__(0, 120), "golden.json"),
    "crystal is a number": (lambda g: g["crystals"].__setitem__(0, 7), "golden.json"),
    "crystals is a number": (lambda g: g.update(crystals=7), "golden.json"),
}


@pytest.mark.parametrize("damage", GOLDENS)
def test_golden_outputs_that_disagree_or_make_no_sense_are_refused(folder, damage) -> None:
    change, part = GOLDENS[damage]
    edit(folder / "golden.json", change)
    refused(folder, part)

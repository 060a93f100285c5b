import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
    ]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("crystalpredict-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(installed: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=installed.parent, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_wheel_predicts_from_another_directory_with_the_weights_it_carries(installed: Path) -> None:
    where = run(
        installed, "-c", "from crystalpredict.checkpoints.registry import default_model; print(default_model().folder)"
    )
    assert Path(where.strip()).is_relative_to(installed)
    files = [str(path) for path in sorted((ROOT / "examples").iterdir())]
    rows = run(installed, "-m", "crystalpredict", "predict", *files, "--target", "bandgap", "-f", "jsonl").splitlines()
    assert [json.loads(row)["path"] for row in rows] == files
    assert all(json.loads(row)["bandgap_eV"] >= 0 for row in rows)


def test_the_wheel_carries_what_the_index_names_and_the_licence(installed: Path) -> None:
    index = json.loads((installed / "crystalpredict" / "models" / "index.json").read_text())
    for model in index["models"].values():
        for file, entry in model["files"].items():
            path = installed / "crystalpredict" / "models" / model["folder"] / file
            assert path.stat().st_size == entry["bytes"]
    assert list(installed.glob("crystalpredict-*.dist-info/licenses/LICENSE"))
    assert (installed / "crystalpredict" / "py.typed").exists()

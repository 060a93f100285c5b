"""The sdist, the wheel that is built from it, and a clean environment with that wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

import crystalpredict

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = ROOT / "src" / "crystalpredict"
INFO = f"crystalpredict-{crystalpredict.__version__}.dist-info"


@dataclass(frozen=True)
class Built:
    """The distributions, and an environment in which only the wheel is installed.

    Attributes:
        sdist: as it is uploaded.
        wheel: built from the sdist.
        environment: it finds the packages that the wheel needs in the environment of the tests.
        elsewhere: an empty folder.
    """

    sdist: Path
    wheel: zipfile.ZipFile
    environment: Path
    elsewhere: Path

    def run(self, *arguments: str) -> str:
        """What the installed program prints."""
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(self.environment / "bin" / "crystalpredict"), *arguments]
        done = subprocess.run(command, cwd=self.elsewhere, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")

    def python(*arguments: str | Path) -> None:
        subprocess.run([sys.executable, "-m", *map(str, arguments)], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    python("build", "--no-isolation", "--outdir", folder / "dist", ROOT)
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    environment, elsewhere = folder / "environment", folder / "elsewhere"
    elsewhere.mkdir()
    python("venv", "--without-pip", environment)
    packages = next((environment / "lib").glob("python*")) / "site-packages"
    interpreter = environment / "bin" / "python"
    python("pip", "--python", interpreter, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # a path that is named in a .pth file has no .pth files of its own, so that no checkout is found
    own = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "tests.pth").write_text("\n".join(own) + "\n")
    return Built(sdist, zipfile.ZipFile(wheel), environment, elsewhere)


def test_the_installed_program_predicts_with_the_weights_it_carries(built: Built) -> None:
    where = "import crystalpredict.checkpoints.registry as r; print(r.default_model().folder)"
    interpreter = str(built.environment / "bin" / "python")
    found = subprocess.run([interpreter, "-c", where], cwd=built.elsewhere, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(built.environment)
    assert built.run("--version").strip().endswith(crystalpredict.__version__)
    files = [str(path) for path in sorted((ROOT / "examples").iterdir())]
    rows = [json.loads(row) for row in built.run("predict", *files, "-t", "bandgap", "-f", "jsonl").splitlines()]
    assert [row["path"] for row in rows] == files
    assert all(row["bandgap_eV"] >= 0 for row in rows)


def test_the_wheel_carries_models_templates_and_licence(built: Built) -> None:
    files = {member.filename: member.file_size for member in built.wheel.infolist()}
    index = json.loads(built.wheel.read("crystalpredict/models/index.json"))
    for model in index["models"].values():
        for file, entry in model["files"].items():
            assert files[f"crystalpredict/models/{model['folder']}/{file}"] == entry["bytes"]
    ours = [path for path in SOURCE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {"py.typed", "card.md.j2", "report.html.j2"} <= {path.name for path in ours}
    missing = {f"crystalpredict/{path.relative_to(SOURCE).as_posix()}" for path in ours} - files.keys()
    assert missing == set()
    assert {name.partition("/")[0] for name in files} == {"crystalpredict", INFO}
    assert built.wheel.read(f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "crystalpredict = crystalpredict.cli:program" in built.wheel.read(f"{INFO}/entry_points.txt").decode()


def test_the_metadata_is_valid_and_that_of_the_project(built: Built) -> None:
    text = built.wheel.read(f"{INFO}/METADATA")
    found = Metadata.from_email(text, validate=True)
    assert (found.name, str(found.version)) == ("crystalpredict", crystalpredict.__version__)
    assert (found.license_expression, found.license_files) == ("MIT", ["LICENSE"])
    assert found.description_content_type == "text/markdown"
    assert BytesParser().parsebytes(text).get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert str(found.requires_python) == PROJECT["requires-python"]
    assert found.classifiers == PROJECT["classifiers"]
    needed = {str(each) for each in found.requires_dist or () if each.marker is None}
    assert needed == {str(Requirement(text)) for text in PROJECT["dependencies"]}
    assert set(found.provides_extra or ()) == PROJECT["optional-dependencies"].keys()


def test_the_sdist_has_the_sources_and_the_same_metadata(built: Built) -> None:
    top = f"crystalpredict-{crystalpredict.__version__}"
    with tarfile.open(built.sdist) as archive:
        names = set(archive.getnames())
        information = archive.extractfile(f"{top}/PKG-INFO")
        assert information is not None
        assert information.read() == built.wheel.read(f"{INFO}/METADATA")
        licence = archive.extractfile(f"{top}/LICENSE")
        assert licence is not None
        assert licence.read() == (ROOT / "LICENSE").read_bytes()
    wanted = {"README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "models/index.json", "tests/conftest.py"}
    assert {f"{top}/{name}" for name in wanted} <= names
    assert not [name for name in names if "__pycache__" in name or "/." in name.removesuffix("/.gitignore")]

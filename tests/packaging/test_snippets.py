"""The code and the commands of the README and the documentation run, or at least exist."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from crystalpredict.checkpoints.registry import default_model
from crystalpredict.cli import main
from crystalpredict.cli.app import app
from tests import labelled
from tests.disordered import rock_salt

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not page.startswith(("docs/generated", "docs/log.md", "docs/cli.md"))]
GUIDES = ("quickstart", "screening", "finetune", "evaluation", "uncertainty")
RUN = ["README.md", *(f"docs/{name}.md" for name in GUIDES)]
# what needs a cluster, the shell's start files, downloads (tests/cli/test_evaluation_page.py), other shards,
# a potential, or minutes
CLUSTER_OR_SHELL = ("--scheduler", "-completion", "merge")
DOWNLOADS = ("models import", "megnet", "dft_3d", "fold4")
NOT_RUN = (*CLUSTER_OR_SHELL, *DOWNLOADS, "doctor", "--directions", "--relax ")
PYTHON_ELSEWHERE = ("docs/evaluation.md",)  # runs in tests/cli/test_evaluation_page.py, on files of the right form


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def shell_lines(page: str) -> list[list[str]]:
    """The lines of each block of commands, fenced or indented."""
    blocks = re.findall(r"```sh\n(.*?)```|((?:^    .*\n|^\n(?=    ))+)", text_of(page), re.DOTALL | re.MULTILINE)
    lines = [[line.strip() for line in (one or two).splitlines()] for one, two in blocks]
    return [block for block in lines if any("crystalpredict " in line for line in block)]


def commands(page: str) -> list[str]:
    """What the page says to type, in blocks and between backticks, from the name of the program on."""
    typed = [line for block in shell_lines(page) for line in block] + re.findall(
        r"`(crystalpredict [^`]+)`", text_of(page)
    )
    found = (re.search(r"(?:^|[|'] ?|-m )crystalpredict ([^#|']*('[^']*'[^#|']*)*)", line) for line in typed)
    return [match[1] for match in found if match]


@cache
def program() -> Any:
    return typer.main.get_command(app)


def check_options(command: str) -> None:
    """Fail if the command or one of its options does not exist."""
    words = shlex.split(command)
    found = program()
    while hasattr(found, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in found.commands, command
        found = found.commands[name]
    known = {option for parameter in found.params for option in parameter.opts}
    known |= {option for parameter in found.params for option in parameter.secondary_opts} | {"--help", "-h"}
    for word in words:
        if word.startswith("-") and word != "-" and not re.match(r"-[a-z]+_", word):
            assert word.partition("=")[0] in known, f"{word} in: crystalpredict {command}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: str) -> None:
    for command in commands(page):
        check_options(command)


def test_a_command_or_an_option_that_does_not_exist_is_found() -> None:
    for wrong in ("predikt *.cif", "predict *.cif --targets gap", "models lists"):
        with pytest.raises(AssertionError):
            check_options(wrong)
    assert commands("docs/quickstart.md")[0] == "predict *.cif"
    assert len([command for page in PAGES for command in commands(page)]) > 50


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands name."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("MgO.cif", "NaCl.cif"):
        for place in ("downloads", "candidates", "."):
            (folder / place).mkdir(exist_ok=True)
            shutil.copy(ROOT / "examples" / name, folder / place)
    (folder / "alloys").mkdir()
    (folder / "alloys" / "MgCaO.cif").write_text(rock_salt(0.5))
    (folder / "run7").mkdir()
    (folder / "runs" / "first").mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "GaAs.cif", folder / "new.cif")
    for name in ("POSCAR_1", "POSCAR_2", "run7/CONTCAR", "runs/first/CONTCAR"):
        shutil.copy(ROOT / "examples" / "Si.vasp", folder / name)
    (folder / "list.txt").write_text("MgO.cif\nNaCl.cif\nPOSCAR_1\nnew.cif\n")
    (folder / "known.csv").write_text("id,formula,formation_energy\nmine,NaCl,-2.2\n")
    lattice = {"a": 3.2, "b": 3.2, "c": 3.2, "alpha": 60, "beta": 60, "gamma": 60}
    site = {"species": [{"element": "Cu", "occu": 1}], "abc": [0, 0, 0]}
    structure = {"@module": "pymatgen.core.structure", "@class": "Structure", "lattice": lattice, "sites": [site]}
    (folder / "structures.json.gz").write_bytes(gzip.compress(json.dumps([structure]).encode()))
    with zipfile.ZipFile(folder / "cifs.zip", "w") as archive:
        archive.write(folder / "MgO.cif", "one/MgO.cif")
    rows = labelled.rows(16)
    for number, row in enumerate(rows):
        row["split"] = ("train", "train", "val", "test")[number % 4]
        row["kappa"] = row["my_property"] = str(1 + number % 5)
    for name in ("mine.csv", "few.csv", "data.csv", "mp.csv"):
        labelled.write(folder / name, rows)
    return folder


RECORDER = """crystalpredict() {
    printf '%s\\0' "$@" > "$CALL.arguments"
    for word in "$@"; do if [ "$word" = - ]; then cat > "$CALL.stdin"; fi; done
}
"""


def run(line: str, call: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shell make the arguments and stdin of a line, and run the program with them in this process."""
    subprocess.run(["bash", "-ec", RECORDER + line], env=os.environ | {"CALL": str(call)}, check=True)
    arguments = Path(f"{call}.arguments").read_text().split("\0")[:-1]
    if arguments[0] == "finetune" and "--kernel" not in arguments:
        arguments += ["--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["crystalpredict", *arguments])
    stdin = Path(f"{call}.stdin")
    with (stdin if stdin.exists() else Path(os.devnull)).open() as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", file)
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert code in (None, 0), line


@pytest.mark.parametrize("page", RUN)
def test_commands_run(
    page: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    done = 0
    for number, block in enumerate(shell_lines(page)):
        folder = tmp_path / f"block{number}"
        shutil.copytree(files, folder)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("CRYSTALPREDICT_CACHE", str(tmp_path / f"cache{number}"))
        monkeypatch.setenv("CRYSTALPREDICT_MODELS", str(tmp_path / f"models{number}"))
        if not any("models install" in line for line in block):
            shutil.copytree(default_model().folder, tmp_path / f"models{number}" / "mine")
        for line in block:
            if line.startswith("mkdir "):
                subprocess.run(shlex.split(line), check=True)
            elif line.startswith(("crystalpredict ", "find ")) and not any(word in line for word in NOT_RUN):
                run(line, tmp_path / f"call{number}", monkeypatch)
                done += 1
    assert done >= 2
    capsys.readouterr()


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text_of(page)])
def test_python_runs(
    page: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page in PYTHON_ELSEWHERE:
        pytest.skip("needs files: tests/cli/test_evaluation_page.py runs it")
    shutil.copytree(files, tmp_path / "here")
    (tmp_path / "here" / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path / "here")
    for block in re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL):
        exec(compile(block, page, "exec"), {})
    assert "NaCl" in capsys.readouterr().out

"""Completion as shells do it: the script that the program prints or installs, run by the shell itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODELS = [
    "crystalformer-mp", "crystalframer-elastic", "crystalformer-mp-ensemble", "crystalframer-mp",
    "crystalformer-mp-unrelaxed", "crystalformer-mp-vibrations",
]  # fmt: skip
TARGETS = ["bandgap", "formation_energy", "e_above_hull", "bulk_modulus", "shear_modulus"]
REQUESTED = [
    "metal_probability", "bandgap_nonmetal", "metal_probability_hse", "metal_probability_experiment", "bandgap_hse",
    "bandgap_gllbsc", "bandgap_experiment", "refractive_index", "magnetic_moment", "magnetic_probability",
    "volume_change",
]  # fmt: skip
DERIVED = [
    *REQUESTED,
    "youngs_modulus", "poisson_ratio", "pugh_ratio", "debye_temperature", "sound_velocity",
    "sound_velocity_longitudinal", "sound_velocity_transverse", "vickers_hardness", "thermal_conductivity",
    "hull_distance", "total_energy", "decomposes_to", "known_phase", "nearest_known",
    "e_above_hull_by_network",
]  # fmt: skip


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and the program on the path."""
    program = tmp_path / "bin" / "crystalpredict"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom crystalpredict.cli import program\nprogram()\n")
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}


def run(shell: str, script: str, surroundings: dict[str, str]) -> list[str]:
    """Lines that a shell prints when it runs the script."""
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": []}[shell]
    command = [shell, *options, "-c", f"{script}\n:"]  # a last command is not run by the shell, but in its place
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def complete_in_bash(words: list[str]) -> str:
    """What bash does when Tab is pressed behind the last word."""
    line = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _crystalpredict_completion crystalpredict"
    return f'{ask}; printf "%s\\n" "${{COMPREPLY[@]}}"\n'


def test_bash_completes_commands_options_and_values_once_installed(surroundings, tmp_path) -> None:
    (tmp_path / ".bashrc").write_text("# mine\n")
    said = run("bash", "crystalpredict --install-completion", surroundings)
    assert "bash completion installed" in said[0]
    assert (tmp_path / ".bashrc").read_text().startswith("# mine\n")
    cases = {
        ("crystalpredict", "pre"): ["predict"],
        ("crystalpredict", "models", "ver"): ["verify"],
        ("crystalpredict", "predict", "--timeout"): ["--timeout-per-file"],
        ("crystalpredict", "predict", "--target", ""): [*TARGETS, *DERIVED],
        ("crystalpredict", "predict", "-t", "bandgap,b"): [
            "bandgap,bandgap",
            "bandgap,bulk_modulus",
            "bandgap,bandgap_nonmetal",
            "bandgap,bandgap_hse",
            "bandgap,bandgap_gllbsc",
            "bandgap,bandgap_experiment",
        ],
        ("crystalpredict", "predict", "--format", "js"): ["json", "jsonl"],
        ("crystalpredict", "evaluate", "--model", "cry"): MODELS,
        ("crystalpredict", "predict", "--model", "nowhere", "-t", "b"): [""],
        ("crystalpredict", "predict", "example"): [""],  # then bash takes the names of files
    }
    script = "source ~/.bashrc\n" + "echo ----\n".join(complete_in_bash(list(words)) for words in cases)
    found = "\n".join(run("bash", script, surroundings)).split("\n----\n")
    assert [part.split("\n") for part in found] == list(cases.values())
    assert "-o default" in run("bash", "source ~/.bashrc; complete -p crystalpredict", surroundings)[0]


def test_models_of_the_user_are_completed(surroundings, folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "models" / "mine")
    surroundings["CRYSTALPREDICT_MODELS"] = str(tmp_path / "models")
    script = 'eval "$(crystalpredict --show-completion)"\n'
    script += complete_in_bash(["crystalpredict", "models", "remove", "m"])
    assert run("bash", script, surroundings) == ["mine"]


def test_zsh_completes(surroundings, tmp_path) -> None:
    run("zsh", "crystalpredict --install-completion", surroundings)
    # what the script hands to zsh's own machinery, which needs a terminal
    stubs = "compdef() { }; _arguments() { print -l -- $@ }; "
    ask = "words=(crystalpredict predict --target b); CURRENT=4; _crystalpredict_completion"
    (line,) = run("zsh", f"{stubs}source ~/.zfunc/_crystalpredict; {ask}", surroundings)
    assert [word for word in (*TARGETS, *DERIVED) if f'"{word}"' in line] == [
        "bandgap", "bulk_modulus", "bandgap_nonmetal", "bandgap_hse", "bandgap_gllbsc", "bandgap_experiment",
    ]  # fmt: skip


def test_fish_completes(surroundings) -> None:
    run("fish", "crystalpredict --install-completion", surroundings)
    ask = 'complete -C "crystalpredict predict --target b"; echo ----; complete -C "crystalpredict models v"'
    *targets, line, command = run("fish", ask, surroundings)
    assert (targets, line, command.split("\t")[0]) == (["bandgap", "bulk_modulus"], "----", "verify")


def test_completion_imports_neither_torch_nor_pymatgen(surroundings) -> None:
    words = {"COMP_WORDS": "crystalpredict predict --target ", "COMP_CWORD": "3"}
    code = "import sys; sys.argv = ['crystalpredict']; from crystalpredict.cli import main\n"
    code += "try: main()\nfinally: print(*(m for m in ('torch', 'pymatgen', 'pandas') if m in sys.modules))"
    asked = surroundings | words | {"_CRYSTALPREDICT_COMPLETE": "complete_bash"}
    done = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [*TARGETS, *DERIVED, ""]

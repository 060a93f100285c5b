"""The first answer: one CIF predicted with intervals and warnings, as a command, against the import of torch alone.

python benchmarks/first_answer.py [CIF] [--rounds N]

Processes take turns, and ratios are of medians within one run: of the time on the clock, and of the time on a
processor, which other work on the machine disturbs less. Bytecode is compiled before, as pip does it. Prints a table,
with the least and the greatest ratio of a round, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 11
# without time for NumPy's network
BY_TORCH = "from crystalpredict.nn import first_answers; first_answers.MOST_EDGES = 0; "
BY_TORCH += "from crystalpredict.cli import program; program()"


def commands(cif: Path) -> dict[str, list[str]]:
    """What is timed, by name."""
    program, predict = [sys.executable, "-m", "crystalpredict"], ["predict", "-q", "--device", "cpu", str(cif)]
    return {
        "python": [sys.executable, "-c", "pass"],
        "import torch": [sys.executable, "-c", "import torch"],
        "predict": [*program, *predict],
        "predict by torch": [sys.executable, "-c", BY_TORCH, *predict],
        "help": [*program, "--help"],
    }


def seconds(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Time of a process on the clock and on a processor.

    Raises:
        SystemExit: It failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    clock = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{said.decode()}")
    return clock, used.ru_utime + used.ru_stime


def measure(cif: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Times of each command in each round, on the clock and on a processor."""
    found: dict[str, dict[str, list[float]]] = {name: {"clock": [], "cpu": []} for name in commands(cif)}
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CRYSTALPREDICT_")}
        environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode, "OPENBLAS_NUM_THREADS": "1"}
        for number in range(rounds + 1):
            for name, command in commands(cif).items():
                clock, processor = seconds(command, environment)
                if number:  # the first round compiles, and fills the caches of files
                    found[name]["clock"].append(clock)
                    found[name]["cpu"].append(processor)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cif", type=Path, nargs="?", default=ROOT / "examples" / "NaCl.cif")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    found = measure(options.cif.resolve(), options.rounds)
    middle = {name: {kind: statistics.median(times[kind]) for kind in times} for name, times in found.items()}
    result: dict[str, object] = {"benchmark": "first answer", "rounds": options.rounds, "cif": options.cif.name}
    heads = (f"{f's, {kind}':>10}{'of torch':>10}{'least':>8}{'most':>8}" for kind in ("clock", "CPU"))
    print(" " * 18 + "".join(heads))
    for name, times in middle.items():
        line = f"{name:18}"
        for kind, value in times.items():
            ratios = [a / b for a, b in zip(found[name][kind], found["import torch"][kind], strict=True)]
            ratio = value / middle["import torch"][kind]
            line += f"{value:10.3f}{ratio:10.3f}{min(ratios):8.2f}{max(ratios):8.2f}"
            result[f"{name}, {kind}, of import torch"] = round(ratio, 4)
            result[f"{name}, {kind}, s"] = round(value, 4)
        print(line)
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()

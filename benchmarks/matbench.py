"""Run the regression tasks of Matbench v0.1 that have structures, on the official folds, and write Matbench's record.

python benchmarks/matbench.py FOLDER --task matbench_log_kvrh -o matbench_log_kvrh

FOLDER holds the downloads, `matbench_log_kvrh.json.gz` and so on (https://matbench.materialsproject.org). The folds are
those of the package `matbench` (scikit-learn's KFold(5, shuffle=True, random_state=18012019) over the rows). For each
fold a network is trained on the other four, from random weights by default, a tenth of them to choose the epoch by, and
predicts the fold. The folder of results holds one run of `finetune` for each fold, which a second call continues or
takes as it is, and at the end `results.json.gz` and `info.json`, what a pull request to Matbench consists of.

`--model NAME` starts from a bundled model. Bundled models were trained on crystals and labels of the test folds of
log_kvrh, log_gvrh, mp_gap and mp_e_form (docs/evaluation.md): such a result is no Matbench score, and says so.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

from crystalpredict import FinetuneOptions, finetune, predict, resume_finetuning
from crystalpredict._files import write_atomically

SEED, FOLDS = 18012019, 5
LABEL = "matbench_target"  # no name of a property: perovskites' e_form is not that of mp_e_form
SMALLEST_LABEL = 1e-5  # of the mean absolute percentage error


@dataclass(frozen=True)
class Task:
    """A task: its column of labels, their unit, and the least value that they can have."""

    column: str
    unit: str
    minimum: float = -math.inf


TASKS = {
    "matbench_dielectric": Task("n", "", 1.0),
    "matbench_jdft2d": Task("exfoliation_en", "meV/atom"),
    "matbench_log_gvrh": Task("log10(G_VRH)", ""),
    "matbench_log_kvrh": Task("log10(K_VRH)", ""),
    "matbench_mp_e_form": Task("e_form", "eV/atom"),
    "matbench_mp_gap": Task("gap pbe", "eV", 0.0),
    "matbench_perovskites": Task("e_form", "eV"),
    "matbench_phonons": Task("last phdos peak", "1/cm", 0.0),
}


def read_task(path: Path, task: Task) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the structures (N,) and the labels (N,) of a download."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        table = json.load(file)
    if set(table["columns"]) != {"structure", task.column}:
        raise SystemExit(f"{path}: its columns are {', '.join(table['columns'])}, not structure and {task.column}")
    where = table["columns"].index("structure")
    return [row[where] for row in table["data"]], np.array([row[1 - where] for row in table["data"]], dtype=float)


def ids_of(name: str, count: int) -> list[str]:
    """Return the ids that Matbench gives to the rows of a task, such as mb-jdft2d-001."""
    digits = math.floor(math.log10(count)) + 1
    return [f"{name.replace('matbench', 'mb').replace('_', '-')}-{row + 1:0{digits}d}" for row in range(count)]


def test_rows(count: int) -> list[np.ndarray]:
    """Return the rows of each test fold, as KFold(5, shuffle=True, random_state=18012019) has them."""
    order = np.arange(count)
    np.random.RandomState(SEED).shuffle(order)
    return [np.sort(part) for part in np.array_split(order, FOLDS)]


def scores_of(labels: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Return the scores of a fold, by Matbench's definitions."""
    errors = np.abs(values - labels)
    large = np.abs(labels) > SMALLEST_LABEL
    return {
        "mae": float(errors.mean()),
        "rmse": float(np.sqrt((errors**2).mean())),
        "mape": float((errors[large] / np.abs(labels[large])).mean()) if large.any() else math.nan,
        "max_error": float(errors.max()),
    }


def run_fold(
    folder: Path, structures: list[dict[str, Any]], labels: np.ndarray, test: np.ndarray, task: Task,
    options: argparse.Namespace,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Train on all rows but those of the fold, and predict these.

    Returns:
        Predictions (T,), and how many are the mean of the training labels, as the structure could not be predicted.
    """
    import pandas

    parts = np.full(len(labels), "train", dtype=object)
    parts[test] = "test"
    frame = pandas.DataFrame({"structure": structures, LABEL: labels, "split": parts})
    if (folder / "provenance.json").exists():
        run = resume_finetuning(folder, device=options.device, jobs=options.jobs)
    else:
        chosen = FinetuneOptions(
            target=LABEL, unit=task.unit, split_by="column", scratch=options.model is None, epochs=options.epochs,
            members=options.members, directions=options.directions,
        )  # fmt: skip
        run = finetune(
            frame, chosen, model=options.model, output=folder, device=options.device, jobs=options.jobs
        )  # fmt: skip
    series = pandas.Series([structures[row] for row in test], name="structure", dtype=object)
    rows = predict(series, model=run.folder, device=options.device, jobs=options.jobs)
    (column,) = (prop.column for prop in rows.properties)
    values = np.array([row.values.get(column, math.nan) for row in rows])
    lost = np.isnan(values)
    values[lost] = np.delete(labels, test).mean()
    return np.maximum(values, task.minimum), int(lost.sum())


def frozen(value: Any) -> Any:
    """Return a dictionary with sorted keys, all the way down: what Matbench takes the checksum of."""
    return {key: frozen(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


def record(tasks: dict[str, dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """Return the record that `MatbenchBenchmark.from_file` reads.

    Args:
        tasks: for each task, by fold: `data` (predictions by id), `parameters` and `scores`.
        about: what Matbench keeps as `user_metadata`.
    """
    content = {
        "@module": "matbench.bench",
        "@class": "MatbenchBenchmark",
        "version": "0.6",
        "tasks": {
            name: {
                "@module": "matbench.task",
                "@class": "MatbenchTask",
                "benchmark_name": "matbench_v0.1",
                "dataset_name": name,
                "results": results,
            }
            for name, results in tasks.items()
        },
        "user_metadata": about,
        "benchmark_name": "matbench_v0.1",
        "datestamp": datetime.now(UTC).strftime("%Y.%m.%d %H:%M.%S"),
    }
    content = frozen(content)
    return content | {"hash": hashlib.sha256(json.dumps(content).encode()).hexdigest()}


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a pull request to Matbench says of the algorithm in info.json, for the user to complete."""
    start = "random weights" if options.model is None else f"{options.model}, which has seen crystals of the test folds"
    facts = provenance()
    return {
        "authors": "",
        "algorithm": "CrystalFramer" if options.directions else "Crystalformer (crystalpredict)",
        "algorithm_long": f"crystalpredict finetune from {start}; {options.members} networks for each fold",
        "bibtex_refs": [],
        "notes": f"commit {facts['commit']}; {facts['machine']}",
        "requirements": {"python": [facts["versions"]]},
    }


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the downloads")
    parser.add_argument("--task", action="append", choices=TASKS, required=True, help="repeat it for several")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs and the record")
    parser.add_argument("--model", help="start from this model instead of random weights: no Matbench score")
    parser.add_argument("--directions", action="store_true", help="a network with directions")
    parser.add_argument("--members", type=int, default=1, help="networks for each fold, whose mean predicts")
    parser.add_argument("--epochs", type=int, default=0, help="0: chosen from the number of crystals")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=0, help="reader processes; 0: one for each core")
    return parser.parse_args()


def main() -> None:
    """Run the folds of the tasks, and write the record."""
    options = arguments()
    results: dict[str, dict[str, Any]] = {}
    for name in options.task:
        path = options.folder / f"{name}.json.gz"
        if not path.is_file():
            raise SystemExit(f"{path}: no such file; download it from https://matbench.materialsproject.org")
        structures, labels = read_task(path, TASKS[name])
        ids = ids_of(name, len(labels))
        for number, test in enumerate(test_rows(len(labels))):
            folder = options.output / name / f"fold_{number}"
            folder.parent.mkdir(parents=True, exist_ok=True)
            values, lost = run_fold(folder, structures, labels, test, TASKS[name], options)
            scores = scores_of(labels[test], values)
            start = options.model or "random weights"
            results.setdefault(name, {})[f"fold_{number}"] = {
                "data": dict(zip((ids[row] for row in test), values.tolist(), strict=True)),
                "parameters": {"start": start, "members": options.members, "predicted_as_the_mean": lost},
                "scores": scores,
            }
            print(f"{name} fold {number}: MAE {scores['mae']:.4g}, RMSE {scores['rmse']:.4g}, {lost} as the mean")
        means = [fold["scores"]["mae"] for fold in results[name].values()]
        print(f"{name}: MAE {np.mean(means):.4g} ± {np.std(means):.2g} over {FOLDS} folds")
    about = describe(options)
    with write_atomically(options.output / "results.json.gz") as file:
        file.write(gzip.compress(json.dumps(record(results, about)).encode(), mtime=0))
    with write_atomically(options.output / "info.json") as file:
        file.write(json.dumps(about, indent=2).encode())
    if options.model:
        print(f"{options.model} was trained on crystals of the test folds: this is no Matbench score")


if __name__ == "__main__":
    main()

"""On a Dask cluster the rows are those of a run without one, whatever becomes of its workers."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crystalpredict.checkpoints.registry import default_model, identity_of
from crystalpredict.errors import CheckpointError, UsageError
from crystalpredict.prediction.resume import PartialFile
from tests.same import alike

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'crystalpredict[dask]'")

CIF = (Path(__file__).resolve().parents[2] / "examples" / "NaCl.cif").read_text()
FRAME = '2\nLattice="4.1 0 0 0 4.1 0 0 0 4.1"\nCs 0 0 0\nCl 2.05 2.05 2.05\n'
PLAIN = {"lattice": [4.1, 4.1, 4.1, 90, 90, 90], "species": ["Cs", "Br"], "frac_coords": [[0, 0, 0], [0.5] * 3]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """Two workers, processes of this machine; a chunk whose worker dies is given up at once."""
    import dask
    from distributed import LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster,
    ):
        yield cluster


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Some 1,000 rows of all kinds, named from where the test runs; 100 of them are written at a time.

    The frames are few different crystals: what is computed together may decide a last digit at the edge of rounding.
    """
    monkeypatch.chdir(tmp_path)
    for module in ("prediction.dask_cluster", "io.reader"):
        monkeypatch.setattr(f"crystalpredict.{module}.WINDOW_ENTRIES", 100)
    for number in range(3):
        Path(f"{number}.cif").write_text(CIF)
    Path("several.json").write_text(json.dumps([PLAIN, {}, PLAIN]))
    Path("frames.xyz").write_text("".join(FRAME.replace("4.1", f"4.{number // 100}") for number in range(1000, 1900)))
    Path("list").write_text("0.cif\n1.cif\n2.cif\n" * 20)
    return ["@list", "several.json", "frames.xyz", "several.json", "nowhere.cif", "@list"]


@pytest.mark.slow
def test_a_worker_killed_while_it_works_costs_nothing(program, cluster, inputs, monkeypatch) -> None:
    assert program("predict", *inputs, "-q", "--jobs", "1", "-o", "plain.csv").code == 3
    killed = []

    real = PartialFile.commit

    def kill(part: PartialFile, *arguments: Any) -> None:
        """With the first rows, while the workers are at the next ones."""
        real(part, *arguments)
        if not killed:
            worker = next(iter(cluster.workers.values())).process.pid
            os.kill(worker, signal.SIGKILL)
            killed.append(Path("out.csv").exists())

    monkeypatch.setattr(PartialFile, "commit", kill)
    outcome = program("predict", *inputs, "--scheduler", cluster.scheduler_address, "-o", "out.csv", "--resume")
    assert killed == [False]
    assert outcome.code == 3
    assert "2 workers" in outcome.stderr
    assert alike(Path("out.csv").read_bytes(), Path("plain.csv").read_bytes())


def test_a_run_that_was_begun_without_a_cluster_goes_on_with_one(program, cluster, inputs, monkeypatch) -> None:
    from crystalpredict.prediction.predictor import Predictor

    wanted = ["predict", *inputs, "--where", "n_atoms == 2 and index != 1"]
    assert program(*wanted, "-q", "--jobs", "1", "-o", "plain.jsonl").code == 3
    real, windows = Predictor.predictions, []

    def twice(self, *arguments):
        windows.append(1)
        if len(windows) > 2:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predictions", twice)
        assert program(*wanted, "-q", "--jobs", "1", "-o", "out.jsonl").code == 130
    outcome = program(*wanted, "-o", "out.jsonl", "--resume", "--scheduler", cluster.scheduler_address)
    assert "resuming after 200 rows" in outcome.stderr
    assert alike(Path("out.jsonl").read_bytes(), Path("plain.jsonl").read_bytes())


def test_a_file_that_ends_every_worker_is_a_row_with_an_error(program, cluster, inputs) -> None:
    os.mkfifo("hangs.cif")  # to open it takes for ever
    names = ["0.cif", "hangs.cif", "1.cif"]
    outcome = program("predict", *names, "--scheduler", cluster.scheduler_address, "--timeout-per-file", "2")
    assert outcome.code == 3
    assert [(row["path"], row["formula"]) for row in outcome.rows] == [
        ("0.cif", "NaCl"), ("hangs.cif", ""), ("1.cif", "NaCl"),
    ]  # fmt: skip
    assert "--timeout-per-file" in outcome.rows[1]["error"]


def test_a_worker_with_another_model_is_refused() -> None:
    from crystalpredict.prediction.dask_cluster import Job, predict_sources

    folder = default_model().folder
    identity = {**identity_of(folder), "model": "0" * 64}
    with pytest.raises(CheckpointError, match="its model differs"):
        predict_sources(Job(str(folder), None, tuple(identity.items()), os.getcwd()), [])


def test_without_dask_it_is_said_how_to_get_it(program, inputs, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    outcome = program("predict", "0.cif", "--scheduler", "tcp://127.0.0.1:9")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "pip install 'crystalpredict[dask]'" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scheduler", "tcp://127.0.0.1:9"], "no Dask scheduler answers"),
        (["--scheduler", "nonsense://x"], "no Dask scheduler answers"),
        (["--scheduler", "tcp://127.0.0.1:9", "--cache", "auto"], "does not go with --cache"),
    ],
)
def test_what_is_no_cluster_is_one_line(program, inputs, monkeypatch, options, said) -> None:
    monkeypatch.setattr("crystalpredict.prediction.dask_cluster.CONNECT_TIMEOUT_SECONDS", 0.5)
    outcome = program("predict", "0.cif", *options)
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert said in line


def test_schedulers_that_do_not_answer_leave_no_thread() -> None:
    """A client that failed was closed whenever its memory was, which could be while the next one started."""
    from crystalpredict.prediction.dask_cluster import Job, connected

    def loops() -> int:
        return sum(thread.name == "IO loop" for thread in threading.enumerate())

    before, job = loops(), Job("", None, (), "")
    for _ in range(20):
        with pytest.raises(UsageError, match="no Dask scheduler answers"), connected("inf", job, print):
            pass
        assert loops() == before

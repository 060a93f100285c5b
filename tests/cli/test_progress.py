"""How long a run will go on is known once its inputs are counted, by a second look at their names."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from crystalpredict.cli.progress import Forecast, count_sources
from crystalpredict.io.inputs import expand
from crystalpredict.io.sources import sources_of
from crystalpredict.prediction.shards import Shard

FRAME = '2\nLattice="4.1 0 0 0 4.1 0 0 0 4.1"\nCs 0 0 0\nCl 2.05 2.05 2.05\n'


@pytest.fixture
def inputs(tmp_path: Path, examples: list[str]) -> list[str]:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"id,path\n" + b"".join(b"%d,x.cif\n" % n for n in range(70))))
    (tmp_path / "frames.xyz").write_text(FRAME * 5)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for path in examples:
            archive.write(path)
        archive.writestr("notes.txt", "not a structure")
    (tmp_path / "list").write_text("\n".join(examples))
    return [str(tmp_path), str(tmp_path / "t.csv.gz"), f"@{tmp_path}/list", "not-there.cif"]


def test_all_that_is_predicted_is_counted(inputs: list[str], examples: list[str]) -> None:
    expected = len(list(sources_of(expand(inputs))))
    assert expected == 70 + 5 + 2 * len(examples) + 1
    assert count_sources(inputs) == expected
    shards = [count_sources(inputs, shard=Shard(number, 7)) for number in range(1, 8)]
    assert sum(number or 0 for number in shards) == expected
    assert max(shards) - min(shards) <= 1


def test_what_can_be_read_only_once_is_not_counted(tmp_path: Path, examples: list[str]) -> None:
    assert count_sources(["-"]) is None
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    assert count_sources([f"@{pipe}"]) is None
    (tmp_path / "list").write_text(f"{pipe}\n{examples[0]}")
    assert count_sources([f"@{tmp_path}/list"]) == 1  # and does not wait for somebody who writes


def test_the_time_left_is_that_of_the_inputs_left(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr("crystalpredict.cli.progress.COUNT_AFTER_SECONDS", 0.05)
    monkeypatch.setattr("crystalpredict.cli.progress.REPORT_INTERVAL_SECONDS", 0.2)
    done = 40  # by the run that is resumed

    def rows():
        nonlocal done
        for _ in range(50):
            time.sleep(0.01)
            done += 1
            yield done

    forecast = Forecast(lambda: 40 + 50 + 50 * 36000, lambda: done)
    assert forecast.time_left() == ""
    started = time.monotonic()
    assert len(list(forecast.rows(rows(), quiet=False))) == 50
    seconds = time.monotonic() - started  # half a second, or more on a busy machine
    first, *_ = lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 1 + seconds / 0.2
    hours = int(first.split(", ")[-1].split(":")[0])
    assert " structures in 0:00:" in first
    assert 4 <= hours <= 50 * 10 * seconds  # 36,000 times as many rows, at the speed of the first ones


def test_who_cannot_count_says_nothing(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr("crystalpredict.cli.progress.COUNT_AFTER_SECONDS", 0)
    for count in (lambda: None, lambda: 1 / 0):
        forecast = Forecast(count, lambda: 7)
        assert list(forecast.rows(iter("abc"), quiet=False)) == ["a", "b", "c"]
        assert forecast.thread is not None
        forecast.thread.join()
        assert forecast.time_left() == ""
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_shows_the_time_left(tmp_path: Path, examples: list[str]) -> None:
    import pty

    code = (
        "import sys; from crystalpredict.cli import main, progress; progress.COUNT_AFTER_SECONDS = 0; "
        f"sys.argv = ['crystalpredict', 'predict', '@{tmp_path}/list', '--jobs', '2', '-o', '{tmp_path}/o.csv']; main()"
    )
    (tmp_path / "list").write_text("\n".join(examples * 120))
    ours, theirs = pty.openpty()
    shown = io.BytesIO()

    def read() -> None:
        while True:
            try:
                shown.write(os.read(ours, 4096))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, stdout=subprocess.PIPE, timeout=300, check=False)
    os.close(theirs)
    reader.join()
    os.close(ours)
    assert done.returncode == 0
    text = shown.getvalue().decode()
    assert " structures, 0:00:" in text
    assert " left" in text

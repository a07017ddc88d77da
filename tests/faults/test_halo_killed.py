"""kill -9 in the middle of asking: the run goes on, and ends as if nothing had happened, to the bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import main as cli
from preceptor.agent.halo.ledger import FILE
from preceptor.agent.runs.run import Run

WORDS = ["train", "--method", "halo", "--task", "RescueWorld-n3", "--budget", "60", "--quiet", "--eval-episodes", "0"]


def ledger_of(logs: Path) -> Path:
    return logs / "halo" / "RescueWorld-n3" / "run" / FILE


def kill_at(logs: Path, lines: int, words: list[str]) -> None:
    """Start a command and kill it as soon as its ledger has so many lines."""
    command = [sys.executable, "main.py", *words]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    try:
        while not ledger_of(logs).exists() or ledger_of(logs).read_bytes().count(b"\n") < lines:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def untimed(ledger: Path) -> list[str]:
    """The lines without the seconds that answering took."""
    return [line.partition('"seconds"')[0] for line in ledger.read_text().splitlines()]


@pytest.mark.parametrize("noise", ["0", "0.3"])
def test_a_killed_run_ends_as_another_does(noise: str, tmp_path: Path) -> None:
    words = [*WORDS, "--label-noise", noise]
    assert cli.main([*words, "--logdir", str(tmp_path / "whole")]) == 0
    broken = tmp_path / "broken"
    for i, lines in enumerate((5, 30, 47)):
        kill_at(broken, lines, [*words, "--logdir", str(broken), *(["--resume"] if i else [])])
    assert cli.main([*words, "--logdir", str(broken), "--resume"]) == 0
    assert untimed(ledger_of(broken)) == untimed(ledger_of(tmp_path / "whole"))
    (_, one), (_, other) = (Run.open(ledger_of(logs).parent).load() for logs in (tmp_path / "whole", broken))
    for name, table in one["method"]["policies"].items():
        assert np.array_equal(table, other["method"]["policies"][name]), name
    rows = [
        (ledger_of(logs).parent / "metrics.jsonl").read_text().splitlines() for logs in (tmp_path / "whole", broken)
    ]
    assert len(rows[0]) == len(rows[1]), "each round is logged once"

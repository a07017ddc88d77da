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

WORDS = [
    "train",
    "--method",
    "halo",
    "--task",
    "RescueWorld-n3",
    "--budget",
    "60",
    "--quiet",
    "--eval-episodes",
    "0",
    "--preset",
    "tiny",
]


def ledger_of(logs: Path) -> Path:
    return logs / "halo" / "RescueWorld-n3" / "run" / FILE


def kill_at(logs: Path, lines: int, words: list[str]) -> None:
    """Start a command and kill it as soon as its ledger has so many lines."""
    process = subprocess.Popen(
        [sys.executable, "main.py", *words], cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL
    )
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


@pytest.mark.parametrize("noise", ["0", "0.3"])
def test_a_killed_run_ends_as_another_does(noise, tmp_path):
    words, whole, broken = [*WORDS, "--label-noise", noise], tmp_path / "whole", tmp_path / "broken"
    assert cli.main([*words, "--logdir", str(whole)]) == 0
    for i, lines in enumerate((5, 47)):
        kill_at(broken, lines, [*words, "--logdir", str(broken), *(["--resume"] if i else [])])
    assert cli.main([*words, "--logdir", str(broken), "--resume"]) == 0
    ledgers, tables, logged = [], [], []
    for logs in (whole, broken):
        folder = ledger_of(logs).parent
        ledgers.append([line.partition('"seconds"')[0] for line in ledger_of(logs).read_text().splitlines()])
        tables.append(Run.open(folder).load()[1]["method"]["policies"])
        logged.append(len((folder / "metrics.jsonl").read_text().splitlines()))
    assert ledgers[0] == ledgers[1]
    assert logged[0] == logged[1], "each round is logged once"
    for name, table in tables[0].items():
        assert np.array_equal(table, tables[1][name]), name

"""kill -9, again and again, in the middle of writing labels: what was finished is there, whole, and nothing else."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from preceptor.teacher.call import Call
from preceptor.teacher.labels import LabelStore
from tests.unit.test_labels import CALL, call

TRIALS = 40


def in_a_process_of_its_own(function: Callable[..., None], *arguments: object) -> list[dict[str, int]]:
    """The lines that a function of this file prints; it forks, and pytest's process should not."""
    code = f"from tests.faults.test_labels_killed import *; {function.__name__}({', '.join(map(repr, arguments))})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def tell(trial: int, finished: int) -> None:
    """One line for `in_a_process_of_its_own`."""
    sys.stdout.write(json.dumps({"trial": trial, "finished": finished}) + "\n")
    sys.stdout.flush()


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """A child that works and tells of its progress through a pipe: its id and the end to read."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            work(write)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    return child, read


def killed(child: int, read: int, delay: float) -> int:
    """Kill a child `delay` seconds after it told of something; how often it had told by then."""
    told = os.read(read, 1)
    assert told, "the writer died by itself"
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 65536):
        told += more
    os.close(read)
    return len(told)


def group(trial: int, number: int) -> list[Call]:
    """Three calls that are written together; one of them is no answer, and one is large."""
    name = f"trial={trial}", f"group={number}"
    calls = [replace(CALL, facts=(*name, f"row={row}"), created=1.0) for row in range(3)]
    return [calls[0], replace(calls[1], status="off_menu", probs=()), replace(calls[2], reply="x" * 10_000)]


def kill_writers(path: str, trials: int) -> None:
    """Kill one writer after another at random moments, while a bystander writes the same file."""
    chance = random.Random(0)

    def stand_by(told: int) -> None:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        with LabelStore(path) as store:
            number = 0
            while True:
                store.put_many(group(-1, number))
                os.write(told, b".")
                number += 1

    bystander, seen = forked(stand_by)
    try:
        for trial in range(trials):

            def write(told: int, trial: int = trial) -> None:
                with LabelStore(path) as store:
                    for number in range(100_000):
                        store.put_many(group(trial, number))
                        os.write(told, b".")

            finished = killed(*forked(write), chance.uniform(0, 0.03))
            tell(trial, finished)
    finally:
        os.kill(bystander, signal.SIGTERM)
        status = os.waitpid(bystander, 0)[1]
    told = sum(len(part) for part in iter(lambda: os.read(seen, 65536), b""))
    assert status == 0
    tell(-1, told)


def test_a_killed_writer_loses_at_most_what_was_in_flight(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    finished = {line["trial"]: line["finished"] for line in in_a_process_of_its_own(kill_writers, str(path), TRIALS)}
    assert set(finished) == {-1, *range(TRIALS)}
    with LabelStore(path, read_only=True) as store:
        rows = {call.facts: call for call in store.calls(answers_only=False)}
        assert len(rows) == len(store)
    counts = dict.fromkeys(finished, 0)
    for trial in finished:
        while any((f"trial={trial}", f"group={counts[trial]}", f"row={row}") in rows for row in range(3)):
            for written in group(trial, counts[trial]):
                assert rows.pop(written.facts) == written
            counts[trial] += 1
    assert not rows, "rows that nobody wrote in that order"
    assert all(finished[trial] <= counts[trial] <= finished[trial] + 1 for trial in finished)


def kill_importers(folder: str, trials: int) -> None:
    """Kill one import after another at random moments, each into a store of its own that holds one call."""
    calls, chance = [call(number, created=1.0) for number in range(1500)], random.Random(0)
    started = time.monotonic()
    LabelStore(f"{folder}/whole.sqlite").merge(calls)
    whole = time.monotonic() - started
    for trial in range(trials):

        def write(told: int, trial: int = trial) -> None:
            with LabelStore(f"{folder}/{trial}.sqlite") as store:
                store.put_many(calls[:1])
                os.write(told, b".")
                store.merge(calls)
                os.write(told, b".")
                time.sleep(60)

        finished = killed(*forked(write), chance.uniform(0, 1.3 * whole))
        tell(trial, finished)


def test_a_killed_import_has_added_all_or_nothing(tmp_path: Path) -> None:
    lines = in_a_process_of_its_own(kill_importers, str(tmp_path), 20)
    assert len(lines) == 20
    for line in lines:
        with LabelStore(tmp_path / f"{line['trial']}.sqlite") as store:
            assert len(store) in ((1, 1500) if line["finished"] == 1 else (1500,))
            assert store.merge([call(number, created=1.0) for number in range(1500)]).kept == 0
            assert len(store) == 1500

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

MANY = [call(number, created=1.0) for number in range(800)]


def forked(work: Callable[[Callable[[], object]], None]) -> tuple[int, int]:
    """A child that works, and tells of its progress through a pipe: its id and the end to read."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            work(lambda: os.write(write, b"."))
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


def kill_writers(folder: str, trials: int) -> list[int]:
    """Kill one writer after another at random moments, while a bystander, the last, writes the same file."""
    chance = random.Random(0)

    def writer(trial: int) -> Callable[[Callable[[], object]], None]:
        def write(tell: Callable[[], object]) -> None:
            with LabelStore(f"{folder}/labels.sqlite") as store:
                for number in range(100_000):
                    store.put_many(group(trial, number))
                    tell()

        return write

    bystander = forked(writer(trials))
    return [killed(*forked(writer(n)), chance.uniform(0, 0.03)) for n in range(trials)] + [killed(*bystander, 0.0)]


def kill_importers(folder: str, trials: int) -> list[int]:
    """Kill one import after another at random moments, each into a store of its own that holds one call."""
    chance, started = random.Random(0), time.monotonic()
    LabelStore(f"{folder}/whole.sqlite").merge(MANY)
    whole, finished = time.monotonic() - started, []
    for trial in range(trials):

        def write(tell: Callable[[], object], path: str = f"{folder}/{trial}.sqlite") -> None:
            with LabelStore(path) as store:
                store.put_many(MANY[:1])
                tell()
                store.merge(MANY)
                tell()
                time.sleep(60)

        finished.append(killed(*forked(write), chance.uniform(0, 1.3 * whole)))
    return finished


def counts(function: Callable[[str, int], list[int]], folder: Path, trials: int) -> list[int]:
    """What a function of this file returns in a process of its own; it forks, and pytest's process should not."""
    code = f"from tests.faults.test_labels_killed import *; print({function.__name__}({str(folder)!r}, {trials}))"
    words, root = [sys.executable, "-c", code], Path(__file__).parents[2]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_a_killed_writer_loses_at_most_what_was_in_flight(tmp_path: Path) -> None:
    finished = counts(kill_writers, tmp_path, 40)
    with LabelStore(tmp_path / "labels.sqlite", read_only=True) as store:
        rows = {call.facts: call for call in store.calls(answers_only=False)}
        assert len(rows) == len(store)
    for trial, told in enumerate(finished):
        written = 0
        while any((f"trial={trial}", f"group={written}", f"row={row}") in rows for row in range(3)):
            for each in group(trial, written):
                assert rows.pop(each.facts) == each
            written += 1
        assert told <= written <= told + 1
    assert not rows, "rows that were not written in that order"


def test_a_killed_import_has_added_all_or_nothing(tmp_path: Path) -> None:
    for trial, finished in enumerate(counts(kill_importers, tmp_path, 12)):
        with LabelStore(tmp_path / f"{trial}.sqlite") as store:
            assert len(store) in ((1, len(MANY)) if finished == 1 else (len(MANY),))
            assert store.merge(MANY).kept == 0
            assert len(store) == len(MANY)

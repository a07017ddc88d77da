"""kill -9 at random instants: a command that is killed, and given again, leaves what an undisturbed one leaves.

    python -m dev.crash --trials 100 --seed 0

Every run of the golden net is killed while it trains and goes on with `--resume`; the other verbs that write are killed
and simply given again. A trial holds if the second command succeeds and what it leaves is equal: weights, optimiser,
metrics and scores of a run, the arrays of a dataset, the lines of a label store, the table of a search, the figures of
an evaluation or a report.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dev.golden import HERE, RUNS, digest

FINISHED = "dagger"  # the run that other commands read


@dataclass(frozen=True)
class Case:
    """A command, and what it should leave behind in the folder LOG."""

    words: str
    left: Callable[[Path], Any]
    again: str = ""
    """Words of the second command that the first does not have."""
    reads: bool = False
    """Whether it needs a run that is finished."""


def run_of(log: Path) -> Path:
    """The run `trial` under LOG, of whatever method and task."""
    (config,) = log.glob("*/*/trial/config.json")
    return config.parent


def dataset(log: Path) -> str:
    """A digest of all arrays of the dataset."""
    total = hashlib.sha256()
    (file,) = (log / "minari/n3/expert-v0").rglob("main_data.hdf5")  # beside it may lie a hidden draft

    def add(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            total.update(name.encode() + np.asarray(node[()]).tobytes())

    with h5py.File(file) as data:
        data.visititems(add)
    return total.hexdigest()


def lines(log: Path) -> list[str]:
    """The lines of the label store that was imported, in order."""
    command("labels export LOG/x.sqlite --to LOG/out.jsonl", log).check_returncode()
    return sorted((log / "out.jsonl").read_text().splitlines())


def judged(log: Path) -> Any:
    """The figures of the evaluation, without what a clock measured; the run that was judged is untouched."""
    run = log / "dagger/SimpleDoorKey" / FINISHED
    return digest(run), json.loads((run / "judged" / "eval.json").read_text(), object_hook=without_clock)


def without_clock(entry: dict[str, Any]) -> dict[str, Any]:
    """A dictionary without times, their digest, and where it lies."""
    return {key: value for key, value in entry.items() if not key.startswith(("ms_", "second", "sha256", "run"))}


def searched(log: Path) -> Any:
    """The table of the search; a trial that was killed is tried again under another number."""
    again = command(f"{TUNE} --logdir LOG --json", log)
    again.check_returncode()
    return [{name: cell for name, cell in row.items() if name != "trial"} for row in json.loads(again.stdout)["table"]]


def reported(log: Path) -> Any:
    """The size of a picture that is whole."""
    picture = (log / "report.png").read_bytes()
    assert picture.endswith(b"IEND\xaeB`\x82"), "half a picture"
    return len(picture)


TUNE = "tune --method ppo --task PointReach --search lr=1e-4|1e-3 --sampler grid --episodes 4 --set steps=4000"
CASES = {
    name: Case(
        f"train {words} --savedir trial --logdir LOG --device cpu --quiet",
        lambda log: digest(run_of(log)),
        again="--resume",
        reads="--controller" in words,
    )
    for name, words in RUNS.items()
} | {
    "eval": Case(
        f"eval --task SimpleDoorKey --loaddir {FINISHED} --savedir judged --compare student,controller,scripted "
        "--logdir LOG --device cpu --quiet",
        judged,
        reads=True,
    ),
    "demos": Case("demos --task RescueWorld-n3 --to n3/expert-v0 --count 100", dataset),
    "labels import": Case(f"labels import LOG/{FINISHED}.jsonl --into LOG/x.sqlite", lines, reads=True),
    "labels export": Case(
        f"labels export LOG/dagger/SimpleDoorKey/{FINISHED} --to LOG/out.jsonl",
        lambda log: sorted((log / "out.jsonl").read_text().splitlines()),
        reads=True,
    ),
    "tune": Case(f"{TUNE} --logdir LOG", searched),
    "report": Case("report --logdir LOG", reported, reads=True),
}


def started(words: str, log: Path) -> subprocess.Popen[str]:
    """The command line with LOG replaced, running."""
    said = [sys.executable, "main.py", *words.replace("LOG", str(log)).split()]
    environment = {**os.environ, "MINARI_DATASETS_PATH": str(log / "minari"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        said, cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def command(words: str, log: Path) -> subprocess.CompletedProcess[str]:
    """The command line with LOG replaced, run to its end."""
    process = started(words, log)
    out, err = process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def prepared(case: Case, folder: Path, finished: Path) -> Path:
    """An empty LOG, or one with a finished run in it."""
    log = Path(tempfile.mkdtemp(dir=folder))
    (log / "minari").mkdir()
    if case.reads:
        shutil.copytree(finished, log, dirs_exist_ok=True)
    return log


def undisturbed(case: Case, folder: Path, finished: Path) -> tuple[float, Any]:
    """Seconds that a command takes, and what it leaves."""
    log, start = prepared(case, folder, finished), time.monotonic()
    done = command(case.words, log)
    seconds = time.monotonic() - start
    if done.returncode:
        raise SystemExit(f"{case.words}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return seconds, case.left(log)


def trial(case: Case, folder: Path, finished: Path, delay: float, expected: Any) -> str:
    """Kill the command after so many seconds and give it again: "held", "too late", or what is wrong."""
    log = prepared(case, folder, finished)
    process = started(case.words, log)
    try:
        process.communicate(timeout=delay)
        late = True
    except subprocess.TimeoutExpired:
        late = False
        process.send_signal(signal.SIGKILL)
        process.communicate()
    if not late:
        done = command(f"{case.words} {case.again}".strip(), log)
        refused = done.returncode == 2 and "nothing was recorded" in done.stderr  # killed when all was written
        if done.returncode and not refused:
            return f"the second command ended with {done.returncode}: {done.stderr[-600:]} (kept: {log})"
    try:
        same = case.left(log) == expected
    except Exception as error:
        return f"{type(error).__name__}: {error} (kept: {log})"
    if not same:
        return f"it left something else (kept: {log})"
    shutil.rmtree(log)
    return "too late" if late else "held"


def main() -> None:
    """Play the trials and print how many held, by command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(CASES), metavar="CASE", help=f"of {', '.join(CASES)}")
    said = parser.parse_args()
    chance, held, wrong = random.Random(said.seed), Counter[str](), Counter[str]()
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    finished = folder / "finished"
    train = f"train {RUNS[FINISHED]} --savedir {FINISHED} --logdir LOG --device cpu --quiet"
    for words in (train, f"labels export LOG/dagger/SimpleDoorKey/{FINISHED} --to LOG/{FINISHED}.jsonl"):
        command(words, finished).check_returncode()
    with ThreadPoolExecutor(2) as pool:
        known = dict(
            zip(said.only, pool.map(lambda name: undisturbed(CASES[name], folder, finished), said.only), strict=True)
        )
        names = [said.only[n % len(said.only)] for n in range(said.trials)]
        delays = [chance.uniform(0, known[name][0]) for name in names]
        work = [
            (CASES[name], folder, finished, delay, known[name][1]) for name, delay in zip(names, delays, strict=True)
        ]
        for name, delay, verdict in zip(names, delays, pool.map(lambda each: trial(*each), work), strict=True):
            (held if verdict == "held" else wrong if verdict != "too late" else Counter())[name] += 1
            print(f"{name}, killed after {delay:.2f} s of {known[name][0]:.2f}: {verdict}", flush=True)
    for name in said.only:
        print(f"{name}: {held[name]} of {held[name] + wrong[name]} held")
    print(f"all: {held.total()} of {held.total() + wrong.total()} held")
    raise SystemExit(wrong.total() > 0)


if __name__ == "__main__":
    main()

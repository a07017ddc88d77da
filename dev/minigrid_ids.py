"""Every id that MiniGrid registers, trained for a moment: who plays it, and whether it trains.

    python -m dev.minigrid_ids                      # all of them; writes docs/minigrid.md
    python -m dev.minigrid_ids MiniGrid-Fetch-5x5-N2-v0

Pools of levels are small here, so that it takes minutes: training makes thousands.
"""

import argparse
import contextlib
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from sysconfig import get_path
from typing import NamedTuple

import gymnasium as gym
import minigrid  # noqa: F401  # registers its environments

from preceptor.agent.config import configure
from preceptor.agent.train import train
from preceptor.envs.catalog import get_task
from preceptor.envs.gridworld import stock_tasks

PAGE = Path(__file__).parent.parent / "docs" / "minigrid.md"
STEPS, LIMIT = 2_000, 180  # steps per id, and seconds after which it is given up
POOL = {"train": 100, "eval": 10}
HEAD = """# MiniGrid ids

Every environment that MiniGrid registers under `MiniGrid-` or `BabyAI-` is a task by its id:
`python main.py train --method ppo --task ID`. {trained} of {count} train; the last column says who plays them.

- **engine**: by compiled rules, thousands of environments at once. Agents see the map of what has been seen
  (`preceptor.SeenMap`), options and a scripted expert are read off the levels, and every method takes them.
- **itself**: MiniGrid's own code, one environment after another, which is slow; a line at the start of the run says so
  and why. Agents see the view of the moment, without a memory and **without the mission's text**, so that a level whose
  mission differs from episode to episode can be trained on but not always solved. `--method ppo` alone takes them.

Written by `python -m dev.minigrid_ids`: {steps:,} steps of PPO each, on small pools of levels.

| id | trains | played by |
|---|---|---|
"""


class Tried(NamedTuple):
    """What became of an id: whether it trained, and who plays it, or what went wrong."""

    trains: bool
    words: str


def ids() -> list[str]:
    """What MiniGrid registers."""
    return [name for name in gym.registry if name.startswith(("MiniGrid-", "BabyAI-"))]


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` in what takes longer."""

    def over(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} seconds")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def tried(name: str, logdir: str) -> Tried:
    """Train on one id for a moment."""
    short = {"method": "ppo", "steps": STEPS, "num_envs": 16, "eval_episodes": 2, "quiet": True, "logdir": logdir}
    try:
        with at_most(LIMIT):
            task = get_task(name)
            train(configure(short, task=name))
    except Exception as error:  # whatever it is, it goes into the table
        words = getattr(error, "what", str(error)).replace(f"{get_path('purelib')}/", "")
        return Tried(False, " ".join(words.split()).replace("|", "/"))
    why = getattr(task, "why", "")
    return Tried(True, f"itself: {why}" if why else "engine")


def main() -> None:
    """Try the ids that are named, or all; of all, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*")
    named = parser.parse_args().ids
    stock_tasks.POOL_LEVELS.update(POOL)
    found: dict[str, Tried] = {}
    with tempfile.TemporaryDirectory() as logdir:
        for name in named or ids():
            began = time.perf_counter()
            found[name] = tried(name, logdir)
            seconds = time.perf_counter() - began
            print(f"{name}: {'yes' if found[name].trains else 'no'}, {found[name].words} ({seconds:.0f} s)", flush=True)
    trained = sum(each.trains for each in found.values())
    print(f"{trained} of {len(found)} train")
    if not named:
        rows = [f"| `{name}` | {'yes' if each.trains else 'no'} | {each.words} |" for name, each in found.items()]
        head = HEAD.format(trained=trained, count=len(found), steps=STEPS)
        PAGE.write_text(head + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()

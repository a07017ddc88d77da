"""PPO and SAC against the fastest peers on a processor, which are JAX programs, jitted as a whole.

    make bench-peers          # makes the peers' environment, and measures; five minutes
    python -m bench.peers     # measures, with that environment at .venv-bench

PPO: ours on SimpleDoorKey, and the peer (`xland_ppo.py`) on XLand-MiniGrid's DoorKey-8x8, which sees 11 x 11 cells, as
many as our encoder gives, and once 7 x 7, as it does if nobody says otherwise; network and settings are the same. SAC:
gradient steps of ours and of SBX's. Environment steps alone: our engine's, XLand-MiniGrid's and NAVIX's
(`stepping.py`), DoorKey-8x8, 1,024 environments that see 7 x 7. All in turns, each in one thread, medians over CPU
seconds, compilation left out. Peers are pinned to one core, which works on Linux.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from bench import engine, ppo, sac
from preceptor.ground.errors import UserError

HERE, PYTHON = Path(__file__).parent, Path(".venv-bench/bin/python")
SETTINGS = (16, 128, 256, 4), (256, 32, 2048, 4)  # environments, steps, batch, epochs
VIEWS = (11, 7)
TURNS, STEPS, TASK = 3, 80_000, "HalfCheetah-v5"


def peer(python: Path, script: str, *words: str) -> Any:
    """What a script prints that runs on one core in the peers' environment."""
    one_core = sorted(os.sched_getaffinity(0))[:1]
    command, pin = [str(python), str(HERE / script), *words], lambda: os.sched_setaffinity(0, one_core)
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, preexec_fn=pin)
    return json.loads(told.stdout.splitlines()[-1])


def main(python: Path, turns: int, steps: int) -> dict[str, Any]:
    """All figures of one call: steps per CPU second, and ours as a multiple of each peer's."""
    torch.set_num_threads(1)
    chosen = [word for setting in SETTINGS for word in ("--setting", *map(str, setting))]
    gradient_steps = sac.ours(TASK, "float32")
    gradient_steps(20)
    grids, actions = engine.make_engine(), engine.random_actions()
    grids.reset(seed=0)
    engine.steps_per_second(grids, actions)  # compiles
    found: dict[str, list[float]] = {}
    versions: dict[str, str] = {}
    for _ in range(turns):
        found.setdefault("stepping, ours", []).append(engine.steps_per_second(grids, actions))
        told = peer(python, "stepping.py")
        versions |= told["versions"]
        for who, speed in told["speeds"].items():
            found.setdefault(f"stepping, {who}", []).append(speed)
        for setting in SETTINGS:
            found.setdefault(f"ppo {setting}, ours", []).append(ppo.ours(*setting, steps))
        for view in VIEWS:
            told = peer(python, "xland_ppo.py", "--view", str(view), "--steps", str(steps), *chosen)
            versions |= told["versions"]
            for setting in SETTINGS:
                speed = told["speeds"][" ".join(map(str, setting))]
                found.setdefault(f"ppo {setting}, JAX seeing {view} x {view}", []).append(speed)
        found.setdefault("sac, ours", []).append(sac.speed(gradient_steps, 150))
        told = peer(python, "sbx_sac.py", "--task", TASK)
        versions |= told["versions"]
        found.setdefault("sac, SBX", []).append(told["speed"])
    ratios = {}
    for name, speeds in found.items():
        what, _, who = name.rpartition(", ")
        if who != "ours":
            mine = found[f"{what}, ours"]
            ratios[f"{what}, ours over {who}"] = round(median(a / b for a, b in zip(mine, speeds, strict=True)), 2)
    return {"per CPU second": {name: round(median(each)) for name, each in found.items()}, **ratios, **versions}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=PYTHON, help="of the peers' environment")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--steps", type=int, default=STEPS, help="environment steps per measurement")
    words = parser.parse_args()
    if not list(words.python.parents[1].glob("lib/*/site-packages/navix")):  # the last that was added
        sys.exit(str(UserError(f"There are no peers at {words.python}.", "make bench-peers")))
    print(json.dumps(main(words.python, words.turns, words.steps), indent=1))

"""How fast an export acts: `preceptor.runtime` against the same agent played with torch, in turns, on one thread each.

    python -m bench.exports

Agents have their first weights and the networks of `--preset small`. A decision is what `Agent.act` does: encoding,
both levels, the clock, sampling; not the environment's own step.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import preceptor
import preceptor.runtime
from preceptor.agent.config import configure, to_plain
from preceptor.agent.export.writing import export
from preceptor.agent.flags import ExportConfig
from preceptor.agent.methods import entry_of
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.runs.run import Run
from preceptor.envs.catalog import get_task

AGENTS = (("ihac", "KeyInBox"), ("hiro", "PointPush"), ("sac", "PointPush"), ("sac", "AntMaze"))
_STEPS, _MANY, _ROUNDS = 300, 64, 5


def untrained(log: str, method: str, name: str) -> Path:
    """A run with first weights."""
    task, config = get_task(name), configure({"logdir": log, "savedir": "s"}, method=method, task=name)
    student: Any = entry_of(method).make(Parts(task, config, np.random.SeedSequence(0)))
    student.warm = True
    run = Run.create(log, method, task.name, "s", to_plain(config), resume=False)
    run.save(0, {"method": student.state_dict()})
    return run.path


def recorded(agent: Any, count: int) -> list[NDArray]:
    """What so many environments show while an agent plays them."""
    env = agent.task.make_vec(count, split="eval")
    seen = [env.reset()[0]]
    for _ in range(_STEPS - 1):
        seen.append(env.step(agent.act(seen[-1]))[0].copy())
    agent.reset()
    return seen


def seconds(agent: Any, seen: Sequence[NDArray]) -> NDArray[np.float64]:
    """What each decision takes."""
    times = []
    for obs in seen:
        start = time.perf_counter()
        agent.act(obs)
        times.append(time.perf_counter() - start)
    agent.reset()
    return np.array(times[10:])


def measure(method: str, name: str) -> dict[str, Any]:
    """Milliseconds of a decision in one environment, and decisions per second in many, of both."""
    with TemporaryDirectory() as log:
        run = untrained(log, method, name)
        folder = export(ExportConfig(str(run)))["export"]
        agents = {"torch": preceptor.load(run, seed=0), "export": preceptor.runtime.load(folder, seed=0)}
        result: dict[str, Any] = {"method": method, "task": name}
        for count in (1, _MANY):
            seen = recorded(agents["torch"], count)
            rounds = [{who: seconds(agent, seen) for who, agent in agents.items()} for _ in range(_ROUNDS)]
            for who in agents:
                times = np.concatenate([each[who] for each in rounds])
                if count == 1:
                    p50, p99 = (round(1e3 * float(np.quantile(times, q)), 3) for q in (0.5, 0.99))
                    result |= {f"{who}_ms": p50, f"{who}_ms_p99": p99}
                else:
                    result[f"{who}_per_second"] = round(count / float(np.median(times)))
            ratios = [float(np.median(each["torch"]) / np.median(each["export"])) for each in rounds]
            result[f"ratio_{count}"] = round(median(ratios), 2)
    return result


def main(words: Sequence[str] | None = None) -> None:
    """Measure all agents."""
    parser = argparse.ArgumentParser(prog="python -m bench.exports", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args(words).json
    torch.set_num_threads(1)
    for method, name in AGENTS:
        row = measure(method, name) | {"python": platform.python_version()}
        if as_json:
            print(json.dumps(row))
            continue
        print(
            f"{method} on {name}: one environment {row['export_ms']:.3f} ms (p99 {row['export_ms_p99']:.3f}) against "
            f"{row['torch_ms']:.3f} (p99 {row['torch_ms_p99']:.3f}) with torch: {row['ratio_1']:.2f} times as fast; "
            f"{_MANY}: {row['export_per_second']:,} actions/s against {row['torch_per_second']:,}, "
            f"{row[f'ratio_{_MANY}']:.2f} times as fast"
        )


if __name__ == "__main__":
    main()

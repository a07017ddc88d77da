"""Scenes labelled per second through a server: ours against ten sequential requests per scene, in the same run.

Ours is what `train --teacher llm` does: permuted menus, the letters scored, many prompts in a request, four requests
in flight, every call kept in the store. The peer is IHAC's way in its best form: ten sampled replies per scene, one
request after the other over one kept-alive connection, the prompt rendered once, no store and no parsing.

    python -m bench.serving                            starts vLLM (make serve-setup), measures, stops it
    python -m bench.serving --base-url http://...      measures a server that runs
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import numpy as np

from preceptor.envs.catalog import TASKS, get_task
from preceptor.envs.task import Scene, Task
from preceptor.ground.errors import UserError
from preceptor.serving.backends import PYTHON
from preceptor.serving.ports import free_ports
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.make import make_teacher
from preceptor.teacher.prompts import distinct_scenes, load_template, menus

SCENES = 1000
REQUESTS_PER_SCENE = 10  # IHAC's n_ask
_MAX_TOKENS = 16
_SEQUENTIAL_SCENES = 4  # of each task
_PROMPT: Final = "compact"  # what the tiny model reads

Work = list[tuple[Task, list[Scene]]]


def spread(count: int) -> Work:
    """So many scenes with a choice, spread over the tasks, no two of a task with the same facts."""
    rng, tasks = np.random.default_rng(0), map(get_task, TASKS)
    pools = [(task, distinct_scenes(task, rng, 6000)) for task in tasks]
    work: Work = []
    for number, (task, pool) in enumerate(sorted(pools, key=lambda pair: len(pair[1]))):
        share = (count - sum(len(scenes) for _, scenes in work)) // (len(pools) - number)
        work.append((task, pool[:share]))
    if sum(len(scenes) for _, scenes in work) < count:
        raise UserError(f"The tasks have fewer than {count} distinct scenes.", "--scenes 1000")
    return work


def ours(base_url: str, work: Work) -> tuple[float, dict[str, Any]]:
    """Seconds to label everything from an empty store, and what it took. The probe, needed once, is not measured."""
    seconds, calls, requests, extra = 0.0, 0, 0.0, {}
    for task, scenes in work:
        teacher = make_teacher(TeacherConfig("llm", base_url=base_url, prompt=_PROMPT), task)
        assert teacher is not None
        probed = teacher.stats.extra["requests"]
        started = time.perf_counter()
        labels = teacher.label(scenes)
        seconds += time.perf_counter() - started
        assert not any(label.abstained for label in labels)
        calls, requests = calls + teacher.stats.calls, requests + teacher.stats.extra["requests"] - probed
        extra = {"scoring": labels[0].method}
    return seconds, {**extra, "calls": calls, "requests": requests}


def sequential(client: httpx.Client, base_url: str, model: str, work: Work) -> float:
    """Seconds that ten requests for each scene take, one after the other."""
    template, spent = load_template(_PROMPT), 0.0
    for task, scenes in work:
        for scene in scenes[:_SEQUENTIAL_SCENES]:
            messages = template.render(task, scene, menus(scene, 1)[0]).chat
            body = {"model": model, "messages": messages, "max_tokens": _MAX_TOKENS, "temperature": 1.0}
            started = time.perf_counter()
            for _ in range(REQUESTS_PER_SCENE):
                client.post(f"{base_url}/chat/completions", json=body).raise_for_status().json()
            spent += time.perf_counter() - started
    return spent


@contextmanager
def vllm() -> Iterator[str]:
    """The base URL of a vLLM that runs while the block lasts."""
    if not PYTHON.exists():
        raise UserError("There is no serving environment.", "make serve-setup, or --base-url of a server that runs")
    port = free_ports(1)[0]
    with TemporaryDirectory() as logs:
        words = ["--backend", "vllm", "--port", str(port), "--logdir", logs]
        subprocess.run([sys.executable, "main.py", "serve", *words, "--detach"], check=True, stdout=sys.stderr)
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            stop = [sys.executable, "main.py", "serve", "--stop", "--port", str(port), "--logdir", logs]
            subprocess.run(stop, check=True, stdout=sys.stderr)


def measure(base_url: str, scenes: int = SCENES, rounds: int = 3) -> dict[str, Any]:
    """Both ways in turn, `rounds` times; print the ratio and return the figures."""
    work = spread(scenes)
    few = sum(min(len(of_task), _SEQUENTIAL_SCENES) for _, of_task in work)
    fast: list[float] = []
    slow: list[float] = []
    facts: dict[str, Any] = {}
    with httpx.Client(timeout=60.0) as client:
        model = client.get(f"{base_url}/models").json()["data"][0]["id"]
        sequential(client, base_url, model, work[:1])  # so that neither way starts cold
        ours(base_url, [(work[0][0], work[0][1][:32])])
        for _ in range(rounds):
            seconds, facts = ours(base_url, work)
            fast.append(scenes / seconds)
            slow.append(few / sequential(client, base_url, model, work))
    result = {
        "scenes": scenes,
        "ours_scenes_per_second": median(fast),
        "sequential_scenes_per_second": median(slow),
        "ratio": median(a / b for a, b in zip(fast, slow, strict=True)),
        "requests_per_scene": REQUESTS_PER_SCENE,
        "model": model,
        "python": platform.python_version(),
        **facts,
    }
    print(
        f"serving: {scenes:,} scenes at {result['ours_scenes_per_second']:.0f}/s ({facts['scoring']}, "
        f"{facts['calls']:,} calls in {facts['requests']:.0f} requests), "
        f"{result['sequential_scenes_per_second']:.2f}/s with {REQUESTS_PER_SCENE} sequential "
        f"requests each: {result['ratio']:.0f} times"
    )
    return result


def main(words: Sequence[str] | None = None) -> None:
    """Measure a server that is given, or vLLM."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--base-url")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(words)
    try:
        if given.base_url:
            result = measure(given.base_url, given.scenes, given.rounds)
        else:
            with vllm() as url:
                result = measure(url, given.scenes, given.rounds)
    except UserError as error:  # `make bench` goes on where nothing is served
        print(f"serving: not measured: {error}")
        return
    if given.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Small agents, and the policy server that plays them: in a process of its own, or in a thread of this one."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np

from preceptor.agent.config import configure, to_plain
from preceptor.agent.methods import entry_of
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.remote.client import Client
from preceptor.agent.runs.run import Run
from preceptor.agent.train import train
from preceptor.controller.checkpoint import save_controller
from preceptor.controller.roles import Controller, network_of
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError
from preceptor.serving.policy.__main__ import WEBSOCKETS
from preceptor.serving.policy.agents import Agents
from preceptor.serving.policy.app import create_app
from preceptor.serving.policy.service import Service, store_in
from preceptor.serving.ports import bound
from preceptor.serving.ports import server as server_of
from tests.local_server import wait_for

ROOT = Path(__file__).parents[1]
TASKS = {"ihac": "SimpleDoorKey", "hiro": "PointReach", "sac": "PointReach"}


def trained(method: str, logdir: Path) -> Path:
    """A run of a few steps; of ihac, whose distillation takes long, one with its first weights and their controller."""
    settings: dict[str, Any] = {"logdir": str(logdir), "savedir": "s", "preset": "tiny", "quiet": True}
    settings |= {"steps": 600, "eval_episodes": 2} | ({} if method == "ihac" else {"warmup": 100})
    config = configure(settings, method=method, task=TASKS[method])
    if method != "ihac":
        return Path(train(config)["run"])
    task = get_task(TASKS[method])
    controller = Controller(task, network_of(task), temperature=1.3)
    made = entry_of(method).make(Parts(task, config, np.random.SeedSequence(1), controller=controller))
    run = Run.create(logdir, method, task.name, "s", to_plain(config), resume=False)
    run.save(7, {"method": made.state_dict()})
    save_controller(run.controller, controller)
    return run.path


def with_a_choice(task: Task) -> np.ndarray[Any, Any]:
    """An observation [1, ...] in which several options are legal."""
    env, rng = task.make_vec(1, split="eval", seed=3), np.random.default_rng(0)
    seen = env.reset()[0]
    while task.legal(seen).sum() < 2:
        seen = env.step(rng.integers(0, 3, 1))[0]
    return np.asarray(seen).copy()


@dataclass
class Served:
    """A server in a thread."""

    url: str
    service: Service


@contextmanager
def in_thread(runs: Mapping[str, Path], state: Path, *, key: str = "", **limits: Any) -> Iterator[Served]:
    """A server in a thread of this process; `limits` are arguments of its `Service`."""
    how: dict[str, Any] = {"most_sessions": 64, "keep_seconds": 600.0, "most_waiting": 64, "wait_seconds": 0.002}
    learns = "fallback" in limits and limits["fallback"].learn
    agents = Agents({name: str(run) for name, run in runs.items()}, "log", learns=learns)
    service = Service(agents, store_in(state), **how | limits)
    held = bound("127.0.0.1", 0)
    server = server_of(create_app(service, key=key), 1, **WEBSOCKETS, ws_max_size=4 * 2**20)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield Served(f"http://127.0.0.1:{held.getsockname()[1]}", service)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        service.end()
        held.close()


def process(runs: Mapping[str, Path], state: Path, port: int, *more: str) -> subprocess.Popen[bytes]:
    """A server in a process of its own, which is ready."""
    agents = [f"{name}={run}" for name, run in runs.items()]
    words = ["--agent", *agents, "--state", str(state), "--port", str(port), *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([sys.executable, "-m", "preceptor.serving.policy", *words], env=environment, cwd=ROOT)
    deadline = monotonic() + 120
    while True:
        try:
            with Client(f"http://127.0.0.1:{port}", patience=1.0) as client:
                client.agents()
            return started
        except UserError:
            assert monotonic() < deadline
            assert started.poll() is None, "the server died"
            sleep(0.1)

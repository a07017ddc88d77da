"""Small runs of all kinds of agents, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

import preceptor
from preceptor.agent.config import configure, to_plain
from preceptor.agent.methods import entry_of
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.runs.run import Run
from preceptor.controller.checkpoint import save_controller
from preceptor.controller.roles import Controller, network_of
from preceptor.envs.catalog import get_task

OFF_POLICY = {"steps": 600, "warmup": 200}
# Task, method, settings. Those without steps are not trained: their first weights are as good to be exported.
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ihac": ("SimpleDoorKey", "ihac", {}),
    "by-role": ("ColoredDoorKey", "dagger", {}),
    "mission": ("OneRoom-PutNext", "dagger", {}),
    "ppo": ("SimpleDoorKey", "ppo", {}),
    "ppo-vectors": ("PointReach", "ppo", {}),
    "sac": ("PointReach", "sac", OFF_POLICY),
    "td3": ("PointReach", "td3", {}),
    "hiro": ("PointReach", "hiro", OFF_POLICY),
    "hiro-ppo": ("PointReach", "hiro", {"low_learner": "ppo"}),
    "hiro-options": ("SimpleDoorKey", "hiro", {}),
    "halo": ("RescueWorld-n2", "halo", {"steps": 0, "demos": "10", "budget": "20"}),
    "halo-neural": ("RescueWorld-n2", "halo", {"steps": 0, "demos": "10", "budget": "20", "policies": "neural"}),
    "bc": ("PointReach", "bc", {"steps": 50, "demos": "10", "chunk": 3}),
    "flow": ("WholeBodyTwin", "hvd", {"head": "flow", "steps": 20, "demos": "10"}),
    "planned": ("PointReach", "hiro", {"high_level": "controller"}),
}


def made(log: Path, name: str) -> Path:
    """A run of a name, trained for a moment or with its first weights."""
    task_name, method, settings = RUNS[name]
    settings = {"preset": "tiny", "eval_episodes": 4, "quiet": True, **settings}
    if "steps" in settings:
        settings = {key: value for key, value in settings.items() if value != 0}
        return preceptor.train(task_name, method, logdir=str(log), savedir=name, **settings).path
    config = configure({"logdir": str(log), "savedir": name, **settings}, method=method, task=task_name)
    task = get_task(task_name)
    torch.manual_seed(0)
    controller = Controller(task, network_of(task)) if name == "planned" else None
    student: Any = entry_of(method).make(Parts(task, config, np.random.SeedSequence(1), controller=controller))
    student.warm = True
    run = Run.create(log, method, task.name, name, to_plain(config), resume=False)
    run.save(7, {"method": student.state_dict()})
    if controller is not None:
        save_controller(run.controller, controller)
    return run.path

"""Exports for torch: all that playing needs of a run, whatever its method, and nothing of its training."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preceptor.agent.evaluate import method_of
from preceptor.agent.levels import Player
from preceptor.agent.methods.protocol import Method
from preceptor.agent.runs.checkpoint import load_tree, save_tree
from preceptor.agent.runs.run import Run
from preceptor.envs.task import Task

STATE, CONTROLLER = "state", "controller"


def write_whole(run: Run, method: Method, draft: Path) -> None:
    """Leave settings, what playing needs of the last checkpoint, and the controller of a run, in a folder."""
    step, tree = run.load()
    played = {name: tree["method"][name] for name in method.played or tree["method"]}
    save_tree(draft / STATE, played, {"step": step})
    (draft / "config.json").write_text(json.dumps(run.config, indent=1))
    if run.controller.exists():
        shutil.copytree(run.controller, draft / CONTROLLER)


def player_of(folder: Path, said: Mapping[str, Any], task: Task) -> Player:
    """The player that `write_whole` left, of a manifest whose files are all there."""
    config = json.loads((folder / "config.json").read_text())
    method = method_of(config, folder / CONTROLLER, task)
    method.load_policy(load_tree(folder / STATE)[0])
    return method.player

"""A controller on disk: `controller.safetensors` and `controller.json`, checked against the task that loads it."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from preceptor.controller.encoders import identity_of, unlike
from preceptor.controller.network import TrunkConfig
from preceptor.controller.roles import Controller, network_of
from preceptor.envs.task import Task
from preceptor.ground.atomic import CheckpointError, publish_folder, read_json, standing, truncated
from preceptor.ground.device import load_weights, to_device
from preceptor.ground.sealed import file_digest, sealed

SCHEMA = 2
KIND = "preceptor-controller"
WEIGHTS, DESCRIPTION = "controller.safetensors", "controller.json"


class ControllerMismatch(CheckpointError):
    """The controller was trained for another task, option list or observation encoding."""


def save_controller(folder: Path, controller: Controller) -> None:
    """Write a controller to `folder` in one step. Raises `UserError` if the disk refuses; nothing old is lost."""
    description = {"format": KIND, "schema": SCHEMA, **identity_of(controller.task)}
    description |= {"network": asdict(controller.network.config), "temperature": controller.temperature}
    with publish_folder(folder) as draft:
        weights = {name: weight.contiguous() for name, weight in controller.network.state_dict().items()}
        (draft / WEIGHTS).write_bytes(save(weights))
        description |= {"training": controller.facts, "digest": file_digest(draft / WEIGHTS)}
        (draft / DESCRIPTION).write_text(json.dumps(sealed(description), indent=1))


def load_controller(folder: Path, task: Task) -> Controller:
    """Read a controller and bind it to `task`.

    Raises:
        CheckpointError: Missing, truncated, foreign, or of a newer schema.
        ControllerMismatch: Made for another task, option list, goal space or encoder.
    """
    folder = standing(folder)
    if not folder.is_dir():
        again = f"python main.py train --method dagger --task {task.source} --savedir {folder.name}"
        raise CheckpointError(f"There is no controller at {folder}.", again)
    description = read_json(folder / DESCRIPTION, kind=KIND, schema=SCHEMA)
    if other := unlike(description, task):
        name, there, here = other
        again = f"python main.py train --method dagger --task {task.source} --savedir controller"
        raise ControllerMismatch(
            f"The controller at {folder} has {name} {there!r}, but {task.name} needs {here!r}.", again
        )
    try:
        config = TrunkConfig(**description["network"])
        network = to_device(network_of(task, config))
        if description["schema"] == SCHEMA and file_digest(folder / WEIGHTS) != description["digest"]:
            raise ValueError("its digest is not the one in controller.json")
        load_weights(network, load((folder / WEIGHTS).read_bytes()))
        if not 0 < (temperature := float(description["temperature"])) < math.inf:
            raise ValueError(f"its temperature is {temperature}")
        return Controller(task, network, temperature, description["training"])
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        why = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        again = f"python main.py train --method dagger --task {task.source} --savedir controller  # distils another"
        raise truncated(folder / WEIGHTS, why, again) from error

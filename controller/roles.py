"""One trained controller in its three roles: oracle (HALO), planner (HIRO) and prior (loss L1)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import ControllerNetwork, TrunkConfig, mask_logits, to_tensors
from preceptor.envs.task import Task
from preceptor.ground.device import to_numpy, to_tensor


def network_of(task: Task, config: TrunkConfig | None = None) -> ControllerNetwork:
    """The network of a task's controllers, with its first weights."""
    if hasattr(task, "sensed"):  # as `encoder_of`
        from preceptor.controller.missions import MissionNetwork

        return MissionNetwork(len(task.options), config)
    return ControllerNetwork(encoder_of(task), len(task.options), config)


class Controller:
    """A distilled controller bound to its task. Batched over N observations; needs no teacher and no network access.

    Args:
        task: The task whose options and goals it speaks of.
        network: The trained network.
        temperature: Calibration temperature fitted on a hold-out.
        facts: What the checkpoint says of its training: teacher, queries, calls, agreement, ECE.
    """

    def __init__(
        self,
        task: Task,
        network: ControllerNetwork,
        temperature: float = 1.0,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.task = task
        self.encoder = encoder_of(task)
        self.network = network
        self.temperature = temperature
        self.facts = facts or {}

    @torch.no_grad()
    def probs(
        self,
        obs: NDArray,
        previous: NDArray[np.int64] | None = None,
        legal: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Prior: calibrated distribution over options [N, K].

        Args:
            obs: Observations [N, ...].
            previous: Option that ran before [N], -1 or None where there was none.
            legal: Mask [N, K] of options to choose from; None leaves all K open.
        """
        option_logits, _ = self._forward(obs, previous)
        mask = None if legal is None else to_tensor(legal)
        return to_numpy(torch.softmax(mask_logits(option_logits / self.temperature, mask), 1))

    @torch.no_grad()
    def terminate(self, obs: NDArray, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the running option [N] is over here, as learned from `Task.option_done`."""
        _, done_logits = self._forward(obs, option)
        return to_numpy(done_logits)[np.arange(len(obs)), option] > 0

    def label(
        self, obs: NDArray, legal: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Oracle: the most probable option [N] and its probability [N]."""
        probs = self.probs(obs, legal=legal)
        return probs.argmax(1), probs.max(1)

    def goal(self, obs: NDArray, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Planner: goal mean [N, D] and scale [N, D] of the option, through the task's `ground`."""
        return self.task.ground(obs, option)

    def _forward(self, obs: NDArray, previous: NDArray[np.int64] | None) -> tuple[torch.Tensor, torch.Tensor]:
        if previous is None:
            previous = np.full(len(obs), -1, np.int64)
        return self.network(*to_tensors(self.encoder(obs)), to_tensor(previous))

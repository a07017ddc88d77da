"""What methods read from the store. No view crosses the end of an episode."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.data.store import TrajectoryStore
from controller.encoders import Encoded, Encoder


@dataclass(frozen=True)
class OnPolicy:
    """One rollout of N worlds over T steps, as PPO reads it.

    Attributes:
        encoded: Network inputs of the T * N observations, time-major.
        last: Network inputs of the N observations after the last step.
        final: Network inputs of the M observations that ended an episode.
        final_rows: (time, world) [M, 2] of those.
    """

    store: TrajectoryStore
    encoded: Encoded
    last: Encoded
    final: Encoded
    final_rows: NDArray[np.int64]

    def flat(self, name: str) -> NDArray:
        """A column as [T * N, ...], in the order of `encoded`."""
        column = self.store.column(name)
        return column.reshape(-1, *column.shape[2:])

    @property
    def chosen(self) -> NDArray[np.bool_]:
        """bool [T, N], where the high level chose an option."""
        return self.store.column("option_age") == 0


def on_policy(store: TrajectoryStore, encoder: Encoder, next_obs: NDArray) -> OnPolicy:
    """View everything in the store as one rollout that stopped at `next_obs` [N, ...]."""
    obs = store.column("obs")
    rows, final_obs = store.final_observations()
    return OnPolicy(store, encoder(obs.reshape(-1, *obs.shape[2:])), encoder(next_obs), encoder(final_obs), rows)


@dataclass(frozen=True)
class Transitions:
    """B transitions for an off-policy learner, float32. Actions are in [-1, 1].

    Attributes:
        obs: [B, inputs], what the actor saw.
        action: [B, A].
        reward: [B], summed with its discount where a transition spans several steps.
        next_obs: [B, inputs], what the actor would see next; the episode's own last observation at its end.
        discount: [B], of the value there: gamma to the number of steps, and zero where the episode terminated.
        prior: [B, A], what the prior would do, or None.
        prior_weight: lambda of the pull towards it.
        value_filter: Pull only where the critics value the prior's action more than the actor's.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    discount: Tensor
    prior: Tensor | None = None
    prior_weight: float = 0.0
    value_filter: bool = False


def prior_penalty(batch: Transitions, action: Tensor, value: Tensor, critic: nn.Module) -> Tensor:
    """lambda |Q| ||a - prior||^2, averaged: loss L1 for a deterministic prior, in the unit of the values.

    The form of TD3+BC (Fujimoto & Gu, 2021, eq. 3), which divides the value by its mean size instead. The filter is
    that of Nair et al. (2018, section IV-C): a prior that is worse than the actor does not hold it back.

    Args:
        batch: Whose prior pulls.
        action: [B, A], the actor's own.
        value: [B], of those actions.
        critic: Twin critics.
    """
    if batch.prior is None or batch.prior_weight == 0.0:
        return value.new_zeros(())
    distance = (action - batch.prior).square().sum(-1)
    if batch.value_filter:
        with torch.no_grad():
            distance = distance * (critic(batch.obs, batch.prior).amin(0) > value)
    return batch.prior_weight * value.detach().abs().mean() * distance.mean()


@dataclass(frozen=True)
class SceneRows:
    """Labelled scenes as columns [M, ...], for distillation."""

    obs: NDArray[np.uint8]
    previous: NDArray[np.int64]
    legal: NDArray[np.bool_]
    probs: NDArray[np.float32]
    env_id: NDArray[np.int64]
    episode: NDArray[np.int64]


def labelled_scenes(store: TrajectoryStore, start: int) -> SceneRows:
    """Every scene stored from vector step `start` on, with its label (zeros where the teacher abstained).

    `previous` is what the high level would have been told: the option that runs, or, where one was just chosen, the
    one before it.
    """

    def flat(name: str) -> NDArray:
        column = store.column(name, start)
        return column.reshape(-1, *column.shape[2:])

    previous = np.where(flat("option_age") == 0, flat("prev_option"), flat("option"))
    return SceneRows(flat("obs"), previous, flat("legal"), flat("label_probs"), flat("env_id"), flat("episode"))

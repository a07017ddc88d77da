"""A trained agent at work: observations in, actions out, without a teacher, a label store or an environment."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock
from preceptor.agent.hierarchy import Observations, Player
from preceptor.controller.encoders import encoder_of
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT


class Agent:
    """Plays one environment, or N side by side; the first `act` after `reset` says which.

    Args:
        task: What it plays.
        player: Its levels.
        greedy: Whether it takes the most probable option and action, instead of sampling them.
        seed: Of the sampling.
    """

    def __init__(self, task: Task, player: Player, *, greedy: bool = False, seed: int | None = None) -> None:
        self.task, self._player, self._encoder = task, player, encoder_of(task)
        self._rng = None if greedy else np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        """Forget the options that run: the next observation begins an episode in every environment."""
        self._clock: Clock | None = None
        self._obs: NDArray = np.empty(0)
        self._single = True

    def act(self, obs: Any, episode_start: Sequence[bool] | NDArray[np.bool_] | None = None) -> Any:
        """What to do now: the environment's own action, or an array of N.

        Args:
            obs: An observation as the environment gives it, or a batch of N.
            episode_start: bool [N], the environments that have begun an episode since the last call, where they reset
                themselves as Gymnasium's vector environments do; none if not given.

        Raises:
            UserError: The observations are of another shape or kind than the task's, or not as many as before.
        """
        batch = self._batch(obs)
        if self._clock is None:
            self._clock = Clock(len(batch), self._player.timeouts, self._player.transition)
        else:
            begun = np.zeros(len(batch), np.bool_) if episode_start is None else np.array(episode_start, np.bool_)
            if begun.shape != (len(self._obs),) or len(batch) != len(self._obs):
                raise UserError(
                    f"act() was given {len(batch)} observations and {len(begun)} marks of beginnings, after "
                    f"{len(self._obs)} observations.",
                    "agent.reset()  # before environments of another number",
                )
            self._clock.advance(begun, self._obs, batch)
        self._obs = batch
        # No level of training: there, methods explore.
        levels = np.full(len(batch), SEEDS_PER_SPLIT)
        observed = Observations(self.task, self._encoder, batch, levels)
        over, choice = self._player.high.choose(observed, self._clock.option)
        self._clock.start(self._clock.due(over), choice.sample(self._rng)[0])
        action = self.task.to_gymnasium(self._player.low.act(observed, self._clock).sample(self._rng)[0])
        return action[0] if self._single else action

    @property
    def option(self) -> str | list[str] | None:
        """The option that runs, in words, or those of the N environments; None before the first `act`, and where the
        high level chooses vectors."""
        if self._clock is None or self._clock.command.shape[1]:
            return None
        words = [self.task.options[k].words for k in self._clock.option.tolist()]
        return words[0] if self._single else words

    @property
    def command(self) -> NDArray[np.float32] | None:
        """The vector that the high level has chosen, [D] or [N, D]; None where it chooses named options."""
        if self._clock is None or not self._clock.command.shape[1]:
            return None
        return self._clock.command[0] if self._single else self._clock.command

    def _batch(self, obs: Any) -> NDArray:
        """Observations [N, ...] of what was given."""
        shape = self.task.observation_shape
        try:
            found = self.task.from_gymnasium(obs)
        except (KeyError, TypeError, ValueError):
            found = np.empty((0, 0))  # of no task's shape
        single = found.shape == shape
        if not single and (found.shape[1:] != shape or not len(found)):
            raise UserError(
                f"{self.task.name} is played from observations of shape {shape}, or (N, {', '.join(map(str, shape))}), "
                f"not {found.shape}.",
                f"preceptor.make({self.task.name!r}) is its environment",
            )
        self._single = single
        return found[None] if single else found

"""The only roll-out class: a high level, a low level and a clock, batched over worlds."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agent.core import Clock, HighLevel, LowLevel, Observations, Player
from agent.data.store import TrajectoryStore
from controller.encoders import encoder_of
from envs.task import Task


class Hierarchy:
    """Plays N worlds and writes what happens into a store.

    A *guide* is a second pair of levels (the teacher with its scripted hands). Whenever an option is chosen, each world
    is handed to the guide with probability `mix` until that option ends: the mixture policy of DAgger (Ross et al.,
    2011), at the granularity of options.

    Args:
        task: What is played.
        env: Its batched environments.
        player: Its levels, and what they need.
        rng: Draws options, actions and whose turn it is; None plays greedily, always the most probable choice.
        guide: The levels of the guide, or None.
        levels: Level seeds of the first episodes [N]; drawn by the environments if not given.
    """

    def __init__(
        self,
        task: Task,
        env: gym.vector.VectorEnv,
        player: Player,
        *,
        rng: np.random.Generator | None,
        guide: tuple[HighLevel, LowLevel] | None = None,
        levels: NDArray[np.int64] | None = None,
    ) -> None:
        self.task, self.env, self.guide = task, env, guide
        self.high, self.low = player.high, player.low
        self.encoder = encoder_of(task)
        self.rng = rng
        self.clock = Clock(env.num_envs, player.timeouts, player.frame)
        self.finished: list[dict[str, float]] = []
        self._guided = np.zeros(env.num_envs, np.bool_)
        self._ever_guided = np.zeros(env.num_envs, np.bool_)
        self._episode = np.zeros(env.num_envs, np.int64)
        self._t = np.zeros(env.num_envs, np.int64)
        self._return = np.zeros(env.num_envs, np.float64)
        obs, info = env.reset(options=None if levels is None else {"level_seeds": levels})
        self.observed = self._observe(obs, info)

    def collect(self, store: TrajectoryStore, length: int, mix: float = 0.0) -> None:
        """Play `length` vector steps into `store`, a share `mix` of the options by the guide."""
        for _ in range(length):
            self.step(store, mix)

    def play_once(self) -> list[dict[str, float]]:
        """Play until every world has ended an episode; the first one of each, in the order of the worlds."""
        first: dict[float, dict[str, float]] = {}
        while len(first) < self.env.num_envs:
            self.step()
            for episode in self.drain_finished():
                first.setdefault(episode["world"], episode)
        return [first[world] for world in sorted(first)]

    def drain_finished(self) -> list[dict[str, float]]:
        """Return, length, success and `guided` of the episodes that ended since the last call."""
        finished, self.finished = self.finished, []
        return finished

    def step(self, store: TrajectoryStore | None = None, mix: float = 0.0) -> tuple[NDArray[np.int64], NDArray]:
        """Play one vector step, into `store` if given; the options [N] and the actions [N] of it."""
        option_logprob = self._choose_options(mix)
        action, action_logprob = self._choose_actions()
        obs, reward, terminated, truncated, info = self.env.step(action)
        ended = terminated | truncated
        if store is not None:
            self._record(store, action, option_logprob, action_logprob, reward, terminated, truncated, info)
        self._book(reward, ended, info["success"])
        option = self.clock.option
        self.clock.advance(ended, self.observed.obs, obs)
        self.observed = self._observe(obs, info)
        return option, action

    def _choose_options(self, mix: float) -> NDArray[np.float32]:
        """Start options where they are due; log-probability [N] of the choice, 0 elsewhere."""
        observed, clock = self.observed, self.clock
        over, choice = self.high.choose(observed, clock.option)
        if self.guide is not None and (mix > 0 or self._guided.any()):
            guide_over, guide_choice = self.guide[0].choose(observed, clock.option)
            due = clock.due(np.where(self._guided, guide_over, over))
            assert self.rng is not None, "a guide takes turns at random"
            self._guided = np.where(due, self.rng.random(len(due)) < mix, self._guided)
            self._ever_guided |= self._guided
            choice = choice.replaced(self._guided, guide_choice)
        else:
            due = clock.due(over)
        chosen, logprob = choice.sample(self.rng)
        clock.start(due, chosen)
        return np.where(due, logprob, 0).astype(np.float32)

    def _choose_actions(self) -> tuple[NDArray, NDArray[np.float32]]:
        choice = self.low.act(self.observed, self.clock)
        if self.guide is not None and self._guided.any():
            choice = choice.replaced(self._guided, self.guide[1].act(self.observed, self.clock))
        return choice.sample(self.rng)

    def _record(
        self,
        store: TrajectoryStore,
        action: NDArray[np.int64],
        option_logprob: NDArray[np.float32],
        action_logprob: NDArray[np.float32],
        reward: NDArray,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        info: dict[str, Any],
    ) -> None:
        observed, clock, worlds = self.observed, self.clock, len(action)
        store.append(
            ended=terminated | truncated,
            final_obs=info.get("final_obs"),
            obs=observed.obs,
            prev_option=clock.previous,
            option=clock.option,
            option_age=clock.age,
            goal=clock.goal,
            option_logprob=option_logprob,
            action=action,
            behaviour_logprob=action_logprob,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            legal=observed.legal,
            label_probs=np.zeros_like(observed.legal, np.float32),
            label_source=np.zeros(worlds, np.int8),
            true_option=np.full(worlds, -1) if observed.true_option is None else observed.true_option,
            query_id=np.full(worlds, -1),
            guided=self._guided,
            env_id=np.arange(worlds),
            level_seed=observed.level_seeds,
            episode=self._episode,
            t=self._t,
        )

    def _book(self, reward: NDArray, ended: NDArray[np.bool_], success: NDArray[np.bool_]) -> None:
        self._return += reward
        self._t += 1
        for world in np.flatnonzero(ended):
            self.finished.append(
                {
                    "world": float(world),
                    "return": float(self._return[world]),
                    "length": float(self._t[world]),
                    "success": float(success[world]),
                    "guided": float(self._ever_guided[world]),
                }
            )
        self._return[ended] = 0
        self._t[ended] = 0
        self._episode[ended] += 1
        self._ever_guided[ended] = False
        self._guided[ended] = False

    def _observe(self, obs: NDArray, info: dict[str, Any]) -> Observations:
        return Observations(self.task, self.encoder, obs, info["level_seed"], info.get("option"))

    def state_dict(self) -> dict[str, Any]:
        """Worlds, clock, counters and random state, for an exact resume."""
        return {
            "env": self.env.get_state(),  # type: ignore[attr-defined]
            "clock": self.clock.state_dict(),
            "rng": self.rng.bit_generator.state if self.rng else None,
            "obs": self.observed.obs,
            "level_seeds": self.observed.level_seeds,
            "true_option": self.observed.true_option,
            "counters": [self._guided, self._ever_guided, self._episode, self._t, self._return],
            "finished": self.finished,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.env.set_state(state["env"])  # type: ignore[attr-defined]
        self.clock.load_state_dict(state["clock"])
        if self.rng:
            self.rng.bit_generator.state = state["rng"]
        self._guided, self._ever_guided, self._episode, self._t, self._return = state["counters"]
        self.finished = state["finished"]
        seen = (state["obs"], state["level_seeds"], state.get("true_option"))
        self.observed = Observations(self.task, self.encoder, *seen)

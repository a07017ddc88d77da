"""The hierarchy at play in batched environments: the only roll-out class."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock
from preceptor.agent.data.store import TrajectoryStore
from preceptor.agent.draws import Part
from preceptor.agent.levels import FEWEST_ROWS, HighLevel, LowLevel, Observations, Player
from preceptor.agent.resumable import Resumable, places
from preceptor.controller.encoders import encoder_of
from preceptor.envs.task import Task
from preceptor.envs.vector import LONGEST, SomeOf, can_rest, limit_of

_UNKNOWN = np.array([-1])


class Hierarchy(Resumable):
    """Plays N environments and writes what happens into a store.

    An *expert* is a second pair of levels (the teacher with its scripted skills). Whenever an option is chosen, each
    environment is handed to the expert with probability `beta` until that option ends: the mixture policy of DAgger
    (Ross et al., 2011, algorithm 3.1), at the granularity of options.

    Args:
        task: What is played.
        env: Its batched environments.
        player: Its levels, and what they need.
        rng: Samples options, actions and whose turn it is; None plays greedily, always the most probable choice.
        expert: The levels of the expert, or None.
        levels: Level seeds of the first episodes [N]; drawn by the environments if not given.
    """

    saved = places(
        *("env", "clock", "rng"),
        **{name: f"observed.{name}" for name in ("obs", "level_seeds", "true_option")},
        counters=("_guided", "_ever_guided", "_episode", "_t", "_return"),
        finished="finished",
    )

    def __init__(
        self,
        task: Task,
        env: gym.vector.VectorEnv,
        player: Player,
        *,
        rng: np.random.Generator | None,
        expert: tuple[HighLevel, LowLevel] | None = None,
        levels: NDArray[np.int64] | None = None,
    ) -> None:
        self.task, self.env, self.expert = task, env, expert
        self.high, self.low, self._free = player.high, player.low, player.free
        self.encoder = encoder_of(task)
        self.rng = rng
        self.clock = Clock(env.num_envs, player.timeouts, player.transition)
        self.finished: list[dict[str, float]] = []
        self._guided = np.zeros(env.num_envs, np.bool_)
        self._ever_guided = np.zeros(env.num_envs, np.bool_)
        self._episode = np.zeros(env.num_envs, np.int64)
        self._t = np.zeros(env.num_envs, np.int64)
        self._return = np.zeros(env.num_envs, np.float64)
        obs, info = env.reset(options=None if levels is None else {"level_seeds": levels})
        self.observed = self._observe(obs, info)

    def collect(self, store: TrajectoryStore, length: int, beta: float = 0.0) -> None:
        """Play `length` vector steps into `store`, a share `beta` of the options by the expert."""
        for _ in range(length):
            self.step(store, beta)

    def play_once(self) -> list[dict[str, float]]:
        """Play until every environment has ended an episode; the first one of each, in their order.

        Those that go on beyond the environments' own limit, or `LONGEST`, are `cut`: 1, and 0 otherwise. Most
        environments of a batch end long before the last one does. Where decisions are free, and environments step along
        with any action, no more decisions are made for them: the hierarchy goes on with the others, each of which draws
        what it would have drawn among all. It is of no use afterwards.
        """
        first: dict[int, dict[str, float]] = {}
        env, rng, number = self.env, self.rng, np.arange(self.env.num_envs)
        narrows = self._free and can_rest(env)
        for _ in range(limit_of(env) or LONGEST):
            self.step()
            for episode in self.drain_finished():
                first.setdefault(int(number[int(episode["environment"])]), episode | {"cut": 0.0})
            if (left := env.num_envs - len(first)) == 0:
                break
            if narrows and FEWEST_ROWS <= left < len(number):
                rows = np.flatnonzero([n not in first for n in number.tolist()])
                number = number[rows]
                self._narrow(rows)
                draws: Any = rng and Part(rng, env.num_envs, number)
                self.env, self.rng = SomeOf(env, number), draws
        for row, n in enumerate(number.tolist()):
            figures = {"return": self._return[row], "length": self._t[row], "guided": self._ever_guided[row]}
            first.setdefault(n, {name: float(each) for name, each in figures.items()} | {"success": 0.0, "cut": 1.0})
        return [first[n] | {"environment": float(n)} for n in sorted(first)]

    def drain_finished(self) -> list[dict[str, float]]:
        """Return, length, success and `guided` of the episodes that ended since the last call."""
        finished, self.finished = self.finished, []
        return finished

    def step(self, store: TrajectoryStore | None = None, beta: float = 0.0) -> tuple[NDArray[np.int64], NDArray]:
        """Play one vector step, into `store` if given; the options [N] and the actions [N] of it."""
        option_logprob = self._choose_options(beta)
        action, action_logprob = self._choose_actions()
        obs, reward, terminated, truncated, info = self.env.step(action)
        ended = terminated | truncated
        observed, clock = self.observed, self.clock
        if store is not None:
            legal = {"legal": observed.legal} if "legal" in store.names else {}  # slow to compute
            store.append(
                ended=ended,
                final_obs=info.get("final_obs"),
                obs=observed.obs,
                prev_option=clock.previous,
                option=clock.option,
                option_age=clock.age,
                command=clock.command,
                option_logprob=option_logprob,
                action=action,
                behaviour_logprob=action_logprob,
                reward=reward,
                terminated=terminated,
                truncated=truncated,
                label_probs=np.zeros(1, np.float32),
                true_option=_UNKNOWN if observed.true_option is None else observed.true_option,
                level_seed=observed.level_seeds,
                episode=self._episode,
                **legal,
                **{name: info[name] for name in store.extra},
            )
        self._book(reward, ended, info["success"])
        option = clock.option
        clock.advance(ended, observed.obs, obs)
        self.observed = self._observe(obs, info)
        return option, action

    def _choose_options(self, beta: float) -> NDArray[np.float32]:
        """Start options where they are due; log-probability [N] of the choice, 0 elsewhere."""
        observed, clock = self.observed, self.clock
        over, choice = self.high.choose(observed, clock.option)
        if self.expert is not None and (beta > 0 or self._guided.any()):
            expert_over, expert_choice = self.expert[0].choose(observed, clock.option)
            due = clock.due(np.where(self._guided, expert_over, over))
            assert self.rng is not None, "an expert takes turns at random"
            self._guided = np.where(due, self.rng.random(len(due)) < beta, self._guided)
            self._ever_guided |= self._guided
            choice = choice.replaced(self._guided, expert_choice)
        else:
            due = clock.due(over)
        chosen, logprob = choice.sample(self.rng)
        clock.start(due, chosen)
        return np.where(due, logprob, 0).astype(np.float32)

    def _choose_actions(self) -> tuple[NDArray, NDArray[np.float32]]:
        choice = self.low.act(self.observed, self.clock)
        if self.expert is not None and self._guided.any():
            choice = choice.replaced(self._guided, self.expert[1].act(self.observed, self.clock))
        return choice.sample(self.rng)

    def _book(self, reward: NDArray, ended: NDArray[np.bool_], success: NDArray[np.bool_]) -> None:
        self._return += reward
        self._t += 1
        if not np.count_nonzero(ended):
            return
        figures = {"return": self._return, "length": self._t, "success": success, "guided": self._ever_guided}
        for n in np.flatnonzero(ended):
            episode = {name: float(column[n]) for name, column in figures.items()}
            self.finished.append({"environment": float(n), **episode})
        for counter in (self._return, self._t, self._ever_guided, self._guided):
            counter[ended] = 0
        self._episode[ended] += 1

    def _narrow(self, rows: NDArray[np.int64]) -> None:
        """Go on in some environments alone."""
        self.clock, self.observed = self.clock.of(rows), self.observed.of(rows)
        for name in self.saved["counters"]:
            setattr(self, name, getattr(self, name)[rows])

    def _observe(self, obs: NDArray, info: dict[str, Any]) -> Observations:
        return Observations(self.task, self.encoder, obs, info["level_seed"], info.get("option"))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state)
        self.observed = Observations(self.task, self.encoder, state["obs"], state["level_seeds"], state["true_option"])

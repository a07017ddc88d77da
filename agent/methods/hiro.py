"""HIRO (Nachum et al., 2018): a high level that sets goals every c steps, a low level that is paid for reaching them.

Both learn off-policy, at once. What the low level does under a goal changes while it learns, so the goal of an old
segment is replaced, whenever it is drawn, by the one that explains best what the low level did there. A distilled
controller may be the high level, or a prior of it that fades to nothing.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.continuous import Certain, UniformBox
from agent.core import Clock, Distribution, HighLevel, LowLevel, Observations, Player
from agent.data.replay import Segments, Steps, draw_segments, draw_steps, newest_steps
from agent.data.store import TrajectoryStore
from agent.data.views import Transitions
from agent.goal_choices import ExploringGoals, PlannedGoals
from agent.goals import CANDIDATES, GoalFrame, candidates, explained, relabelled
from agent.methods.flat import Learner, make_learner, memory_for
from agent.methods.ppo import BoxPPO, PolicyBatch, PPOConfig
from agent.methods.sac import SACConfig
from agent.methods.td3 import TD3Config
from controller.encoders import encoder_of
from controller.network import ControllerNetwork
from controller.roles import Controller
from envs.task import GoalSpace, Task
from ground.device import device, to_numpy, to_tensor
from ground.errors import UserError
from ground.level_seeds import SEEDS_PER_SPLIT


def _low() -> SACConfig:
    return SACConfig((64, 64), 1e-3, gamma=0.95, batch=128)


def _high() -> SACConfig:
    return SACConfig((64, 64), 1e-3, gamma=0.93, batch=128)


@dataclass(frozen=True)
class HiroConfig:
    """Hyper-parameters of HIRO. The defaults are for a point mass on a CPU; agent/presets/hiro.py has the paper's."""

    period: int = 10  # c, steps for which a goal is in force (paper, section 4)
    low: SACConfig | TD3Config | PPOConfig = field(default_factory=_low)  # the low level's learner
    high: SACConfig | TD3Config = field(default_factory=_high)  # the high level's learner; gamma is per goal
    low_updates: float = 0.25  # gradient steps of the low level per environment step; PPO has its epochs instead
    high_updates: float = 0.1  # gradient steps of the high level per environment step
    low_reward: float = 1.0  # factor on -||s + g - s'||
    high_reward: float = 0.025  # factor on the task's reward, summed while a goal was in force
    relabel: bool = True  # correct old goals when they are drawn
    by_distance: bool = True  # relabel by squared distance of actions, as the paper does; or by SAC's log-probability
    draws: int = 8  # Gaussian candidates (paper, appendix C)
    planned_candidate: bool = False  # the controller's goal is a candidate, too
    random_goals: float = 0.1  # share of goals drawn uniformly
    random_episodes: float = 0.3  # share of episodes all of whose goals are
    warmup: int = 1_000  # environment steps before the first gradient step
    rollout: int = 10  # vector steps between updates
    capacity: int = 2_000_000  # environment steps that are remembered
    low_capacity: int = 2_000_000  # the newest of them, which the low level learns from
    planned: bool = False  # a controller sets the goals, and the low level alone learns
    goal_space: GoalSpace | None = None  # in which goals are set; the task's own if None
    frozen: bool = False  # the low level was trained before, and the high level alone learns
    prior_weight: float = 0.0  # lambda of the pull towards the controller's goals, at the start
    reversed: bool = False  # the controller's goals are turned round: a control
    prior_until: float = 0.3  # share of the steps after which the prior has faded: pull, and share of its goals
    value_filter: bool = False  # the prior counts only where the critics value its goal more than the actor's


class GoalHigh:
    """The high level that sets goals until the clock says that they end."""

    def __init__(self, method: "Hiro") -> None:
        self._method = method

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        """No goal is over before its time; where the next one is drawn from."""
        method, config = self._method, self._method.config
        # An episode explores or does not as a whole; its level decides, so that nothing has to be remembered. On the
        # levels that are held out nobody explores.
        exploring = (observed.level_seeds * 2_654_435_761 % 2**32) / 2**32 < config.random_episodes
        training = observed.level_seeds < SEEDS_PER_SPLIT
        uniform = training * np.where(exploring | (not method.warm), 1.0, config.random_goals)
        never = np.zeros(len(observed), np.bool_)
        if config.planned:
            assert method.planner is not None
            return never, ExploringGoals(Certain(method.planner(observed.obs)), uniform)
        policy = method.high_learner.act(observed.inputs[0])
        planned = method.planner(observed.obs) if method.planner and method.prior > 0 else None
        share = training * method.prior
        if planned is not None and config.value_filter:
            share = share * method.preferred(observed.inputs[0], policy, planned)
        return never, ExploringGoals(policy, uniform, planned, share)


class GoalLow:
    """The low level under a goal: it does not see where it is, only where it is to go."""

    def __init__(self, method: "Hiro") -> None:
        self._method = method

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """Where the action is drawn from."""
        method = self._method
        if not isinstance(method.low_learner, BoxPPO) and not method.warm and not method.config.frozen:
            return UniformBox((len(observed), observed.task.num_actions))
        return method.low_learner.act(method.low_inputs(to_tensor(observed.obs), to_tensor(clock.goal)))


class Hiro:
    """The method.

    Args:
        task: What is learned: state vectors, continuous actions, and a space in which goals can be set.
        config: Hyper-parameters.
        num_envs: Worlds.
        seeds: Source of the random streams.
        total_steps: Environment steps of the whole run.
        controller: The planner, where there is one.
    """

    controller: ControllerNetwork | None = None
    guide: tuple[HighLevel, LowLevel] | None = None
    calibration: tuple[float, dict[str, float]] = (1.0, {})

    def __init__(
        self,
        task: Task,
        config: HiroConfig,
        num_envs: int,
        seeds: np.random.SeedSequence,
        total_steps: int,
        controller: Controller | None = None,
    ) -> None:
        self.task, self.config, self.total_steps = task, config, total_steps
        self.encoder = encoder_of(task)
        space = config.goal_space or task.goal_space
        self.frame = GoalFrame(space.indices, space.scale)
        self.planner = PlannedGoals(controller, self.frame, config.reversed) if controller else None
        width, dims = task.observation_shape[0], len(self.frame.indices)
        low_seed, high_seed, draws, noise = seeds.spawn(4)
        self._seen = torch.tensor([i for i in range(width) if i not in task.hidden_from_low_level], device=device())
        self._scale = torch.tensor(task.observation_scale, device=device())
        self._reach = torch.tensor(self.frame.reach, device=device())
        first_weights = [int(seed.generate_state(1)[0]) for seed in (low_seed, high_seed)]
        self.low_learner = _low_learner(len(self._seen) + dims, task.num_actions, config.low, first_weights[0])
        self.high_learner = make_learner(width, dims, config.high, first_weights[1])
        self.rng = np.random.default_rng(draws)
        self.generator = torch.Generator().manual_seed(int(noise.generate_state(1)[0]))
        remembered = min(config.capacity, total_steps + num_envs)
        least = config.rollout + 2 * config.period
        self.store = memory_for(task, remembered, num_envs, least, goal_size=dims)
        self.player = Player(GoalHigh(self), GoalLow(self), np.full(1, config.period), self.frame)
        self.warm = False  # whether the learners act
        self._steps = 0
        self._owed = [0.0, 0.0]  # gradient steps that are due: low, high

    @property
    def prior(self) -> float:
        """What is left of the prior: one at the start, zero from `prior_until` on."""
        if self.config.prior_weight == 0.0:
            return 0.0
        return max(0.0, 1.0 - self._steps / (self.config.prior_until * self.total_steps))

    def low_inputs(self, obs: Tensor, goal: Tensor) -> Tensor:
        """What the low level's networks take, [B, S + D]: what it may see of observations [B, O], and goals [B, D]."""
        return torch.cat([(obs / self._scale).index_select(-1, self._seen), goal / self._reach], -1)

    @torch.no_grad()
    def preferred(self, inputs: Tensor, policy: Distribution, planned: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Where the critics value the planner's goals [N, D] more than the policy's most probable ones, [N]."""
        own, _ = policy.sample(None)
        theirs, ours = (self.high_learner.critic(inputs, to_tensor(goal)).amin(0) for goal in (planned, own))
        return to_numpy(theirs > ours)

    def distilling(self, steps: int) -> bool:
        """The controller was distilled before."""
        return False

    def plan(self, steps: int) -> tuple[TrajectoryStore, int, float]:
        """Where the next roll-out goes, its vector steps, and that no teacher steers it."""
        return self.store, self.config.rollout, 0.0

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """As many gradient steps of both levels as are due."""
        length = (steps - self._steps) // self.store.num_envs
        self._steps, self.warm = steps, steps >= self.config.warmup and len(self.store) > self.config.period
        info: dict[str, float] = {}
        if isinstance(self.low_learner, BoxPPO) and not self.config.frozen:
            learnt = self.low_learner.update(self.low_rollout(observed, length), 1 - steps / self.total_steps)
            info = {f"low/{name}": value for name, value in learnt.items()}
        if not self.warm:
            return info
        new = length * self.store.num_envs
        self._owed[1] += 0.0 if self.config.planned else self.config.high_updates * new
        low: dict[str, Tensor] = {}
        high: dict[str, Tensor] = {}
        winners: Counter[str] = Counter()
        if not isinstance(self.low_learner, BoxPPO):
            self._owed[0] += 0.0 if self.config.frozen else self.config.low_updates * new
            while self._owed[0] >= 1:
                low |= self.low_learner.update(self.low_batch())
                self._owed[0] -= 1
        while self._owed[1] >= 1:
            high |= self.high_learner.update(self.high_batch(winners))
            self._owed[1] -= 1
        info |= {f"low/{name}": float(value) for name, value in low.items()}
        info |= {f"high/{name}": float(value) for name, value in high.items()}
        kinds = CANDIDATES if self.config.planned_candidate else CANDIDATES[:-1]
        info |= {f"high/relabelled_{kind}": winners[kind] / winners.total() for kind in kinds if winners}
        return info | self._progress() | {"high/prior": self.prior}

    def low_batch(self) -> Transitions:
        """Steps under the goals that were in force, paid by what is left of the way."""
        config = self.config.low
        assert not isinstance(config, PPOConfig)
        newest = self.config.low_capacity // self.store.num_envs
        steps = draw_steps(self.store, self.rng, config.batch, newest)
        inputs, reward, after = self._paid(steps)
        discount = to_tensor(np.where(steps.terminated, 0.0, config.gamma).astype(np.float32))
        return Transitions(inputs, to_tensor(steps.action), reward, after, discount)

    def low_rollout(self, observed: Observations, length: int) -> PolicyBatch:
        """The newest steps as PPO reads them; where a goal is over, what it would still have been worth counts."""
        steps = newest_steps(self.store, length, observed.obs)
        inputs, reward, after = self._paid(steps)
        assert isinstance(self.low_learner, BoxPPO)
        action, log_prob = to_tensor(steps.action), to_tensor(steps.behaviour_logprob)
        return self.low_learner.rollout(
            inputs, after, action, log_prob, reward, terminated=steps.terminated, cut=steps.switched
        )

    def _paid(self, steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
        """Steps as the low level lives them: what it saw, -||s + g - s'||, and what it saw next."""
        obs, next_obs, goal = (to_tensor(column) for column in (steps.obs, steps.next_obs, steps.goal))
        reward = self.config.low_reward * self.frame.reward(goal, obs, next_obs)
        return self.low_inputs(obs, goal), reward, self.low_inputs(next_obs, self.frame.moved(goal, obs, next_obs))

    def high_batch(self, winners: Counter[str] | None = None) -> Transitions:
        """Segments as transitions of the high level, each with the goal that explains it best.

        The prior is asked at the segment's own first state; it never sees a relabelled goal.
        """
        config = self.config.high
        parts = draw_segments(self.store, self.rng, config.batch, self.config.period)
        first = parts.obs[:, 0]
        goal = self._relabelled(parts, winners) if self.config.relabel else to_tensor(parts.goal)
        weight = self.config.prior_weight * self.prior
        planned = to_tensor(self.planner(first)) if self.planner and weight > 0 else None
        return Transitions(
            to_tensor(self.encoder(first).parts[0]),
            goal / self._reach,
            to_tensor(np.float32(self.config.high_reward) * parts.reward.sum(1)),
            to_tensor(self.encoder(parts.final).parts[0]),
            to_tensor(np.where(parts.terminated, 0.0, config.gamma).astype(np.float32)),
            planned,
            weight,
            self.config.value_filter,
        )

    def graduate(self) -> dict[str, float]:
        """Nobody was taught."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Learners, memory and random states, for an exact resume."""
        return {
            "low": self.low_learner.state_dict(),
            "high": self.high_learner.state_dict(),
            "store": self.store.state_dict(),
            "rng": self.rng.bit_generator.state,
            "generator": self.generator.get_state(),
            "steps": self._steps,
            "owed": self._owed,
            "warm": self.warm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.load_policy(state)
        self.store.load_state_dict(state["store"])
        self.rng.bit_generator.state = state["rng"]
        self.generator.set_state(state["generator"])
        self._owed = list(state["owed"])

    def take_low_level(self, state: dict[str, Any]) -> None:
        """The low level of another run, from what its `state_dict` gave. Raises `UserError` if it acts otherwise."""
        try:
            self.low_learner.load_state_dict(state["low"])
        except (KeyError, RuntimeError, ValueError) as error:
            again = f"--low-level RUN, of train --method hiro --task {self.task.name}"
            raise UserError(f"That low level sees or does something else than {self.task.name} has.", again) from error

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore the learners alone, to play."""
        self.low_learner.load_state_dict(state["low"])
        self.high_learner.load_state_dict(state["high"])
        self._steps, self.warm = state["steps"], state["warm"]

    def _progress(self) -> dict[str, float]:
        """What is left of the way when a goal ends, of late: the mean, and the share that was reached."""
        rng, late = np.random.default_rng(self.store.total), 20 * self.config.period
        parts = draw_segments(self.store, rng, 64, self.config.period, late)
        goal, first, final = (to_tensor(column) for column in (parts.goal, parts.obs[:, 0], parts.final))
        left = -self.frame.reward(goal, first, final)
        return {
            "low/goal_distance": float(left.mean()),
            "low/goal_reached": float((left < 0.25 * self._reach.norm()).float().mean()),
        }

    @torch.no_grad()
    def _relabelled(self, parts: Segments, winners: Counter[str] | None) -> Tensor:
        obs, final, goal = to_tensor(parts.obs), to_tensor(parts.final), to_tensor(parts.goal)
        planned = None
        if self.planner and self.config.planned_candidate:
            planned = to_tensor(self.planner(parts.obs[:, 0])) * self._reach
        goals = candidates(self.frame, goal, obs[:, 0], final, self.config.draws, self.generator, planned)

        def score(seen: Tensor, wanted: Tensor, action: Tensor) -> Tensor:
            return self.low_learner.score(self.low_inputs(seen, wanted), action, self.config.by_distance)

        inside = to_tensor(parts.inside)
        best, which = relabelled(goals, explained(self.frame, score, goals, obs, to_tensor(parts.action), inside))
        if winners is not None:
            kinds = (*CANDIDATES[:2], *CANDIDATES[2:3] * self.config.draws, *CANDIDATES[3:])
            winners.update(kinds[index] for index in which.tolist())
        return best


def _low_learner(inputs: int, actions: int, config: SACConfig | TD3Config | PPOConfig, seed: int) -> Learner | BoxPPO:
    if isinstance(config, PPOConfig):
        return BoxPPO(inputs, actions, config, seed)
    return make_learner(inputs, actions, config, seed)

"""HALO: a hierarchical policy from demonstrations of which a few steps are labelled with the option that drove them.

    z_t ~ pi_H(. | s_t, z_{t-1});  a_t ~ pi_L(. | s_t, z_t)

Both are fitted by soft EM, from scratch after each round of answers; the posterior says where the next answers help
most (Orlov Savko and Unhelkar's HALO, with an exact posterior in place of its approximations).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock
from preceptor.agent.computed import Computed
from preceptor.agent.data.recording import Recording
from preceptor.agent.distributions import Categorical, ClippedNormal, Distribution
from preceptor.agent.halo.acquisition import RULES, AskingContext, select
from preceptor.agent.halo.computing import LevelNetwork
from preceptor.agent.halo.config import HaloConfig, PolicyKind
from preceptor.agent.halo.em import Fit, fit
from preceptor.agent.halo.ledger import Ledger, Question
from preceptor.agent.halo.policies import NeuralPolicies, Policies, TabularPolicies
from preceptor.agent.halo.posterior import Answers, Bools, Floats, Ints, infer
from preceptor.agent.levels import Observations, Player
from preceptor.controller.encoders import NUM_TOKENS, GridEncoder
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError


@dataclass(frozen=True)
class States:
    """What policies see of observations: a number where states can be counted, features where not.

    States can be counted where the task says how: `num_cells`, and `cells(obs)`, the cell [N] of each observation.

    Attributes:
        counted: Whether a state is a number below `size`, or that many features.
        size: S, or D.
        columns: Which numbers are kept, int64 [C]: those that vary in the demonstrations.
        codes: Fact codes that occur in them, int64 [F], as one-hot features beside these; none where the task shows
            HALO a part of its observations alone (`halo_view`).
    """

    task: Task
    counted: bool
    size: int
    columns: Ints
    codes: Ints

    @staticmethod
    def of(task: Task, recording: Recording, policies: PolicyKind) -> "States":
        """States for demonstrations of a task; a feature that is constant in them tells nothing, and is left out.

        Raises:
            UserError: Tables are asked for where states cannot be counted.
        """
        cells = getattr(task, "num_cells", 0)
        if cells and policies != "neural":
            return States(task, True, cells, *np.zeros((2, 0), np.int64))
        if policies == "tabular":
            raise UserError(f"The states of {task.name} cannot be counted.", "--policies neural")
        obs = recording.obs[recording.inside]
        numbers = _numbers(task, obs)
        columns = np.flatnonzero(numbers.min(0) < numbers.max(0))
        codes = np.unique(task.fact_codes(obs))[: 0 if hasattr(task, "halo_view") else None]
        return States(task, False, len(columns) + len(codes), columns, codes)

    def __call__(self, obs: NDArray) -> NDArray:
        """States of observations [..., *shape]: int64 [...], or float32 [..., D]."""
        lead = obs.shape[: obs.ndim - len(self.task.observation_shape)]
        flat = obs.reshape(-1, *self.task.observation_shape)
        if self.counted:
            return self.task.cells(flat).reshape(lead)  # type: ignore[attr-defined,no-any-return]
        features = _numbers(self.task, flat)[:, self.columns]
        if len(self.codes):
            # What a teacher would read, as the network's own input: options follow from it, actions from the rest.
            facts = self.task.fact_codes(flat)[:, None] == self.codes
            features = np.concatenate([features, facts.astype(np.float32)], 1)
        return features.reshape(*lead, self.size)


def _numbers(task: Task, obs: NDArray) -> NDArray[np.float32]:
    """Numbers of order one [N, D] from observations [N, ...]: a map's cells around the agent, or a scaled vector."""
    if len(task.observation_shape) == 3:
        tokens = GridEncoder(task.observation_shape)(obs).parts[0]
        return np.eye(NUM_TOKENS, dtype=np.float32)[tokens].reshape(len(obs), -1)
    kept = np.array(getattr(task, "halo_view", range(task.observation_shape[0])))
    return (obs[:, kept] / np.array(task.observation_scale, np.float32)[kept]).astype(np.float32)


class Halo:
    """Learns options from demonstrations and answers, and chooses questions.

    Args:
        task: What was demonstrated.
        recording: Demonstrations that may be asked about.
        config: Hyper-parameters.
        seed: Draws restarts, questions and minibatches; each round by itself, so that a run can be resumed anywhere.
        confusion: What is believed of annotators at first, [W, K, K]; None where their labels are exact.
        again: Whether a step may be asked about more than once.

    Attributes:
        demos: The recording with states for observations, as inference reads it.
    """

    def __init__(
        self,
        task: Task,
        recording: Recording,
        config: HaloConfig,
        seed: int,
        confusion: Floats | None = None,
        again: bool = False,
    ) -> None:
        self.task, self.recording, self.config, self.seed = task, recording, config, seed
        self.confusion, self.again = confusion, again
        self.states = States.of(task, recording, config.policies)
        self.demos = replace(recording, obs=self.states(recording.obs))

    def learn(self, answers: Answers, round_: int, on_step: Callable[[], None] = lambda: None) -> Fit:
        """Policies and posterior given answers; `on_step` as `fit` has it.

        Raises:
            UserError: Exact labels contradict each other.
        """
        policies = fresh_policies(self.task, self.states, self.config, self.config.restarts, [self.seed, round_])
        return fit(self.demos, answers, policies, self.config.em, self.confusion, on_step)

    def choose(self, found: Fit, ledger: Ledger, budget: int, round_: int, rounds: int | None = None) -> list[Question]:
        """The questions of a round, as many as a batch and the budget allow; none if there is nothing left to ask.

        The rule knows the answers of all rounds, or of the first ones and where else was asked.
        """
        context = AskingContext(
            gamma=found.posterior.gamma,
            lengths=self.recording.lengths,
            allowed=self.recording.acted,
            asked=ledger.times_asked(rounds),
            label=ledger.labels(rounds),
            best=found.best,
            confusion=None if found.confusion is None else found.confusion[found.best].mean(0),
            again=self.again,
        )
        rng = np.random.default_rng([self.seed, round_, 1])
        chosen = select(RULES[self.config.rule], context, min(self.config.batch, budget), rng)
        return [Question(int(n), int(t), int(context.asked[n, t])) for n, t in chosen]

    def student(self, found: Fit) -> dict[str, Any]:
        """The likeliest policies as a tree, for `restored_player`."""
        states = {name: value for name, value in vars(self.states).items() if name != "task"}
        policies = {name: values[[found.best]] for name, values in found.policies.state_dict().items()}
        return {"states": states, "policies": policies}

    def held_out_error(self, found: Fit, recording: Recording) -> float:
        """Wrong share of the steps of other demonstrations, of which nothing but observations and actions is known."""
        demos = replace(recording, obs=self.states(recording.obs))
        gamma = infer(found.policies.chain(demos)).gamma[found.best]
        return wrong_share(gamma, recording, recording.acted)


def fresh_policies(task: Task, states: States, config: HaloConfig, restarts: int, seed: list[int]) -> Policies:
    """Policies before learning."""
    options, actions = len(task.options), task.num_actions
    rng = np.random.default_rng(seed)
    if states.counted:
        return TabularPolicies(states.size, options, actions, restarts, config.tabular, rng)
    drawn = int(rng.integers(2**31))
    return NeuralPolicies(states.size, options, actions, task.continuous, restarts, config.neural, drawn)


def wrong_share(gamma: Floats, recording: Recording, where: Bools) -> float:
    """Share of the steps in `where` [N, T] whose likeliest option is not the true one; 0 where there are none."""
    return float((gamma.argmax(-1) != recording.option)[where].mean()) if where.any() else 0.0


class HaloLevels:
    """pi_H and pi_L at play: both levels of a player."""

    def __init__(self, states: States, policies: Policies) -> None:
        self._states = lru_cache(maxsize=1)(lambda observed: states(observed.obs))  # both levels see the same
        self._spec = states
        self._policies = policies

    def choose(self, observed: Observations, running: Ints) -> tuple[Bools, Categorical]:
        """Always due [N]: the switch is part of the choice; distribution over options [N, K], given the one before."""
        probs = self._policies.choosing(self._states(observed), running)
        return np.ones(len(running), np.bool_), Categorical(probs.astype(np.float32))

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """Distribution over actions under the running option."""
        return self._policies.acting(self._states(observed), clock.option)

    def high_computed(self) -> Computed:
        """What is computed of what is seen, and of the option before."""
        network = LevelNetwork(self._spec, self._policies)
        return Computed(network, Categorical, network.next_option, network.inputs, ends="always")

    def low_computed(self) -> Computed:
        """What is computed of what is seen, and of the running option."""
        network = LevelNetwork(self._spec, self._policies)
        kind = ClippedNormal if self._spec.task.continuous else Categorical
        return Computed(network, kind, network.action, network.inputs)


def restored_player(task: Task, config: HaloConfig, tree: dict[str, Any]) -> Player:
    """The player that `Halo.student` described; the high level chooses anew at every step."""
    states = States(task, **tree["states"])
    policies = fresh_policies(task, states, config, 1, [0])
    policies.load_state_dict(tree["policies"])
    levels = HaloLevels(states, policies)
    return Player(levels, levels, np.full(len(task.options), np.iinfo(np.int64).max))

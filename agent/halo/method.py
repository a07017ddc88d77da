"""HALO: a hierarchical policy from demonstrations of which a few steps are labelled with the option that drove them.

    z_t ~ pi_H(. | s_t, z_{t-1});  a_t ~ pi_L(. | s_t, z_t)

Both are fitted by soft EM (`agent/halo`), from scratch after each round of answers; the posterior says where the
next answers help most (Orlov Savko & Unhelkar; shared/reference/halo.md has the equations, and what is not followed).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.continuous import ClippedNormal
from agent.core import Categorical, Clock, Distribution, Observations, Player
from agent.data.recording import Recording
from agent.halo.acquisition import AskingContext, get_rule
from agent.halo.chain import Answers, Floats
from agent.halo.config import HaloConfig
from agent.halo.demonstrations import Demonstrations
from agent.halo.em import Fit, fit
from agent.halo.ledger import Ledger, Question
from agent.halo.neural import NeuralPolicies
from agent.halo.posterior import infer
from agent.halo.selection import select
from agent.halo.states import States
from agent.halo.tabular import TabularPolicies
from envs.task import Task

Policies = TabularPolicies | NeuralPolicies


class Halo:
    """Learns options from demonstrations and answers, and chooses questions.

    Args:
        task: What was demonstrated.
        recording: Demonstrations that may be asked about.
        config: Hyper-parameters.
        seed: Draws restarts, questions and minibatches; each round by itself, so that a run can be taken up anywhere.
        confusion: What is believed of annotators at first, [W, K, K]; None where their labels are law.
        again: Whether a step may be asked about more than once.
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
        self.demos = self.demonstrations(recording)

    def demonstrations(self, recording: Recording) -> Demonstrations:
        """Recorded episodes as inference reads them."""
        return Demonstrations(self.states(recording.obs), recording.action, recording.acted, recording.lengths)

    def learn(self, answers: Answers, round_: int, on_step: Callable[[], None] = lambda: None) -> Fit:
        """Policies and posterior given answers; `on_step` as `fit` has it.

        Raises:
            UserError: Labels that are law contradict each other.
        """
        policies = fresh_policies(self.task, self.states, self.config, self.config.restarts, [self.seed, round_])
        return fit(self.demos, answers, policies, self.config.em, self.confusion, on_step)

    def situation(self, found: Fit, ledger: Ledger, rounds: int | None = None) -> AskingContext:
        """What rules may look at: the answers of all rounds, or of the first ones and where else was asked."""
        posterior = found.posterior
        assert posterior.xi is not None, "fit computes pairs"
        learnt = None if found.confusion is None else found.confusion[found.best]  # [W, K, K]
        return AskingContext(
            gamma=posterior.gamma,
            xi=posterior.xi,
            lengths=self.recording.lengths,
            allowed=self.recording.acted,
            asked=ledger.times_asked(rounds),
            label=ledger.labels(rounds),
            best=found.best,
            confusion=None if learnt is None else learnt.mean(0),
            again=self.again and learnt is not None,
        )

    def questions(self, situation: AskingContext, budget: int, round_: int) -> list[Question]:
        """The next questions, no more than the budget; none if there is nothing left to ask."""
        rng = np.random.default_rng([self.seed, round_, 1])
        batch = min(self.config.batch, budget)
        chosen = select(get_rule(self.config.rule), situation, budget, batch, rng)
        return [Question(int(n), int(t), int(situation.asked[n, t])) for n, t in chosen]

    def student(self, found: Fit) -> dict[str, Any]:
        """The likeliest policies as a tree, for `restored_player`."""
        policies = found.policies
        assert isinstance(policies, TabularPolicies | NeuralPolicies)
        kept = {"counted": self.states.counted, "size": self.states.size, "columns": self.states.columns}
        kept["codes"] = self.states.codes
        return {"states": kept, "policies": policies.only(found.best).state_dict()}

    def held_out_error(self, found: Fit, recording: Recording) -> float:
        """Wrong share of the steps of other demonstrations, of which nothing but observations and actions is known."""
        demos = self.demonstrations(recording)
        gamma = infer(found.policies.chain(demos), pairs=False).gamma[found.best]
        return wrong_share(gamma, recording, recording.acted)


def fresh_policies(task: Task, states: States, config: HaloConfig, restarts: int, seed: list[int]) -> Policies:
    """Policies before learning."""
    options, actions = len(task.options), task.num_actions
    rng = np.random.default_rng(seed)
    if states.counted:
        return TabularPolicies(states.size, options, actions, restarts, config.tabular, rng)
    drawn = int(rng.integers(2**31))
    return NeuralPolicies(states.size, options, actions, task.continuous, restarts, config.neural, drawn)


def wrong_share(gamma: Floats, recording: Recording, where: NDArray[np.bool_]) -> float:
    """Share of the steps in `where` [N, T] whose likeliest option is not the true one; 0 where there are none."""
    return float((gamma.argmax(-1) != recording.option)[where].mean()) if where.any() else 0.0


class OptionHigh:
    """pi_H at play: which option goes on, or follows, given the one before."""

    def __init__(self, states: States, policies: Policies) -> None:
        self._states, self._policies = states, policies

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Categorical]:
        """Always due [N]: the switch is part of the choice; distribution over options [N, K]."""
        initial, high = self._policies.choosing(self._states(observed.obs))  # [N, K], [N, K, K]
        rows = np.arange(len(running))
        probs = np.where((running < 0)[:, None], initial, high[rows, np.maximum(running, 0)])
        return np.ones(len(running), np.bool_), Categorical(probs.astype(np.float32))


class OptionLow:
    """pi_L at play."""

    def __init__(self, states: States, policies: Policies) -> None:
        self._states, self._policies = states, policies

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """Distribution over actions under the running option."""
        acting = self._policies.acting(self._states(observed.obs), clock.option)
        if isinstance(acting, tuple):
            mean, deviation = acting
            return ClippedNormal(mean, deviation)
        return Categorical(acting.astype(np.float32))


def restored_player(task: Task, config: HaloConfig, tree: dict[str, Any]) -> Player:
    """The player that `Halo.student` described; the high level chooses anew at every step."""
    states = States(task, **tree["states"])
    policies = fresh_policies(task, states, config, 1, [0])
    policies.load_state_dict(tree["policies"])
    forever = np.full(len(task.options), np.iinfo(np.int64).max)
    return Player(OptionHigh(states, policies), OptionLow(states, policies), forever)

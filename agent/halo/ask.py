"""HALO's phase: learn, ask where it helps, learn again, until the budget is spent; and HALO as a method."""

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from agent.config import TrainConfig
from agent.data.demonstrations import demonstrations_of
from agent.data.recording import Recording
from agent.demonstrating import expert_return
from agent.halo.acquisition import expected_error, questions
from agent.halo.config import PRESETS, HaloConfig
from agent.halo.em import Fit
from agent.halo.handover import distil
from agent.halo.ledger import FILE, Ledger, Question
from agent.halo.method import Halo, restored_player, wrong_share
from agent.halo.oracles import Belief, LabellerOracle, Oracle, at_first, make_oracle
from agent.hierarchy import Hierarchy, Player
from agent.methods.protocol import Entry, Given, Method, Parts, Preset
from agent.phases import Advance, Phase
from agent.runs.run import Run
from agent.teaching import Annotator
from controller.checkpoint import save_controller
from envs.task import Task
from ground.errors import UserError


class Waiting(UserError):
    """Questions are open, and the annotator has stopped."""


class Ask(Phase):
    """The phase, from where its ledger stands to its end; the x-axis counts answers.

    What a round does depends on the seed and on the answers of the rounds before it alone: a run that was killed reads
    its ledger, and goes on as if nothing had happened.

    Args:
        config: The run's settings.
        task: What was demonstrated.
        training: Demonstrations that may be asked about.
        held_out: Others, on which the posterior is judged.
        oracle: Answers.
        run: Where everything is kept.

    Attributes:
        found: What was learned last, or None.
        on_step: Called now and then while it learns; what it raises ends the learning.
    """

    saves_each_round = True

    def __init__(
        self, config: TrainConfig, task: Task, training: Recording, held_out: Recording, oracle: Oracle, run: Run
    ) -> None:
        self.config, self.task, self.oracle, self.run = config, task, oracle, run
        self.settings: HaloConfig = config.settings
        self.training, self.held_out = training, held_out
        self.ledger = Ledger(run.path / FILE, task, training)
        self.budget = questions(self.settings.budget, int(training.acted.sum()))
        model = self.settings.annotator_model
        learned = oracle.fallible if model == "auto" else model == "learned"
        confusion = at_first(oracle, len(task.options)) if learned else None
        self.halo = Halo(task, training, self.settings, config.seed, confusion, again=learned and oracle.varies)
        self.truth_known = bool((training.option[training.acted] >= 0).all())
        self.seconds = 0.0
        self.found: Fit | None = None
        self.on_step: Callable[[], None] = lambda: None
        self._learned: tuple[int, Fit] | None = None
        self._done = bool(run.results()) and run.last_step == self.ledger.asked >= self.budget

    @property
    def basis(self) -> int:
        """How many rounds the choice of the next one rests on: all before it, but for those that are asked ahead."""
        return max(0, len(self.ledger.rounds) - self.settings.ahead)

    def over(self, steps: int, total: int) -> bool:
        """Whether the budget is spent, nothing is left to ask, or few errors are expected."""
        return self._done

    def advance(self, hierarchy: Hierarchy | None, steps: int, total: int) -> Advance:
        """Ask, hear and learn until there is something new to log: once for each number of answers.

        Raises:
            Waiting: The annotator has stopped; everything said so far is in the ledger.
        """
        while True:
            if self.ledger.complete_rounds >= self.basis:
                found = self.learn(self.basis)
                if (news := self.news(found, self.basis)) is not None:
                    return news
                if chosen := self.choose(found):
                    self.ledger.ask(chosen)
                    continue
            if not self.ledger.open:
                self._done, rounds = True, len(self.ledger.rounds)
                return self.news(self.learn(rounds), rounds) or Advance(self.ledger.asked, {})
            self._hear(self.learn(self.ledger.complete_rounds))

    def news(self, found: Fit, rounds: int) -> Advance | None:
        """What the answers of the first rounds have taught, if it was not told before."""
        self.found, answered = found, self.ledger.asked_in(rounds)
        if answered <= (-1 if self.run.last_step is None else self.run.last_step):
            return None
        numbers = self._errors(found, rounds) | {
            "queries": answered,
            "cost": self.oracle.cost_before + self.ledger.cost_of(rounds),
            "expected_error": expected_error(found.posterior.gamma, self.training.acted),
            "log_likelihood": float(found.posterior.log_z[found.best].sum()),
        }
        tagged = {f"halo/{name}": value for name, value in numbers.items()}
        return Advance(answered, tagged | {"time/learning": self.seconds})

    def end(self) -> dict[str, float]:
        """Distil a controller from the posterior, and sum up."""
        found = self.found or self.learn(len(self.ledger.rounds))
        self.result = self._sum_up(found)
        taught = {"name": self.settings.oracle, "queries": self.result["queries"], "calls": round(self.result["cost"])}
        facts = {"steps": self.result["steps"], "seed": self.config.seed, "teacher": taught}
        save_controller(self.run.controller, distil(self.task, self.training, found.gamma, self.config.seed, facts))
        if self.config.eval_episodes:
            self.result["expert_return"] = expert_return(self.task, self.config.eval_episodes, self.config.seed)
        return {}

    def learn(self, rounds: int) -> Fit:
        """Policies and posterior given the answers of the first rounds. Raises `UserError` if those cannot be."""
        if self._learned is None or self._learned[0] != rounds:
            started = time.perf_counter()
            answers = self.ledger.evidence(self.oracle.annotators, rounds)
            self._learned = rounds, self.halo.learn(answers, rounds, self.on_step)
            self.seconds += time.perf_counter() - started
        return self._learned[1]

    def choose(self, found: Fit) -> list[Question]:
        """The questions of the next round; none if the budget is spent, or what is left is not worth asking."""
        context, stop = self.halo.context(found, self.ledger, self.basis), self.settings.stop_error
        left = self.budget - self.ledger.asked_in()
        if left <= 0 or (stop is not None and expected_error(context.gamma, context.allowed) <= stop):
            return []
        return self.halo.questions(context, left, len(self.ledger.rounds))

    def as_it_stands(self) -> "Ask":
        """The same with the ledger as it is now, whatever is answered meanwhile; it has learned nothing yet."""
        still = copy.copy(self)
        still.ledger, still._learned = self.ledger.as_it_stands(), None
        return still

    def student(self) -> dict[str, Any]:
        """The likeliest policies learned so far, as a tree."""
        return self.halo.student(self.found or self.learn(self.ledger.complete_rounds))

    def _sum_up(self, found: Fit) -> dict[str, Any]:
        """What was asked, and what it came to on the demonstrations."""
        result: dict[str, Any] = {
            "teacher": self.settings.oracle,
            "steps": int(self.training.acted.sum() + self.held_out.acted.sum()),
            **self._errors(found, len(self.ledger.rounds)),
            "queries": self.ledger.asked,
            "abstained": sum(not answer.report for answer in self.ledger.answers),
            "cost": self.oracle.cost_before + self.ledger.cost,
            "demonstrations": len(self.training),
            "rule": self.settings.rule,
        }
        if found.confusion is not None:
            right = np.diagonal(found.confusion[found.best], axis1=1, axis2=2).mean(1)
            result["annotators"] = dict(zip(self.oracle.annotators, right.round(4).tolist(), strict=True))
        oracle = self.oracle
        if isinstance(oracle, LabellerOracle) and oracle.annotators == ("controller",) and self.truth_known:
            wrong = oracle.everywhere() != self.training.option
            result["labelling_everything_error"] = float(wrong[self.training.acted].mean())
        return result

    def _hear(self, found: Fit) -> None:
        """Put the answers to the questions of a round into the ledger, each before it counts."""
        due = self.ledger.due
        at = ([question.trajectory for question in due], [question.step for question in due])
        exact = np.tile(np.eye(len(self.task.options)), (len(self.oracle.annotators), 1, 1))
        confusion = exact if found.confusion is None else found.confusion[found.best]
        for answer in self.oracle.ask(due, Belief(found.posterior.gamma.mean(0)[at], confusion)):
            self.ledger.answer(answer)
        if set(due) & set(self.ledger.open):
            again = f"python main.py train --method halo --task {self.task.name} --savedir {self.config.savedir}"
            page = f"python main.py label --task {self.task.name} --savedir {self.config.savedir}"
            raise Waiting(
                f"{len(self.ledger.open)} questions wait for an answer; {self.ledger.asked} of {self.budget} are "
                f"answered and kept in {self.ledger.path}.",
                f"{page}  # or {again} --resume, with its other flags, once they are answered",
            )

    def _errors(self, found: Fit, rounds: int) -> dict[str, float]:
        """Wrong share of the steps that were not asked about, and of those of held-out demonstrations."""
        if not self.truth_known:
            return {}
        unasked = self.training.acted & (self.ledger.times_asked(rounds) == 0)
        errors = {"option_error": wrong_share(found.gamma, self.training, unasked)}
        if len(self.held_out):
            errors["option_error_heldout"] = self.halo.held_out_error(found, self.held_out)
        return errors


class Asking(Method):
    """HALO as a method: one phase, `Ask`, and the likeliest policies as the player.

    Args:
        parts: Task, settings, run, and who may answer.
        ask: The phase, where it is there already.

    Raises:
        UserError: There are too few demonstrations, they are not of this task, or an oracle is missing.
    """

    def __init__(self, parts: Parts, ask: Ask | None = None) -> None:
        self.task, self.settings = parts.task, parts.settings
        self._tree: dict[str, Any] | None = None
        self.ask = ask
        if parts.run is not None:
            config, run = parts.config, parts.run
            training, held_out = demonstrations_of(self.settings.demos, parts.task, config.seed, run)
            oracle = make_oracle(
                self.settings.oracles,
                training,
                len(parts.task.options),
                controller=parts.controller,
                annotator=parts.labeller if isinstance(parts.labeller, Annotator) else None,
                noise=config.teacher.label_noise,
                seed=config.seed,
            )
            self.ask = Ask(config, parts.task, training, held_out, oracle, run)
        self.phases = (self.ask,) if self.ask else ()

    @staticmethod
    def of(ask: Ask) -> "Asking":
        """The method whose phase is there already."""
        return Asking(Parts(ask.task, ask.config, np.random.SeedSequence(0)), ask)

    @property
    def player(self) -> Player:  # type: ignore[override]  # made anew of what was learned last
        """The likeliest policies learned so far."""
        return restored_player(self.task, self.settings, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The policies; what was asked and answered is in the ledger, and all else follows from that."""
        if self.ask is not None:
            return self.ask.student()
        assert self._tree is not None, "there is nothing to play before a checkpoint is loaded"
        return self._tree

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: the ledger holds it."""

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore the policies, to play."""
        self._tree = state


def preset(given: Given) -> Preset:
    """Settings of HALO for a task."""
    return Preset(0, 1, PRESETS[given.size])


HALO = Entry((HaloConfig,), preset, Asking, plays=False, takes_controller=True, controller_teaches=False)

"""HALO as a method of one phase: learn, ask where it helps, learn again, until the budget is spent."""

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from preceptor.agent.demonstrating import demonstrations_of, expert_return
from preceptor.agent.halo.acquisition import expected_error, information, questions
from preceptor.agent.halo.config import PRESETS, HaloConfig
from preceptor.agent.halo.em import Fit
from preceptor.agent.halo.handover import distil
from preceptor.agent.halo.ledger import FILE, Ledger, Question
from preceptor.agent.halo.method import Halo, restored_player, wrong_share
from preceptor.agent.halo.oracles import LabellerOracle, make_oracle
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Player
from preceptor.agent.methods.protocol import Entry, Given, Method, Parts, Preset
from preceptor.agent.phases import Advance, Phase
from preceptor.agent.teaching import Annotator
from preceptor.controller.checkpoint import save_controller
from preceptor.ground.errors import UserError


class Ask(Method, Phase):
    """The method and its phase, from where its ledger stands to its end; the x-axis counts answers.

    What a round does depends on the seed and on the answers of the rounds before it alone: a run that was killed reads
    its ledger, and goes on as if nothing had happened.

    Args:
        parts: Task, settings, run, and who may answer; without a run, policies are only restored and played.

    Attributes:
        training: Demonstrations that may be asked about.
        held_out: Others, on which the posterior is judged.
        oracle: Answers.
        on_step: Called now and then while it learns; what it raises ends the learning.

    Raises:
        UserError: There are too few demonstrations, they are not of this task, or an annotator is missing.
    """

    saves_each_round = True

    def __init__(self, parts: Parts) -> None:
        self.config, self.task = parts.config, parts.task
        self.settings: HaloConfig = parts.settings
        self._tree: dict[str, Any] | None = None  # of policies that are only played
        if parts.run is None:
            return
        seed, options = parts.config.seed, len(parts.task.options)
        self.run, self.phases = parts.run, (self,)
        self.training, self.held_out = demonstrations_of(self.settings.demos, parts.task, seed, parts.run)
        self.oracle = oracle = make_oracle(
            self.settings.oracles,
            self.training,
            options,
            controller=parts.controller,
            annotator=parts.labeller if isinstance(parts.labeller, Annotator) else None,
            noise=parts.config.teacher.label_noise,
            seed=seed,
        )
        self.ledger = Ledger(self.run.path / FILE, parts.task, self.training)
        if self.ledger.repeated and parts.log is not None:
            parts.log.warn(f"{self.ledger.path}: {self.ledger.repeated} lines repeat what stands, and count once")
        self.budget = questions(self.settings.budget, int(self.training.acted.sum()))
        model = self.settings.annotator_model
        learned = oracle.fallible if model == "auto" else model == "learned"
        confusion, again = oracle.at_first(options) if learned else None, learned and oracle.varies
        self.halo = Halo(parts.task, self.training, self.settings, seed, confusion, again)
        self.truth_known = bool((self.training.option[self.training.acted] >= 0).all())
        self.seconds = 0.0
        self.on_step: Callable[[], None] = lambda: None
        self._learned: tuple[int, Fit] | None = None
        self._done = bool(self.run.results()) and self.run.last_step == self.ledger.asked >= self.budget

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
            UserError: The annotator has stopped; everything said so far is in the ledger.
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
        answered = self.ledger.asked_in(rounds)
        if answered <= (-1 if self.run.last_step is None else self.run.last_step):
            return None
        numbers = self._errors(found, rounds) | {
            "queries": answered,
            "cost": self.oracle.cost_before + self.ledger.cost(rounds),
            "expected_error": expected_error(found.posterior.gamma, self.training.acted),
            "log_likelihood": float(found.posterior.log_z[found.best].sum()),
        }
        tagged = {f"halo/{name}": value for name, value in numbers.items()}
        return Advance(answered, tagged | {"time/learning": self.seconds})

    def end(self) -> dict[str, float]:
        """Distil a controller from the posterior, and sum up."""
        found = self.learn(len(self.ledger.rounds))
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
        left, stop = self.budget - self.ledger.asked_in(), self.settings.stop_error
        if left <= 0 or (stop is not None and expected_error(found.posterior.gamma, self.training.acted) <= stop):
            return []
        return self.halo.choose(found, self.ledger, left, len(self.ledger.rounds), self.basis)

    def as_it_stands(self) -> "Ask":
        """The same with the ledger as it is now, whatever is answered meanwhile; it has learned nothing yet."""
        still = copy.copy(self)
        still.ledger, still.phases, still._learned = self.ledger.as_it_stands(), (still,), None
        return still

    @property
    def player(self) -> Player:  # type: ignore[override]  # made anew of what was learned last
        """The likeliest policies learned so far."""
        return restored_player(self.task, self.settings, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The likeliest policies; what was asked and answered is in the ledger, and all else follows from that."""
        if self._tree is not None:
            return self._tree
        return self.halo.student(self._learned[1] if self._learned else self.learn(self.ledger.complete_rounds))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: the ledger holds it."""

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore the policies, to play."""
        self._tree = state

    def _sum_up(self, found: Fit) -> dict[str, Any]:
        """What was asked, and what it came to on the demonstrations."""
        result: dict[str, Any] = {
            "teacher": self.settings.oracle,
            "steps": int(self.training.acted.sum() + self.held_out.acted.sum()),
            **self._errors(found, len(self.ledger.rounds)),
            "queries": self.ledger.asked,
            "abstained": sum(not answer.report for answer in self.ledger.answers),
            "cost": self.oracle.cost_before + self.ledger.cost(),
            "demonstrations": len(self.training),
            "rule": self.settings.rule,
        }
        if found.confusion is not None:
            right = np.diagonal(found.confusion[found.best], axis1=1, axis2=2).mean(1)
            result["annotators"] = dict(zip(self.oracle.annotators, right.round(4).tolist(), strict=True))
        first = self.oracle.members[0]
        if isinstance(first, LabellerOracle) and self.oracle.annotators == ("controller",) and self.truth_known:
            wrong = first.everywhere() != self.training.option
            result["labelling_everything_error"] = float(wrong[self.training.acted].mean())
        return result

    def _hear(self, found: Fit) -> None:
        """Put the answers to the questions of a round into the ledger, each before it counts."""
        due = self.ledger.due
        n, t, _ = np.array(due).T
        believed = found.posterior.gamma.mean(0)[n, t]  # [M, K]
        matrices = [None] * len(self.oracle.annotators) if found.confusion is None else found.confusion[found.best]
        for answer in self.oracle.ask(due, np.stack([information(believed, matrix) for matrix in matrices])):
            self.ledger.answer(answer)
        if set(due) & set(self.ledger.open):
            again = f"python main.py train --method halo --task {self.task.source} --savedir {self.config.savedir}"
            page = f"python main.py label --task {self.task.source} --savedir {self.config.savedir}"
            raise UserError(
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


def preset(given: Given) -> Preset:
    """Settings of HALO for a task."""
    return Preset(0, 1, PRESETS[given.size])


HALO = Entry(
    (HaloConfig,),
    preset,
    Ask,
    plays=lambda settings: False,
    takes_controller=True,
    controller_teaches=False,
    needs_options=True,
)

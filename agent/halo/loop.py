"""HALO's loop: learn, ask where it helps, learn again, until the budget is spent; the composition root of `halo`."""

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from agent.config import TRAINING_LEVELS, TrainConfig
from agent.data.recording import Recording
from agent.demonstrating import expert_return, record
from agent.halo.acquisition import enough
from agent.halo.em import Fit, honest_but_fallible
from agent.halo.handover import distil
from agent.halo.ledger import FILE, Ledger, Question
from agent.halo.method import Halo, restored_player, wrong_share
from agent.halo.oracles import Belief, ControllerOracle, Oracle, at_first
from agent.halo.presets import halo_settings
from agent.halo.selection import questions
from agent.players import STYLES, play, summary
from agent.runs.metrics import Metrics
from agent.runs.run import Run
from controller.checkpoint import save_controller
from envs.task import Task
from ground.errors import UserError

_HELD_OUT = 0.25  # demonstrations that nobody is asked about, for each that somebody may be asked about
DEMONSTRATIONS = "demonstrations"  # folder of a run


class Waiting(UserError):
    """Questions are open, and whoever answers them has stopped."""


class AskLoop:
    """One run from where its ledger stands to its end.

    Args:
        config: The command.
        task: What was demonstrated.
        training: Demonstrations that may be asked about.
        held_out: Others, on which the posterior is judged.
        oracle: Answers.
        run: Where everything is kept.
        log: Metrics, by the number of answers.

    Attributes:
        on_step: Called now and then while it learns; what it raises ends the learning.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        training: Recording,
        held_out: Recording,
        oracle: Oracle,
        run: Run,
        log: Metrics,
    ) -> None:
        self.config, self.task, self.oracle, self.run, self.log = config, task, oracle, run, log
        self.training, self.held_out = training, held_out
        self.ledger = Ledger(run.path / FILE, task, self.training)
        self.budget = questions(config.budget, int(self.training.acted.sum()))
        noisy = oracle.fallible if config.trust == "auto" else config.trust == "learnt"
        confusion = at_first(oracle, len(task.options)) if noisy else None
        settings = halo_settings(config)
        self.halo = Halo(task, self.training, settings, config.seed, confusion, again=noisy and oracle.forgetful)
        self.truth_known = bool((training.option[training.acted] >= 0).all())
        self.seconds = 0.0
        self.on_step: Callable[[], None] = lambda: None
        self._learnt: tuple[int, Fit] | None = None

    @property
    def basis(self) -> int:
        """How many rounds the choice of the next one rests on: all before it, but for those that are asked ahead."""
        return max(0, len(self.ledger.rounds) - self.config.ahead)

    def to_the_end(self) -> dict[str, Any]:
        """Ask until the budget is spent, nothing is left to ask, or few errors are expected; then judge.

        What a round does depends on the seed and on the answers of the rounds before it alone: a run that was killed
        reads its ledger, and goes on as if nothing had happened.

        Raises:
            Waiting: Whoever answers has stopped; everything said so far is in the ledger.
        """
        if self.run.results() and self.run.last_step == self.ledger.asked >= self.budget:
            self.log.say("this run is complete; a larger --budget would continue it")
            return self.run.results()
        while True:
            if self.ledger.complete_rounds >= self.basis:
                found = self.learn(self.basis)
                self.keep(found, self.basis)
                if chosen := self.choose(found):
                    self.ledger.ask(chosen)
                    continue
            if not self.ledger.open:
                return self.finish(self.learn(len(self.ledger.rounds)))
            self._hear(self.learn(self.ledger.complete_rounds))

    def learn(self, rounds: int) -> Fit:
        """Policies and posterior given the answers of the first rounds. Raises `UserError` if those cannot be."""
        if self._learnt is None or self._learnt[0] != rounds:
            started = time.perf_counter()
            self._learnt = (
                rounds,
                self.halo.learn(self.ledger.evidence(self.oracle.annotators, rounds), rounds, self.on_step),
            )
            self.seconds += time.perf_counter() - started
        return self._learnt[1]

    def choose(self, found: Fit) -> list[Question]:
        """The questions of the next round; none if the budget is spent, or what is left is not worth asking."""
        situation = self.halo.situation(found, self.ledger, self.basis)
        left = self.budget - self.ledger.asked_in_all
        if left <= 0 or (self.config.stop_error is not None and enough(situation, self.config.stop_error)):
            return []
        return self.halo.questions(situation, left, len(self.ledger.rounds))

    def keep(self, found: Fit, rounds: int) -> None:
        """Log and save what the answers of the first rounds have taught, once for each number of answers."""
        answered = self.ledger.asked_in(rounds)
        if answered > (-1 if self.run.last_step is None else self.run.last_step):
            self._log(found, rounds)
            self.run.save(answered, {"method": self.halo.student(found)})

    def as_it_stands(self) -> "AskLoop":
        """The same with the ledger as it is now, whatever is answered meanwhile; it has learnt nothing yet."""
        still = copy.copy(self)
        still.ledger, still._learnt = self.ledger.as_it_stands(), None
        return still

    def _hear(self, found: Fit) -> None:
        """Put the answers to the questions of a round into the ledger, each before it counts."""
        waiting = self.ledger.due
        for answer in self.oracle.ask(waiting, self._belief(found, waiting)):
            self.ledger.answer(answer)
        if set(waiting) & set(self.ledger.open):
            again = f"python main.py train --method halo --task {self.task.name} --savedir {self.config.savedir}"
            page = f"python main.py label --task {self.task.name} --savedir {self.config.savedir}"
            raise Waiting(
                f"{len(self.ledger.open)} questions wait for an answer; {self.ledger.asked} of {self.budget} are "
                f"answered and kept in {self.ledger.path}.",
                f"{page}  # or {again} --resume, with its other flags, once they are answered",
            )

    def _belief(self, found: Fit, waiting: list[Question]) -> Belief:
        at = ([question.trajectory for question in waiting], [question.step for question in waiting])
        if found.confusion is None:
            confusion = honest_but_fallible(len(self.oracle.annotators), len(self.task.options), accuracy=1.0)
        else:
            confusion = found.confusion[found.best]
        return Belief(found.posterior.gamma.mean(0)[at], confusion)

    def _log(self, found: Fit, rounds: int) -> None:
        answered = self.ledger.asked_in(rounds)
        numbers = self._errors(found, rounds) | {
            "queries": answered,
            "cost": self.oracle.paid + self.ledger.cost_of(rounds),
            "expected_error": float((1 - found.posterior.gamma.mean(0).max(-1))[self.training.acted].mean()),
            "log_likelihood": float(found.posterior.log_z[found.best].sum()),
        }
        tagged = {f"halo/{name}": value for name, value in numbers.items()}
        self.log.scalars(answered, tagged | {"time/learning": self.seconds})

    def _errors(self, found: Fit, rounds: int) -> dict[str, float]:
        """Wrong share of the steps that nobody was asked about, and of those of held-out demonstrations."""
        if not self.truth_known:
            return {}
        unasked = self.training.acted & (self.ledger.times_asked(rounds) == 0)
        errors = {"option_error": wrong_share(found.gamma, self.training, unasked)}
        if len(self.held_out):
            errors["option_error_heldout"] = self.halo.held_out_error(found, self.held_out)
        return errors

    def finish(self, found: Fit) -> dict[str, Any]:
        """Keep the policies and a controller distilled from the posterior, and judge the student by itself."""
        self.keep(found, len(self.ledger.rounds))
        self.run.save(self.ledger.asked, {"method": self.halo.student(found)})  # an answer may have been replaced
        player = restored_player(self.task, self.halo.config, self.halo.student(found))
        every_step = int(self.training.acted.sum() + self.held_out.acted.sum())
        result: dict[str, Any] = {
            "task": self.task.name,
            "method": "halo",
            "teacher": self.config.oracle,
            "seed": self.config.seed,
            "steps": every_step,
            "seconds": self.seconds,
            **self._errors(found, len(self.ledger.rounds)),
            "queries": self.ledger.asked,
            "abstained": sum(not answer.report for answer in self.ledger.answers),
            "cost": self.oracle.paid + self.ledger.cost,
            "demonstrations": len(self.training),
            "rule": self.config.rule,
            "run": str(self.run.path),
        }
        if found.confusion is not None:
            right = np.diagonal(found.confusion[found.best], axis1=1, axis2=2).mean(1)
            result["annotators"] = dict(zip(self.oracle.annotators, right.round(4).tolist(), strict=True))
        if isinstance(self.oracle, ControllerOracle) and self.truth_known:
            wrong = self.oracle.everywhere() != self.training.option
            result["labelling_everything_error"] = float(wrong[self.training.acted].mean())
        paid = {"name": self.config.oracle, "queries": self.ledger.asked, "calls": round(result["cost"])}
        facts = {"steps": every_step, "seed": self.config.seed, "teacher": paid}
        controller = distil(self.task, self.training, found.gamma, self.config.seed, facts)
        save_controller(self.run.controller, controller)
        if self.config.eval_episodes:
            result["expert_return"] = expert_return(self.task, self.config.eval_episodes, self.config.seed)
            result["student"] = {
                style: summary(play(self.task, player, self._levels(), greedy=style == "greedy", seed=self.config.seed))
                for style in STYLES
            }
        self.run.conclude(result)
        return result

    def _levels(self) -> range:
        return range(TRAINING_LEVELS, TRAINING_LEVELS + self.config.eval_episodes)


def demonstrations_of(config: TrainConfig, task: Task, run: Run) -> tuple[Recording, Recording]:
    """The demonstrations of a run: those it began with, or new ones, or a Minari dataset.

    Returns:
        Those that may be asked about, and those that are held out.

    Raises:
        UserError: There are too few, or they are not of this task.
    """
    folder = run.path / DEMONSTRATIONS
    if folder.exists():
        return _split(Recording.load(folder))
    if config.demos.isdigit():
        wanted = int(config.demos)
        if wanted < 1:
            raise UserError("There are no demonstrations to learn from.", "record some: --demos 100")
        recording = record(task, wanted + round(wanted * _HELD_OUT), config.seed)
    else:
        from agent.data.minari import load_minari

        recording = load_minari(config.demos, task)
    recording.fits(task)
    recording.save(folder)
    return _split(recording)


def _split(recording: Recording) -> tuple[Recording, Recording]:
    asked_about = len(recording) - int(_HELD_OUT / (1 + _HELD_OUT) * len(recording))
    return recording[:asked_about], recording[asked_about:]

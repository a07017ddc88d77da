"""HALO's loop: learn, ask where it helps, learn again, until the budget is spent."""

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from agent.config import TRAINING_LEVELS, TrainConfig
from agent.data.recording import Recording
from agent.demonstrating import expert_return, record
from agent.halo.acquisition import enough, questions
from agent.halo.em import Fit
from agent.halo.handover import distil
from agent.halo.ledger import FILE, Ledger, Question
from agent.halo.method import Halo, restored_player, wrong_share
from agent.halo.oracles import Belief, LabellerOracle, Oracle, at_first
from agent.halo.presets import halo_settings
from agent.players import STYLES, play, summary
from agent.runs.metrics import Metrics
from agent.runs.run import Run
from controller.checkpoint import save_controller
from envs.task import Task
from ground.errors import UserError

_HELD_OUT = 0.25  # demonstrations that are held out from questions, for each that may be asked about
DEMONSTRATIONS = "demonstrations"  # folder of a run


class Waiting(UserError):
    """Questions are open, and the annotator has stopped."""


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
        self.settings = halo_settings(config)
        self.training, self.held_out = training, held_out
        self.ledger = Ledger(run.path / FILE, task, training)
        self.budget = questions(self.settings.budget, int(training.acted.sum()))
        model = self.settings.annotator_model
        learned = oracle.fallible if model == "auto" else model == "learned"
        confusion = at_first(oracle, len(task.options)) if learned else None
        self.halo = Halo(task, training, self.settings, config.seed, confusion, again=learned and oracle.varies)
        self.truth_known = bool((training.option[training.acted] >= 0).all())
        self.seconds = 0.0
        self.on_step: Callable[[], None] = lambda: None
        self._learned: tuple[int, Fit] | None = None

    @property
    def basis(self) -> int:
        """How many rounds the choice of the next one rests on: all before it, but for those that are asked ahead."""
        return max(0, len(self.ledger.rounds) - self.settings.ahead)

    def to_the_end(self) -> dict[str, Any]:
        """Ask until the budget is spent, nothing is left to ask, or few errors are expected; then judge.

        What a round does depends on the seed and on the answers of the rounds before it alone: a run that was killed
        reads its ledger, and goes on as if nothing had happened.

        Raises:
            Waiting: The annotator has stopped; everything said so far is in the ledger.
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
        if left <= 0 or (stop is not None and enough(context, stop)):
            return []
        return self.halo.questions(context, left, len(self.ledger.rounds))

    def keep(self, found: Fit, rounds: int) -> None:
        """Log and save what the answers of the first rounds have taught, once for each number of answers."""
        answered = self.ledger.asked_in(rounds)
        if answered > (-1 if self.run.last_step is None else self.run.last_step):
            self._log(found, rounds)
            self.run.save(answered, {"method": self.halo.student(found)})

    def as_it_stands(self) -> "AskLoop":
        """The same with the ledger as it is now, whatever is answered meanwhile; it has learned nothing yet."""
        still = copy.copy(self)
        still.ledger, still._learned = self.ledger.as_it_stands(), None
        return still

    def finish(self, found: Fit) -> dict[str, Any]:
        """Keep the policies and a controller distilled from the posterior, and judge the student by itself."""
        self.keep(found, len(self.ledger.rounds))
        self.run.save(self.ledger.asked, {"method": self.halo.student(found)})  # an answer may have been replaced
        result = self._result(found)
        taught = {"name": self.settings.oracle, "queries": result["queries"], "calls": round(result["cost"])}
        facts = {"steps": result["steps"], "seed": self.config.seed, "teacher": taught}
        save_controller(self.run.controller, distil(self.task, self.training, found.gamma, self.config.seed, facts))
        if episodes := self.config.eval_episodes:
            seed, levels = self.config.seed, range(TRAINING_LEVELS, TRAINING_LEVELS + episodes)
            player = restored_player(self.task, self.settings, self.halo.student(found))
            result["expert_return"] = expert_return(self.task, episodes, seed)
            result["student"] = {
                style: summary(play(self.task, player, levels, greedy=style == "greedy", seed=seed)) for style in STYLES
            }
        self.run.conclude(result)
        return result

    def _result(self, found: Fit) -> dict[str, Any]:
        """What was asked, and what it came to on the demonstrations."""
        result: dict[str, Any] = {
            "task": self.task.name,
            "method": "halo",
            "teacher": self.settings.oracle,
            "seed": self.config.seed,
            "steps": int(self.training.acted.sum() + self.held_out.acted.sum()),
            "seconds": self.seconds,
            **self._errors(found, len(self.ledger.rounds)),
            "queries": self.ledger.asked,
            "abstained": sum(not answer.report for answer in self.ledger.answers),
            "cost": self.oracle.cost_before + self.ledger.cost,
            "demonstrations": len(self.training),
            "rule": self.settings.rule,
            "run": str(self.run.path),
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

    def _log(self, found: Fit, rounds: int) -> None:
        answered = self.ledger.asked_in(rounds)
        numbers = self._errors(found, rounds) | {
            "queries": answered,
            "cost": self.oracle.cost_before + self.ledger.cost_of(rounds),
            "expected_error": float((1 - found.posterior.gamma.mean(0).max(-1))[self.training.acted].mean()),
            "log_likelihood": float(found.posterior.log_z[found.best].sum()),
        }
        tagged = {f"halo/{name}": value for name, value in numbers.items()}
        self.log.scalars(answered, tagged | {"time/learning": self.seconds})

    def _errors(self, found: Fit, rounds: int) -> dict[str, float]:
        """Wrong share of the steps that were not asked about, and of those of held-out demonstrations."""
        if not self.truth_known:
            return {}
        unasked = self.training.acted & (self.ledger.times_asked(rounds) == 0)
        errors = {"option_error": wrong_share(found.gamma, self.training, unasked)}
        if len(self.held_out):
            errors["option_error_heldout"] = self.halo.held_out_error(found, self.held_out)
        return errors


def demonstrations_of(config: TrainConfig, task: Task, run: Run) -> tuple[Recording, Recording]:
    """The demonstrations of a run: those it began with, or new ones, or a Minari dataset.

    Returns:
        Those that may be asked about, and those that are held out.

    Raises:
        UserError: There are too few, or they are not of this task.
    """
    folder, demos = run.path / DEMONSTRATIONS, halo_settings(config).demos
    if folder.exists():
        recording = Recording.load(folder)
    else:
        if demos.isdigit():
            wanted = int(demos)
            if wanted < 1:
                raise UserError("There are no demonstrations to learn from.", "record some: --demos 100")
            recording = record(task, wanted + round(wanted * _HELD_OUT), config.seed)
        else:
            from agent.data.minari import load_minari

            recording = load_minari(demos, task)
        recording.fits(task)
        recording.save(folder)
    asked_about = len(recording) - int(_HELD_OUT / (1 + _HELD_OUT) * len(recording))
    return recording[:asked_about], recording[asked_about:]

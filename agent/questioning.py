"""HALO's loop: learn, ask where it helps, learn again, until the budget is spent; the composition root of `halo`."""

import time
from typing import Any

import numpy as np

from agent.config import TRAINING_LEVELS, TrainConfig
from agent.data.ledger import FILE, Ledger, Question
from agent.data.recording import Recording
from agent.demonstrating import expert_return, record
from agent.handover import distil
from agent.inference.acquisition import enough
from agent.inference.em import Fit, honest_but_fallible
from agent.inference.selection import questions
from agent.methods.halo import Halo, restored_player, wrong_share
from agent.oracles import Belief, ControllerOracle, Oracle, at_first
from agent.players import STYLES, play, summary
from agent.presets.halo import halo_settings
from agent.tracking.metrics import Metrics
from agent.tracking.run import Run
from controller.checkpoint import save_controller
from envs.errors import UserError
from envs.task import Task

_HELD_OUT = 0.25  # demonstrations that nobody is asked about, for each that somebody may be asked about
DEMONSTRATIONS = "demonstrations"  # folder of a run


class Waiting(UserError):
    """Questions are open, and whoever answers them has stopped."""


class Questioning:
    """One run from where its ledger stands to its end.

    Args:
        config: The command.
        task: What was demonstrated.
        training: Demonstrations that may be asked about.
        held_out: Others, on which the posterior is judged.
        oracle: Answers.
        run: Where everything is kept.
        log: Metrics, by the number of answers.
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
            started = time.perf_counter()
            heard = self.ledger.complete_rounds
            found = self.halo.learn(self.ledger.evidence(self.oracle.annotators, heard), heard)
            self.seconds += time.perf_counter() - started
            if not self.ledger.open:
                if self.run.last_step != self.ledger.asked:
                    self._log(found)
                    self.run.save(self.ledger.asked, {"method": self.halo.student(found)})
                if not self._ask(found, heard):
                    return self._finish(found)
            self._hear(found)

    def _ask(self, found: Fit, round_: int) -> bool:
        """Choose the questions of the next round; whether there are any."""
        left = self.budget - self.ledger.asked
        situation = self.halo.situation(found, self.ledger)
        if left <= 0 or (self.config.stop_error is not None and enough(situation, self.config.stop_error)):
            return False
        chosen = self.halo.questions(situation, left, round_)
        if chosen:
            self.ledger.ask(chosen)
        return bool(chosen)

    def _hear(self, found: Fit) -> None:
        """Put the answers to open questions into the ledger, each before it counts."""
        waiting = self.ledger.open
        for answer in self.oracle.ask(waiting, self._belief(found, waiting)):
            self.ledger.answer(answer)
        if self.ledger.open:
            again = f"python main.py train --method halo --task {self.task.name} --savedir {self.config.savedir}"
            raise Waiting(
                f"{len(self.ledger.open)} questions wait for an answer; {self.ledger.asked} of {self.budget} are "
                f"answered and kept in {self.ledger.path}.",
                f"{again} --resume  # with its other flags, once they are answered",
            )

    def _belief(self, found: Fit, waiting: list[Question]) -> Belief:
        at = ([question.trajectory for question in waiting], [question.step for question in waiting])
        if found.confusion is None:
            confusion = honest_but_fallible(len(self.oracle.annotators), len(self.task.options), accuracy=1.0)
        else:
            confusion = found.confusion[found.best]
        return Belief(found.posterior.gamma.mean(0)[at], confusion)

    def _log(self, found: Fit) -> None:
        numbers = self._errors(found) | {
            "queries": self.ledger.asked,
            "cost": self.oracle.paid + self.ledger.cost,
            "expected_error": float((1 - found.posterior.gamma.mean(0).max(-1))[self.training.acted].mean()),
            "log_likelihood": float(found.posterior.log_z[found.best].sum()),
        }
        tagged = {f"halo/{name}": value for name, value in numbers.items()}
        self.log.scalars(self.ledger.asked, tagged | {"time/learning": self.seconds})

    def _errors(self, found: Fit) -> dict[str, float]:
        """Wrong share of the steps that nobody was asked about, and of those of held-out demonstrations."""
        if not self.truth_known:
            return {}
        unasked = self.training.acted & (self.ledger.times_asked() == 0)
        errors = {"option_error": wrong_share(found.gamma, self.training, unasked)}
        if len(self.held_out):
            errors["option_error_heldout"] = self.halo.held_out_error(found, self.held_out)
        return errors

    def _finish(self, found: Fit) -> dict[str, Any]:
        """Keep the policies and a controller distilled from the posterior, and judge the student by itself."""
        player = restored_player(self.task, self.halo.config, self.halo.student(found))
        every_step = int(self.training.acted.sum() + self.held_out.acted.sum())
        result: dict[str, Any] = {
            "task": self.task.name,
            "method": "halo",
            "teacher": self.config.oracle,
            "seed": self.config.seed,
            "steps": every_step,
            "seconds": self.seconds,
            **self._errors(found),
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

"""`main.py label`: the run that a person answers for, new or taken up, ready for the page."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.agent.checks import check_train
from preceptor.agent.config import TrainConfig, changed, configure, from_plain, to_plain
from preceptor.agent.controllers import named_controller, newest_controller
from preceptor.agent.halo.ask import Ask
from preceptor.agent.halo.config import EMConfig
from preceptor.agent.halo.ledger import PERSON, Answer, Ledger
from preceptor.agent.halo.method import Halo
from preceptor.agent.labelling.config import LabelConfig
from preceptor.agent.labelling.session import Session
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.runs.blame import Weighed, weighed, weighing_run
from preceptor.agent.runs.carried import task_of
from preceptor.agent.runs.run import Run
from preceptor.agent.teaching import Annotator, ControllerLabels, Labeller
from preceptor.agent.train import open_labels
from preceptor.envs.task import Task
from preceptor.ground.atomic import alone
from preceptor.ground.device import device
from preceptor.ground.errors import UserError
from preceptor.ground.threads import use_threads
from preceptor.teacher.make import make_teacher

_SETTLED = ("budget", "demos", "rule", "policies", "preset", "seed", "stop_error")  # the run's own if not given


@contextmanager
def open_session(config: LabelConfig) -> Iterator[tuple[Session, str]]:
    """The session of a run, which the context closes, and the token that the page's address must hold.

    Raises `UserError` if the run's settings are others, another has it open, or its demonstrations cannot be had.
    """
    use_threads(config.threads)
    task = task_of(config.task, config.logdir)
    training = training_config(config, task)
    check_train(training)
    with ExitStack() as stack:
        stack.enter_context(alone(Run.place(config.logdir, "halo", task.name, config.savedir)))
        run = Run.create(config.logdir, "halo", task.name, config.savedir, to_plain(training), resume=True)
        with run.beginning():
            labellers = _labellers(config, task, run, stack)
            log = stack.enter_context(run.metrics(quiet=True))
            parts = Parts(task, training, np.random.SeedSequence(0), run, log)
            ask = Ask(parts)
            weights = _weights(config.weights, config.logdir, ask) if config.weights else None
            elsewhere = _elsewhere(config.answers, ask) if config.answers else []
        # What learning needs is compiled on one demonstration: that takes half a minute, in which a page would hang.
        halo = Halo(task, ask.training[:1], replace(ask.settings, em=EMConfig(steps=1)), 0, ask.halo.confusion)
        halo.learn(ask.ledger.evidence(ask.oracle.annotators, 0), 0)
        session = Session(config, ask, parts, labellers, elsewhere, weights)
        stack.callback(session.close)
        yield session, _token(run.path / ".token")


def training_config(config: LabelConfig, task: Task) -> TrainConfig:
    """The settings of the run: its own where there is one, so that they need not be repeated."""
    path = Run.place(config.logdir, "halo", task.name, config.savedir)
    said: dict[str, Any] = {name: getattr(config, name) for name in _SETTLED if getattr(config, name) is not None}
    said |= {name: getattr(config, name) for name in ("savedir", "logdir", "threads", "eval_episodes")}
    said |= {"quiet": True, "seeds": ()}
    if not (path / "config.json").exists():
        return configure({"method": "halo", "task": task.source, "oracle": "person", "ahead": 1} | said)
    own = from_plain(Run.open(path).config)
    if own.settings.oracle != "person":
        raise UserError(
            f"{path} is a run whose questions {own.settings.oracle} answers.", "another --savedir for yours"
        )
    return changed(own, said)


def _token(path: Path) -> str:
    """The run's token, which only this user may read."""
    path.touch(mode=0o600)
    if not (token := path.read_text().strip()):
        path.write_text(token := secrets.token_urlsafe(16))
    return token


def _elsewhere(path: str, ask: Ask) -> list[Answer]:
    """What people said in another ledger. Raises `UserError` if it is not one of the same demonstrations."""
    if not Path(path).is_file():
        raise UserError(f"There is no ledger {path}.", "--answers log/halo/TASK/NAME/ledger.jsonl")
    return [answer for answer in Ledger(Path(path), ask.task, ask.training).answers if answer.annotator == PERSON]


def _weights(name: str, logdir: str, ask: Ask) -> Weighed:
    """What a run of hvd found. Raises `UserError` if there is none, or it learned from other demonstrations."""
    run, ours = weighing_run(name, logdir, ask.task.name), ask.training
    found = weighed(run)
    if not np.array_equal(ours.action, found.recording.action):
        demos, seed = ask.settings.demos, ask.config.seed
        again = f"train --method hvd --task {ask.task.source} --demos {demos} --seed {seed} --savedir weighed"
        raise UserError(f"{run.path} learned from other demonstrations than these.", f"python main.py {again}")
    return found


def _labellers(config: LabelConfig, task: Task, run: Run, stack: ExitStack) -> dict[str, Labeller]:
    """Whose opinions are shown: the controller that is named, or the newest of the task, and a teacher on request,
    whose answers are kept in the run's label store, so that none is asked for twice."""
    controller = (
        named_controller(config.controller, config.logdir, task)
        if config.controller is not None
        else newest_controller(Run.all(config.logdir, "dagger", task.name), task)
    )
    labellers: dict[str, Labeller] = {"controller": ControllerLabels(controller)} if controller else {}
    asked = config.teacher
    if asked.on_teacher_failure != "abort":
        raise UserError("Nothing stands in for an opinion that cannot be had.", "--on-teacher-failure abort")
    if asked.teacher != "none":
        teacher = make_teacher(asked, task, stack.enter_context(open_labels(asked, run)), device=str(device()))
        labellers |= {"teacher": Annotator(task, teacher)} if teacher else {}
    return labellers

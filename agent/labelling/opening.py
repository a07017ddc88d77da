"""`main.py label`: the run that a person answers for, new or taken up, ready for the page."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.checks import check_train
from agent.config import TrainConfig, changed, configure, from_plain, to_plain
from agent.controllers import named_controller, newest_controller
from agent.data.demonstrations import demonstrations_of
from agent.halo.ask import Ask, Asking
from agent.halo.config import EMConfig
from agent.halo.ledger import PERSON, Answer, Ledger
from agent.halo.method import Halo
from agent.halo.oracles import Person
from agent.labelling.config import LabelConfig
from agent.labelling.frames import Frames
from agent.labelling.opinions import Opinions
from agent.labelling.session import Session
from agent.methods.protocol import Parts
from agent.runs.run import Run
from agent.teaching import Annotator, ControllerLabels, Labeller
from agent.train import Runner, open_labels
from envs.catalog import get_task
from envs.task import Task
from ground.atomic import alone
from ground.device import device
from ground.errors import UserError
from teacher.make import make_teacher

AHEAD = 1  # rounds, so that learning goes on while the person does
TOKEN = ".token"
_SETTLED = ("budget", "demos", "rule", "policies", "preset", "seed", "stop_error")  # the run's own if not given


@contextlib.contextmanager
def open_session(config: LabelConfig) -> Iterator[tuple[Session, str]]:
    """The session of a run, and the token that the page's address must hold; the context closes both.

    Raises:
        UserError: The run's settings are others, another page has it open, or its demonstrations cannot be had.
    """
    torch.set_num_threads(config.threads)
    task = get_task(config.task)
    training = training_config(config, task)
    check_train(training)
    with contextlib.ExitStack() as stack:
        token = stack.enter_context(_alone(Run.place(config.logdir, "halo", task.name, config.savedir)))
        run = Run.create(config.logdir, training.method, task.name, training.savedir, to_plain(training), resume=True)
        with run.beginning():
            labellers = _labellers(config, task, run, stack)
            demonstrations, held_out = demonstrations_of(training.settings.demos, task, training.seed, run)
            log = stack.enter_context(run.metrics(quiet=True))
            ask = Ask(training, task, demonstrations, held_out, Person(), run)
            taken_along = _taken_along(config.answers, ask)
        _warm_up(ask)
        frames, opinions = Frames(task, demonstrations), Opinions(demonstrations, labellers)

        def runner(still: Ask) -> Runner:
            runner = Runner(Parts(task, training, np.random.SeedSequence(0), run, log), Asking.of(still))
            runner.facts["seconds"] = still.seconds
            return runner

        session = Session(ask, runner, frames, config.annotator, opinions, config.again, taken_along)
        stack.callback(session.close)
        yield session, token


def training_config(config: LabelConfig, task: Task) -> TrainConfig:
    """The settings of the run: its own where there is one, so that they need not be repeated."""
    path = Run.place(config.logdir, "halo", task.name, config.savedir)
    said: dict[str, Any] = {name: getattr(config, name) for name in _SETTLED if getattr(config, name) is not None}
    said |= {name: getattr(config, name) for name in ("savedir", "logdir", "threads", "eval_episodes")}
    said |= {"quiet": True, "seeds": ()}
    if not (path / "config.json").exists():
        return configure({"method": "halo", "task": task.name, "oracle": "person", "ahead": AHEAD} | said)
    own = from_plain(Run.open(path).config)
    if own.settings.oracle != "person":
        what = f"{path} is a run whose questions {own.settings.oracle} answers."
        raise UserError(what, "another --savedir for yours")
    return changed(own, said)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[str]:
    """The run's token, which only this user may read, and the lock of the run."""
    with alone(folder):
        path = folder / TOKEN
        path.touch(mode=0o600)
        if not (token := path.read_text().strip()):
            token = secrets.token_urlsafe(16)
            path.write_text(token)
        yield token


def _warm_up(ask: Ask) -> None:
    """Compile what learning needs, on one demonstration: the first time it takes half a minute, in which a page that
    is there already would hang."""
    settings = replace(ask.settings, em=EMConfig(steps=1))
    halo = Halo(ask.task, ask.training[:1], settings, ask.config.seed, ask.halo.confusion)
    halo.learn(ask.ledger.evidence(ask.oracle.annotators, 0), 0)


def _taken_along(path: str | None, ask: Ask) -> list[Answer]:
    """What people said in another ledger. Raises `UserError` if it is not one of the same demonstrations."""
    if path is None:
        return []
    if not Path(path).is_file():
        raise UserError(f"There is no ledger {path}.", "--answers log/halo/TASK/NAME/ledger.jsonl")
    other = Ledger(Path(path), ask.task, ask.training)
    return [answer for answer in other.answers if answer.annotator == PERSON]


def _labellers(config: LabelConfig, task: Task, run: Run, stack: contextlib.ExitStack) -> dict[str, Labeller]:
    """Whose opinions are shown: the controller that is named, or the newest of the task, and a teacher on request.

    The teacher's answers are kept in the run's label store, so that none is asked for twice.
    """
    controller = (
        named_controller(config.controller, config.logdir, task)
        if config.controller is not None
        else newest_controller(Run.all(config.logdir, "dagger", task.name), task)
    )
    labellers: dict[str, Labeller] = {"controller": ControllerLabels(controller)} if controller else {}
    asked = config.teacher
    if asked.teacher != "none":
        store = stack.enter_context(open_labels(asked, run))
        teacher = make_teacher(asked, task, store, device=str(device()))
        assert teacher is not None
        labellers["teacher"] = Annotator(task, teacher, asked.on_teacher_failure)
    return labellers

"""The one runner: it plays the phases of a method, saves, resumes, logs and judges each in the same way."""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from preceptor.agent.checks import check_train
from preceptor.agent.config import TrainConfig, configure, continued, to_plain
from preceptor.agent.controllers import named_controller, newest_controller
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods import entry_of
from preceptor.agent.methods.protocol import Method, Parts
from preceptor.agent.phases import Advance, Phase
from preceptor.agent.players import play, summary
from preceptor.agent.resumable import Resumable, places
from preceptor.agent.runs.accounting import Accounting
from preceptor.agent.runs.results import write_result
from preceptor.agent.runs.run import Run
from preceptor.agent.runs.text import MODES
from preceptor.agent.teaching import Annotator, ControllerLabels
from preceptor.controller.checkpoint import load_controller, save_controller
from preceptor.controller.network import ControllerNetwork
from preceptor.controller.roles import Controller
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.envs.vector import endless
from preceptor.ground.atomic import alone
from preceptor.ground.device import device, use_device
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import SPLITS
from preceptor.ground.sealed import digest_of
from preceptor.ground.threads import use_threads
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.make import capability_of, make_teacher

_SAVES = 10  # checkpoints per run, besides those at the end of each phase


# Called with the step and the metrics whenever some are written; False ends the run, which is saved and judged.
OnUpdate = Callable[[int, Mapping[str, float]], bool | None]


def train(config: TrainConfig, on_update: OnUpdate | None = None) -> dict[str, Any]:
    """Train as configured, one run per seed; the result line of the run, or of every seed, or what a grid came to
    (`preceptor.agent.grid`). Raises `UserError`."""
    if config.grid.asked:
        from preceptor.agent.grid import train_grid

        if on_update:
            what = "A listener hears of runs in this process, and those of a grid are in others."
            raise UserError(what, "leave on_update out, or train one run")
        return train_grid(config)
    check_train(config)
    if not config.seeds:
        return train_one(config, on_update)
    configs = by_seed(config)
    if entry_of(config.method).joins(config.settings):
        from preceptor.agent.together import train_together

        if on_update:
            what = "A listener hears of one run at a time, and here --seeds are trained at the same time."
            raise UserError(what, "leave on_update out, or train one run")
        runs = train_together(configs)
    else:
        runs = [train_one(each, on_update) for each in configs]
    return {"task": runs[0]["task"], "method": config.method, "runs": runs}


def by_seed(config: TrainConfig) -> list[TrainConfig]:
    """The settings of the run of each seed."""
    seeds = config.seeds or (config.seed,)
    return [replace(config, seed=s, seeds=(), savedir=f"{config.savedir}/seed-{s}") for s in seeds]


def train_one(config: TrainConfig, on_update: OnUpdate | None = None, wait: float = 0) -> dict[str, Any]:
    """Train one run; the result line. Waits so many seconds for another process to leave it. Raises `UserError`."""
    with opened(config, on_update, wait) as runner:
        return runner.to_the_end()


@contextlib.contextmanager
def opened(config: TrainConfig, on_update: OnUpdate | None = None, wait: float = 0) -> Iterator["Runner"]:
    """A run where it stands; within it, no other process has it. For the arguments see `train_one`."""
    use_threads(config.threads)
    use_device(config.device, config.graphs)
    torch.manual_seed(config.seed)
    learning, levels, acting = np.random.SeedSequence(config.seed).spawn(3)
    task, entry = get_task(config.task, config.teacher_flaw), entry_of(config.method)
    place = config.logdir, config.method, task.name, config.savedir
    config = continued(config, Run.place(*place))
    given = _given_controller(config, task)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(Run.place(*place), wait=wait))
        run = Run.create(*place, to_plain(config), resume=config.resume)
        with run.beginning():
            labels = stack.enter_context(open_labels(config.teacher, run))
            replaced = given if entry.controller_teaches else None
            labeller = ControllerLabels(replaced) if replaced else make_annotator(config, task, labels)
            if isinstance(labeller, Annotator):
                run.annotate(capability=capability_of(labeller.teacher))
            log = stack.enter_context(run.metrics(total_steps=config.total, quiet=config.quiet))
            with contextlib.closing(task.make_vec(1)) as env:
                for line in filter(None, (task.notice, endless(env, task.name))):
                    log.say(line)
            parts = Parts(task, config, learning, run, log, labeller, given)
            method = entry.make(parts)
            if given and method.controller is None:  # what the run is judged with, whatever becomes of the other
                save_controller(run.controller, given)
            if isinstance(labeller, Annotator) and method.controller is not None:
                labeller.controller = Controller(task, method.controller)
        hierarchy = None
        if entry.plays(config.settings):
            stage = method.stage or task
            environments = stage.make_vec(config.num_envs, seed=int(levels.generate_state(1)[0]))
            hierarchy = Hierarchy(stage, environments, method.player, rng=np.random.default_rng(acting))
        yield Runner(parts, method, hierarchy, labels, on_update)


def make_annotator(config: TrainConfig, task: Task, labels: LabelStore) -> Annotator | None:
    """The teacher of a run with its label store, or None for `--teacher none` and methods without one."""
    if not getattr(config.settings, "asks_teacher", False):
        return None
    teacher = make_teacher(config.teacher, task, labels, seed=config.seed, device=str(device()))
    how = config.teacher.on_teacher_failure, config.teacher.ask_below
    return Annotator(task, teacher, *how) if teacher else None


def open_labels(teacher: TeacherConfig, run: Run) -> LabelStore:
    """Where answers are kept; a store that is replayed belongs to another run and is only read."""
    given = None if "replay" in teacher.teacher.split(":") else teacher.labels
    return LabelStore(given) if given else LabelStore(run.labels, own=True)


def _given_controller(config: TrainConfig, task: Task) -> Controller | None:
    """The controller to start from: the one that is named, or where one is needed, the newest of the task that was
    taught as the command says; it is distilled now if there is none."""
    own = Path(config.logdir) / config.method / task.name / config.savedir / "controller"
    if config.needs_controller and config.resume and own.exists() and getattr(config.settings, "plans", False):
        return load_controller(own, task)  # what the run began with, whatever became of that since
    if config.controller is not None:
        return named_controller(config.controller, config.logdir, task)
    if not config.needs_controller:
        return None
    place = Path(config.logdir, ".distilling", task.name)
    with alone(place, wait=math.inf):  # runs side by side distil one
        try:
            return _distilled_controller(config, task)
        except UserError:
            shutil.rmtree(place, ignore_errors=True)  # a mistake leaves nothing behind
            raise


def _distilled_controller(config: TrainConfig, task: Task) -> Controller:
    """The newest of the task that was taught as the command says, or one that is distilled now."""
    makes_labels_others = ("teacher", "teacher_by", "model", "label_noise", "noise_per")
    taught = {name: getattr(config.teacher, name) for name in makes_labels_others}
    runs = Run.all(config.logdir, "dagger", task.name)
    plain = to_plain(TeacherConfig())  # what runs of earlier versions do not say
    legible = [run for run in runs if "teacher" in run.config]
    alike = [run for run in legible if taught.items() <= (plain | run.config["teacher"]).items()]
    if (newest := newest_controller(alike, task)) is not None:
        return newest
    name = "controller"
    if any(run.group.name == name for run in runs if run not in alike):  # taught by another
        name = f"controller-{config.teacher.teacher}-{config.teacher.label_noise:g}-{digest_of(taught)[:6]}"
    shared = ("task", "preset", "logdir", "seed", "teacher_flaw", "eval_episodes", "threads", "device", "quiet", "json")
    words = {flag: getattr(config, flag) for flag in shared}
    distil = replace(configure(words, method="dagger", savedir=name, resume=True), teacher=config.teacher)
    train_one(distil)
    return load_controller(Run.find(config.logdir, "dagger", task.name, name).controller, task)


class Runner(Resumable):
    """One run from where it stands to its end.

    Args:
        parts: Task, settings, run directory and its metrics, and who labels.
        method: What is trained.
        hierarchy: Plays the method's player, where environments are stepped.
        labels: Where the labeller's answers are kept.

    Attributes:
        steps: Where it stands on the x-axis: environment steps, or what the phase counts.
        facts: What the run's result holds besides.
    """

    saved = places("steps", "phase", "facts", "labeller", "method", "hierarchy")  # scenes are labelled anew with these

    def __init__(
        self,
        parts: Parts,
        method: Method,
        hierarchy: Hierarchy | None = None,
        labels: LabelStore | None = None,
        on_update: OnUpdate | None = None,
    ) -> None:
        assert parts.run is not None
        assert parts.log is not None
        self.config, self.task, self.run, self.log, self.labeller = (
            parts.config, parts.task, parts.run, parts.log, parts.labeller,
        )  # fmt: skip
        if method.stage is not None:  # what cannot act in the task is not judged there
            self.config = replace(self.config, eval_episodes=0, eval_every=None)
            self.log.say(f"not judged: nothing scripted acts in {self.task.name}")
        self.method, self.hierarchy, self._on_update = method, hierarchy, on_update
        self.accounting = None if self.labeller is None or labels is None else Accounting(self.labeller.stats, labels)
        self.facts: dict[str, Any] = {"seconds": 0.0, **method.facts}
        self.steps, self.phase, self._ended = 0, 0, False  # the number of the phase
        if self.config.resume and self.run.last_step is not None:
            self.run.restore(self.load_state_dict)
        self._share_the_playing()
        self.phase = min(self.phase, len(method.phases) - 1)  # a larger budget continues the last phase

    @property
    def complete(self) -> bool:
        """Whether it was judged, and nothing is left to do."""
        return bool(self.run.results()) and self.method.phases[-1].over(self.steps, self.config.total)

    def to_the_end(self) -> dict[str, Any]:
        """Play the phases until each is over; then judge the student on held-out levels."""
        if self.complete:
            self.log.say("this run is complete; more of what it spends would continue it")
            return self.run.results()
        while self.going:
            self.advance()
        return self.conclude()

    def conclude(self) -> dict[str, Any]:
        """Save the run as it stands, judge the student, and leave the result line."""
        self.run.save(self.steps, self.state_dict())
        return self.finish()

    @property
    def going(self) -> bool:
        """Whether there is a phase to play, and nobody has ended the run."""
        return self.phase < len(self.method.phases) and not self._ended

    def advance(self) -> None:
        """Play a round of the phase; log, judge and save where that is due."""
        phase, before, total = self.method.phases[self.phase], self.steps, self.config.total
        if phase.over(before, total):  # a phase that had nothing to do, such as one without a budget
            self.phase += 1
            return
        started = time.perf_counter()
        self.steps, info = phase.advance(self.hierarchy, before, total)
        if phase.over(self.steps, total):
            info |= self._end(phase)
        seconds = phase.round_seconds or time.perf_counter() - started
        self.facts["seconds"] += seconds
        if self.config.eval_every and before // self.config.eval_every != self.steps // self.config.eval_every:
            info |= _evaluation(self._judge(str(self.steps)))
        if info:
            info |= self._progress() | {"time/fps": (self.steps - before) / seconds}
        if info and self._told(info) is False:
            self._ended = True
            return
        save_every = max(self.config.num_envs, total // _SAVES)
        if phase.saves_each_round or before // save_every != self.steps // save_every:
            self.run.save(self.steps, self.state_dict())

    def keep(self, advance: Advance) -> None:
        """Log and save what a phase has come to that is not played by `to_the_end`."""
        self.steps = advance.steps
        if advance.info:
            self.log.scalars(self.steps, advance.info)
        self.run.save(self.steps, self.state_dict())

    def _told(self, metrics: Mapping[str, float]) -> bool | None:
        """Record metrics; what the listener answers."""
        self.log.scalars(self.steps, metrics)
        return self._on_update(self.steps, metrics) if self._on_update else None

    def _end(self, phase: Phase) -> dict[str, float]:
        """A phase is over: keep the controller as it is now, and judge the student where the phase asks for it."""
        info = phase.end()
        self.phase += 1
        self._share_the_playing()
        if not phase.judged_as:
            return info
        self.log.say(f"{self.steps:,} steps: {phase.farewell}")
        if self.method.controller is not None:
            save_controller(self.run.controller, self._distilled(self.method.controller, *phase.calibration))
        if self.config.eval_episodes:
            self.facts[phase.judged_as] = self._judge(phase.judged_as)
        return info

    def _share_the_playing(self) -> None:
        """Give the hierarchy the expert of the phase that begins."""
        phases = self.method.phases
        if self.hierarchy is not None:
            self.hierarchy.expert = phases[self.phase].expert if self.phase < len(phases) else None

    def _distilled(self, network: ControllerNetwork, temperature: float, figures: dict[str, float]) -> Controller:
        """The controller as it is now, with its provenance: that of another run where it was taken over from there."""
        if isinstance(self.labeller, ControllerLabels) and network is self.labeller.controller.network:
            return self.labeller.controller
        cost = {"steps": self.steps} if self.method.stage is None else {"scenes": self.steps}
        facts: dict[str, Any] = {**cost, "seed": self.config.seed, **figures}
        if self.labeller is not None:
            stats, name = self.labeller.stats, self.config.teacher.teacher
            facts["teacher"] = {"name": name, "queries": stats.queries, "calls": stats.calls}
        return Controller(self.task, network, temperature, facts)

    def _progress(self) -> dict[str, float]:
        """Episodes that ended, those that the teacher had a hand in apart; and what the teacher has cost."""
        episodes = self.hierarchy.drain_finished() if self.hierarchy else []
        numbers: dict[str, float] = {}
        if self.method.stage is not None:
            episodes = []  # of which nothing can be said
        for prefix, guided in (("rollout/guided_", 1.0), ("rollout/", 0.0)):
            chosen = [episode for episode in episodes if episode["guided"] == guided]
            for name in ("success", "return", "length") if chosen else ():
                numbers[prefix + name] = float(np.mean([episode[name] for episode in chosen]))
        if self.accounting is not None and self.hierarchy is not None:
            numbers |= self.accounting.metrics(self.steps)
        return numbers

    def _judge(self, stage: str) -> dict[str, Any]:
        """Play the held-out levels, sampled and greedy, and keep each episode for paired comparisons."""
        levels = range(SPLITS["eval"], SPLITS["eval"] + self.config.eval_episodes)
        scores = {}
        for mode in MODES:
            played = play(self.task, self.method.player, levels, greedy=mode == "greedy", seed=self.config.seed)
            scores[mode] = summary(played)
            episodes = {"success": played.success.tolist(), "length": played.length.tolist()}
            write_result(self.run.path / "episodes" / f"{stage}-{mode}.json", episodes)
        return scores

    def finish(self) -> dict[str, Any]:
        """Judge the student, and leave the result line."""
        result = {
            "task": self.task.name,
            "method": self.config.method,
            "teacher": "none" if self.labeller is None else self.config.teacher.teacher,
            "seed": self.config.seed,
            "steps": self.steps,
            **self.facts,
            "run": str(self.run.path),
        }
        if self.labeller is not None and self.accounting is not None:
            stats = self.labeller.stats
            counted = ("queries", "calls", "abstained", "invalid")
            result |= {name: getattr(stats, name) for name in counted}
            result["asking"] = self.accounting.figures(self.steps)
        if isinstance(self.labeller, ControllerLabels):  # who taught the controller, and what that has cost
            facts = self.labeller.controller.facts
            result["teacher"] = str(facts.get("teacher", {}).get("name", "unknown"))
            result["controller_steps"] = facts.get("steps", 0)
            result["steps"] += result["controller_steps"]
        result["steps"] += result.get("low_level_steps", 0)
        for phase in self.method.phases:
            result |= phase.result
        scores = {f"result/{name}": float(result[name]) for name in ("option_error", "queries") if name in result}
        if self.config.eval_episodes:
            result["student"] = self._judge("student")
            judged = _evaluation(result["student"])
            self._told(judged)
            scores |= judged
        self.log.hparams(to_plain(self.config), scores)
        self.run.conclude(result)
        return result


def _evaluation(scores: dict[str, Any]) -> dict[str, float]:
    """Success and return on held-out levels, sampled and greedy, as metrics."""
    measures = ("success", "return")
    return {f"eval/{mode}_{measure}": row[measure] for mode, row in scores.items() for measure in measures}

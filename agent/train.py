"""The composition root of training, and its loop: every arrow of DESIGN section 2 once, from top to bottom."""

import contextlib
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.config import TrainConfig
from agent.controllers import named_controller, newest_controller
from agent.halo.loop import AskLoop, demonstrations_of
from agent.halo.oracles import make_oracle
from agent.hierarchy import Hierarchy
from agent.methods import Method, make_method
from agent.methods.hiro import Hiro
from agent.methods.settings import Settings
from agent.players import STYLES, play, summary
from agent.presets import settings_of
from agent.runs.accounting import Accounting
from agent.runs.metrics import Metrics
from agent.runs.run import Run
from agent.teaching import Annotator, ControllerLabels, Labeller
from controller.checkpoint import load_controller, save_controller
from controller.network import ControllerNetwork
from controller.roles import Controller
from envs.catalog import get_task
from envs.task import Task
from ground.atomic import write_json
from ground.device import device, use_device
from teacher.config import TeacherConfig
from teacher.labels import LabelStore
from teacher.make import capability_of, make_teacher

FIRST_EVAL_LEVEL = 1_000_000
UNTAUGHT = ("ppo", "sac", "td3", "hiro")  # methods that ask no teacher themselves
_SAVES = 10  # checkpoints per run, besides those at the end of distillation and of the run


def train(config: TrainConfig) -> dict[str, Any]:
    """Train as configured, one run per seed; the result line of the run, or of every seed."""
    if not config.seeds:
        return _train_one(config)
    seeds = [replace(config, seed=s, seeds=(), savedir=f"{config.savedir}/seed-{s}") for s in config.seeds]
    runs = [_train_one(seed) for seed in seeds]
    return {"task": runs[0]["task"], "method": config.method, "runs": runs}


def _train_one(config: TrainConfig) -> dict[str, Any]:
    torch.set_num_threads(config.threads)
    use_device(config.device)
    torch.manual_seed(config.seed)
    learning, levels, acting = np.random.SeedSequence(config.seed).spawn(3)
    task = get_task(config.task, config.limit)
    config = replace(config, task=task.name)
    if config.method == "halo":
        return _ask_and_learn(config, task)
    settings = settings_of(config)
    given = _given_controller(config, task)
    run = Run.create(config.logdir, config.method, task.name, config.savedir, asdict(config), resume=config.resume)
    with contextlib.ExitStack() as stack:
        with run.beginning():
            labels = stack.enter_context(open_labels(config, run))
            labeller = ControllerLabels(given) if given else make_annotator(config, task, labels)
            if isinstance(labeller, Annotator):
                run.annotate(capability=capability_of(labeller.teacher))
            method = make_method(config, task, labeller, settings, learning, given)
            facts: dict[str, Any] = {"seconds": 0.0}
            if config.low_level and isinstance(method, Hiro) and run.last_step is None:
                facts["low_level_steps"] = _take_low_level(config, method)
            if given and config.method == "hiro":
                save_controller(run.controller, given)  # what the run is judged with, whatever becomes of the other
            if isinstance(labeller, Annotator) and method.controller is not None:
                labeller.controller = Controller(task, method.controller)
        hierarchy = Hierarchy(
            task,
            task.make_vec(settings.num_envs, seed=int(levels.generate_state(1)[0])),
            method.player,
            rng=np.random.default_rng(acting),
            guide=method.guide,
        )
        with run.metrics(total_steps=settings.steps, quiet=config.quiet) as log:
            accounting = Accounting(labeller.stats, labels) if labeller else None
            training = _Training(config, task, settings, run, log, method, hierarchy, labeller, accounting, facts)
            return training.to_the_end()


def _ask_and_learn(config: TrainConfig, task: Task) -> dict[str, Any]:
    """HALO: demonstrations instead of roll-outs, questions instead of labels everywhere."""
    given = _given_controller(config, task)
    run = Run.create(config.logdir, config.method, task.name, config.savedir, asdict(config), resume=config.resume)
    with contextlib.ExitStack() as stack:
        with run.beginning():
            training, held_out = demonstrations_of(config, task, run)
            labels = stack.enter_context(open_labels(config, run))
            annotator = make_annotator(config, task, labels) if "teacher" in config.oracles else None
            oracle = make_oracle(
                config.oracles,
                training,
                len(task.options),
                controller=given,
                annotator=annotator,
                noise=config.label_noise,
                seed=config.seed,
            )
            log = stack.enter_context(run.metrics(quiet=config.quiet))
            questioning = AskLoop(config, task, training, held_out, oracle, run, log)
        return questioning.to_the_end()


def make_annotator(config: TrainConfig, task: Task, labels: LabelStore) -> Annotator | None:
    """The teacher of a run with its label store, or None for `--teacher none` and methods without one."""
    if config.method in UNTAUGHT:
        return None
    asking = TeacherConfig(**{field.name: getattr(config, field.name) for field in fields(TeacherConfig)})
    teacher = make_teacher(asking, task, labels, seed=config.seed, device=str(device()))
    return Annotator(task, teacher, config.on_teacher_failure) if teacher else None


def open_labels(config: TrainConfig, run: Run) -> LabelStore:
    """Where answers are kept; a store that is replayed is somebody else's and is only read."""
    if config.labels and "replay" not in config.teacher.split(":"):
        return LabelStore(config.labels)
    return LabelStore(run.labels, own=True)


def _given_controller(config: TrainConfig, task: Task) -> Controller | None:
    """The controller to start from: the one that is named, or for HIRO, where it needs one, the newest of the
    task that was taught as the command says; it is distilled now if there is none."""
    own = Path(config.logdir) / config.method / task.name / config.savedir / "controller"
    if config.plans and config.resume and own.exists():  # what the run began with, whatever became of that since
        return load_controller(own, task)
    if config.controller is not None:
        return named_controller(config.controller, config.logdir, task)
    if not config.needs_controller:
        return None
    taught = {name: getattr(config, name) for name in ("teacher", "model", "label_noise")}
    runs = [run for run in Run.all(config.logdir, "dagger", task.name) if run.controller.exists()]
    alike = [run for run in runs if all(run.config.get(name) == value for name, value in taught.items())]
    if (newest := newest_controller(alike, task)) is not None:
        return newest
    name = "controller" if not runs else f"controller-{config.teacher}-{config.label_noise:g}"
    _train_one(replace(config, method="dagger", savedir=name, steps=None, num_envs=None, resume=True))
    return load_controller(Run.find(config.logdir, "dagger", task.name, name).controller, task)


def _take_low_level(config: TrainConfig, method: Hiro) -> int:
    """Give a method the low level of the run that is named; the steps which that has cost."""
    run = Run.find(config.logdir, "hiro", None, config.low_level or "")
    step = run.restore(lambda tree: method.take_low_level(tree["method"]))
    return int(run.results().get("steps", step))


class _Training:
    """One run from where it stands to its end."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        settings: Settings,
        run: Run,
        log: Metrics,
        method: Method,
        hierarchy: Hierarchy,
        labeller: Labeller | None,
        accounting: Accounting | None,
        facts: dict[str, Any],
    ) -> None:
        self.config, self.task, self.settings, self.run, self.log = config, task, settings, run, log
        self.method, self.hierarchy, self.labeller, self.accounting = method, hierarchy, labeller, accounting
        self.steps = 0
        self.facts = facts
        if config.resume and run.last_step is not None:
            run.restore(self._restore)

    def to_the_end(self) -> dict[str, Any]:
        """Collect, learn, log and save until the steps are spent; then judge the student on held-out levels."""
        worlds = self.settings.num_envs
        if self.steps + worlds > self.settings.steps and self.run.results():
            self.log.say("this run is complete; more --steps would continue it")
            return self.run.results()
        save_every = max(worlds, self.settings.steps // _SAVES)
        while self.steps + worlds <= self.settings.steps:
            started, before = time.perf_counter(), self.steps
            store, length, mix = self.method.plan(self.steps)
            length = min(length, (self.settings.steps - self.steps) // worlds)
            self.hierarchy.collect(store, length, mix)
            self.steps += length * worlds
            info = self.method.update(self.hierarchy.observed, self.steps)
            spent = self.steps + worlds > self.settings.steps
            if self.method.distilling(before) and (spent or not self.method.distilling(self.steps)):
                info |= self._graduate()
            seconds = time.perf_counter() - started
            self.facts["seconds"] += seconds
            if self.config.eval_every and before // self.config.eval_every != self.steps // self.config.eval_every:
                info |= _evaluation(self._judge(str(self.steps)))
            self.log.scalars(self.steps, info | self._progress(mix) | {"time/fps": length * worlds / seconds})
            if before // save_every != self.steps // save_every:
                self.run.save(self.steps, self._state())
        self.run.save(self.steps, self._state())
        return self._finish()

    def _graduate(self) -> dict[str, float]:
        """The teacher is switched off: keep the controller as it is now, and judge the student before any reward."""
        info = self.method.graduate()
        self.hierarchy.guide = self.method.guide
        self.log.say(f"{self.steps:,} steps: distilled; the teacher is switched off")
        if self.method.controller is not None:
            save_controller(self.run.controller, self._distilled(self.method.controller))
        if self.config.eval_episodes:
            self.facts["distilled"] = self._judge("distilled")
        return info

    def _distilled(self, network: ControllerNetwork) -> Controller:
        """The controller as it is now, with its provenance: that of another run where it was taken over from there."""
        if isinstance(self.labeller, ControllerLabels) and network is self.labeller.controller.network:
            return self.labeller.controller
        return Controller(self.task, network, self.method.calibration[0], self._provenance())

    def _progress(self, mix: float) -> dict[str, float]:
        """Episodes that ended, those that the teacher had a hand in apart; and what the teacher has cost."""
        episodes = self.hierarchy.drain_finished()
        numbers = {"rollout/mix": mix}
        for prefix, guided in (("rollout/guided_", 1.0), ("rollout/", 0.0)):
            chosen = [episode for episode in episodes if episode["guided"] == guided]
            for name in ("success", "return", "length") if chosen else ():
                numbers[prefix + name] = float(np.mean([episode[name] for episode in chosen]))
        if self.accounting is not None:
            numbers |= self.accounting.metrics(self.steps)
        return numbers

    def _provenance(self) -> dict[str, Any]:
        """What a controller checkpoint says of its training."""
        facts: dict[str, Any] = {"steps": self.steps, "seed": self.config.seed, **self.method.calibration[1]}
        if self.labeller is not None:
            stats = self.labeller.stats
            facts["teacher"] = {"name": self.config.teacher, "queries": stats.queries, "calls": stats.calls}
        return facts

    def _teacher(self) -> str:
        """Who taught: where a finished controller was given, whoever taught that."""
        if isinstance(self.labeller, ControllerLabels):
            return str(self.labeller.controller.facts.get("teacher", {}).get("name", "unknown"))
        return "none" if self.labeller is None else self.config.teacher

    def _judge(self, stage: str) -> dict[str, Any]:
        """Play the held-out levels, sampled and greedy, and keep each episode for paired comparisons."""
        levels = range(FIRST_EVAL_LEVEL, FIRST_EVAL_LEVEL + self.config.eval_episodes)
        scores = {}
        for style in STYLES:
            played = play(self.task, self.method.player, levels, greedy=style == "greedy", seed=self.config.seed)
            scores[style] = summary(played)
            episodes = {"success": played.success.tolist(), "length": played.length.tolist()}
            write_json(self.run.path / "episodes" / f"{stage}-{style}.json", episodes)
        return scores

    def _finish(self) -> dict[str, Any]:
        result = {
            "task": self.task.name,
            "method": self.config.method,
            "teacher": self._teacher(),
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
        if isinstance(self.labeller, ControllerLabels):
            result["controller_steps"] = self.labeller.controller.facts.get("steps", 0)
            result["steps"] += result["controller_steps"]
        result["steps"] += result.get("low_level_steps", 0)
        if self.config.eval_episodes:
            result["student"] = self._judge("student")
            scores = _evaluation(result["student"])
            self.log.scalars(self.steps, scores)
            self.log.hparams(asdict(self.config), scores)
        self.run.conclude(result)
        return result

    def _state(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "facts": self.facts,
            "method": self.method.state_dict(),
            "hierarchy": self.hierarchy.state_dict(),
            "labeller": self.labeller.state_dict() if self.labeller else None,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.steps, self.facts = state["steps"], state["facts"]
        self.method.load_state_dict(state["method"])
        self.hierarchy.load_state_dict(state["hierarchy"])
        self.hierarchy.guide = self.method.guide
        if self.labeller is not None:
            self.labeller.load_state_dict(state["labeller"])


def _evaluation(scores: dict[str, Any]) -> dict[str, float]:
    """Success and return on held-out levels, sampled and greedy, as metrics."""
    measures = ("success", "return")
    return {f"eval/{style}_{measure}": row[measure] for style, row in scores.items() for measure in measures}

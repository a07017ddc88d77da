"""The `eval` verb: teacher, student, controller and baselines on the same held-out levels, sampled and greedy."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.agent.config import TrainConfig, configure, from_plain
from preceptor.agent.demonstrating import expert_return
from preceptor.agent.flags import EvalConfig
from preceptor.agent.levels import Player
from preceptor.agent.llm_agent import llm_player
from preceptor.agent.methods import entry_of
from preceptor.agent.methods.protocol import Method, Parts
from preceptor.agent.players import (
    Episodes,
    controller_player,
    milliseconds_per_step,
    play,
    random_player,
    summary,
    teacher_player,
)
from preceptor.agent.remote.client import Client
from preceptor.agent.remote.player import remote_player
from preceptor.agent.runs.carried import task_of
from preceptor.agent.runs.results import write_result
from preceptor.agent.runs.run import Run
from preceptor.agent.runs.statistics import mcnemar, paired_difference
from preceptor.agent.runs.text import MODES
from preceptor.controller.checkpoint import load_controller
from preceptor.controller.roles import Controller
from preceptor.envs.task import Task
from preceptor.ground.device import device, use_device
from preceptor.ground.errors import UserError
from preceptor.ground.threads import use_threads
from preceptor.teacher.base import Teacher
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.controls import ScriptedTeacher
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.make import make_teacher


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Play every player on `config.levels`; the result line, which is also written beside the run."""
    _ = config.levels, config.players  # refused before anything slow
    if ".." in Path(config.savedir or "").parts:
        raise UserError(f"--savedir {config.savedir} leaves the folder of the run.", "--savedir again, or a full path")
    use_threads(config.threads)
    use_device(config.device)
    if "served" in config.players and "task" not in config.said:
        config = replace(config, task=Client(_server(config)).agent(config.agent)["source"])
    runs = _runs(config)
    trained = from_plain(runs[0].config) if runs else None
    task = task_of(config.task, config.logdir, config.teacher_flaw or (trained.teacher_flaw if trained else None))
    result: dict[str, Any] = {"task": task.name, "method": trained.method if trained else None}
    episodes: dict[str, dict[str, Episodes]] = {}
    for name in config.players:
        players = _players(name, config, task, runs, trained)
        spent = players[0].spent
        modes = MODES if spent is None else MODES[:1]  # once: each decision is paid for
        episodes[name] = {mode: _play_all(task, players, config, mode) for mode in modes}
        result[name] = {mode: summary(played) for mode, played in episodes[name].items()}
        if spent is None:
            result[name]["sampled"]["ms_per_step"] = milliseconds_per_step(task, players[0])
        else:
            result[name]["sampled"] |= asdict(spent)
    if "llm-agent" in episodes:
        result |= _asked_once(result, runs)
    if "student" in episodes:
        result["differences"] = _differences(episodes)
    if trained is not None and all("demonstrations" in run.results() for run in runs):
        result |= _of_demonstrations(runs) | {"expert_return": expert_return(task, len(config.levels), trained.seed)}
    if count := task.not_understood(list(config.levels)):
        result["not_understood"] = count  # levels on which controllers abstain: any option is as good as another
    judged = (runs[0].group if len(runs) > 1 else runs[0].path) if runs else None
    result |= {"levels": config.seeds, "seeds": len(runs), "run": str(judged or "")}
    folder = (judged or Path(config.logdir)) / (config.savedir or "")
    if runs or config.savedir:
        own = trained is None or trained.task == task.source  # else on a variant of the run's task
        try:
            write_result(folder / ("eval.json" if own else f"eval-{task.name}.json"), result)
        except UserError as error:  # what was worked out is still worth printing
            result["not_saved"] = error.what
    if config.video:
        from preceptor.agent.runs.pictures import draw_pictures

        star = "student" if "student" in config.players else config.players[0]
        player = _players(star, config, task, runs, trained)[0]
        levels = list(config.levels)[: config.video]
        result |= draw_pictures(task, player, levels, folder / "videos", name=star)
    return result


def _asked_once(result: dict[str, Any], runs: list[Run]) -> dict[str, float]:
    """The columns of a player that asks for those that do not; and what the student's teacher was asked, in all."""
    for name in ("student", "controller", "prior", "scripted", "random"):
        if name in result:
            result[name]["sampled"] |= {"calls": 0, "tokens_in": 0, "tokens_out": 0, "seconds": 0.0}
    lines = [run.results().get("asking", {}) for run in runs]
    if not all(lines):  # a run that was not taught, or has not ended
        return {}
    return {f"taught_{what}": int(sum(line.get(what, 0) for line in lines)) for what in ("calls", "tokens") if lines}


def _of_demonstrations(runs: list[Run]) -> dict[str, float]:
    """What runs from demonstrations came to on those, averaged over the runs."""
    lines = [run.results() for run in runs]
    names = ("option_error", "option_error_heldout", "queries", "cost", "recorded_return")
    return {name: float(np.mean([line[name] for line in lines])) for name in names if all(name in li for li in lines)}


def load_student(run: Run, task: Task) -> Player:
    """The student of a run as it was last saved. Raises `CheckpointError` if it cannot be read."""
    return load_method(run, task).player


def load_method(run: Run, task: Task) -> Method:
    """A run's method as it was last saved, to be played. Raises `CheckpointError` if it cannot be read."""
    method = method_of(run.config, run.controller, task)
    run.restore(lambda tree: method.load_policy(tree["method"]))
    return method


def method_of(settings: dict[str, Any], controller: Path, task: Task) -> Method:
    """A method of a run's settings, to be played, before its weights are restored; its controller is in a folder."""
    config = from_plain(settings)
    planned = getattr(config.settings, "high_level", "") == "controller"
    planner = load_controller(controller, task) if planned else None
    return entry_of(config.method).make(Parts(task, config, np.random.SeedSequence(0), controller=planner))


def _runs(config: EvalConfig) -> list[Run]:
    """The runs to judge; none where only players without a run are asked for."""
    asked = task_of(config.task, config.logdir)
    task, again = asked.name, f"python main.py train --task {asked.source} --savedir first"
    if config.loaddir:
        alike = asked.base_name, f"{asked.base_name}:*"  # agents of these play it, too
        return Run.find_all(config.logdir, config.method, task, config.loaddir, *alike)
    newest = Run.newest(config.logdir, config.method, task)
    if newest is None and {"student", "controller", "prior"} & set(config.players):
        raise UserError(f"There is no run of {task} to judge.", again)
    return Run.find_all(config.logdir, config.method, task, str(newest.group)) if newest else []


def _players(name: str, config: EvalConfig, task: Task, runs: list[Run], trained: TrainConfig | None) -> list[Player]:
    """All that play under a name: one per training seed for student and controller."""
    match name:
        case "student":
            return [load_student(run, task) for run in runs]
        case "controller":
            masked = [getattr(from_plain(run.config).settings, "mask", True) for run in runs]
            return [controller_player(task, _controller(r, task), m) for r, m in zip(runs, masked, strict=True)]
        case "prior":
            return [_prior(run, task) for run in runs]
        case "scripted":
            return [teacher_player(task, ScriptedTeacher(task, LabelStore()))]
        case "random":
            return [random_player()]
        case "served":
            return [remote_player(Client(_server(config)), config.agent)]
        case "llm-agent":
            wanted = _asked_for(config, trained.teacher if trained else TeacherConfig())
            return [llm_player(task, wanted, config.agent_asks, config.agent_history, str(device()))]
    trained = trained or configure(task=config.task, logdir=config.logdir)
    return [teacher_player(task, _teacher(_asked_for(config, trained.teacher), task, runs, trained))]


def _asked_for(config: EvalConfig, own: TeacherConfig) -> TeacherConfig:
    """The run's own teacher, or the one that is asked for; of how it is asked, what is not said is the run's own."""
    of_teacher = {f.name: getattr(config.teacher, f.name) for f in fields(TeacherConfig)}
    said = {name: value for name, value in of_teacher.items() if name in config.said}
    if not config.said:  # from Python: what differs from the defaults
        said = {name: value for name, value in of_teacher.items() if value != getattr(TeacherConfig(), name)}
    same = said.get("teacher") in (None, own.teacher)
    wanted = replace(own if same else TeacherConfig(), **said)
    limits = ("concurrency", "max_llm_calls", "max_llm_tokens", "max_llm_seconds")
    return replace(wanted, **{name: of_teacher[name] for name in limits}, on_teacher_failure="abort")


def _teacher(wanted: TeacherConfig, task: Task, runs: list[Run], trained: TrainConfig) -> Teacher:
    """A teacher over the labels of the first run."""
    wanted = replace(wanted, labels=wanted.labels or (str(runs[0].labels) if runs else None))
    store = LabelStore(None if "replay" in wanted.teacher.split(":") else wanted.labels)
    teacher = make_teacher(wanted, task, store, seed=trained.seed, device=str(device()), as_recorded=True)
    if teacher is None:
        raise UserError("The run had no teacher.", "--teacher local, or leave the teacher out of --compare")
    return teacher


def _server(config: EvalConfig) -> str:
    if config.server is None:
        example = "python main.py eval --compare served --server http://127.0.0.1:8000"
        raise UserError("--compare served needs the address of a policy server.", example)
    return config.server


def _controller(run: Run, task: Task) -> Controller:
    if not run.controller.exists():
        what = f"{run.path} has no controller: it is a {run.config.get('method')} run."
        raise UserError(what, "leave the controller out of --compare")
    return load_controller(run.controller, task)


def _prior(run: Run, task: Task) -> Player:
    player = load_method(run, task).prior_player
    if player is None:
        what = f"{run.path} has no prior that could play: it is a {run.config.get('method')} run."
        raise UserError(what, "leave the prior out of --compare")
    return player


def _play_all(task: Task, players: list[Player], config: EvalConfig, mode: str) -> Episodes:
    """Every player on every level, one after another."""
    played = [
        play(task, player, config.levels, greedy=mode == "greedy", seed=i, batch=config.batch)
        for i, player in enumerate(players)
    ]
    return Episodes(*(np.concatenate([getattr(p, field.name) for p in played]) for field in fields(Episodes)))


def _differences(episodes: dict[str, dict[str, Episodes]]) -> list[dict[str, Any]]:
    """Student minus every other player on the same levels, with paired intervals and McNemar's exact p."""
    rows = []
    student = episodes["student"]["sampled"]
    for name, theirs in episodes.items():
        if name == "student":
            continue
        other = theirs["sampled"]
        repeats = len(student.success) // len(other.success)
        row: dict[str, Any] = {"student minus": name}
        for measure in ("success", "length"):
            ours = getattr(student, measure)
            row[measure] = paired_difference(ours, np.tile(getattr(other, measure), repeats))
        row["mcnemar_p"] = mcnemar(student.success, np.tile(other.success, repeats))
        rows.append(row)
    return rows

"""The `eval` verb: teacher, student, controller and baselines on the same held-out levels, sampled and greedy."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.config import EvalConfig, TrainConfig
from agent.core import Player
from agent.demonstrating import expert_return
from agent.halo.method import restored_player
from agent.halo.presets import halo_settings
from agent.methods import make_method
from agent.players import (
    STYLES,
    Episodes,
    controller_player,
    milliseconds_per_step,
    play,
    random_player,
    summary,
    teacher_player,
)
from agent.presets import settings_of
from agent.runs.run import Run
from agent.runs.statistics import mcnemar, paired_difference
from controller.checkpoint import load_controller
from controller.roles import Controller
from envs.catalog import get_task
from envs.task import Task
from ground.atomic import write_json
from ground.device import device, use_device
from ground.errors import UserError
from teacher.base import Teacher
from teacher.config import TeacherConfig
from teacher.controls import ScriptedTeacher
from teacher.labels import LabelStore
from teacher.make import make_teacher

# How the teacher is asked: as the run had it, unless another teacher or setting is named.
_OF_THE_TEACHER = ("base_url", "model", "permutations", "margin", "label_noise", "prompt", "scoring", "samples")
_OF_THE_COMMAND = ("concurrency", "max_llm_calls", "max_llm_tokens", "max_llm_seconds")


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Play everybody on `config.levels`; the result line, which is also written beside the run."""
    torch.set_num_threads(config.threads)
    use_device(config.device)
    runs = _runs(config)
    trained = _trained_as(runs[0]) if runs else None
    limit = config.limit or (trained.limit if trained else None)
    task = get_task(config.task, limit)
    result: dict[str, Any] = {"task": task.name, "method": trained.method if trained else None}
    episodes: dict[str, dict[str, Episodes]] = {}
    for name in config.players:
        players = _players(name, config, task, runs, trained)
        episodes[name] = {style: _play_all(task, players, config, style) for style in STYLES}
        result[name] = {style: summary(played) for style, played in episodes[name].items()}
        result[name]["sampled"]["ms_per_step"] = milliseconds_per_step(task, players[0])
    if "student" in episodes:
        result["differences"] = _differences(episodes)
    if trained is not None and trained.method == "halo":
        result |= _of_demonstrations(runs) | {"expert_return": expert_return(task, len(config.levels), trained.seed)}
    judged = (runs[0].group if len(runs) > 1 else runs[0].path) if runs else None
    result |= {"levels": config.seeds, "seeds": len(runs), "run": str(judged or "")}
    folder = (judged or Path(config.logdir)) / (config.savedir or "")
    if runs or config.savedir:
        try:
            write_json(folder / "eval.json", result)
        except UserError as error:  # what was worked out is still worth printing
            result["not_saved"] = error.what
    if config.video:
        from agent.runs.pictures import draw_pictures

        star = "student" if "student" in config.players else config.players[0]
        player = _players(star, config, task, runs, trained)[0]
        levels = list(config.levels)[: config.video]
        result |= draw_pictures(task, player, levels, folder / "videos", name=star)
    return result


def _of_demonstrations(runs: list[Run]) -> dict[str, float]:
    """What halo's runs came to on their demonstrations, averaged over the runs."""
    lines = [run.results() for run in runs]
    names = ("option_error", "option_error_heldout", "queries", "cost")
    return {name: float(np.mean([line[name] for line in lines])) for name in names if all(name in li for li in lines)}


def load_student(run: Run, task: Task) -> Player:
    """The student of a run as it was last saved. Raises `CheckpointError` if it cannot be read."""
    trained = _trained_as(run)
    if trained.method == "dagger":
        return controller_player(task, _controller(run, task), trained.mask)
    if trained.method == "halo":
        config, players = halo_settings(trained), list[Player]()
        run.restore(lambda tree: players.append(restored_player(task, config, tree["method"])))
        return players[0]
    settings = settings_of(trained)
    plans = trained.method == "hiro" and trained.high_level == "controller"
    given = load_controller(run.controller, task) if plans else None
    student = make_method(trained, task, None, settings, np.random.SeedSequence(0), given)
    run.restore(lambda tree: student.load_policy(tree["method"]))
    return student.player


def _runs(config: EvalConfig) -> list[Run]:
    """The runs to judge; none where only players without a run are asked for."""
    task = get_task(config.task).name
    if config.loaddir:
        return Run.find_all(config.logdir, config.method, task, config.loaddir)
    newest = Run.newest(config.logdir, config.method, task)
    if newest is None and {"student", "controller"} & set(config.players):
        raise UserError(f"There is no run of {task} to judge.", f"python main.py train --task {task} --savedir first")
    return Run.find_all(config.logdir, config.method, task, str(newest.group)) if newest else []


def _trained_as(run: Run) -> TrainConfig:
    known = {field.name for field in fields(TrainConfig)}
    saved: dict[str, Any] = {name: value for name, value in run.config.items() if name in known and name != "seeds"}
    return TrainConfig(**saved)


def _players(name: str, config: EvalConfig, task: Task, runs: list[Run], trained: TrainConfig | None) -> list[Player]:
    """Everybody who plays under a name: one per training seed for student and controller."""
    match name:
        case "student":
            return [load_student(run, task) for run in runs]
        case "controller":
            return [controller_player(task, _controller(run, task), _trained_as(run).mask) for run in runs]
        case "scripted":
            return [teacher_player(task, ScriptedTeacher(task, LabelStore()))]
        case "random":
            return [random_player()]
    return [teacher_player(task, _teacher(config, task, runs, trained or TrainConfig()))]


def _teacher(config: EvalConfig, task: Task, runs: list[Run], trained: TrainConfig) -> Teacher:
    """The run's own teacher, or the one that is asked for."""
    as_trained = trained if config.teacher in (None, trained.teacher) else TrainConfig()
    wanted: dict[str, Any] = {}
    for name in _OF_THE_TEACHER:
        said = getattr(config, name)
        wanted[name] = getattr(as_trained, name) if said is None else said
    kind = config.teacher or trained.teacher
    labels = config.labels or as_trained.labels or (runs[0].labels if runs else None)
    store = LabelStore(None if "replay" in kind.split(":") else labels)
    wanted |= {name: getattr(config, name) for name in _OF_THE_COMMAND}
    asking = TeacherConfig(kind, labels=str(labels) if labels else None, **wanted)
    teacher = make_teacher(asking, task, store, seed=trained.seed, device=str(device()), as_recorded=True)
    if teacher is None:
        raise UserError("The run had no teacher.", "--teacher local, or leave the teacher out of --compare")
    return teacher


def _controller(run: Run, task: Task) -> Controller:
    trained = _trained_as(run)
    if trained.method in ("ppo", "sac", "td3") or trained.student == "flat":
        kind = "flat" if trained.student == "flat" else trained.method
        raise UserError(f"{run.path} has no controller: it is a {kind} run.", "leave the controller out of --compare")
    return load_controller(run.controller, task)


def _play_all(task: Task, players: list[Player], config: EvalConfig, style: str) -> Episodes:
    """Every player on every level, one after another."""
    played = [
        play(task, player, config.levels, greedy=style == "greedy", seed=i, batch=config.batch)
        for i, player in enumerate(players)
    ]
    return Episodes(*(np.concatenate([getattr(p, field.name) for p in played]) for field in fields(Episodes)))


def _differences(episodes: dict[str, dict[str, Episodes]]) -> list[dict[str, Any]]:
    """Student minus everybody else on the same levels, with paired intervals and McNemar's exact p."""
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

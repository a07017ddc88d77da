"""The expert in the hierarchy's slots: demonstrations of a task, with the option that drove each step."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock
from preceptor.agent.data.faults import Faults, FaultyLow, MisledHigh
from preceptor.agent.data.recording import LONGEST, Recording, first_episodes, joined, normalisation, segments
from preceptor.agent.data.store import TrajectoryStore, columns, refuse_too_large
from preceptor.agent.distributions import Categorical, ClippedNormal, Distribution
from preceptor.agent.flags import DemosConfig
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Observations, Player
from preceptor.agent.players import play
from preceptor.agent.runs.carried import task_of
from preceptor.agent.runs.run import Run
from preceptor.agent.teaching import Annotator, TeacherHigh
from preceptor.envs.action_groups import action_groups_of
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT
from preceptor.teacher.controls import ScriptedTeacher
from preceptor.teacher.labels import LabelStore

DEMONSTRATIONS = "demonstrations"  # folder of a run
# What begins a number of demonstrations that are not all of the expert's quality.
_QUALITIES = {"mixed:": Faults(), "misled:": Faults(rate=0.0, decisions=0.2)}
_HELD_OUT = 0.25  # demonstrations that are held out, for each to learn from


class ExpertHigh:
    """Chooses what the environment knows to be due; where it knows nothing, what the task's script says."""

    def __init__(self, script: TeacherHigh) -> None:
        self._script = script

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Categorical]:
        """Whether the running option [N] is over, and the one that is due with certainty [N, K]."""
        due = observed.true_option
        if due is None:
            return self._script.choose(observed, running)
        return running != due, Categorical(np.eye(len(observed.task.options), dtype=np.float32)[due])


class ExpertLow:
    """Acts as the task's expert does, with mistakes.

    A task whose expert knows several best ways has `expert_actions(obs, options, rng, epsilon)`: primitive actions [N]
    along one of them, mistakes included.

    Args:
        epsilon: Probability of a uniformly random action; where actions are vectors, deviation of Gaussian noise.
        rng: Draws ways and mistakes where the task's expert does so itself.
    """

    def __init__(self, epsilon: float, rng: np.random.Generator) -> None:
        self.epsilon, self._rng = epsilon, rng

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """The expert's action, disturbed."""
        task = observed.task
        one_hot = np.eye(0 if task.continuous else task.num_actions, dtype=np.float32)
        if varied := getattr(task, "expert_actions", None):
            return Categorical(one_hot[varied(observed.obs, clock.option, self._rng, self.epsilon)])
        action = task.skill(observed.obs, clock.option)
        if task.continuous:
            return ClippedNormal(action.astype(np.float32), self.epsilon)
        return Categorical((1 - self.epsilon) * one_hot[action] + self.epsilon / task.num_actions)


def expert_player(task: Task, epsilon: float, rng: np.random.Generator) -> Player:
    """The expert that demonstrates a task; it cannot act if the task has no scripted skills."""
    script = TeacherHigh(Annotator(task, ScriptedTeacher(task, LabelStore())))
    return Player(ExpertHigh(script), ExpertLow(epsilon, rng), task.options.timeouts)


def record(
    task: Task, count: int, seed: int | Sequence[int], epsilon: float | None = None, faults: Faults | None = None
) -> Recording:
    """Demonstrations of a task by its expert, one per training level; `extra` has their `success`.

    Args:
        task: What is demonstrated, in episodes of its `demonstrated`.
        count: How many.
        seed: Draws levels, ways, mistakes and faults.
        epsilon: As `ExpertLow` has it; the task's `expert_noise` if not given.
        faults: Those of the action groups; `extra["faults"]` is the truth about them.

    Raises:
        UserError: The task has no expert, or no action groups that could be faulty, an episode of it never ends, or
            there is no room for so many.
    """

    def room(capacity: int) -> TrajectoryStore:
        size = f"{count:,} demonstrations of {capacity} steps or more"
        refuse_too_large(capacity * count, columns(task), size, f"record fewer: {{}} steps fit, {capacity} for each")
        return TrajectoryStore(task, capacity, count)

    capacity = 64
    store = room(capacity)
    drawn, acting, erring, failing = np.random.SeedSequence(seed).spawn(4)
    env = task.demonstrated.make_vec(count, seed=int(drawn.generate_state(1)[0]))
    noise = task.expert_noise if epsilon is None else epsilon
    player = expert_player(task, noise, np.random.default_rng(erring))
    faulty: list[NDArray[np.bool_]] = []  # [N, G] of each step
    misled: list[NDArray[np.bool_]] = []  # [N] of each step
    if faults is not None and faults.decisions:
        player = player._replace(high=MisledHigh(player.high, faults.decisions))
    if faults is not None and faults.rate:
        player = player._replace(low=FaultyLow(player.low, task, faults, count, np.random.default_rng(failing)))
    hierarchy = Hierarchy(task, env, player, rng=np.random.default_rng(acting))
    ended, won = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    while not ended.all():
        if len(store) == LONGEST:
            raise UserError(f"An expert's episode of {task.name} has not ended after {LONGEST:,} steps.")
        if len(store) == capacity:
            capacity *= 2
            saved, store = store.state_dict(), room(capacity)
            store.load_state_dict(saved)
        hierarchy.step(store)
        if isinstance(player.low, FaultyLow):
            faulty.append(player.low.faulty)
        row = len(store) - 1
        if isinstance(player.high, MisledHigh):
            option, age = store.column("option")[row], store.column("option_age")[row]
            before = misled[-1] if misled else ended
            misled.append(np.where(age == 0, option != player.high.due, before))
        for episode in hierarchy.drain_finished():
            n = int(episode["environment"])
            won[n] = won[n] if ended[n] else episode["success"] > 0
        ended |= store.column("terminated")[row] | store.column("truncated")[row]
    unknown = store.column("true_option") < 0
    if misled:  # what drove the steps was not what was due
        unknown[:] = True
    store.column("true_option")[:] = np.where(unknown, store.column("option"), store.column("true_option"))
    truth = {name: np.stack(rows) for name, rows in (("faults", faulty), ("wrong_option", misled)) if rows}
    recording = first_episodes(store, **truth)
    last = np.arange(recording.option.shape[1]) == recording.lengths[:, None] - 1
    return replace(recording, extra={**recording.extra, "success": last & won[:, None]})


def demonstrations_of(demos: str, task: Task, seed: int, run: Run) -> tuple[Recording, Recording]:
    """The demonstrations that a run began with, or new ones, or those of datasets.

    Args:
        demos: Parts joined by `+`, each of which is: how many to record of the task's expert, `mixed:` before how many
            to record with faults of action groups, `misled:` before how many with wrong options, a Minari dataset by
            its id, the folder of a LeRobot dataset, or a file in D4RL's layout. `extra["optimal"]` tells the
            expert's episodes.
        task: What is demonstrated.
        seed: Of `record`.
        run: Keeps them.

    Returns:
        Those to learn from, and those that are held out, of each part its last ones.

    Raises:
        UserError: There are too few, they are not of this task, or they were normalised in different ways.
    """
    if (run.path / DEMONSTRATIONS).exists():
        return kept_demonstrations(run)
    recording, learnt = gathered(demos, task, seed)
    recording.save(run.path / DEMONSTRATIONS, held_out=len(recording) - learnt)
    return recording[:learnt], recording[learnt:]


def kept_demonstrations(run: Run) -> tuple[Recording, Recording]:
    """The demonstrations that a run learns from, and those that are held out. Raises `CheckpointError` without any."""
    recording, facts = Recording.load(run.path / DEMONSTRATIONS)
    kept = len(recording) - facts.get("held_out", _share(recording))  # which earlier versions do not say
    return recording[:kept], recording[kept:]


def gathered(demos: str, task: Task, seed: int) -> tuple[Recording, int]:
    """The demonstrations that words stand for, as `demonstrations_of` has it, and how many, the first ones, are to be
    learned from."""
    parts = [_part(words, task, [seed, n] if n else seed) for n, words in enumerate(_parts(demos))]
    if len({digest for *_, digest in parts} - {None}) > 1:
        which = ", ".join(str(digest) for *_, digest in parts)
        what = f"The parts of --demos {demos} were normalised in different ways: {which}."
        raise UserError(what, "record them again with this version: python main.py demos")
    recording = joined([part[:kept] for part, kept, _ in parts] + [part[kept:] for part, kept, _ in parts])
    return recording, sum(kept for _, kept, _ in parts)


def _parts(demos: str) -> list[str]:
    """The parts of `--demos`; a file or folder whose name has a plus sign is one."""
    return [demos] if os.path.exists(demos) else demos.split("+")


def _part(words: str, task: Task, seed: int | Sequence[int]) -> tuple[Recording, int, str | None]:
    """What one part of `--demos` stands for, how many of its episodes are to be learned from, its normalisation."""
    number = next((words.removeprefix(name) for name in _QUALITIES if words.startswith(name)), words)
    if not number.isdecimal() and number == words:
        recording, digest = _dataset(words, task)
        return recording, len(recording) - max(_share(recording), int(len(recording) > 1)), digest
    if not number.isdecimal() or not 0 < (kept := int(number)) <= SEEDS_PER_SPLIT // 2:
        few = not number.isdecimal() or not int(number)
        what = "There are no demonstrations to learn from" if few else f"There are not {number} levels to record"
        raise UserError(f"{what}.", f"record some: --demos {words.removesuffix(number)}100")
    faults = None if number == words else _QUALITIES[words.removesuffix(number)]
    recording = record(task, kept + max(1, round(kept * _HELD_OUT)), seed, faults=faults)
    return with_optimal(recording, faults is None), kept, normalisation(task)


def _dataset(words: str, task: Task) -> tuple[Recording, str | None]:
    """A dataset and its normalisation: by its words in a file as of D4RL, in a folder of LeRobot, or of Minari."""
    folder = Path(words)
    if words.endswith((".hdf5", ".h5", ".npz")):
        from preceptor.agent.data import d4rl

        return d4rl.load_d4rl(folder, task), None
    if words.startswith(("/", ".", "~")) or os.path.isdir(folder / "meta"):  # which says no to what cannot be a path
        from preceptor.agent.data import lerobot

        return lerobot.load_lerobot(folder, task), lerobot.recorded_normalisation(folder)
    from preceptor.agent.data import minari

    return minari.load_minari(words, task), minari.recorded_normalisation(words)


def with_optimal(recording: Recording, optimal: bool) -> Recording:
    """Episodes that say of themselves whether they are of the optimal subset."""
    return replace(recording, extra={**recording.extra, "optimal": recording.inside & optimal})


def _share(recording: Recording) -> int:
    """How many of so many in all are held out."""
    return int(_HELD_OUT / (1 + _HELD_OUT) * len(recording))


def demos(config: DemosConfig) -> dict[str, Any]:
    """The `demos` verb: record, and leave a dataset of Minari or LeRobot. Raises `UserError`."""
    from preceptor.agent.data.minari import new_dataset, recording_command

    task = task_of(config.task, config.logdir)
    if not config.to:
        raise UserError("The dataset has no name.", recording_command(task))
    if config.format == "lerobot":
        from preceptor.agent.data.lerobot import new_lerobot

        place = new_lerobot(Path(config.to), task)
    else:
        place = new_dataset(config.to, task)
    faults = Faults(config.fault_rate, config.kinds, config.segment) if config.quality == "mixed" else None
    with place as save:
        recording = record(task, config.count, config.seed, config.epsilon, faults)
        if faults is not None:
            best = [record(task, config.optimal, [config.seed, 1], config.epsilon)] if config.optimal else []
            # The last ones are held out from learning.
            recording = joined([*(with_optimal(part, True) for part in best), with_optimal(recording, False)])
        save(recording)
    faulty = recording.extra["faults"][recording.acted].mean(0).tolist() if faults else []
    return {
        "task": task.name,
        "dataset": config.to,
        "demonstrations": len(recording),
        "steps": int(recording.acted.sum()),
        "segments": len(segments(recording.option, recording.inside).start),
        "return": float(recording.returns.mean()),
        "success": float(recording.extra["success"].any(1).mean()),
        **{f"faulty/{name}": share for name, share in zip(action_groups_of(task), faulty, strict=False)},
    }


def expert_return(task: Task, episodes: int, seed: int) -> float:
    """Mean return of the expert, mistakes included, on held-out levels."""
    levels = range(SEEDS_PER_SPLIT, SEEDS_PER_SPLIT + episodes)
    player = expert_player(task, task.expert_noise, np.random.default_rng(seed))
    return float(play(task, player, levels, greedy=False, seed=seed).returns.mean())

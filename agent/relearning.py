"""A served agent's controller, distilled again from what its fallback teacher was asked: `python -m ... RUN`.

The agent plays training levels, as in distillation. What it meets there is labelled as the teacher has said of a scene
with these facts, else as the run's own label store says, else as the controller chooses now, so that it forgets
nothing; the observations about which the teacher was asked are learned from besides. A quarter of these is held out.
The new controller is kept if it agrees with the teacher there at least as often as the old one, and elsewhere is no
worse.
"""

import copy
import os
import shutil
import sys
import time
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from preceptor.agent.asked_scenes import Asked, AskedScenes
from preceptor.agent.config import TrainConfig, from_plain
from preceptor.agent.evaluate import load_method
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods.protocol import Method, Parts
from preceptor.agent.phases import Distil
from preceptor.agent.runs.run import Run
from preceptor.agent.teaching import Annotator, Labeller
from preceptor.controller.checkpoint import load_controller, save_controller
from preceptor.controller.distill import LabelledScenes, choices, scenes_of
from preceptor.controller.network import ControllerNetwork
from preceptor.controller.roles import Controller
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.atomic import alone, publish_folder
from preceptor.ground.device import use_device
from preceptor.ground.errors import UserError
from preceptor.teacher.base import TeacherError, TeacherStats
from preceptor.teacher.controls import ReplayTeacher

LEARNED, SCENES = "learned", "asked-scenes.sqlite"  # in the folder of the run
FEWEST_HELD_OUT = 8  # scenes on which two controllers are compared
_STEPS = 8_000  # environment steps of play
_ENVIRONMENTS = 32
_SHARE = 1 / 3  # of the scenes that are learned from, those that were asked about
_WORSE_ELSEWHERE = 0.02  # in which the old controller's choices may be given up, where nobody was asked
_NICENESS = 10


def can_learn(config: TrainConfig, method: Method) -> bool:
    """Whether a method's controller plays, and labels are distilled into it."""
    return method.controller is not None and hasattr(config.settings, "distil")


def learned_runs(run: Run) -> list[Run]:
    """What was learned at play from a run as it is now, the newest last: runs in its folder, which can be played."""
    places = [path for path in (run.path / LEARNED).glob("*") if path.name.isdigit()]
    found = [Run.open(path) for path in sorted(places, key=lambda path: int(path.name))]
    return [each for each in found if each.manifest()[LEARNED]["of"] == run.version]


def drop_old(home: Path, keep: int, used: Container[str]) -> list[str]:
    """Remove what was learned at play, but for the newest so many and the versions in use.

    Returns:
        Names of the folders that were removed.

    Raises:
        UserError: Another process learns from the same run.
    """
    with alone(home / LEARNED):
        numbers = sorted(int(path.name) for path in (home / LEARNED).glob("*") if path.name.isdigit())
        old = [home / LEARNED / str(number) for number in numbers[:-keep]]
        gone = [path.name for path in old if Run.open(path).version not in used]
        for name in gone:  # out of sight at once, so that nobody reads half of one
            (home / LEARNED / name).rename(home / LEARNED / f".{name}.dropped")
        for path in (home / LEARNED).glob(".*.dropped"):
            shutil.rmtree(path)
    return gone


class Remembered(Labeller):
    """Labels without a teacher: what it has said of a scene with these facts, else what a controller chooses.

    Args:
        task: What is played.
        asked: Labels that came at play, the last one of each scene counts.
        own: Labels of the run; None for none.
        controller: What stands where there is no label.
    """

    def __init__(self, task: Task, asked: Asked, own: Annotator | None, controller: Controller) -> None:
        self.task, self.stats, self._own, self._old = task, TeacherStats(), own, controller
        known = np.flatnonzero(~asked.held)
        self._asked = dict(zip(task.fact_codes(asked.obs[known]).tolist(), asked.probs[known], strict=True))

    def label(self, obs: NDArray, level_seeds: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As `Labeller.label`; never an abstention."""
        codes, probs = self.task.fact_codes(obs), self._old.probs(obs, legal=self.task.legal(obs))
        if self._own is not None:
            said, _ = self._own.label(obs, level_seeds)
            probs = np.where(said.sum(1, keepdims=True) > 0, said, probs)
        for row, code in enumerate(codes.tolist()):
            if (label := self._asked.get(code)) is not None:
                probs[row] = label
        return probs, codes


def relearn(home: Path, steps: int = _STEPS) -> dict[str, Any]:
    """Distil the newest controller of a run again; what came of it, which is noted beside the scenes, too.

    Args:
        home: The run.
        steps: Environment steps of play.

    Raises:
        UserError: Another process does the same, or something cannot be read.
    """
    began, base = time.monotonic(), Run.open(home)
    config = from_plain(base.config)
    task = get_task(config.task)
    with alone(home / LEARNED), AskedScenes(home / SCENES, task) as store:
        earlier = learned_runs(base)
        place, asked = (earlier or [base])[-1], store.read()
        torch.manual_seed(asked.last)
        method = load_method(place, task)
        assert method.controller is not None, "looked at before it is served"
        old = copy.deepcopy(method.controller)
        own = _own_labels(base, config, task)
        labeller = Remembered(task, asked, own, Controller(task, old))
        distil = _distilled(task, config, method, labeller, asked, steps)
        held = _scenes(task, asked, np.flatnonzero(asked.held))
        before, after = (_agreement(network, held) for network in (old, method.controller))
        lost, kept = (_chosen(network, distil.held_out) for network in (old, method.controller))
        told: dict[str, Any] = {"agreement": after, "agreement_before": before, "held_out": len(held)}
        told |= {"elsewhere": kept, "elsewhere_before": lost, "scenes": int((~asked.held).sum())}
        told |= {"own_labels": own is not None, "of": base.version, "from": place.version}
        told |= {"seconds": round(time.monotonic() - began, 1)}
        learned = len(held) > 0 and after >= before and kept >= lost - _WORSE_ELSEWHERE
        if learned:
            number = 1 + max((int(p.name) for p in (home / LEARNED).glob("*") if p.name.isdigit()), default=0)
            facts = {LEARNED: told, "agreement": after}
            controller = Controller(task, method.controller, distil.calibration[0], facts)
            _publish(home / LEARNED / str(number), place, method, controller, told)
        store.note("learned" if learned else "refused", told, asked.last)
    return told | {"learned": learned}


def _own_labels(run: Run, config: TrainConfig, task: Task) -> Annotator | None:
    """The labels of a run that still plays what these have taught it; those that reward has overcome are not learned
    again, and there the controller stands for itself."""
    path = Path(config.teacher.labels or run.labels)
    if not path.is_file() or not run.controller.exists():
        return None
    played = load_method(run, task).controller
    assert played is not None
    taught, now = load_controller(run.controller, task).network.state_dict(), played.state_dict()
    if not all(torch.equal(taught[name], now[name]) for name in now):
        return None
    try:
        model, margin = config.teacher.model, config.teacher.margin
        return Annotator(task, ReplayTeacher(task, path, model=model, margin=margin, abstains=True))
    except TeacherError:  # labels of several teachers, of which none is said to be right
        return None


def _distilled(task: Task, config: TrainConfig, method: Method, labeller: Labeller, asked: Asked, steps: int) -> Distil:
    """The controller of a method learns; the phase is over then."""
    settings = replace(config.settings, distil=replace(config.settings.distil, doubt=False, retell=False))
    config = replace(config, steps=steps, num_envs=_ENVIRONMENTS, settings=settings)
    seeds, playing, levels = np.random.SeedSequence(asked.last).spawn(3)
    known = np.flatnonzero(~asked.held)
    # Again and again, since among thousands of scenes of play a few would hardly ever be drawn.
    repeated = np.resize(known, max(len(known), round(steps * _SHARE / (1 - _SHARE)))) if len(known) else known
    parts = Parts(task, config, seeds, labeller=labeller)
    given = _scenes(task, asked, repeated)
    distil = Distil(parts, None, method.controller, np.random.default_rng(seeds), steps=steps, given=given)
    env = task.make_vec(_ENVIRONMENTS, seed=int(levels.generate_state(1)[0]))
    try:
        hierarchy, done = Hierarchy(task, env, method.player, rng=np.random.default_rng(playing)), 0
        while not distil.over(done, steps):
            done = distil.advance(hierarchy, done, steps).steps
        distil.end()
    finally:
        env.close()
    return distil


def _scenes(task: Task, asked: Asked, rows: NDArray[np.int64]) -> LabelledScenes:
    obs = asked.obs[rows]
    return scenes_of(task, obs, asked.previous[rows], asked.probs[rows], task.legal(obs))


def _agreement(network: ControllerNetwork, scenes: LabelledScenes) -> float:
    """Share of scenes in which a controller's best option is the teacher's."""
    return float((choices(network, scenes) == scenes.probs.argmax(1)).mean()) if len(scenes) else 0.0


def _chosen(network: ControllerNetwork, scenes: LabelledScenes) -> float:
    """How probable the labels find a controller's best options; near ties count for little."""
    return float(scenes.probs[np.arange(len(scenes)), choices(network, scenes)].mean())


def _publish(folder: Path, place: Run, method: Method, controller: Controller, told: dict[str, Any]) -> None:
    """Write a run that plays the new controller, as a whole or not at all."""
    with publish_folder(folder) as draft:
        for name in ("config.json", "manifest.json"):
            shutil.copy(place.path / name, draft / name)
        new = Run(draft, place.config)
        new.annotate(**{LEARNED: told})
        new.save(place.last_step or 0, {"method": method.state_dict()})
        save_controller(new.controller, controller)


def main(words: Sequence[str]) -> int:
    """Learn at low priority, on one core."""
    os.nice(_NICENESS)
    torch.set_num_threads(1)
    use_device("cpu")
    try:
        relearn(Path(words[0]))
    except UserError as error:
        sys.stderr.write(f"{error.what} Next: {error.next_step}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

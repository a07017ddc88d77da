"""The `skills` verb: names for the kinds of skills that a run of helios found, from a teacher or a person.

Whoever names them reads the scenes before and after windows of a kind, and chooses among the words of the task's
options. Neither the options that demonstrations were recorded with nor other windows of the kind are shown.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.flags import NamingConfig
from preceptor.agent.runs.skills_report import Found, found_by, skill_run
from preceptor.envs.task import Option, OptionSpace, Scene, Task
from preceptor.ground.atomic import read_sealed, write_json
from preceptor.ground.errors import UserError
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.make import make_teacher
from preceptor.teacher.prompts import LETTERS

FILE = "skills.json"
OTHER = "something else"
_FORMAT, _SCHEMA = "preceptor-skills", 1
_SHUFFLES = 20  # shuffles over which the agreement by chance is averaged


def placed_scenes(task: Task, obs: NDArray, places: NDArray[np.int64]) -> list[Scene]:
    """Scenes of observations [N, ...], in which the last fact says what the agent is in place for (`Task.in_place`)."""
    scenes = []
    for scene, place in zip(task.describe(obs), places.tolist(), strict=True):
        facts, text = (*scene.facts, f"place={'' if place < 0 else task.options.ids[place]}"), scene.text
        text += f" In place to {task.options[place].words}." if place >= 0 else ""
        scenes.append(replace(scene, facts=facts, text=text))
    return scenes


class Naming(Task):
    """The question what was done between two moments of a task, as a task whose scenes teachers label.

    Args:
        task: The task that was played.
    """

    rules = "Compare what is so after with what was so before. Name what was done in between, not what comes next."

    def __init__(self, task: Task) -> None:
        if len(task.options) >= len(LETTERS):
            raise UserError(f"{task.name} has too many options for one question.", '--teacher none --name 0="grasp"')
        self.played, self.name = task, f"{task.name}:naming"
        self.goal = "An agent was watched at two moments. Say which of the options it carried out between them."
        self.options = OptionSpace([*task.options, Option("other", OTHER, 1)])
        self._asked: dict[tuple[str, ...], tuple[Scene, int]] = {}

    def scene(self, before: NDArray, after: NDArray) -> Scene | None:
        """The scene of two observations [...]; None if all facts are the same."""
        both = np.stack([before, after])
        places = self.played.in_place(both)
        first, last = placed_scenes(self.played, both, places)
        if first.facts == last.facts:
            return None
        facts = *(f"before {fact}" for fact in first.facts), *(f"after {fact}" for fact in last.facts)
        if facts not in self._asked:
            text = f"Before: {first.text} After: {last.text}"
            scene = Scene(self.name, facts, text, tuple(range(len(self.options))))
            self._asked[facts] = scene, self._done(both, places)
        return self._asked[facts][0]

    def _done(self, both: NDArray, places: NDArray[np.int64]) -> int:
        """The one option that became done, or else what the agent came into place for, or left; else the last."""
        options = np.arange(len(self.played.options))
        was, now = (self.played.option_done(np.repeat(obs[None], len(options), 0), options) for obs in both)
        done = np.flatnonzero(now & ~was)
        if len(done):
            return int(done[0]) if len(done) == 1 else len(options)
        return next((int(place) for place in places[::-1] if place >= 0), len(options))

    def script(self, scene: Scene) -> int:
        """The one option that became done in between, or else what the agent is in place for in the end, or was;
        `something else` if there is none, or several became done."""
        return self._asked[scene.facts][1]

    def sample_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """Some of the scenes that were made."""
        made = [scene for scene, _ in self._asked.values()]
        return [made[n] for n in rng.integers(len(made), size=count)] if made else []


def name_skills(config: NamingConfig) -> dict[str, Any]:
    """The `skills` verb: a row per kind of skill, and where the names were written.

    Raises:
        UserError: The run is not of helios or has not learned its skills, or --name is not understood.
        TeacherError: The teacher cannot answer.
    """
    run = skill_run(config.run, config.logdir, config.task)
    found = found_by(run)
    own = _said(config.name, found.kinds)
    path, store = run.path / FILE, config.teacher.labels or str(run.path / "labels.sqlite")
    named = _asked(found, config, store) if config.teacher.teacher != "none" else _kept(path, found.kinds)
    for kind, words in own.items():
        named["skills"][kind] |= {"words": words, "source": "person"}
    for skill, name in zip(named["skills"], distinct([s["words"] for s in named["skills"]]), strict=True):
        skill["name"] = name
    write_json(path, {"format": _FORMAT, "schema": _SCHEMA, "task": found.task.source, **named})
    return {"run": str(run.path), **named, "summary": _summary(named, path), "table": list(map(_row, named["skills"]))}


def read_names(path: Path) -> dict[str, Any]:
    """What `name_skills` left in a run's folder. Raises `CheckpointError` if it is missing or damaged."""
    kept = read_sealed(path, schema=_SCHEMA)
    return {key: value for key, value in kept.items() if key not in ("format", "schema", "task")}


def distinct(words: Sequence[str]) -> list[str]:
    """Words [K], with a number behind those that an earlier kind has already."""
    seen, names = Counter[str](), []
    for one in words:
        seen[one] += 1
        names.append(one if seen[one] == 1 else f"{one} ({seen[one]})")
    return names


def _said(names: Sequence[str], kinds: int) -> dict[int, str]:
    """Words by kind, of `--name 3="open the microwave"`."""
    said = {}
    for one in names:
        kind, _, words = one.partition("=")
        if not (kind.isdecimal() and int(kind) < kinds and words.strip()):
            what = f"--name {one!r} is not the number of a skill, 0 to {kinds - 1}, and words for it."
            raise UserError(what, '--name 0="open the microwave"')
        said[int(kind)] = words.strip()
    return said


def _kept(path: Path, kinds: int) -> dict[str, Any]:
    """The names that are there; numbers where there are none."""
    kept = read_names(path) if path.exists() else {}
    if len(kept.get("skills", ())) == kinds:
        return kept
    return {"skills": [{"kind": k, "words": f"skill {k}", "source": "none"} for k in range(kinds)]}


def scene_around(found: Found, naming: Naming, window: int) -> Scene | None:
    """The scene before and after a window, or if nothing changed in it, H steps before and after; None if nothing
    changed there, either."""
    n, start = int(found.episode[window]), int(found.start[window])
    seen, last = found.recording.obs[n], int(found.recording.lengths[n]) - 1
    for more in (0, found.horizon):
        scene = naming.scene(seen[max(0, start - more)], seen[min(last, start + found.horizon + more)])
        if scene is not None:
            return scene
    return None


def _asked(found: Found, config: NamingConfig, store: str) -> dict[str, Any]:
    """What a teacher says of some windows of each kind."""
    naming, rng = Naming(found.task), np.random.default_rng(config.seed)
    drawn = [rng.permutation(np.flatnonzero(found.kind == k))[: config.windows] for k in range(found.kinds)]
    kind = np.repeat(np.arange(found.kinds), [len(rows) for rows in drawn])
    scenes = [scene_around(found, naming, int(window)) for window in np.concatenate(drawn)]
    changed = [scene for scene in scenes if scene is not None]
    with LabelStore(store) as labels:
        teacher = make_teacher(config.teacher, naming, labels, seed=config.seed) if changed else None
        said = teacher.label(changed) if teacher is not None else []
    probs = np.array([label.probs for label in said]).reshape(len(said), len(naming.options))
    decided = probs.sum(1) > 0  # all but abstentions
    asked = kind[[scene is not None for scene in scenes]][decided]
    probs = probs[decided]
    top, means = _names(probs, asked, found.kinds)
    agreed = probs.argmax(1) == top[asked]
    dealt = [probs[rng.permutation(len(probs))] for _ in range(_SHUFFLES)]
    skills, begins = [], _beginnings(found)
    for k in range(found.kinds):
        own, words = asked == k, naming.options[int(top[k])].words
        one = {"kind": k, "words": words, "option": naming.options.ids[top[k]], "source": config.teacher.teacher}
        one |= {"windows": len(drawn[k]), "undecided": len(drawn[k]) - int(own.sum())}
        one |= {"probs": means[k].tolist(), "labels": probs[own].argmax(1).tolist(), "begins": begins[k].tolist()}
        skills.append(one | {"agreement": float(agreed[own].mean()) if own.any() else None})
    total = {"windows": len(kind), "undecided": len(kind) - len(asked)}
    return {
        "skills": skills,
        **total,
        "agreement": agreement_of(probs, asked, found.kinds),
        "shuffled": float(np.mean([agreement_of(deal, asked, found.kinds) for deal in dealt])),
        "right": _right(found, top),
        "right_shuffled": float(np.mean([_right(found, _names(deal, asked, found.kinds)[0]) for deal in dealt])),
    }


def _right(found: Found, names: NDArray[np.int64]) -> int:
    """How many kinds' names [K] are the option most often due there. It judges names, and takes no part in naming."""
    told = found.option >= 0
    due = np.zeros((found.kinds, len(found.task.options) + 1), np.int64)
    np.add.at(due, (found.kind[told], found.option[told]), 1)
    return int(((due.argmax(1) == names) & due.any(1)).sum())


def _beginnings(found: Found) -> NDArray[np.int64]:
    """How many windows of each kind begin in place for each option [K, O + 1]; in the last column, for none."""
    places = found.task.in_place(found.recording.obs[found.episode, found.start])
    counts = np.zeros((found.kinds, len(found.task.options) + 1), np.int64)
    np.add.at(counts, (found.kind, places), 1)  # -1 is the last column
    return counts


def _names(probs: NDArray, kind: NDArray[np.int64], kinds: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The likeliest option [K] of each kind, and the mean distributions [K, O] of labels [M, O] of kinds [M]; the last
    option where nothing was said."""
    means = np.zeros((kinds, probs.shape[1]))
    means[:, -1] = 1
    for k in np.unique(kind):
        means[k] = probs[kind == k].mean(0)
    return means.argmax(1), means


def agreement_of(probs: NDArray, kind: NDArray[np.int64], kinds: int) -> float:
    """The share of windows whose own likeliest option, of labels [M, O], names their kind [M]; 0 without any."""
    if not len(probs):
        return 0.0
    return float((probs.argmax(1) == _names(probs, kind, kinds)[0][kind]).mean())


def _summary(named: Mapping[str, Any], path: Path) -> str:
    words = [f"names: {path}"]
    if "agreement" in named:
        words.append(f"{named['undecided']} of {named['windows']} windows undecided: nothing changes around them")
        words.append(
            f"windows that agree with the name of their skill: {named['agreement']:.0%}, {named['shuffled']:.0%} with "
            "scenes of other windows"
        )
        words.append(
            f"names that are the option most often due there: {named['right']} of {len(named['skills'])}, "
            f"{named['right_shuffled']:.1f} with scenes of other windows"
        )
    return "\n".join(words)


def _row(skill: Mapping[str, Any]) -> dict[str, str]:
    row = {"skill": str(skill["kind"]), "name": skill["name"], "source": skill["source"]}
    if "windows" in skill:
        agreed = skill["agreement"]
        row |= {"windows": str(skill["windows"]), "undecided": str(skill["undecided"])}
        row |= {"agree": "" if agreed is None else f"{agreed:.0%}"}
    return row

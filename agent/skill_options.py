"""The named skills of a run of helios as the options of a task, so that controllers can be taught to choose them."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from preceptor.agent.evaluate import load_method
from preceptor.agent.methods.helios import Helios
from preceptor.agent.runs.naming import FILE, placed_scenes, read_names
from preceptor.agent.runs.skills_report import skill_run
from preceptor.controller.encoders import encoder_of
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Option, OptionSpace, Scene, Task
from preceptor.envs.vector import Simulator
from preceptor.ground.device import to_numpy, to_tensor
from preceptor.ground.errors import UserError


class SkillTask(Task):
    """A task as it is for those who choose among the named skills of a run: `class Mine(SkillTask): run = "skilled"`.

    Scenes say what the run's task says. A skill is played with the decoder, under the mean of the prior's component
    there, for H steps. Weights and names are read here, once.

    Attributes:
        run: Name or path of the run.
        logdir: Where runs live.

    Raises:
        UserError: The run's prior is not that of its skills (`--prior dpm`).
        CheckpointError: Nothing is saved, or nothing is named yet.
    """

    needed = ("run",)
    run: str
    logdir: str = "log"

    def __init__(self) -> None:
        found = skill_run(self.run, self.logdir)
        self.played = get_task(str(found.config["task"]))
        method = load_method(found, self.played)
        assert isinstance(method, Helios)  # `skill_run` finds no others
        self._named = read_names(found.path / FILE)["skills"]
        if method.prior.components != len(self._named):
            what = f"The prior of {found.path} has {method.prior.components} components, and {len(self._named)} skills."
            raise UserError(what, f"python main.py train --method helios --task {self.played.source} --prior dpm")
        self._method, self._encoder = method, encoder_of(self.played)
        horizon = method.settings.horizon
        self.options = OptionSpace([Option(f"skill:{s['name']}", s["name"], horizon) for s in self._named])
        self.goal, self.rules, self.goal_space = self.played.goal, self.played.rules, self.played.goal_space

    @cached_property
    def observation_scale(self) -> tuple[float, ...]:
        """That of the run's task."""
        return self.played.observation_scale

    def simulator(self, num_envs: int, render_mode: str | None = None) -> Simulator:
        """That of the run's task."""
        return self.played.simulator(num_envs, render_mode)

    def make_vec(
        self, num_envs: int, *, split: str = "train", seed: int = 0, render_mode: str | None = None, **how: Any
    ) -> gym.vector.VectorEnv:
        """Environments of the run's task."""
        return self.played.make_vec(num_envs, split=split, seed=seed, render_mode=render_mode, **how)

    def make_env(self, split: str = "eval", render_mode: str | None = None) -> gym.Env:
        """The single environment of the run's task."""
        return self.played.make_env(split, render_mode)

    def describe(self, obs: NDArray) -> list[Scene]:
        """Scenes of the run's task, which also say what the agent is in place for, and where all skills are legal."""
        scenes = placed_scenes(self.played, obs, self.played.in_place(obs))
        legal = tuple(range(len(self.options)))
        return [Scene(self.name, scene.facts, scene.text, legal) for scene in scenes]

    def fact_codes(self, obs: NDArray) -> NDArray[np.int64]:
        """Those of the run's task, times the places."""
        return self.played.fact_codes(obs) * (len(self.played.options) + 1) + self.played.in_place(obs) + 1

    def option_done(self, obs: NDArray, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Never: a skill lasts for H steps."""
        return np.zeros(len(obs), np.bool_)

    @torch.no_grad()
    def skill(self, obs: NDArray, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, A] of the decoder under mu_k(s) of the skills [N]."""
        seen = to_tensor(self._encoder(obs).parts[0])
        mean = self._method.prior(seen).mean
        rows = torch.arange(len(seen), device=mean.device)
        return to_numpy(self._method.model.decode(seen, mean[rows, to_tensor(np.asarray(option))]))

    def script(self, scene: Scene) -> int:
        """Of the skills that are called what is due, the one that most often begins in such a place; if none is called
        that, the one whose windows were most often taken for it."""
        *facts, place = scene.facts
        due = self.played.script(replace(scene, facts=tuple(facts)))
        wanted, at = self.played.options[due].words, place.removeprefix("place=")
        column = self.played.options.ids.index(at) if at else -1
        fits = {k: skill for k, skill in enumerate(self._named) if skill["words"] == wanted}
        if fits:
            return max(fits, key=lambda k: fits[k]["begins"][column] if "begins" in fits[k] else 0)
        return int(np.argmax([skill["probs"][due] if "probs" in skill else 0 for skill in self._named]))

"""A served model asked some prompts, and what the same model says in this process."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from preceptor.envs.catalog import get_task
from preceptor.teacher.asking import Model, Reply
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.llm import ServedModel
from preceptor.teacher.local import LocalModel
from preceptor.teacher.make import longest_prompts
from preceptor.teacher.prompts import Menu, Prompt, distinct_scenes, load_template

TASK, TEMPLATE = get_task("ColoredDoorKey"), load_template("compact")
# Standard deviations of a binomial share within which a frequency has to lie: a false alarm in 30,000.
SIGMAS = 4.2


def replies_of(model: Model, prompts: Sequence[Prompt]) -> list[Reply]:
    replies = {i: reply for group in model.replies(prompts) for i, reply in group}
    return [replies[i] for i in range(len(prompts))]


def asked(url: str, scoring: Any, prompts: Sequence[Prompt]) -> list[Reply]:
    model = ServedModel(TeacherConfig("llm", base_url=url, scoring=scoring))
    model.prepare(longest_prompts(TASK, TEMPLATE))
    assert model.method == scoring, "the probe finds that the server honours it"
    return replies_of(model, prompts)


def exact(prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
    """The model's own distributions, computed in this process, uncalibrated as servers give them."""
    model = LocalModel()
    model.temperature = 1.0
    return [reply.scores for reply in replies_of(model, prompts)]


def least_sure(scenes: int, count: int) -> list[Prompt]:
    """Of many questions without the right option on the menu, those that the model is least sure about."""
    rng, many = np.random.default_rng(1), []
    for scene in distinct_scenes(TASK, rng, 400)[:scenes]:
        wrong = [option for option in range(len(TASK.options)) if option != TASK.script(scene)]
        many.append(TEMPLATE.render(TASK, scene, Menu(tuple(map(int, rng.permutation(wrong)[:3])))))
    tops = [max(scores) for scores in exact(many)]
    assert min(tops) < 0.7, "a model that is always sure would hide a wrong distribution"
    return [many[i] for i in np.argsort(tops)[:count]]

"""A served model asked some prompts, and what the same model says in this process."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from preceptor.envs.catalog import get_task
from preceptor.teacher.asking import Model, Reply
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.labels import OK
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


def exact(prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
    """The model's own distributions, computed in this process, uncalibrated as servers give them."""
    model = LocalModel()
    model.temperature = 1.0
    return [reply.scores for reply in replies_of(model, prompts)]


def found_out(url: str, **said: Any) -> ServedModel:
    """A served model with its probe behind it."""
    model = ServedModel(TeacherConfig("llm", base_url=url, **said))
    model.prepare(longest_prompts(TASK, TEMPLATE))
    return model


def agrees(url: str, scoring: Any, questions: Sequence[Prompt], samples: int, within: float = 1e-3) -> None:
    """A served model's answers are its own distributions: as scores within a bound, or as shares of samples."""
    drawn = scoring in ("choice", "samples")
    count = samples if drawn else 1
    model = found_out(url, scoring=scoring)
    assert model.method == scoring, "the probe finds that the server honours it"
    replies = replies_of(model, [question for question in questions for _ in range(count)])
    for number, truth in enumerate(exact(questions)):
        answered = [reply for reply in replies[number * count : (number + 1) * count] if reply.status == OK]
        assert len(answered) >= (count // 2 if scoring == "samples" else count)
        assert all(reply.tokens > 0 for reply in answered)
        shares = [math.fsum(column) / len(answered) for column in zip(*(r.scores for r in answered), strict=True)]
        for share, p in zip(shares, truth, strict=True):
            spread = SIGMAS * math.sqrt(p * (1 - p) / len(answered)) + 1 / len(answered) if drawn else within
            assert abs(share - p) <= spread


@cache
def least_sure(scenes: int, count: int) -> list[Prompt]:
    """Of many questions without the right option on the menu, those that the model is least sure about."""
    rng, many = np.random.default_rng(1), []
    for scene in distinct_scenes(TASK, rng, 400)[:scenes]:
        wrong = [option for option in range(len(TASK.options)) if option != TASK.script(scene)]
        many.append(TEMPLATE.render(TASK, scene, Menu(tuple(map(int, rng.permutation(wrong)[:3])))))
    tops = [max(scores) for scores in exact(many)]
    assert min(tops) < 0.7, "a model that is always sure would hide a wrong distribution"
    return [many[i] for i in np.argsort(tops)[:count]]

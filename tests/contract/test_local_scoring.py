"""The four ways of asking for a label, over HTTP from the local server: each gives the model's own distribution."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from envs.catalog import get_task
from teacher.asking import Reply
from teacher.config import TeacherConfig
from teacher.labels import OK
from teacher.llm import ServedModel
from teacher.local import LocalModel
from teacher.make import longest_prompts
from teacher.prompts import Menu, Prompt, load_template
from teacher.scoring import WAYS
from tests.local_server import Running

TASK, TEMPLATE = get_task("ColoredDoorKey"), load_template("compact")
SAMPLES = 120  # the most that the server draws for one request is 128
# Standard deviations of a binomial share within which a frequency has to lie: a false alarm in 30,000.
SIGMAS = 4.2


def exact(questions: Sequence[Prompt]) -> list[tuple[float, ...]]:
    """The model's own distributions, computed in this process, uncalibrated as servers give them."""
    model = LocalModel()
    model.temperature = 1.0
    replies = {i: reply.scores for group in model.replies(questions) for i, reply in group}
    return [replies[i] for i in range(len(questions))]


@cache
def questions() -> list[Prompt]:
    """Of many questions without the right option on the menu, those that the model is least sure about."""
    rng = np.random.default_rng(1)
    scenes = {scene.facts: scene for scene in TASK.sample_scenes(rng, 200) if len(scene.legal) > 1}
    many = []
    for scene in list(scenes.values())[:40]:
        wrong = [option for option in range(len(TASK.options)) if option != TASK.script(scene)]
        many.append(TEMPLATE.render(TASK, scene, Menu(tuple(map(int, rng.permutation(wrong)[:3])))))
    tops = [max(scores) for scores in exact(many)]
    assert min(tops) < 0.7, "a model that is always sure would hide a wrong distribution"
    return [many[i] for i in np.argsort(tops)[:4]]


def asked(server: Running, scoring: Any, prompts: Sequence[Prompt]) -> list[Reply]:
    model = ServedModel(TeacherConfig("llm", base_url=f"{server.url}/v1", scoring=scoring))
    model.prepare(longest_prompts(TASK, TEMPLATE))
    assert model.method == scoring, "the probe finds that the server honours it"
    assert model.template == "compact"
    replies = {i: reply for group in model.replies(prompts) for i, reply in group}
    return [replies[i] for i in range(len(prompts))]


@pytest.mark.parametrize("scoring", WAYS)
def test_each_way_of_asking_gives_the_models_distribution(server: Running, scoring: str) -> None:
    drawn = scoring in ("choice", "samples")
    count = SAMPLES if drawn else 1
    replies = asked(server, scoring, [question for question in questions() for _ in range(count)])
    for number, truth in enumerate(exact(questions())):
        answered = [reply for reply in replies[number * count : (number + 1) * count] if reply.status == OK]
        assert len(answered) >= (count // 2 if scoring == "samples" else count)
        assert all(reply.tokens > 0 for reply in answered)
        shares = [math.fsum(column) / len(answered) for column in zip(*(r.scores for r in answered), strict=True)]
        for share, p in zip(shares, truth, strict=True):
            spread = SIGMAS * math.sqrt(p * (1 - p) / len(answered)) + 1 / len(answered) if drawn else 1e-3
            assert abs(share - p) <= spread


def test_the_best_way_is_found_and_prompts_go_in_lists(server: Running) -> None:
    model = ServedModel(TeacherConfig("llm", base_url=f"{server.url}/v1"))
    model.prepare(longest_prompts(TASK, TEMPLATE))
    assert model.capability is not None
    assert (model.capability.scoring, model.capability.dropped) == ("logprobs", ())
    assert model.capability.list_size > 1

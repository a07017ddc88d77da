"""The four ways of asking for a label, over HTTP from the local server: each gives the model's own distribution."""

import math
from functools import cache

import pytest

from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.labels import OK
from preceptor.teacher.llm import ServedModel
from preceptor.teacher.make import longest_prompts
from preceptor.teacher.prompts import Prompt
from preceptor.teacher.scoring import WAYS
from tests.asked import SIGMAS, TASK, TEMPLATE, asked, exact, least_sure
from tests.local_server import Running

SAMPLES = 120  # the most that the server draws for one request is 128


@cache
def questions() -> list[Prompt]:
    return least_sure(scenes=40, count=4)


@pytest.mark.parametrize("scoring", WAYS)
def test_each_way_of_asking_gives_the_models_distribution(server: Running, scoring: str) -> None:
    drawn = scoring in ("choice", "samples")
    count = SAMPLES if drawn else 1
    replies = asked(f"{server.url}/v1", scoring, [question for question in questions() for _ in range(count)])
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
    assert model.template == "compact"
    assert (model.capability["scoring"], model.capability["dropped"]) == ("logprobs", ())
    assert model.capability["list_size"] > 1

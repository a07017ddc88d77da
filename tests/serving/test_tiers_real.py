"""The four ways of asking agree with each other, on the real servers with the same model."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.labels import OK
from preceptor.teacher.llm import ServedModel
from preceptor.teacher.make import longest_prompts
from preceptor.teacher.prompts import Prompt, distinct_scenes, menus
from tests.asked import SIGMAS, TASK, TEMPLATE, asked, exact, least_sure

pytestmark = pytest.mark.serving

SAMPLES = 60
SURE = [
    TEMPLATE.render(TASK, scene, menus(scene, 1)[0])
    for scene in distinct_scenes(TASK, np.random.default_rng(1), 400)[:6]
]


@cache
def unsure() -> list[Prompt]:
    return least_sure(scenes=60, count=6)


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2


@pytest.mark.parametrize(
    ("server", "scoring"),
    [("vllm_url", "logprobs"), ("vllm_url", "echo"), ("fastchat_url", "echo")],
)
def test_scored_letters_are_the_models_distribution(server: str, scoring: str, request: pytest.FixtureRequest) -> None:
    questions = [*SURE, *unsure()]
    replies = asked(request.getfixturevalue(server), scoring, questions)
    assert {reply.status for reply in replies} == {OK}
    assert max(distance(r.scores, truth) for r, truth in zip(replies, exact(questions), strict=True)) < 0.01


def test_letters_in_lists_and_over_chat_are_the_same(vllm_url: str) -> None:
    model = ServedModel(TeacherConfig("llm", base_url=vllm_url, scoring="logprobs"))
    model.prepare(longest_prompts(TASK, TEMPLATE))
    assert model.capability["list_size"] > 1, "the tiny model's chat template is the newline that the client joins with"
    assert model.template == "compact", "vLLM names the model's folder, whose card names the prompt"


@pytest.mark.parametrize(
    ("server", "scoring"), [("vllm_url", "choice"), ("vllm_url", "samples"), ("fastchat_url", "samples")]
)
def test_samples_are_drawn_from_the_models_distribution(
    server: str, scoring: str, request: pytest.FixtureRequest
) -> None:
    few = server == "fastchat_url"  # it has no batches
    questions, count = [*SURE[:1], *(unsure()[:1] if few else unsure())], SAMPLES // 2 if few else 4 * SAMPLES
    replies = asked(
        request.getfixturevalue(server), scoring, [question for question in questions for _ in range(count)]
    )
    for number, truth in enumerate(exact(questions)):
        drawn = [reply.scores for reply in replies[number * count : (number + 1) * count] if reply.status == OK]
        assert len(drawn) >= (count if scoring == "choice" else count // 2)
        shares = [math.fsum(column) / len(drawn) for column in zip(*drawn, strict=True)]
        for share, p in zip(shares, truth, strict=True):
            assert abs(share - p) <= SIGMAS * math.sqrt(p * (1 - p) / len(drawn)) + 1 / len(drawn)
        first, second = sorted(truth, reverse=True)[:2]
        if first - second > 0.2:
            assert shares.index(max(shares)) == truth.index(first)


def test_what_fastchat_ignores_is_dropped_and_said(fastchat_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = ServedModel(TeacherConfig("llm", base_url=fastchat_url))
    model.prepare(SURE)
    assert model.capability["scoring"] == "echo"
    assert [why.partition(":")[0] for why in model.capability["dropped"]] == ["logprobs", "choice"]
    assert "not used: choice" in capsys.readouterr().err

"""The four ways of asking agree with each other, on the real servers with the same model."""

from typing import Any

import numpy as np
import pytest

from preceptor.teacher.prompts import distinct_scenes, menus
from tests.asked import TASK, TEMPLATE, agrees, found_out, least_sure

Started = dict[str, Any]
pytestmark = pytest.mark.serving

SURE = [
    TEMPLATE.render(TASK, scene, menus(scene, 1)[0])
    for scene in distinct_scenes(TASK, np.random.default_rng(1), 400)[:6]
]


@pytest.mark.parametrize("scoring", ["logprobs", "echo", "choice", "samples"])
def test_every_way_of_asking_vllm_gives_the_models_distribution(vllm: Started, scoring: str) -> None:
    agrees(vllm["base_url"], scoring, [*SURE, *least_sure(scenes=60, count=6)], samples=240, within=0.01)


@pytest.mark.parametrize("scoring", ["echo", "samples"])
def test_the_ways_of_asking_fastchat_give_the_models_distribution(fastchat: Started, scoring: str) -> None:
    # It has no batches, so few are drawn.
    count = 6 if scoring == "echo" else 1
    agrees(
        fastchat["base_url"], scoring, [*SURE[:count], *least_sure(scenes=60, count=6)[:count]], samples=30, within=0.01
    )


def test_letters_in_lists_and_over_chat_are_the_same(vllm: Started) -> None:
    model = found_out(vllm["base_url"], scoring="logprobs")
    assert model.capability["list_size"] > 1, "the tiny model's chat template is the newline that the client joins with"
    assert model.template == "compact", "vLLM names the model's folder, whose card names the prompt"


def test_what_fastchat_ignores_is_dropped_and_said(fastchat: Started, capsys: pytest.CaptureFixture[str]) -> None:
    model = found_out(fastchat["base_url"])
    assert model.capability["scoring"] == "echo"
    assert [why.partition(":")[0] for why in model.capability["dropped"]] == ["logprobs", "choice"]
    assert "not used: choice" in capsys.readouterr().err

"""The four ways of asking for a label, over HTTP from the local server: each gives the model's own distribution."""

import pytest

from preceptor.teacher.scoring import WAYS
from tests.asked import agrees, found_out, least_sure
from tests.local_server import Running


@pytest.mark.parametrize("scoring", WAYS)
def test_each_way_of_asking_gives_the_models_distribution(server: Running, scoring: str) -> None:
    agrees(f"{server.url}/v1", scoring, least_sure(scenes=40, count=4), samples=120)


def test_the_best_way_is_found_and_prompts_go_in_lists(server: Running) -> None:
    model = found_out(f"{server.url}/v1")
    assert model.template == "compact"
    assert (model.capability["scoring"], model.capability["dropped"]) == ("logprobs", ())
    assert model.capability["list_size"] > 1

"""What stands beside a question: who is asked, when, and what becomes of whoever fails."""

import time

import numpy as np
import pytest

from agent.demonstrating import record
from agent.labelling.opinions import Opinions
from agent.teaching import ControllerLabels
from envs.catalog import get_task
from ground.errors import UserError


def test_a_teacher_that_fails_says_nothing_more_and_stops_nobody() -> None:
    recording = record(get_task("RescueWorld-n3"), 2, 0)

    class Speaks(ControllerLabels):
        def __init__(self) -> None:
            pass

        def label(self, obs: np.ndarray, level_seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.tile(np.float32([0.2, 0.8, 0.0]), (len(obs), 1)), np.zeros(len(obs), np.int64)

    class Fails(Speaks):
        def label(self, obs: np.ndarray, level_seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            raise UserError("The server is away.", "start it")

    opinions = Opinions(recording, {"controller": Speaks(), "teacher": Fails()})
    opinions.want([(0, 3), (1, 2)])
    while opinions.trouble is None:
        time.sleep(0.01)
    assert "teacher says nothing any more. The server is away." in opinions.trouble
    opinions.want([(0, 5)])
    while (said := opinions.of((0, 5)))["controller"] is None:
        time.sleep(0.01)
    assert said == {"controller": pytest.approx([0.2, 0.8, 0.0])}
    assert opinions.options("teacher", [(0, 3)]) == {}
    assert opinions.options("controller", [(0, 7), (1, 4)], patience=60.0) == {(0, 7): 1, (1, 4): 1}
    opinions.close()

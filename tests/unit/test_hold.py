"""Where a teacher that could not be reached is waited for, the running option goes on; on other abstentions not."""

from collections.abc import Sequence

import numpy as np
import pytest

from preceptor.agent.distributions import Categorical
from preceptor.agent.levels import Observations
from preceptor.agent.teaching import Annotator, TeacherHigh
from preceptor.controller.encoders import GridEncoder
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Scene
from preceptor.teacher.base import HELD, Label, Teacher
from preceptor.teacher.call import FALLBACK

TASK = get_task("KeyInBox")


class Silent(Teacher):
    """A teacher that has no label for anything, for one reason or another."""

    def __init__(self, source: str, method: str) -> None:
        super().__init__("silent")
        self.source, self.method = source, method

    def _label_distinct(self, scenes: Sequence[Scene]) -> list[Label]:
        return [Label((0.0,) * len(TASK.options), self.source, self.method, abstained=True) for _ in scenes]


@pytest.mark.parametrize(("source", "method", "held"), [(HELD, FALLBACK, True), ("llm:toy", "logprobs", False)])
def test_hold_lets_the_running_option_go_on_where_it_is_legal(source: str, method: str, held: bool) -> None:
    obs, info = TASK.make_vec(8, seed=1).reset()
    observed = Observations(TASK, GridEncoder(TASK.observation_shape), obs, info["level_seed"])
    annotator = Annotator(TASK, Silent(source, method))
    legal = observed.legal
    running = legal.argmax(1)
    running[0] = -1  # none runs yet
    running[1] = (~legal[1]).argmax()  # one that has become impossible
    uniform = legal / legal.sum(1, keepdims=True)
    resumed = Annotator(TASK, Silent("llm:toy", "logprobs"))
    for each in (annotator, resumed):
        choice = TeacherHigh(each).choose(observed, running)[1]
        assert isinstance(choice, Categorical)
        assert np.allclose(choice.probs[:2], uniform[:2])
        assert np.allclose(choice.probs[2:], np.eye(legal.shape[1])[running[2:]] if held else uniform[2:])
        resumed.load_state_dict(annotator.state_dict())

"""No error sends its reader to a command that fails in turn: what each says next is typed, and what that says, too."""

import shlex
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest

import main as cli

ODD = {
    "Odd/Many-v0": (gymnasium.spaces.Box(-1, 1, (2,), np.float32), gymnasium.spaces.MultiDiscrete([2, 2])),
    "Odd/Picture-v0": (gymnasium.spaces.Box(0, 255, (84, 84, 3), np.uint8), gymnasium.spaces.Discrete(4)),
    "Odd/Tabular-v0": (gymnasium.spaces.Discrete(5), gymnasium.spaces.Discrete(4)),
}
CHAINS = (
    "--task HalfCheetah-v5",
    "--task HalfCheetah-v5 --method hiro",
    "--task HalfCheetah-v5 --method bc",
    "--task CartPole-v1",
    "--task CartPole-v1 --method sac",
    "--task CartPole-v1 --method iql",
    "--task AdroitHandDoor-v1",
    "--task gymnasium_robotics:AdroitHandDoor-v1",
    "--task ALE/Pong-v5",
    "--task ale_py:ALE/Pong-v5",
    "--task MiniGrid-MemoryS7-v0",
    "--task MiniGrid-MemoryS7-v0 --method td3",
    "--task MiniGrid-WFC-MazeSimple-v0",
    "--task SimpleDoorKey --method sac",
    "--task PointReach",
    *(f"--task {name}" for name in ODD),
)
SHORT = ("--steps", "64", "--num-envs", "2", "--eval-episodes", "0", "--quiet")


class Odd(gymnasium.Env):
    """An environment of a kind that nothing here plays."""

    def __init__(self, name: str) -> None:
        self.observation_space, self.action_space = ODD[name]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    for name in ODD:
        gymnasium.register(name, entry_point=Odd, kwargs={"name": name})
    yield
    for name in ODD:
        del gymnasium.registry[name]


@pytest.mark.filterwarnings("ignore:.*AdroitHand.*")
@pytest.mark.parametrize("typed", CHAINS)
def test_what_an_error_says_next_works(typed: str, capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    words = ["train", *shlex.split(typed)]
    for step in range(4):
        more = (*SHORT, "--logdir", str(tmp_path)) if words[0] == "train" else ()
        code = cli.main([*words, *more])
        err = capsys.readouterr().err
        if code == 0:
            assert step, "this was to fail"
            return
        said = err.partition("next: ")[2].splitlines()[0]
        assert said.startswith("python main.py "), err
        words = shlex.split(said, comments=True)[2:]
    pytest.fail(f"still failing: {said}")

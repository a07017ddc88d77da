"""Teachers that are wrong on purpose, so that a student can be shown to surpass its teacher.

With the flaw `lava` a teacher's texts do not speak of lava, and its executors plan as if it were floor. With `colours`
it gets, on 30% of the levels, by a hash of the level seed, observations in which the two keys have exchanged their
colours (on the floor, in front and in the hand), so that the wrong key seems to fit the door; its answer about one key
is then executed for the other. The environments, and what students see, stay true.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import color_of, kind_of
from preceptor.envs.gridworld.levels import GRID, LevelSpec, generate
from preceptor.envs.gridworld.planning import KEY
from preceptor.envs.gridworld.tasks import TEXTS, GridTask
from preceptor.envs.gridworld.variants import spec_of
from preceptor.envs.task import LimitedTask, Task
from preceptor.ground.errors import UserError, unknown_name
from preceptor.ground.level_seeds import combine

FLAWS: Final = {"lava": "LavaDoorKey", "colours": "ColoredDoorKey"}  # and the task whose teacher may have it
_SALT = 20_260_731  # any constant; keeps this draw apart from the level's own stream
_TENTHS = 3  # of the levels


def flawed_task(name: str, flaw: str) -> Task:
    """A task whose teacher has a flaw. Raises `UserError` if it has no such one."""
    plain = name.partition(":")[0]
    known = [known for known, task in FLAWS.items() if task == plain]
    if not known:
        raise UserError(f"The teacher of {name} has no flaw to choose.", "--task LavaDoorKey --teacher-flaw lava")
    if flaw not in known:
        next_step = f"--task {name} --teacher-flaw {known[0]}"
        raise unknown_name(f"flaw of the teacher of {name}", flaw, known, next_step)
    if flaw == "colours":
        return ColoursExchanged(spec_of(name), TEXTS[plain])
    text = replace(TEXTS["SimpleDoorKey"], things=TEXTS[plain].things)
    return GridTask(spec_of(name), text, lava_is_floor=True)


class ColoursExchanged(LimitedTask, GridTask):
    """A task with two keys of different colours, whose options are `explore`, six keys by colour, and more."""

    def teacher_view(self, obs: NDArray[np.uint8], level_seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Observations [N, W, H, 4] with the two key colours exchanged on some levels; nothing else changes."""
        first, second = self._pairs(level_seeds).T[:, :, None, None]
        colour = obs[..., 1]
        swapped = np.where(colour == first, second, np.where(colour == second, first, colour))
        fooled = obs.copy()
        fooled[..., 1] = np.where(obs[..., 0] == KEY, swapped, colour)
        return fooled

    def teacher_to_true(self, level_seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index [N, K] in which the columns of the two keys' options are exchanged."""
        index = super().teacher_to_true(level_seeds)
        columns = self._pairs(level_seeds) + 1  # option 0 is `explore`
        rows = np.arange(len(index))[:, None]
        index[rows, columns] = index[rows, columns[:, ::-1]]
        return index

    def _pairs(self, level_seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Colour indices to exchange on each level, int64 [N, 2]; two equal ones where nothing is exchanged."""
        pairs = [_pair_of(self.level_spec, seed) for seed in level_seeds.tolist()]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@lru_cache(maxsize=65_536)
def _pair_of(spec: LevelSpec, level_seed: int) -> tuple[int, int]:
    if combine(_SALT, level_seed) % 10 >= _TENTHS:
        return 0, 0
    cells = np.zeros((spec.width, spec.height), dtype=np.uint16)
    generate(spec.generator, spec.variety, level_seed, np.zeros(1, dtype=GRID)[0], cells)
    low, high = sorted({int(color_of(cell)) for cell in cells.ravel() if kind_of(cell) == KEY})
    return low, high

"""The same places with other missions: what is seen stays, and the words are those of another level.

Where rooms are many, an episode takes a hundred steps, so that few missions are met in a training, and their words are
learned by heart. A teacher can be asked about any mission anywhere.
"""

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.envs.missions.levels import ABSENT, DONE, WORDS, joined, parts, strip_columns
from preceptor.envs.missions.reading import SAID
from preceptor.ground.level_seeds import GOLDEN, mix, scale

_SALT: Final = 20_261_129  # any constant; keeps these draws apart from the levels' own
_TRIED: Final = 16  # missions, of which the first that is about what was seen is taken


@njit(cache=True)
def _retell(status, keys, words, slots, first, strip):  # type: ignore[no-untyped-def]
    done, text = strip[:, DONE], strip[:, WORDS]
    for n in range(len(keys)):
        draw = mix(np.uint64(keys[n] + _SALT))
        for _ in range(_TRIED):
            draw += GOLDEN
            m = scale(mix(draw), len(words))
            asked = seen = 0
            for slot in range(slots.shape[1]):
                asked += slots[m, slot] >= 0
                seen += slots[m, slot] >= 0 and status[n, slots[m, slot]] & SAID > 0
            if 2 * seen >= asked > 0:
                break
        clauses = (slots[m, ::2] >= 0).sum()
        text[n], done[n, :clauses], done[n, clauses:] = words[m], 0, ABSENT
        draw += GOLDEN
        if scale(mix(draw), 2):  # some of it has been done: what comes then, only after all else
            for k in range(clauses):
                draw += GOLDEN
                done[n, k] = scale(mix(draw), 2) and (k < first[m] or done[n, : first[m]].all())
            if clauses > 0 and done[n, :clauses].all():
                done[n, clauses - 1] = 0


def retold(
    obs: NDArray[np.uint8],
    keys: NDArray[np.int64],
    status: NDArray[np.int16],
    missions: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[np.uint8]:
    """Observations [N, W, H + S, 4] whose missions are others; some of their clauses are done.

    Args:
        obs: Observations.
        keys: int64 [N]; a result is a function of the observation and of its key.
        status: int16 [N, D], of each description.
        missions: Of M missions their words uint8 [M, LENGTH], the descriptions that each names int64 [M, 8], -1 for
            none, and how many clauses come first int64 [M].
    """
    strip = obs[:, :, -strip_columns(obs.shape[1]) :].reshape(len(obs), -1).copy()
    _retell(status, keys, *missions, strip)
    return joined(parts(obs).image, strip)

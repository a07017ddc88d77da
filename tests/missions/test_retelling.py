"""Missions that are told anew: which of many are taken."""

import numpy as np

from preceptor.envs.catalog import get_task
from preceptor.envs.missions.levels import WORDS, parts, strip_columns
from preceptor.envs.missions.reading import FACED, FIRST, FRONT, REACHED, TARGETS
from preceptor.envs.missions.retelling import retold
from preceptor.envs.missions.tasks import MissionTask


def test_missions_are_about_things_half_of_which_were_seen() -> None:
    """A thing that was seen counts once, whatever else is known of it; one of which only the way is told does not."""
    task = get_task("OneRoom-Mix:levels=8")
    assert isinstance(task, MissionTask)
    obs = np.repeat(task.make_vec(1, seed=0).reset()[0], 64, 0)
    status = np.zeros((64, len(TARGETS)), np.int16)
    status[:, 3], status[:, 4:] = REACHED | FRONT, FIRST | FACED
    strip = obs[:, :, -strip_columns(obs.shape[1]) :].reshape(64, -1)
    words = np.stack([strip[0, WORDS], strip[0, WORDS] + 1])
    slots = np.full((2, 8), -1)
    slots[0, [0, 2, 4]], slots[1, [0, 2]] = (3, 5, 6), (3, 5)
    told = retold(obs, np.arange(64), status, (words, slots, np.zeros(2, np.int64)))
    text = told[:, :, -strip_columns(obs.shape[1]) :].reshape(64, -1)[:, WORDS]
    assert (text == words[1]).all(), "of two things one was seen, and of three one"
    assert (parts(told).image == parts(obs).image).all()

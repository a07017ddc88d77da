"""A MiniGrid level of one's own, as MiniGrid's documentation has it.

Things, words and an expert are read off its levels, so nothing more has to be said:

python main.py train --task examples.minigrid_level:HiddenGoal-v0 --teacher scripted --savedir level
"""

import gymnasium
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Door, Goal, Key
from minigrid.minigrid_env import MiniGridEnv


class HiddenGoal(MiniGridEnv):
    """Two rooms, a locked door between them, its key in the first, the goal somewhere in the second."""

    def __init__(self, size=8, **kwargs):
        mission = MissionSpace(lambda: "use the key to open the door, then get to the goal")
        super().__init__(mission, grid_size=size, max_steps=10 * size**2, **kwargs)

    def _gen_grid(self, width, height):
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        wall = self._rand_int(3, width - 2)
        self.grid.vert_wall(wall, 0)
        self.place_agent(size=(wall, height))
        self.put_obj(Door("yellow", is_locked=True), wall, self._rand_int(1, height - 2))
        self.place_obj(Key("yellow"), size=(wall, height))
        self.place_obj(Goal(), top=(wall + 1, 0))
        self.mission = "use the key to open the door, then get to the goal"


gymnasium.register("HiddenGoal-v0", entry_point=HiddenGoal)

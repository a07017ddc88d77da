"""Levels keep the tasks' rules, can be solved, and are a function of (task, level seed) alone."""

from collections import Counter

import numpy as np
import pytest
from minigrid.envs import DoorKeyEnv

from preceptor.envs.gridworld import cells as kinds
from preceptor.envs.gridworld.levels import GRID, SPECS, LevelSpec, doorkey_spec, generate, moved_door

ONE_ROOM = [name for name in SPECS if name != "TwoDoor"]


def make(spec: LevelSpec, seed: int) -> tuple[np.void, np.ndarray]:
    grid, cells = np.zeros(1, GRID)[0], np.full((spec.width, spec.height), 77, np.uint16)
    generate(spec.generator, spec.variety, seed, grid, cells)
    return grid, cells


def places(cells: np.ndarray, kind: int) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in np.argwhere((cells & 15) == kind)]


def inner_neighbour(grid: np.void, door: tuple[int, int]) -> tuple[int, int]:
    x, y = door
    side = {(grid["room_width"] - 1, y): 0, (x, grid["room_height"] - 1): 1, (0, y): 2, (x, 0): 3}[door]
    return x - kinds.STEP_X[side], y - kinds.STEP_Y[side]


@pytest.mark.parametrize("name", ONE_ROOM)
def test_rooms_doors_and_agents(name: str) -> None:
    counts = [Counter[object]() for _ in range(4)]
    for seed in range(600):
        grid, cells = make(SPECS[name], seed)
        width, height = int(grid["room_width"]), int(grid["room_height"])
        assert 5 <= min(width, height) <= max(width, height) <= 10
        (door,) = places(cells, kinds.DOOR_LOCKED)
        inner = inner_neighbour(grid, door)
        for x, y in (inner, (grid["x"], grid["y"])):
            assert 0 < x < width - 1
            assert 0 < y < height - 1
        walls = {(x, y) for x in range(width) for y in range(height) if x in (0, width - 1) or y in (0, height - 1)}
        assert set(places(cells, kinds.WALL & 15)) == walls - {door}
        assert cells[grid["x"], grid["y"]] == kinds.EMPTY
        side = inner[0] - door[0], inner[1] - door[1]
        for counter, what in zip(counts, (width, side, grid["direction"], kinds.color_of(cells[door])), strict=True):
            counter[what if what is side else int(what)] += 1
    for counter, among in zip(counts, (6, 4, 4, 6), strict=True):
        assert len(counter) == among
        assert min(counter.values()) > 600 / among / 2


@pytest.mark.parametrize("name", SPECS)
def test_what_lies_in_the_room(name: str) -> None:
    hidden = 0
    for seed in range(300):
        grid, cells = make(SPECS[name], seed)
        door = places(cells, kinds.DOOR_LOCKED)[0]
        color = kinds.color_of(cells[door])
        keys, boxes, lava = places(cells, kinds.KEY), places(cells, kinds.BOX), places(cells, kinds.LAVA)
        contents = [int(cells[box]) >> kinds.CONTENTS_SHIFT for box in boxes]
        inside = [c for c in contents if c]
        assert [kinds.color_of(key) for key in (*(cells[key] for key in keys), *inside)].count(color) == 1
        assert all(kinds.kind_of(c) == kinds.KEY for c in inside)
        assert len(boxes) == (name in ("KeyInBox", "RandomBoxKey"))
        assert len(inside) == 1 or name != "KeyInBox"
        assert len(keys) == (2 if name == "ColoredDoorKey" else 1 - len(inside))
        assert len(lava) == (name == "LavaDoorKey")
        barred = lava + (keys if name == "ColoredDoorKey" else boxes if name == "RandomBoxKey" else [])
        assert inner_neighbour(grid, door) not in barred
        hidden += len(inside)
    assert hidden == 300 or 120 < hidden < 180 or name not in ("KeyInBox", "RandomBoxKey")


def test_two_doors_face_each_other_and_the_key_is_in_the_middle() -> None:
    horizontal = 0
    for seed in range(200):
        _, cells = make(SPECS["TwoDoor"], seed)
        first, second = places(cells, kinds.DOOR_LOCKED)
        assert cells[first] == cells[second]
        assert (first[0], second[0]) == (0, 19) or (first[1], second[1]) == (0, 19) or (second[1], first[1]) == (0, 19)
        (key,) = places(cells, kinds.KEY)
        assert set(key) <= {9, 10}
        horizontal += (first[0], second[0]) == (0, 19)
    assert 60 < horizontal < 140


def test_the_moved_door_is_another_wall_cell_with_bare_floor_before_it() -> None:
    for seed in range(300):
        grid, cells = make(SPECS["DynamicDoorKey"], seed)
        (door,) = places(cells, kinds.DOOR_LOCKED)
        key = places(cells, kinds.KEY)[0]
        moved = tuple(int(i) for i in moved_door(grid, cells, *door))
        assert cells[moved] == kinds.WALL
        assert inner_neighbour(grid, moved) != key
        assert cells[inner_neighbour(grid, moved)] == kinds.EMPTY


def test_our_doorkey_equals_minigrids_in_distribution() -> None:
    """Counts of where the wall, door, key and agent are, ours against minigrid's; 5 standard errors allowed."""
    count, spec = 1500, doorkey_spec(6)
    env = DoorKeyEnv(size=6)
    ours, theirs = Counter(), Counter()
    for seed in range(count):
        grid, cells = make(spec, seed)
        (door,), (key,), (goal,) = (places(cells, kind) for kind in (kinds.DOOR_LOCKED, kinds.KEY, kinds.GOAL_KIND))
        agent = (int(grid["x"]), int(grid["y"]))
        ours.update([("door", door), ("key", key), ("goal", goal), ("agent", agent), ("dir", int(grid["direction"]))])
        env.reset(seed=seed)
        found = {obj.type: obj.cur_pos for obj in env.grid.grid if obj is not None and obj.type != "wall"}
        agent = tuple(int(i) for i in env.agent_pos)
        theirs.update([(kind, tuple(int(i) for i in found[kind])) for kind in ("door", "key", "goal")])
        theirs.update([("agent", agent), ("dir", int(env.agent_dir))])
    for place in ours | theirs:
        spread = np.sqrt((ours[place] + theirs[place]) * (1 - (ours[place] + theirs[place]) / (2 * count)))
        assert abs(ours[place] - theirs[place]) <= 5 * spread, place

"""Levels keep the tasks' rules, can be solved, and are a function of (task, level seed) alone."""

from collections import Counter

import numpy as np
import pytest
from minigrid.envs import DoorKeyEnv

from preceptor.envs.gridworld.cells import (
    BOX,
    CONTENTS_SHIFT,
    DOOR_LOCKED,
    EMPTY,
    GOAL_KIND,
    KEY,
    LAVA,
    STEP_X,
    STEP_Y,
    WALL,
    color_of,
    kind_of,
)
from preceptor.envs.gridworld.levels import DYNAMIC, GRID, SPECS, LevelSpec, doorkey_spec, generate, moved_door
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import drawn_seed, split_range

ONE_ROOM = [name for name in SPECS if name != "TwoDoor"]
Level = tuple[np.void, np.ndarray]


def make(spec: LevelSpec, seed: int) -> Level:
    grid, cells = np.zeros(1, GRID)[0], np.full((spec.width, spec.height), 77, np.uint16)
    generate(spec.generator, seed, grid, cells)
    return grid, cells


def places(cells: np.ndarray, kind: int) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in np.argwhere((cells & 15) == kind)]


def inner_neighbour(grid: np.void, door: tuple[int, int]) -> tuple[int, int]:
    x, y = door
    side = {(grid["room_width"] - 1, y): 0, (x, grid["room_height"] - 1): 1, (0, y): 2, (x, 0): 3}[door]
    return x - STEP_X[side], y - STEP_Y[side]


@pytest.mark.parametrize("name", SPECS)
def test_a_level_is_a_function_of_its_seed(name: str) -> None:
    first, again, other = (make(SPECS[name], seed) for seed in (1, 1, 2))
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any() or first[0] != other[0]


@pytest.mark.parametrize("name", ONE_ROOM)
def test_rooms_doors_and_agents(name: str) -> None:
    widths, sides, directions, colors = Counter(), Counter(), Counter(), Counter()
    for seed in range(600):
        grid, cells = make(SPECS[name], seed)
        width, height = int(grid["room_width"]), int(grid["room_height"])
        assert 5 <= width <= 10
        assert 5 <= height <= 10
        (door,) = places(cells, DOOR_LOCKED)
        inner = inner_neighbour(grid, door)
        assert 0 < inner[0] < width - 1
        assert 0 < inner[1] < height - 1
        walls = {(x, y) for x in range(width) for y in range(height) if x in (0, width - 1) or y in (0, height - 1)}
        assert set(places(cells, WALL & 15)) == walls - {door}
        assert cells[grid["x"], grid["y"]] == EMPTY
        assert 0 < grid["x"] < width - 1
        assert 0 < grid["y"] < height - 1
        widths[width] += 1
        sides[inner[0] - door[0], inner[1] - door[1]] += 1
        directions[int(grid["direction"])] += 1
        colors[int(color_of(cells[door]))] += 1
    for counter, kinds in ((widths, 6), (sides, 4), (directions, 4), (colors, 6)):
        assert len(counter) == kinds
        assert min(counter.values()) > 600 / kinds / 2


@pytest.mark.parametrize("name", SPECS)
def test_what_lies_in_the_room(name: str) -> None:
    hidden = 0
    for seed in range(300):
        grid, cells = make(SPECS[name], seed)
        door = places(cells, DOOR_LOCKED)[0]
        color = color_of(cells[door])
        keys, boxes, lava = places(cells, KEY), places(cells, BOX), places(cells, LAVA)
        contents = [int(cells[box]) >> CONTENTS_SHIFT for box in boxes]
        inside = [c for c in contents if c]
        matching = [k for k in keys if color_of(cells[k]) == color] + [c for c in inside if color_of(c) == color]
        assert len(matching) == 1
        assert all(kind_of(c) == KEY for c in inside)
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
        first, second = places(cells, DOOR_LOCKED)
        assert cells[first] == cells[second]
        assert (first[0], second[0]) == (0, 19) or (first[1], second[1]) == (0, 19) or (second[1], first[1]) == (0, 19)
        (key,) = places(cells, KEY)
        assert set(key) <= {9, 10}
        horizontal += (first[0], second[0]) == (0, 19)
    assert 60 < horizontal < 140


def test_the_moved_door_is_another_wall_cell_with_bare_floor_before_it() -> None:
    for seed in range(300):
        grid, cells = make(SPECS["DynamicDoorKey"], seed)
        (door,) = places(cells, DOOR_LOCKED)
        key = places(cells, KEY)[0]
        moved = tuple(int(i) for i in moved_door(grid, cells, *door))
        assert cells[moved] == WALL
        assert inner_neighbour(grid, moved) != key
        assert cells[inner_neighbour(grid, moved)] == EMPTY
    assert SPECS["DynamicDoorKey"].generator == DYNAMIC


def test_our_doorkey_equals_minigrids_in_distribution() -> None:
    """Counts of where the wall, door, key and agent are, ours against minigrid's; 5 standard errors allowed."""
    count, spec = 1500, doorkey_spec(6)
    env = DoorKeyEnv(size=6)
    ours, theirs = Counter(), Counter()
    for seed in range(count):
        grid, cells = make(spec, seed)
        (door,), (key,), (goal,) = places(cells, DOOR_LOCKED), places(cells, KEY), places(cells, GOAL_KIND)
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


def test_drawn_seeds_stay_in_their_split_and_differ() -> None:
    for split in ("train", "eval"):
        low, high = split_range(split)
        seeds = [drawn_seed(3, env, episode, low, high) for env in range(40) for episode in range(40)]
        assert all(low <= seed < high for seed in seeds)
        assert len(set(seeds)) > 1590
    with pytest.raises(UserError, match="split"):
        split_range("test")

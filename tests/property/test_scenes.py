"""Facts, legality and plans against slow restatements of the rules, on random fogged maps and in play."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minigrid.core.grid import Grid
from minigrid.core.world_object import Wall
from numpy.typing import NDArray

from preceptor.envs.catalog import TASKS, get_task
from preceptor.envs.gridworld.scenes import Facts
from preceptor.envs.gridworld.tasks import GridTask

EMPTY, WALL, DOOR, KEY, BOX, LAVA = 1, 2, 4, 5, 7, 9
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
NAMES = ("SimpleDoorKey", "LavaDoorKey", "ColoredDoorKey", "RandomBoxKey")
Pose = tuple[int, int, int]
seeds = st.integers(0, 2**32 - 1)


def random_map(task: GridTask, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A cluttered room with random things of the task, random fog and a random agent, [W, H, 4]."""
    image = np.zeros((10, 10, 4), dtype=np.uint8)
    image[..., 3] = 4
    width, height = rng.integers(5, 11, size=2)
    image[:width, :height, :2] = WALL, 5
    image[1 : width - 1, 1 : height - 1, :2] = EMPTY, 0
    inside = [(x, y) for x in range(1, width - 1) for y in range(1, height - 1)]
    kinds = [KEY, KEY, BOX, LAVA] if "box" in task.schema.things else [KEY, KEY, LAVA]
    for x, y in rng.permutation(inside)[: rng.integers(0, len(inside) // 2)]:
        image[x, y, :2] = rng.choice([WALL, *kinds]), rng.integers(6)
    for _ in range(rng.integers(0, 3)):
        x, y = [(0, rng.integers(1, height - 1)), (rng.integers(1, width - 1), height - 1)][rng.integers(2)]
        image[x, y, :3] = DOOR, rng.integers(6), rng.integers(3)
    image[rng.random((10, 10)) < rng.choice([0.0, 0.1, 0.4]), :3] = 0
    ax, ay = inside[rng.integers(len(inside))]
    held = rng.random() < 0.5
    image[ax, ay] = (rng.choice(kinds[:-1]), rng.integers(6), 0, 0) if held else (EMPTY, 0, 0, 0)
    image[ax, ay, 3] = rng.integers(4)
    return image


def around(cell: tuple[int, int]) -> list[tuple[int, int]]:
    return [(cell[0] + i, cell[1] + j) for i, j in STEPS]


def before(pose: Pose) -> tuple[int, int]:
    return around(pose[:2])[pose[2]]


def inside(*cells: tuple[int, int]) -> list[tuple[int, int]]:
    return [cell for cell in cells if 0 <= min(cell) <= max(cell) < 10]


class Slow:
    """The same questions answered by plain search over poses, and by MiniGrid's own `process_vis`."""

    def __init__(self, task: GridTask, image: NDArray[np.uint8]) -> None:
        self.task, self.image = task, image
        (self.x, self.y), self.d = np.argwhere(image[..., 3] < 4)[0].tolist(), int(image[..., 3].min())
        self.here = self.x, self.y, self.d
        self.open_door = (image[..., 0] == DOOR) & (image[..., 2] == 0)
        self.light = np.isin(image[..., 0], (EMPTY, 3, KEY, 6, BOX, 8, LAVA)) | self.open_door
        self.cost = self.walk()

    def walk(self) -> dict[Pose, int]:
        """Cost of every reachable pose."""
        free = (self.image[..., 0] == EMPTY) | self.open_door
        free[self.x, self.y] = True
        cost, queue = {self.here: 0}, deque([self.here])
        while queue:
            x, y, d = pose = queue.popleft()
            ahead = [(*cell, d) for cell in inside(before(pose)) if free[cell]]
            for there in [(x, y, (d + 1) % 4), (x, y, (d - 1) % 4), *ahead]:
                if there not in cost:
                    cost[there] = cost[pose] + 1
                    queue.append(there)
        return cost

    def faces(self, pose: Pose, thing: str) -> bool:
        cell = before(pose)
        if not inside(cell) or cell == (self.x, self.y):
            return False
        *colour, kind = thing.split()
        seen = self.image[cell]
        if kind == "door":
            return bool(seen[0] == DOOR and seen[2] > 0)
        wanted = ("red", "green", "blue", "purple", "yellow", "grey").index(colour[0]) if colour else seen[1]
        return bool(seen[0] == {"key": KEY, "box": BOX}[kind] and seen[1] == wanted)

    def wanted(self, cell: tuple[int, int]) -> bool:
        """Unseen, and beside a seen cell that light passes."""
        near = any(self.light[other] for other in inside(*around(cell)))
        return self.image[cell][0] == 0 and cell != (self.x, self.y) and near

    def sees_wanted(self, pose: Pose) -> bool:
        """Whether MiniGrid's view from a pose, unseen cells taken as walls, contains a wanted cell."""
        x, y, d = pose
        (dx, dy), (rx, ry) = STEPS[d], STEPS[(d + 1) % 4]
        view = Grid(3, 3)
        where = {(1 + r, 2 - a): (x + a * dx + r * rx, y + a * dy + r * ry) for a in range(3) for r in (-1, 0, 1)}
        for (i, j), cell in where.items():
            if not (inside(cell) and self.light[cell]):
                view.set(i, j, Wall())
        lit = view.process_vis((1, 2))
        return any(lit[there] and inside(cell) and self.wanted(cell) for there, cell in where.items())

    def can_put(self, pose: Pose) -> bool:
        cell = before(pose)
        if not inside(cell) or self.image[cell][0] != EMPTY or cell == (self.x, self.y):
            return False
        return not any(self.image[other][0] == DOOR for other in inside(*around(cell)))

    def legal(self) -> set[str]:
        """Ids of the legal options by the words of the specification."""
        held = self.image[self.x, self.y, 0] in (KEY, BOX)
        options = {"explore"} if any(self.sees_wanted(pose) for pose in self.cost) else set()
        for thing in self.task.schema.things:
            if any(self.faces(pose, thing) for pose in self.cost) and not self.faces(self.here, thing):
                options.add(f"goto:{thing}")
        movable = [thing for thing in self.task.schema.things if thing != "door"]
        if not held and any(self.faces(self.here, thing) for thing in movable):
            options.add("pickup")
        if held and any(self.can_put(pose) for pose in self.cost):
            options.add("drop")
        if any(self.faces(self.here, thing) for thing in ("door", "box") if thing in self.task.schema.things):
            options.add("toggle")
        return options or {"explore"}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_options_are_legal_by_the_rules_and_plans_are_shortest_and_never_enter_lava(name: str, seed: int) -> None:
    task = get_task(name)
    image = random_map(task, np.random.default_rng(seed))
    slow, count = Slow(task, image), len(task.options)
    assert {task.options.ids[k] for k in np.flatnonzero(task.legal(image[None])[0])} == slow.legal()
    plans = task.plan(np.repeat(image[None], count, axis=0), np.arange(count))
    ahead = before(slow.here)
    for option, (action, left, *_) in zip(task.options.ids, plans.tolist(), strict=True):
        if option == "explore" or option.startswith("goto:"):
            goal = slow.sees_wanted if option == "explore" else lambda pose, o=option: slow.faces(pose, o[5:])
            assert left == min((cost for pose, cost in slow.cost.items() if goal(pose)), default=-1)
        if action == 2:
            assert image[ahead][0] == EMPTY or slow.open_door[ahead]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_codes_facts_and_texts_are_the_same_thing(name: str, seed: int) -> None:
    task, rng = get_task(name), np.random.default_rng(seed)
    obs = np.stack([random_map(task, rng) for _ in range(40)])
    before = obs.copy()
    scenes, codes = task.describe(obs), task.fact_codes(obs).tolist()
    assert (obs == before).all()
    assert task.describe(obs[::-1].copy()) == scenes[::-1]
    assert len({(c, s.facts, s.text, s.legal) for c, s in zip(codes, scenes, strict=True)}) == len(set(codes))
    assert len({s.facts for s in scenes}) == len({s.text for s in scenes}) == len(set(codes))
    for code, scene in zip(codes, scenes, strict=True):
        assert task.schema.decode(code) == task.schema.from_strings(scene.facts)


@pytest.mark.parametrize("name", TASKS)
def test_sampled_scenes_have_every_option_legal_and_facts_that_go_together(name: str) -> None:
    """What else is asked of them, tests/contract/test_tasks.py asks of all tasks."""
    task = get_task(name)
    scenes = task.sample_scenes(np.random.default_rng(0), 2000)
    assert {o for s in scenes for o in s.legal} == set(range(len(task.options))), "an option that is never legal"
    for scene in scenes:
        facts = task.schema.from_strings(scene.facts)
        assert task.schema.to_strings(facts) == scene.facts
        assert not facts.front or facts.status[facts.front - 1] == 1
        assert not facts.held or facts.status[facts.held - 1] == 0
        assert facts.place or facts.held


@pytest.mark.parametrize("name", TASKS)
def test_every_step_of_a_plan_brings_its_end_nearer(name: str) -> None:
    """While the map stays as it is, the cost falls by one; exploring, it never ends before all is seen."""
    task = get_task(name)
    env = task.make_vec(64, split="train", seed=3)
    obs, _ = env.reset()
    option, checked = np.zeros(64, dtype=np.int64), 0
    for t in range(120):
        if t == 60:
            option[:] = task.options.ids.index("goto:door")
        before, left = obs, task.plan(obs, option)[:, 1]
        obs, _, terminated, truncated, _ = env.step(task.skill(obs, option))
        changed = (before[..., :3] != obs[..., :3]).any(axis=(1, 2, 3)) | terminated | truncated
        known = ~changed & (left > 0)
        assert (task.plan(obs, option)[known, 1] == left[known] - 1).all()
        assert (left[task.legal(before)[:, 0] & (option == 0)] > 0).all()
        checked += int(known.sum())
    assert checked > 100


def test_facts_survive_every_code_of_a_small_schema() -> None:
    schema = get_task("SimpleDoorKey").schema
    every = [schema.decode(code) for code in range(schema.size)]
    assert len(set(every)) == schema.size
    assert len({schema.to_strings(facts) for facts in every}) == schema.size
    assert Facts((1, 0)) in every

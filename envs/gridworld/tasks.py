"""The seven grid tasks as teachers and hierarchies see them: one mechanism, driven by a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from preceptor.envs.gridworld import planning
from preceptor.envs.gridworld.choices import Choices
from preceptor.envs.gridworld.engine import NUM_ACTIONS
from preceptor.envs.gridworld.levels import SPECS, LevelSpec
from preceptor.envs.gridworld.outlook import ACTION_WORDS, outlook
from preceptor.envs.gridworld.scenes import COLOURS, Facts, Schema
from preceptor.envs.gridworld.simulator import GridSimulator
from preceptor.envs.gridworld.variants import spec_of
from preceptor.envs.task import GoalSpace, Option, OptionSpace, Scene, Task
from preceptor.ground.errors import UserError

_ROOM = (
    "You are in a walled room and know only what you have seen of it. You carry at most one thing. "
    "A locked door opens when you use it while you hold {which} key. "
    "You can pick up, open or use only what is right in front of you, so go to it first."
)
_BOX = " Opening a box makes it vanish and leaves what was inside, if anything, in its place."


@dataclass(frozen=True)
class TaskText:
    """What differs between the tasks, beside the rules of their levels.

    Attributes:
        goal: One sentence for a language model.
        rules: A paragraph for a language model.
        things: What scenes speak of and `goto:` options lead to.
        lava: Whether there is lava.
        target: None in the seven tasks. Elsewhere what to go to or to pick up, one of the things, or empty where a door
            has to be opened (`Choices`).
    """

    goal: str
    rules: str
    things: tuple[str, ...] = ("key", "door")
    lava: bool = False
    target: str | None = None


_LAVA_RULE = " Stepping into lava ends everything; your steps avoid lava that has been seen."

TEXTS = {
    "SimpleDoorKey": TaskText("Find the key, then open the locked door with it.", _ROOM.format(which="the")),
    "LavaDoorKey": TaskText(
        "Find the key, then open the locked door with it, and stay out of the lava.",
        _ROOM.format(which="the") + _LAVA_RULE,
        lava=True,
    ),
    "ColoredDoorKey": TaskText(
        "Find the key that has the colour of the locked door, then open the door with it.",
        _ROOM.format(which="its own colour's")
        + " There are two keys of different colours; the wrong one does not open the door and must be put down first.",
        things=(*(f"{colour} key" for colour in COLOURS), "door"),
    ),
    "TwoDoor": TaskText(
        "Find the key, then open either of the two locked doors with it.",
        _ROOM.format(which="the") + " The room is large and the two doors are on opposite walls; one is enough.",
    ),
    "KeyInBox": TaskText(
        "Get the key out of the box, then open the locked door with it.",
        _ROOM.format(which="the") + _BOX + " The key is in the box.",
        things=("key", "door", "box"),
    ),
    "RandomBoxKey": TaskText(
        "Find the key, on the floor or in the box, then open the locked door with it.",
        _ROOM.format(which="the") + _BOX + " The key is on the floor or in the box.",
        things=("key", "door", "box"),
    ),
    "DynamicDoorKey": TaskText(
        "Find the key, then open the locked door with it, wherever the door is by then.",
        _ROOM.format(which="the") + " Soon after you take the key the door moves to another place in the walls.",
    ),
}


class GridTask(Task):
    """A grid task; see `preceptor.envs.task.Task` for the methods.

    Args:
        spec: The rules of its levels.
        text: What language models read, and which things scenes speak of.
        lava_is_floor: Executors and scenes take lava for floor (`flaws.py`).
    """

    goal_space = GoalSpace(("x", "y"), (1.0, 1.0))
    num_actions, action_words = NUM_ACTIONS, ACTION_WORDS

    def __init__(self, spec: LevelSpec, text: TaskText, lava_is_floor: bool = False) -> None:
        self.name, self.level_spec = spec.name, spec
        self.goal, self.rules = text.goal, text.rules
        self.observation_shape = (spec.width, spec.height, 4)
        plain = SPECS.get(self.base_name, spec)
        self.encoded_shape = (plain.width, plain.height, 4)
        self.schema = Schema(text.things, text.lava)
        self._choices = Choices(self.schema, text.target)
        self.options = _options(self._choices.ids, spec)
        colours = self.schema.thing_colours.tolist()
        if set(range(len(COLOURS))) <= set(colours):
            self.of_colours = tuple(1 + colours.index(colour) for colour in range(len(COLOURS)))  # 0 is `explore`
        self._tracked = self.schema.objects, self.schema.thing_colours
        self._sight = spec.view_size, lava_is_floor, text.target is not None  # what kernels want to know
        self._row_of_code = np.full(self.schema.size, -1, dtype=np.int32)
        self._scenes: list[Scene] = []
        self._judged = np.zeros((3, 0, len(self.options)), dtype=np.bool_)  # `Choices.judge` of each row

    def simulator(self, num_envs: int, render_mode: str | None = None) -> GridSimulator:
        """The rules of N environments."""
        return GridSimulator(self.level_spec, num_envs)

    def from_gymnasium(self, obs: Any) -> NDArray[np.uint8]:
        """The maps of dictionaries as `GridTaskEnv` gives them, and of arrays.

        Raises:
            UserError: It is MiniGrid's view of the moment.
        """
        found = np.asarray(obs["image"] if isinstance(obs, Mapping) else obs, np.uint8)
        if found.shape[-1:] == (3,):
            raise UserError(
                f"{self.name} is played from maps {self.observation_shape} of what has been seen, and this is "
                f"MiniGrid's view of the moment, {found.shape}.",
                "env = preceptor.SeenMap(env)",
            )
        return found

    def make_env(self, split: str = "eval", render_mode: str | None = None) -> gym.Env:
        """MiniGrid's own environment, in lock step with the batched one."""
        from preceptor.envs.gridworld.single import GridTaskEnv  # imports minigrid, which takes a while

        return GridTaskEnv(self.name, split, render_mode)

    def fact_codes(self, obs: NDArray[np.uint8]) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        fields = np.empty((len(obs), len(self.schema.radices)), np.int64)
        planning.read_facts(planning.for_kernels(obs), *self._tracked, self._sight, fields)
        return self.schema.encode(fields)

    def describe(self, obs: NDArray[np.uint8]) -> list[Scene]:
        """Scenes of observations [N, W, H, 4]; the same object for equal facts."""
        return [self._scenes[row] for row in self._rows(self.fact_codes(obs))]

    def sights(self, obs: NDArray[np.uint8]) -> list[str]:
        """What has been seen [N], from where the agent stands."""
        return [outlook(seen) for seen in obs]

    def legal(self, obs: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Legality of each option [N, K]."""
        rows = self._rows(self.fact_codes(obs))
        return self._judged[0, rows]

    def option_done(self, obs: NDArray[np.uint8], option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each option [N] is over: achieved, or no longer possible."""
        rows = self._rows(self.fact_codes(obs))
        return self._judged[1, rows, option]

    def option_achieved(
        self, before: NDArray[np.uint8], after: NDArray[np.uint8], option: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether the step between two observations did what each option [N] is for.

        Exploring: a cell was seen for the first time. Opening: the map changed in front of an agent that stood still,
        or what it uses would count as opened once it has turned away. The rest is told by what could be done before
        and where it led.
        """
        explore, use = option == 0, option == len(self.options) - 1
        stood = (before[..., 3] == after[..., 3]).all((1, 2))
        changed = (before[..., :3] != after[..., :3]).any((1, 2, 3))
        explored = (after[..., 0] == 0).sum((1, 2)) < (before[..., 0] == 0).sum((1, 2))
        rows, led_to = self._rows(self.fact_codes(before)), self._rows(self.fact_codes(after))
        led_there = self._judged[0, rows, option] & self._judged[2, led_to, option]
        return np.select([explore, use], [explored, stood & changed], led_there)

    def script(self, scene: Scene) -> int:
        """The expert's option for a scene of this task, from its facts alone."""
        return self._choices.expert(self.schema.from_strings(scene.facts), scene.legal)

    def scene(self, facts: Facts) -> Scene:
        """The scene of given facts."""
        legal = np.flatnonzero(self._choices.judge(np.array([facts.fields]))[0, 0])
        return Scene(self.name, self.schema.to_strings(facts), self.schema.to_text(facts), tuple(legal.tolist()))

    def sample_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """Scenes of random consistent facts, those that play rarely reaches included."""
        sampled = [self.schema.sample(rng).fields for _ in range(count)]
        fields = np.array(sampled, np.int64).reshape(count, len(self.schema.radices))
        return [self._scenes[row] for row in self._rows(self.schema.encode(fields))]

    def skill(self, obs: NDArray[np.uint8], option: NDArray[np.int64]) -> NDArray[np.int64]:
        """Primitive action [N] of each option's scripted executor; 6 (wait) where it can do nothing."""
        return self.plan(obs, option)[:, 0].copy()

    def ground(
        self, obs: NDArray[np.uint8], option: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cell (x, y) [N, 2] from which each option will act, the agent's own if it cannot; scale one cell [N, 2]."""
        mean = self.plan(obs, option)[:, 2:].astype(np.float32)
        return mean, np.ones_like(mean)

    def plan(self, obs: NDArray[np.uint8], option: NDArray[np.int64]) -> NDArray[np.int64]:
        """Columns [N, 4]: next primitive action; turns and steps to go, -1 for no way; x, y of the cell to act from."""
        out = np.empty((len(obs), 4), dtype=np.int64)
        option = np.require(option, np.int64, ["C", "W"])
        planning.plan(planning.for_kernels(obs), option, *self._tracked, self._sight, out)
        return out

    def _rows(self, codes: NDArray[np.int64]) -> NDArray[np.int32]:
        """Row of each code in the tables, which grow by facts that are met for the first time."""
        rows = self._row_of_code[codes]
        if rows.min(initial=0) < 0:
            new = np.unique(codes[rows < 0])
            self._row_of_code[new] = np.arange(len(new)) + len(self._scenes)
            self._scenes += [self.scene(self.schema.decode(code)) for code in new]
            judged = self._choices.judge(np.column_stack(np.unravel_index(new, self.schema.radices)))
            self._judged = np.concatenate([self._judged, judged], axis=1)
            rows = self._row_of_code[codes]
        return rows


def _options(ids: tuple[str, ...], spec: LevelSpec) -> OptionSpace:
    words = {
        "explore": ("explore the room", 10),
        "pickup": ("pick up what is in front", 3),
        "drop": ("put down what you hold", 8),
        "toggle": ("open what is in front", 3),
    }
    goto = 2 * (spec.width + spec.height)
    return OptionSpace([Option(i, *words.get(i, (f"go to the {i.removeprefix('goto:')}", goto))) for i in ids])


def make_task(name: str) -> GridTask:
    """One of the seven tasks, or a variant of one, by its name."""
    return GridTask(spec_of(name), TEXTS[name.partition(":")[0]])

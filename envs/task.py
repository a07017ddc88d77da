"""What every task provides: an option vocabulary, scenes for a teacher, and batched environments.

A *task* is an environment with an option vocabulary. A *scene* is what a teacher reads of one observation: a finite
tuple of facts, a text that is a function of the facts, and the options that are legal there. Equal facts are one query.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from preceptor.envs.plans import Plans
from preceptor.envs.vector import BatchedEnv, Simulator, SingleEnv
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import split_of

_PLAYED = 32  # environments side by side in which scenes are sampled


@dataclass(frozen=True)
class Option:
    """A temporally extended action with a name (Sutton, Precup & Singh, 1999).

    Attributes:
        id: Stable identifier such as `goto:key`; part of every label and checkpoint.
        words: What a language model reads, for example `go to the key`.
        timeout: Steps after which the clock ends the option whether or not it is done.
    """

    id: str
    words: str
    timeout: int


class OptionSpace(tuple[Option, ...]):
    """The ordered options of a task. The order is the meaning of an option index everywhere.

    Attributes:
        ids: Option ids in index order.
        timeouts: int64 [K], of each option.
        digest: Hash of the ordered ids: two spaces with the same digest may share labels and controllers.
    """

    def __init__(self, options: Iterable[Option]) -> None:
        self.ids = tuple(option.id for option in self)
        if len(set(self.ids)) != len(self):
            raise ValueError("option ids must be distinct")
        self.timeouts = np.array([option.timeout for option in self], dtype=np.int64)
        self.digest = hashlib.sha256("\n".join(self.ids).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class GoalSpace:
    """Named state dimensions in which a goal is expressed; never "the first k dimensions".

    Attributes:
        names: What each of the D dimensions is, for example `("x", "y")`.
        scale: Natural unit of each dimension, length D.
        indices: Where each dimension is in an observation; empty where goals cannot be read off observations.
    """

    names: tuple[str, ...]
    scale: tuple[float, ...]
    indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scene:
    """What a teacher reads of one observation.

    Attributes:
        task: Name of the task.
        facts: Finite tuple of `name=value` strings; scenes with equal facts are the same query.
        text: English for the facts, and a function of them alone.
        legal: Indices of the options that may be chosen here, ascending, never empty.
    """

    task: str
    facts: tuple[str, ...]
    text: str
    legal: tuple[int, ...]


class Task:
    """A task as teachers, controllers and hierarchies see it; a subclass says what is its own.

    All methods are batched over N observations. Those in `needed` have no default (instead of `simulator`, both
    `make_vec` and `make_env` will do). Without `script` there is no scripted teacher, and without `skill` nothing
    that a teacher's options could be carried out with while they are distilled.

    Attributes:
        name: Of the task, in the paths of its runs and in labels; that of the class if not given.
        base_name: The name without parameters: agents of one task play all tasks that have it in common.
        source: What `get_task` makes it of: a name of the catalogue, a Gymnasium id or `module:Name`.
        goal: One sentence for a language model: what the agent is to achieve.
        rules: A paragraph for a language model: what the agent perceives and what each option needs.
        options: The option vocabulary, K options.
        observation_shape: Shape of one observation: (W, H, 4) of a map, uint8, or (O,) of a state vector, float32.
        encoded_shape: Of what its networks were made for, where maps of a variant are larger; else `observation_shape`.
        num_actions: Number of primitive actions, or of their dimensions where they are `continuous`.
        continuous: Actions are vectors in [-1, 1] per dimension, whatever units the environment has inside.
        goal_space: The D named dimensions that `ground` speaks of.
        observation_scale: Natural size of each dimension of a state vector, length O; empty for maps.
        told_columns: Columns at the end of a map (along H) that are no cells but what the agent is told or remembers.
        of_colours: Of each of six colours, the option that speaks of it, where options differ in their colour alone and
            repainting an observation repaints what is right; none by default.
        hidden_from_low_level: Positions in a state vector that a low level with a goal does not see; empty for maps.
        hidden_from_high_level: Those that a high level need not see, since they change with every step; likewise.
        tells_time: Whether observations say how much of an episode is left, so that its time limit is part of the task.
        action_groups: By name, positions in an action vector that belong together; `action_groups_of` checks them.
        extra_columns: By name, shape and dtype of what the environments put into infos at each step, to be stored.
        notice: A line that is printed when a run on it starts; empty for most.
        action_words: Of each named action, what a language model that acts by itself reads; the last does least.
        plans: How it is planned (`--teacher-by plan`), where its episodes have missions of their own; else None.
        expert_noise: Of demonstrations, where nothing else is said: the probability that the expert errs, or where
            actions are vectors the deviation of noise on them.
    """

    needed: ClassVar[tuple[str, ...]] = ("goal", "options", "simulator", "describe", "fact_codes", "option_done")

    goal: str
    rules: str = ""
    options: OptionSpace
    goal_space: GoalSpace = GoalSpace((), ())
    told_columns: int = 0
    of_colours: tuple[int, ...] = ()
    hidden_from_low_level: tuple[int, ...] = ()
    hidden_from_high_level: tuple[int, ...] = ()
    tells_time: bool = False
    action_groups: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    extra_columns: Mapping[str, tuple[tuple[int, ...], type]] = MappingProxyType({})
    notice: str = ""
    action_words: tuple[str, ...] = ()
    plans: Plans | None = None
    expert_noise: float = 0.1  # the experts of HALO's data err (Orlov Savko and Unhelkar, 2024)

    @cached_property
    def name(self) -> str:
        """The name of the class."""
        return type(self).__name__

    @cached_property
    def base_name(self) -> str:
        """The name up to its parameters, where it has some."""
        return self.name.partition(":")[0]

    @cached_property
    def source(self) -> str:
        """The name."""
        return self.name

    @cached_property
    def demonstrated(self) -> "Task":
        """The task whose episodes demonstrations show: this one, or one of the same options and spaces."""
        return self

    @cached_property
    def scattered(self) -> "Task":
        """This task, or where nothing scripted can act in it, one whose every step shows it in another state."""
        return self

    @cached_property
    def _spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        env = self.make_vec(1)
        env.close()
        acts = env.single_action_space
        if not isinstance(acts, gym.spaces.Discrete | gym.spaces.Box) or len(acts.shape or ()) > 1:
            raise UserError(f"{self.name}: actions must be Discrete, or a Box of one dimension, not {acts}.")
        return env.single_observation_space, acts

    @cached_property
    def observation_shape(self) -> tuple[int, ...]:
        """That of the environments' observations."""
        return tuple(self._spaces[0].shape or ())

    @cached_property
    def encoded_shape(self) -> tuple[int, ...]:
        """That of the observations."""
        return self.observation_shape

    @cached_property
    def continuous(self) -> bool:
        """Whether the environments' actions are vectors."""
        return isinstance(self._spaces[1], gym.spaces.Box)

    @cached_property
    def num_actions(self) -> int:
        """The number of the environments' actions, or of their dimensions."""
        return int(gym.spaces.flatdim(self._spaces[1]))

    @cached_property
    def observation_scale(self) -> tuple[float, ...]:
        """One for each dimension of a state vector."""
        return (1.0,) * self.observation_shape[0] if len(self.observation_shape) == 1 else ()

    def simulator(self, num_envs: int, render_mode: str | None = None) -> Simulator:
        """The rules of N environments; `render_mode` is None or `rgb_array`."""
        raise NotImplementedError(f"{type(self).__name__} must define simulator, or make_vec and make_env")

    def make_vec(
        self, num_envs: int, *, split: str = "train", seed: int = 0, render_mode: str | None = None, **how: Any
    ) -> gym.vector.VectorEnv:
        """Batched environments; `split` is `train` (level seeds < 1,000,000) or `eval`; `how` is for `BatchedEnv`."""
        return BatchedEnv(self.simulator(num_envs, render_mode), split, seed, render_mode=render_mode, **how)

    def picture(self, obs: NDArray) -> NDArray[np.uint8] | None:
        """What one observation [...] shows, uint8 [H, W, 3]; None where it cannot be drawn. Maps are by default."""
        if len(self.observation_shape) != 3:
            return None
        from preceptor.envs.gridworld.single import map_picture  # imports minigrid, which takes a while

        return map_picture(obs[:, : obs.shape[1] - self.told_columns])

    def from_gymnasium(self, obs: Any) -> NDArray:
        """Observations [...] or [N, ...] of this task from what its Gymnasium environment gives."""
        dtype = np.float32 if len(self.observation_shape) == 1 else np.uint8
        return np.asarray(obs, dtype)

    def to_gymnasium(self, actions: NDArray) -> Any:
        """Actions [...] or [N, ...] of the task's Gymnasium environment from those of this task."""
        return actions

    def make_env(self, split: str = "eval", render_mode: str | None = None) -> gym.Env:
        """The task's single environment as users play it, on the levels of a split."""
        return SingleEnv(self.simulator(1, render_mode), split, render_mode)

    def make_single(self, level_seed: int) -> gym.Env:
        """`make_env` at the start of a level, in lock step with the batched ones; its `render` draws it."""
        env = self.make_env(split_of(level_seed), "rgb_array")
        env.reset(options={"level_seed": level_seed})
        return env

    def describe(self, obs: NDArray) -> list[Scene]:
        """Scenes of observations [N, ...]; the same object for equal facts."""
        raise NotImplementedError

    def sights(self, obs: NDArray) -> list[str]:
        """What a model that chooses primitive actions is told [N]; the text of the scenes if not given."""
        return [scene.text for scene in self.describe(obs)]

    def retold(self, obs: NDArray, keys: NDArray[np.int64]) -> NDArray:
        """The same places [N, ...] with other goals, drawn by the keys [N]; where goals are told in observations."""
        raise NotImplementedError

    def fact_codes(self, obs: NDArray) -> NDArray[np.int64]:
        """One integer per observation [N]; equal codes have equal facts. Cheap, for deduplication."""
        raise NotImplementedError

    def legal(self, obs: NDArray) -> NDArray[np.bool_]:
        """Legality of each option [N, K]; what `describe` says if not given."""
        _, first, inverse = np.unique(self.fact_codes(obs), return_index=True, return_inverse=True)
        rows = np.zeros((len(first), len(self.options)), np.bool_)
        for row, scene in zip(rows, self.describe(obs[first]), strict=True):
            row[list(scene.legal)] = True
        return rows[inverse]

    def option_done(self, obs: NDArray, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the option [N] has reached its done-condition in the observation it led to [N].

        It is also done once it has become impossible.
        """
        raise NotImplementedError

    def options_done(self, obs: NDArray) -> NDArray[np.bool_]:
        """`option_done` of every option [N, K]."""
        return np.stack([self.option_done(obs, np.full(len(obs), k)) for k in range(len(self.options))], 1)

    def option_achieved(self, before: NDArray, after: NDArray, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations [N, ...] did what the option [N] is for.

        This is what a low level is rewarded for. By default an option is achieved once it is done, which will not do
        where it may also become impossible.
        """
        return self.option_done(after, option)

    def not_understood(self, level_seeds: Sequence[int]) -> int:
        """How many held-out levels ask for something in words that no controller knows; none by default."""
        return 0

    def in_place(self, obs: NDArray) -> NDArray[np.int64]:
        """The option [N] that the agent is in place for, which scenes need not tell; -1 for none, as by default."""
        return np.full(len(obs), -1)

    def ground(self, obs: NDArray, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where the option [N] leads: goal mean [N, D] and scale [N, D] in the dimensions of `goal_space`."""
        if self.goal_space.names:
            raise NotImplementedError
        return np.zeros((len(obs), 0), np.float32), np.zeros((len(obs), 0), np.float32)

    def skill(self, obs: NDArray, option: NDArray[np.int64]) -> NDArray:
        """Primitive action [N, ...] of the scripted executor of each option: teachers' hands, never the student's.

        Raises:
            UserError: There is none.
        """
        raise lacking(self, "skill")

    def script(self, scene: Scene) -> int:
        """The expert's option index for a scene, from its facts alone: the truth that labels are judged against.

        Raises:
            UserError: There is no expert.
        """
        raise lacking(self, "script")

    def sample_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """Varied scenes for training, judging and probing language models; those of random play if not given."""
        env = self.make_vec(_PLAYED, seed=int(rng.integers(2**31)))
        env.action_space.seed(int(rng.integers(2**31)))
        scenes = self.describe(env.reset()[0])
        while len(scenes) < count:
            scenes += self.describe(env.step(env.action_space.sample())[0])
        env.close()
        return scenes[:count]


_LACKING = {
    "skill": "no scripted skills (`skill`), so there is nothing to carry out what a teacher says",
    "script": "no scripted expert (`script`)",
}


def lacking(task: Task, member: str) -> UserError:
    """The error for a member, `skill` or `script`, that a task may leave out, where it is asked for."""
    train = f"python main.py train --task {task.source} --method {'sac' if task.continuous else 'ppo'}"
    return UserError(f"{task.name} has {_LACKING[member]}.", f"{train}  # which needs none")


def defines(task: Task, member: str, base: type = Task) -> bool:
    """Whether a task has a member that is not the one of `base`."""
    return member in vars(task) or getattr(type(task), member, None) is not getattr(base, member, None)


class LimitedTask(Task):
    """A task whose teacher is wrong on purpose: `class Mine(LimitedTask, Corridor)`, with a `teacher_view`."""

    def teacher_view(self, obs: NDArray, level_seeds: NDArray[np.int64]) -> NDArray:
        """The observations [N, ...] as the teacher gets them."""
        raise NotImplementedError

    def teacher_to_true(self, level_seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index [N, K] that takes a teacher's answers back, `true[n, k] = taught[n, index[n, k]]`."""
        return np.tile(np.arange(len(self.options)), (len(level_seeds), 1))


class TableTask(Task):
    """A task whose facts have few combinations: what depends on them alone is a table, whose rows are `fact_codes`.

    Attributes:
        expert_of: int64 [C], the expert's option for each of C codes.
        legal_of: bool [C, K], the options that are legal, at least one; all of them if not given.
    """

    needed = ("goal", "options", "simulator", "fact_codes", "words", "option_done", "expert_of")
    expert_of: NDArray[np.int64]

    @cached_property
    def legal_of(self) -> NDArray[np.bool_]:
        """True [C, K]."""
        return np.ones((len(self.expert_of), len(self.options)), np.bool_)

    def words(self, code: int) -> tuple[tuple[str, ...], str]:
        """The facts of a code, which no other code has, and the English for them."""
        raise NotImplementedError

    def sample_codes(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Codes of `sample_scenes`; any of them, all alike."""
        return rng.integers(len(self.expert_of), size=count)

    @cached_property
    def scenes(self) -> tuple[Scene, ...]:
        """The scene of each code."""
        legal = [tuple(np.flatnonzero(row).tolist()) for row in self.legal_of]
        return tuple(Scene(self.name, *self.words(code), legal[code]) for code in range(len(legal)))

    @cached_property
    def _code_of(self) -> dict[tuple[str, ...], int]:
        return {scene.facts: code for code, scene in enumerate(self.scenes)}

    def describe(self, obs: NDArray) -> list[Scene]:
        """Scenes of observations [N, ...]; the same object for equal facts."""
        return [self.scenes[code] for code in self.fact_codes(obs).tolist()]

    def legal(self, obs: NDArray) -> NDArray[np.bool_]:
        """Legality of each option [N, K]."""
        return self.legal_of[self.fact_codes(obs)]

    def script(self, scene: Scene) -> int:
        """The expert's option for a scene of this task."""
        return int(self.expert_of[self._code_of[scene.facts]])

    def sample_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """Scenes of `sample_codes`."""
        return [self.scenes[code] for code in self.sample_codes(rng, count).tolist()]

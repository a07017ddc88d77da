"""What every task provides: an option vocabulary, scenes for a teacher, and batched environments.

A *task* is an environment with an option vocabulary. A *scene* is what a teacher reads of one observation: a finite
tuple of facts, a text that is a function of the facts, and the options that are legal there. Equal facts are one query.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ground.errors import unknown_name


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


class OptionSpace(Sequence[Option]):
    """The ordered options of a task. The order is the meaning of an option index everywhere."""

    def __init__(self, options: Sequence[Option]) -> None:
        self._options = tuple(options)
        self._index = {option.id: i for i, option in enumerate(self._options)}
        if len(self._index) != len(self._options):
            raise ValueError("option ids must be distinct")
        self.timeouts = np.array([option.timeout for option in self._options], dtype=np.int64)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's overloads add nothing here
        return self._options[index]

    def __len__(self) -> int:
        return len(self._options)

    def __iter__(self) -> Iterator[Option]:
        return iter(self._options)

    @property
    def ids(self) -> tuple[str, ...]:
        """Option ids in index order."""
        return tuple(self._index)

    def index_of(self, option_id: str) -> int:
        """Index of an option id. Raises `UserError` with a suggestion if there is none."""
        if option_id not in self._index:
            raise unknown_name("option", option_id, self._index)
        return self._index[option_id]

    @property
    def digest(self) -> str:
        """Hash of the ordered ids: two spaces with the same digest may share labels and controllers."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()[:16]


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


class Task(Protocol):
    """A task as teachers, controllers and hierarchies see it. All methods are batched over N observations.

    Attributes:
        name: Catalogue name.
        goal: One sentence for a language model: what the agent is to achieve.
        rules: A paragraph for a language model: what the agent perceives and what each option needs.
        options: The option vocabulary, K options.
        goal_space: The D named dimensions that `ground` speaks of.
        observation_shape: Shape of one observation: (W, H, 4) of a map, uint8, or (O,) of a state vector, float32.
        observation_scale: Natural size of each dimension of a state vector, length O; empty for maps.
        hidden_from_low_level: Positions in a state vector that a low level with a goal does not see; empty for maps.
        num_actions: Number of primitive actions, or of their dimensions where they are `continuous`.
        continuous: Actions are vectors in [-1, 1] per dimension, whatever units the environment has inside.
    """

    name: str
    goal: str
    rules: str
    options: OptionSpace
    goal_space: GoalSpace
    observation_shape: tuple[int, ...]
    observation_scale: tuple[float, ...]
    hidden_from_low_level: tuple[int, ...]
    num_actions: int
    continuous: bool

    def make_vec(self, num_envs: int, *, split: str = "train", seed: int = 0) -> gym.vector.VectorEnv:
        """Batched environments; `split` is `train` (level seeds < 1,000,000) or `eval` (at or above it)."""
        ...

    def make_single(self, level_seed: int) -> gym.Env:
        """One environment at the start of a level, in lock step with the batched ones, whose `render` draws it."""
        ...

    def describe(self, obs: NDArray) -> list[Scene]:
        """Scenes of observations [N, ...]."""
        ...

    def fact_codes(self, obs: NDArray) -> NDArray[np.int64]:
        """One integer per observation [N]; equal codes have equal facts. Cheap, for deduplication."""
        ...

    def legal(self, obs: NDArray) -> NDArray[np.bool_]:
        """Legality of each option [N, K]; agrees with `describe(obs)[n].legal`."""
        ...

    def option_done(self, obs: NDArray, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the option [N] has reached its done-condition in the observation it led to [N]."""
        ...

    def option_achieved(self, before: NDArray, after: NDArray, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations [N, ...] did what the option [N] is for.

        What a low level is paid for. `option_done` will not do: an option is over, too, once it has become impossible.
        """
        ...

    def ground(self, obs: NDArray, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where the option [N] leads: goal mean [N, D] and scale [N, D] in the dimensions of `goal_space`."""
        ...

    def skill(self, obs: NDArray, option: NDArray[np.int64]) -> NDArray:
        """Primitive action [N, ...] of the scripted executor of each option: teachers' hands, never the student's."""
        ...

    def teacher_view(self, obs: NDArray, level_seeds: NDArray[np.int64]) -> NDArray:
        """The observations [N, ...] as the teacher gets them; others than `obs` only if it is limited on purpose."""
        ...

    def teacher_to_true(self, level_seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index [N, K] that takes a teacher's answers back, `true[n, k] = taught[n, index[n, k]]`."""
        ...

    def script(self, scene: Scene) -> int:
        """The expert's option index for a scene: the ground truth that labels are judged against."""
        ...

    def sample_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """Varied scenes, beyond those that play reaches, for training and judging language models."""
        ...

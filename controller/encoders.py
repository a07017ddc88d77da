"""Observation -> network input: a map becomes tokens in the agent's own frame, a vector becomes numbers of order one.

The grid encoder turns a fog-of-war map into an *egocentric, foveated* token grid: the agent stands in the centre and
faces up; cells near either axis keep their exact offset, far cells share bins. Turning or shifting the world therefore
leaves the input unchanged, which is worth a factor of four in labels and costs no network at all. Where options speak
of colours, colours become *roles* (the door's, another), so that repainting the world leaves it unchanged, too. Raw
integers are never fed as floats: one-hot or embedded input moved a distilled student from 0.48 to 1.00.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.envs.missions.reading import BITS
from preceptor.envs.missions.vocabulary import VOCABULARY
from preceptor.envs.task import Task

UNSEEN, EMPTY, WALL, LAVA, GOAL = 0, 1, 2, 3, 4
_DOORS, _KEYS, _BALLS, _BOXES = 5, 23, 29, 35
NUM_TOKENS = 41
_NOTHING = 255  # no token: no cell of the map is there
# Width of each bin of an offset along one axis, from the centre outwards: exact up to 3, then two coarse bins or more.
_BIN_EDGES = np.array([0, 1, 2, 3, 4, 6, 10, 15, 1_000_000])
_TURN_LEFT, _TURN_RIGHT = 0, 1


@njit(cache=True, inline="always")
def _token(kind: int, colour: int, state: int) -> int:
    if kind == 4:
        return _DOORS + 3 * colour + state
    if kind == 5:
        return _KEYS + colour
    if kind == 6:
        return _BALLS + colour
    if kind == 7:
        return _BOXES + colour
    if kind == 8:
        return GOAL
    if kind == 9:
        return LAVA
    return WALL if kind == 2 else min(kind, EMPTY)


@njit(cache=True, inline="always")
def _salience(token: int) -> int:
    # Which of several cells in one bin is shown: things first, then danger, then what is still to be explored. Among
    # things the larger token, so that the choice does not depend on the direction in which the map is read.
    if token >= GOAL:
        return token
    return (2, 1, 0, 3)[token]


@njit(cache=True)
def _roles(present, held, roles):  # type: ignore[no-untyped-def]
    # A colour's role is its rank: those of doors first, then what is held, then what else there is, then the others.
    rank = np.full(6, 3)
    for colour in range(6):
        doors, key, ball, box = _DOORS + 3 * colour, _KEYS + colour, _BALLS + colour, _BOXES + colour
        if present[doors : doors + 3].any():
            rank[colour] = 0
        elif held in (key, ball, box):
            rank[colour] = 1
        elif present[key] or present[ball] or present[box]:
            rank[colour] = 2
    for colour in range(6):
        roles[colour] = (rank < rank[colour]).sum() + (rank[:colour] == rank[colour]).sum()


@njit(cache=True)
def _repaint(tokens, present, roles):  # type: ignore[no-untyped-def]
    centre = tokens.shape[1] // 2
    new = np.arange(NUM_TOKENS).astype(np.uint8)
    for n in range(len(tokens)):
        _roles(present[n], tokens[n, centre], roles[n])
        for colour in range(6):
            role = roles[n, colour]
            for state in range(3):
                new[_DOORS + 3 * colour + state] = _DOORS + 3 * role + state
            new[_KEYS + colour], new[_BALLS + colour], new[_BOXES + colour] = _KEYS + role, _BALLS + role, _BOXES + role
        tokens[n] = new[tokens[n]]
        before = present[n].copy()
        for token in range(NUM_TOKENS):
            present[n, new[token]] = before[token]


@njit(cache=True)
def _encode(obs, bins, side, tokens, present):  # type: ignore[no-untyped-def]
    for n in range(len(obs)):
        encode_one(n, obs, bins, side, tokens, present)


@njit(cache=True, forceinline=True)
def encode_one(n, obs, bins, side, tokens, present):  # type: ignore[no-untyped-def]
    """Fill in the parts of observation n, as `GridEncoder` has them: tokens [N, side * side], presence [N, T]."""
    _, width, height, _ = obs.shape
    centre, last = side // 2, len(bins) - 1
    agent_x = agent_y = facing = 0
    for x in range(width):
        for y in range(height):
            if obs[n, x, y, 3] != 4:
                agent_x, agent_y, facing = x, y, obs[n, x, y, 3]
    dir_x = (1, 0, -1, 0)[facing]
    dir_y = (0, 1, 0, -1)[facing]
    tokens[n] = _NOTHING
    present[n] = 0.0
    for x in range(width):
        for y in range(height):
            token = _token(obs[n, x, y, 0], obs[n, x, y, 1], obs[n, x, y, 2])
            present[n, token] = 1.0
            ahead = (x - agent_x) * dir_x + (y - agent_y) * dir_y
            right = (y - agent_y) * dir_x - (x - agent_x) * dir_y
            row = centre + (bins[min(ahead, last)] if ahead >= 0 else -bins[min(-ahead, last)])
            column = centre + (bins[min(right, last)] if right >= 0 else -bins[min(-right, last)])
            cell = row * side + column
            shown = tokens[n, cell]
            if shown == _NOTHING or _salience(token) > _salience(shown):
                tokens[n, cell] = token
    for cell in range(side * side):
        if tokens[n, cell] == _NOTHING:
            tokens[n, cell] = UNSEEN


@dataclass(frozen=True)
class Encoded:
    """A batch of network inputs: the parts that the network's trunk takes, in its order, each [N, ...]."""

    parts: tuple[NDArray, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> "Encoded":
        return Encoded(tuple(part[rows] for part in self.parts))

    @staticmethod
    def concatenate(batches: Sequence["Encoded"]) -> "Encoded":
        """Batches one after the other."""
        return Encoded(tuple(np.concatenate(part) for part in zip(*(batch.parts for batch in batches), strict=True)))


class GridEncoder:
    """Encodes fog-of-war maps uint8 [N, W, H, 4] (envs/gridworld) as egocentric tokens.

    Its parts are the egocentric token grid, uint8 [N, side * side], in whose centre is the agent's cell, with the
    carried object as its token; and which tokens occur anywhere on the map, float32 [N, NUM_TOKENS]. Where options
    differ in their colour alone, both show roles instead of colours, and a third part int64 [N, K] says which of a
    network's outputs is which option (`in_order`).

    Args:
        observation_shape: (W, H, 4); on a larger map, what is farther shares the last bins.
        options: K.
        of_colours: The options that differ in their colour alone, one for each colour; none where there are no such.
        told: Columns at the end of observations that are no cells (`Task.told_columns`), which are left out.

    Attributes:
        by_role: Whether colours are shown as roles.
        num_cells: Tokens per observation, side * side.
        bins: int64, how many bins from the centre each offset is.
        identity: Kind and shape, which a checkpoint and a task must agree on.
    """

    def __init__(
        self, observation_shape: tuple[int, ...], options: int = 0, of_colours: Sequence[int] = (), told: int = 0
    ) -> None:
        self._told = told
        self.bins = np.searchsorted(_BIN_EDGES, np.arange(max(observation_shape[:2])), side="right") - 1
        self.side = 2 * int(self.bins[-1]) + 1
        self.num_cells = self.side * self.side
        self._mirrored = np.arange(self.num_cells).reshape(self.side, self.side)[:, ::-1].flatten()
        self.identity: dict[str, Any] = {"kind": "egocentric-grid", "observation_shape": list(observation_shape)}
        self.by_role, self._options, self._of_colours = len(of_colours) > 0, options, np.array(of_colours, np.int64)
        if self.by_role:
            self.identity["colours"] = "by role"

    def __call__(self, obs: NDArray) -> Encoded:
        """Encode observations [N, W, H, 4]."""
        if self._told:
            obs = np.ascontiguousarray(obs[:, :, : -self._told])
        tokens = np.empty((len(obs), self.num_cells), np.uint8)
        present = np.empty((len(obs), NUM_TOKENS), np.float32)
        _encode(obs, self.bins, self.side, tokens, present)
        if not self.by_role:
            return Encoded((tokens, present))
        roles = np.empty((len(obs), len(self._of_colours)), np.int64)
        _repaint(tokens, present, roles)
        order = np.tile(np.arange(self._options), (len(obs), 1))
        order[:, self._of_colours] = self._of_colours[roles]
        return Encoded((tokens, present, order))

    def mirror(self, encoded: Encoded) -> Encoded:
        """The same scenes with left and right exchanged: the world's own symmetry, used to double the data."""
        tokens, *others = encoded.parts
        return Encoded((tokens[:, self._mirrored], *others))

    @staticmethod
    def mirror_actions(actions: NDArray[np.integer]) -> NDArray[np.integer]:
        """The primitive actions that match mirrored scenes: the two turns change places."""
        return np.where(actions == _TURN_LEFT, _TURN_RIGHT, np.where(actions == _TURN_RIGHT, _TURN_LEFT, actions))


class MissionEncoder(GridEncoder):
    """Encodes observations of mission tasks: the map's parts, and what controllers of missions read.

    These are the status of each description, int16 [N, D], and int16 [N, 4 + F + L]: which clauses are done, what else
    is seen (`reading.read`, for no mission), and the numbers of the words.
    """

    def __init__(self, task: Any) -> None:
        super().__init__(task.encoded_shape, told=task.told_columns)
        self._task = task
        self.identity |= {"words": list(VOCABULARY.words), "told": BITS, "clauses": "done or absent"}

    def __call__(self, obs: NDArray) -> Encoded:
        """Encode observations [N, W, H + S, 4]."""
        status, facts, done, words = self._task.sensed(obs)
        told = np.concatenate([done, facts, words], axis=1, dtype=np.int16)
        return Encoded((*super().__call__(obs).parts, status, told))

    def mirror(self, encoded: Encoded) -> Encoded:
        """The same scenes: in a mirror, words for left and right would be wrong."""
        return encoded


class VectorEncoder:
    """Encodes state vectors float32 [N, O] by dividing each dimension by its natural size.

    Args:
        scale: Natural size of each dimension, length O.
    """

    def __init__(self, scale: Sequence[float]) -> None:
        self.scale = np.array(scale, np.float32)
        self.identity: dict[str, Any] = {"kind": "vector", "scale": self.scale.tolist()}

    def __call__(self, obs: NDArray) -> Encoded:
        """Encode observations [N, O]."""
        return Encoded((obs / self.scale,))


Encoder = GridEncoder | VectorEncoder


def encoder_of(task: Task) -> Encoder:
    """The encoder of a task's observations: maps have three dimensions, state vectors have one."""
    if len(task.observation_shape) == 1:
        return VectorEncoder(task.observation_scale)
    if hasattr(task, "sensed"):  # its controllers read missions
        return MissionEncoder(task)
    return GridEncoder(task.encoded_shape, len(task.options), task.of_colours, task.told_columns)


def identity_of(task: Task) -> dict[str, Any]:
    """What a controller, or an exported agent, and a task must agree on."""
    return {
        "task": task.base_name,
        "options": list(task.options.ids),
        "options_digest": task.options.digest,
        "goal_space": {"names": list(task.goal_space.names), "scale": list(task.goal_space.scale)},
        "encoder": encoder_of(task).identity,
    }


def unlike(said: Mapping[str, Any], task: Task) -> tuple[str, Any, Any] | None:
    """Where what was saved is not `identity_of` the task: the name, what is said, and what is needed. None if it is.

    Of dictionaries only the entries that differ.
    """
    for name, here in identity_of(task).items():
        if (there := said.get(name)) != here:
            if isinstance(there, dict) and isinstance(here, dict):
                differing = {key for key in there.keys() | here.keys() if there.get(key) != here.get(key)}
                there, here = ({key: one[key] for key in one if key in differing} for one in (there, here))
            return name, there, here
    return None


def token_features() -> NDArray[np.float32]:
    """What tokens have in common, [NUM_TOKENS, F]: kind, colour and door state as one-hot parts.

    Embedding the parts instead of the tokens makes a red key and a blue key share what keys have in common.
    """
    parts = np.zeros((NUM_TOKENS, 9 + 6 + 3), np.float32)
    parts[range(_DOORS), range(_DOORS)] = 1
    for colour in range(6):
        for state in range(3):
            parts[_DOORS + 3 * colour + state, [5, 9 + colour, 15 + state]] = 1
        for kind, first in ((6, _KEYS), (7, _BALLS), (8, _BOXES)):
            parts[first + colour, [kind, 9 + colour]] = 1
    return parts

"""A grid on which a walker visits n targets in an order that its demonstrations do not tell."""

import numpy as np

from preceptor.agent.data.recording import Recording
from preceptor.agent.halo.posterior import Answers

SIZE = 10
TARGETS = {2: [(0, 0), (9, 9)], 3: [(0, 0), (9, 9), (4, 5)], 6: [(1, 1), (7, 1), (4, 6), (5, 0), (7, 3), (6, 8)]}
MOVES = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


def walks(targets: int, count: int, rng: np.random.Generator, shuffled: bool = False, noise: float = 0.1):
    """Demonstrations over cells, with the option that drove each step: the index of the target walked to.

    The last observation of each is terminal: nothing is done there, and its option is the last target.
    """
    states, actions, options = [], [], []
    for _ in range(count):
        order = rng.permutation(targets) if shuffled else np.arange(targets)
        at = rng.integers(SIZE, size=2)
        state, action, option = [], [], []
        for goal in order:
            target = np.array(TARGETS[targets][goal])
            while (at != target).any():
                gain = MOVES @ np.sign(target - at)
                move = rng.choice(np.flatnonzero(gain == gain.max())) if rng.random() >= noise else rng.integers(4)
                state.append(at[0] * SIZE + at[1])
                action.append(move)
                option.append(goal)
                at = np.clip(at + MOVES[move], 0, SIZE - 1)
        states.append([*state, at[0] * SIZE + at[1]])
        actions.append(action)
        options.append([*option, order[-1]])
    lengths = np.array([len(row) for row in states])
    state, action, option = (np.full((count, lengths.max()), fill) for fill in (0, 0, -1))
    for n, length in enumerate(lengths):
        state[n, :length], action[n, : length - 1], option[n, :length] = states[n], actions[n], options[n]
    return recording(state, action, option, lengths)


def recording(state, action, option, lengths):
    """Demonstrations with states for observations [N, T, ..], actions [N, T, ..] and options [N, T]."""
    nothing = np.zeros(option.shape, np.float32)
    return Recording(state, action, option, nothing, lengths > 0, lengths, np.full(len(lengths), -1))


def labels(where, label, options, annotator=0):
    """Answers that name one option each: trajectories and steps [M, 2], options [M]."""
    at, label = np.asarray(where, np.int64).reshape(-1, 2), np.asarray(label, np.int64)
    return Answers(at[:, 0], at[:, 1], np.eye(options)[label], np.broadcast_to(annotator, label.shape))

"""Doubts about labels: what was played overrules a teacher that errs, where it shows that another option is better.

What was played is read as a semi-Markov decision process over scenes (Sutton, Precup and Singh, 1999). Scenes where the
labels lead to little, such as those that the agent goes round in without end, are doubted. There the label is
softened, so that the agent tries the options that were not tried yet; once one of them has turned out clearly
better, it is the label. The teacher is not asked again, so that one that repeats its errors is corrected, too. A
teacher that leads to the reward is not doubted, and nothing changes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.data.store import TrajectoryStore

# Chosen on seeds 20 to 27 of SimpleDoorKey and KeyInBox (dev/LOG.md).
_GAMMA = 0.97  # per environment step: short, for going round in circles is slow rather than worthless
# Shares of the best scene's value that are little: of scenes of which so many episodes ran out of time, and elsewhere.
_LOW, _LATE, _NOTHING = 0.5, 0.02, 0.001
_BETTER = 1.5  # times the value of the label: what overrules it
_KNOWN, _TRIED = 20, 5  # runs of an option in a scene after which a label, or another option, is judged
_SWEEPS = 300


class Runs(NamedTuple):
    """Options that ran to their end, R of them; not those that were cut off, by time or because the play goes on.

    Attributes:
        scene: int64 [R], code of the facts in which each was chosen.
        option: int64 [R].
        gain: float64 [R], discounted reward until it ended, above that of the worst step there is, for ever.
        discount: float64 [R], of what came after it.
        after: int64 [R], code of the facts that it led to, -1 where the episode ended.
        visited: int64 [M], codes of the facts in which options were chosen in episodes that have ended, each once for
            each of these.
        late: bool [M], whether that episode ran out of time.
    """

    scene: NDArray[np.int64]
    option: NDArray[np.int64]
    gain: NDArray[np.float64]
    discount: NDArray[np.float64]
    after: NDArray[np.int64]
    visited: NDArray[np.int64]
    late: NDArray[np.bool_]


class Revised(NamedTuple):
    """Labels after a look at what was played.

    Attributes:
        probs: float32 [C, K].
        overruled: bool [C], where another option has turned out better than the label.
        doubted: bool [C], where other options are still to be tried.
        lost: bool [C], where the label leads to little, and nothing better is known.
    """

    probs: NDArray[np.float32]
    overruled: NDArray[np.bool_]
    doubted: NDArray[np.bool_]
    lost: NDArray[np.bool_]


def runs_of(store: TrajectoryStore, codes: NDArray[np.int64]) -> Runs:
    """The options that ran in a store, whose observations have the codes [T, N]."""
    option, age, reward, terminated, truncated, episode = (
        store.column(name).T.ravel()
        for name in ("option", "option_age", "reward", "terminated", "truncated", "episode")
    )
    codes = codes.T.ravel()  # one environment after the other, as all the rest
    starts = np.flatnonzero(age == 0)
    ends = np.append(starts[1:], len(codes)) - 1
    worst = min(0.0, float(reward.min(initial=0.0)))
    gain = np.add.reduceat((reward.astype(np.float64) - worst) * _GAMMA**age, starts)
    ended, discount = terminated[ends], _GAMMA ** (ends - starts + 1.0)
    gain -= ended * discount * worst / (1 - _GAMMA)  # no more of the worst steps
    late = truncated[ends] & ~ended
    whole = ended | ~(late | ((ends + 1) % len(store) == 0))
    after = np.where(ended, -1, codes[np.minimum(ends + 1, len(codes) - 1)])
    scene, kept = codes[starts], (gain[whole], discount[whole], after[whole])
    played = starts // len(store) * (episode.max(initial=0) + 1) + episode[starts]  # which episode of all
    over = np.isin(played, played[ended | late])
    each, visited = np.unique(np.column_stack((played, scene))[over], axis=0).T
    return Runs(scene[whole], option[starts][whole], *kept, visited, np.isin(each, played[late]))


def revised(runs: Runs, scenes: NDArray[np.int64], labels: NDArray[np.float32], legal: NDArray[np.bool_]) -> Revised:
    """What becomes of the labels [C, K] of scenes, whose codes [C] ascend, where the options `legal` [C, K] may run.

    Value iteration on the runs, in which the label's option is chosen in every scene, until in a scene of little value
    another one is clearly better; the best such change is made, one at a time. What is not known is taken to be good.
    """
    count, options = labels.shape
    rows, chosen, silent = np.arange(count), labels.argmax(1), labels.sum(1) == 0
    pair = np.searchsorted(scenes, runs.scene) * options + runs.option
    tried = np.bincount(pair, minlength=count * options)
    each = np.maximum(tried, 1)
    gain = np.bincount(pair, runs.gain, tried.size) / each
    after = np.where(runs.after < 0, count, np.searchsorted(scenes, runs.after))
    steps, which = np.unique(pair * (count + 1) + after, return_inverse=True)  # from a pair to a scene, each once
    origin, target = np.divmod(steps, count + 1)
    weight = np.bincount(which, runs.discount) / each[origin]
    tried, best = tried.reshape(count, options), runs.gain.max(initial=0.0)
    visited = np.searchsorted(scenes, runs.visited)
    visits, late = (np.bincount(where, minlength=count) for where in (visited, visited[runs.late]))
    little = np.where((late >= _TRIED) & (late > _LATE * visits), _LOW, _NOTHING)
    overruled = np.zeros(count, np.bool_)
    while True:
        known = ~silent & (tried[rows, chosen] >= np.where(overruled, _TRIED, _KNOWN))
        value = np.zeros(count)
        for _ in range(_SWEEPS):
            led_to = np.bincount(origin, weight * np.append(value, 0.0)[target], tried.size)
            quality = (gain + led_to).reshape(count, options)
            before, value = value, quality[rows, chosen]
            value = np.where(known, value, max(best, value[known].max(initial=0.0)))
            if np.abs(value - before).max() < 1e-6 * best:
                break
        low = known & (len(visited) > 0) & (value <= little * value[known].max(initial=0.0))
        quality[(tried < _TRIED) | ~legal] = 0.0
        quality[rows, chosen] = 0.0
        clearly = low & ~overruled & (quality.max(1) > _BETTER * value)
        if not clearly.any():
            break
        worst = np.where(clearly, quality.max(1) - value, -1.0).argmax()
        chosen[worst], overruled[worst] = quality[worst].argmax(), True
    untried = legal & (tried < _TRIED)
    untried[rows, chosen] = False
    lost = low & ~overruled
    doubted = lost & untried.any(1)
    probs = labels.copy()
    probs[overruled] = np.eye(options, dtype=np.float32)[chosen[overruled]]
    probs[doubted] = 0.5 * labels[doubted] + 0.5 * untried[doubted] / untried[doubted].sum(1, keepdims=True)
    return Revised(probs, overruled, doubted, lost)

"""Off-policy views of a store: single steps, and the stretch of steps that one goal was in force (SMDP transitions)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.data.store import TrajectoryStore


@dataclass(frozen=True)
class Steps:
    """Single steps, [B] of them drawn at random, or [T, N] as they were played.

    Attributes:
        obs: [B, ...]; `next_obs` likewise, an episode's own last observation at its end.
        option: int64 [B], the option in force.
        goal: [B, D], the relative goal in force.
        action: [B, A], or int64 [B] of named actions.
        behaviour_logprob: float32 [B], of the action under whoever acted.
        reward: float32 [B].
        terminated: bool [B]; truncated steps are not, and bootstrap.
        switched: bool [B], whether another option or goal was in force, or none, after the step.
    """

    obs: NDArray
    next_obs: NDArray
    option: NDArray[np.int64]
    goal: NDArray[np.float32]
    action: NDArray
    behaviour_logprob: NDArray[np.float32]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    switched: NDArray[np.bool_]


@dataclass(frozen=True)
class Segments:
    """B choices of an option or a goal with what followed, at most c steps each, cut where the next was chosen.

    Attributes:
        obs: [B, c, ...], from the observation at which it was chosen on.
        final: [B, ...], the observation after the last step.
        option: int64 [B], the option as it was chosen.
        goal: [B, D], the goal as it was chosen.
        action: [B, c, A], or int64 [B, c] of named actions.
        reward: float32 [B, c], zero after the end.
        length: int64 [B], steps that it lasted.
        terminated: bool [B], whether the episode terminated with it.
    """

    obs: NDArray
    final: NDArray
    option: NDArray[np.int64]
    goal: NDArray[np.float32]
    action: NDArray
    reward: NDArray[np.float32]
    length: NDArray[np.int64]
    terminated: NDArray[np.bool_]

    @property
    def inside(self) -> NDArray[np.bool_]:
        """bool [B, c], the steps that belong to the segment."""
        return np.arange(self.action.shape[1]) < self.length[:, None]


def draw_steps(store: TrajectoryStore, rng: np.random.Generator, count: int, newest: int | None = None) -> Steps:
    """Steps drawn uniformly, with replacement, from all but the newest vector step, whose outcome is not stored yet.

    Args:
        store: Where from; it must hold two vector steps.
        rng: Draws them.
        count: B.
        newest: Only from so many vector steps; from all if not given.
    """
    last = store.total - 1
    oldest = store.oldest if newest is None else max(store.oldest, last - newest)
    times = rng.integers(oldest, last, size=count)
    worlds = rng.integers(store.num_envs, size=count)
    return _steps(store, times, worlds)


def newest_steps(store: TrajectoryStore, length: int, obs: NDArray) -> Steps:
    """The newest `length` vector steps in order, [T, N], before the observations `obs` [N, ...] that came after them.

    What runs on beyond the last of them counts as switched there.
    """
    times = store.total - length + np.arange(length)[:, None]
    steps = _steps(store, times, np.broadcast_to(np.arange(store.num_envs), (length, store.num_envs)))
    running = store.at("final_slot", times[-1], np.arange(store.num_envs)) < 0
    steps.next_obs[-1, running] = obs[running]
    steps.switched[-1] = True
    return steps


def _steps(store: TrajectoryStore, times: NDArray[np.int64], worlds: NDArray[np.int64]) -> Steps:
    ended = store.at("final_slot", times, worlds) >= 0
    columns = ("obs", "option", "goal", "action", "behaviour_logprob", "reward", "terminated")
    return Steps(
        **{name: store.at(name, times, worlds) for name in columns},
        next_obs=store.next_obs(times, worlds),
        switched=ended | (store.at("option_age", times + 1, worlds) == 0),
    )


def draw_segments(
    store: TrajectoryStore, rng: np.random.Generator, count: int, steps: int, newest: int | None = None
) -> Segments:
    """Segments drawn uniformly, with replacement, among those whose end is stored.

    Args:
        store: Where from; it must hold more than `steps` vector steps.
        rng: Draws them.
        count: B.
        steps: c, the most steps for which a goal is in force.
        newest: Only such as began within so many vector steps, `steps` or more; all if not given.
    """
    before = store.total - steps
    oldest = store.oldest if newest is None else max(store.oldest, before - newest)
    times, worlds = _draw_choices(store, rng, count, oldest, before)
    window, across = times[:, None] + np.arange(steps), worlds[:, None]
    ended = store.at("final_slot", window, across) >= 0
    chosen_next = store.at("option_age", window + 1, across) == 0
    last = (ended | chosen_next | (np.arange(steps) == steps - 1)).argmax(1)
    at_end = times + last
    inside = np.arange(steps) <= last[:, None]
    return Segments(
        obs=store.at("obs", window, across),
        final=store.next_obs(at_end, worlds),
        option=store.at("option", times, worlds),
        goal=store.at("goal", times, worlds),
        action=store.at("action", window, across),
        reward=store.at("reward", window, across) * inside,
        length=last + 1,
        terminated=store.at("terminated", at_end, worlds),
    )


def _draw_choices(
    store: TrajectoryStore, rng: np.random.Generator, count: int, oldest: int, before: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times and worlds [count] at which a goal was chosen, uniform over `oldest` <= time < `before`: by rejection."""
    if before <= oldest:
        raise IndexError(f"no segment has ended in the {len(store)} vector steps of the store")
    times, worlds = np.zeros(0, np.int64), np.zeros(0, np.int64)
    while len(times) < count:
        t = rng.integers(oldest, before, size=16 * count)
        n = rng.integers(store.num_envs, size=16 * count)
        chosen = store.at("option_age", t, n) == 0
        times, worlds = np.concatenate([times, t[chosen]]), np.concatenate([worlds, n[chosen]])
    return times[:count], worlds[:count]

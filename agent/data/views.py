"""What methods read from a store or a recording: on-policy, labelled scenes, steps, SMDP transitions, windows, chunks.

No view crosses the end of an episode.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.data.recording import Recording
from preceptor.agent.data.store import TrajectoryStore
from preceptor.controller.encoders import Encoded, Encoder


@dataclass(frozen=True)
class OnPolicy:
    """One rollout of N environments over T steps, as PPO reads it.

    Attributes:
        encoded: Network inputs of the T * N observations, time-major.
        last: Network inputs of the N observations after the last step.
        final: Network inputs of the M observations that ended an episode.
        final_rows: (time, environment) [M, 2] of those.
    """

    store: TrajectoryStore
    encoded: Encoded
    last: Encoded
    final: Encoded
    final_rows: NDArray[np.int64]

    @property
    def chosen(self) -> NDArray[np.bool_]:
        """bool [T, N], where the high level chose an option."""
        return self.store.column("option_age") == 0


def on_policy(store: TrajectoryStore, encoder: Encoder, next_obs: NDArray) -> OnPolicy:
    """View everything in the store as one rollout that stopped at `next_obs` [N, ...]."""
    rows, final_obs = store.final_observations()
    return OnPolicy(store, encoder(store.flat("obs")), encoder(next_obs), encoder(final_obs), rows)


@dataclass(frozen=True)
class SceneRows:
    """Labelled scenes as columns [M, ...], for distillation."""

    obs: NDArray
    previous: NDArray[np.int64]
    legal: NDArray[np.bool_]
    probs: NDArray[np.float32]
    env: NDArray[np.int64]
    episode: NDArray[np.int64]


def labelled_scenes(store: TrajectoryStore, start: int) -> SceneRows:
    """Every scene stored from vector step `start` on, with its label (zeros where the teacher abstained).

    `previous` is what the high level would have been told: the option that runs, or, where one was just chosen, the
    one before it.
    """
    obs, option, before, age, legal, probs, episode = (
        store.flat(name, start)
        for name in ("obs", "option", "prev_option", "option_age", "legal", "label_probs", "episode")
    )
    env = np.tile(np.arange(store.num_envs), len(obs) // store.num_envs)
    return SceneRows(obs, np.where(age == 0, before, option), legal, probs, env, episode)


@dataclass(frozen=True)
class Steps:
    """Single steps, [B] of them sampled at random, or [T, N] as they were played.

    Attributes:
        obs: [B, ...]; `next_obs` likewise, an episode's own last observation at its end.
        option: int64 [B], the running option.
        command: [B, D], the vector that runs.
        action: [B, A], or int64 [B] of named actions.
        behaviour_logprob: float32 [B], of the action under the policy that acted.
        reward: float32 [B].
        terminated: bool [B]; truncated steps are not, and bootstrap.
        switched: bool [B], whether another option or command ran, or none, after the step.
    """

    obs: NDArray
    next_obs: NDArray
    option: NDArray[np.int64]
    command: NDArray[np.float32]
    action: NDArray
    behaviour_logprob: NDArray[np.float32]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    switched: NDArray[np.bool_]


@dataclass(frozen=True)
class Segments:
    """B choices of an option or a vector with what followed, at most c steps each, cut where the next was chosen.

    Attributes:
        obs: [B, c, ...], from the observation at which it was chosen on.
        final: [B, ...], the observation after the last step.
        option: int64 [B], the option as it was chosen.
        command: [B, D], the vector as it was chosen.
        action: [B, c, A], or int64 [B, c] of named actions.
        reward: float32 [B, c], zero after the end.
        length: int64 [B], steps that it lasted.
        terminated: bool [B], whether the episode terminated with it; `truncated` likewise.
    """

    obs: NDArray
    final: NDArray
    option: NDArray[np.int64]
    command: NDArray[np.float32]
    action: NDArray
    reward: NDArray[np.float32]
    length: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    @property
    def inside(self) -> NDArray[np.bool_]:
        """bool [B, c], the steps that belong to the segment."""
        return np.arange(self.action.shape[1]) < self.length[:, None]


def sample_steps(store: TrajectoryStore, rng: np.random.Generator, count: int, newest: int | None = None) -> Steps:
    """Steps sampled uniformly, with replacement, from all but the newest vector step, whose outcome is not stored yet.

    Args:
        store: Where from; it must hold two vector steps.
        rng: Samples them.
        count: B.
        newest: Only from so many vector steps; from all if not given.
    """
    last = store.total - 1
    oldest = store.oldest if newest is None else max(store.oldest, last - newest)
    times = rng.integers(oldest, last, size=count)
    envs = rng.integers(store.num_envs, size=count)
    return _steps(store, times, envs)


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


def _steps(store: TrajectoryStore, times: NDArray[np.int64], envs: NDArray[np.int64]) -> Steps:
    ended = store.at("final_slot", times, envs) >= 0
    columns = ("obs", "option", "command", "action", "behaviour_logprob", "reward", "terminated")
    return Steps(
        **{name: store.at(name, times, envs) for name in columns},
        next_obs=store.next_obs(times, envs),
        switched=ended | (store.at("option_age", times + 1, envs) == 0),
    )


def sample_segments(
    store: TrajectoryStore, rng: np.random.Generator, count: int, steps: int, newest: int | None = None
) -> Segments:
    """Segments sampled uniformly, with replacement, among those whose end is stored.

    Args:
        store: Where from; it must hold more than `steps` vector steps.
        rng: Samples them.
        count: B.
        steps: c, the most steps for which a command runs.
        newest: Only such as began within so many vector steps, `steps` or more; all if not given.
    """
    before = store.total - steps
    oldest = store.oldest if newest is None else max(store.oldest, before - newest)
    times, envs = _sample_choices(store, rng, count, oldest, before)
    window, across = times[:, None] + np.arange(steps), envs[:, None]
    ended = store.at("final_slot", window, across) >= 0
    chosen_next = store.at("option_age", window + 1, across) == 0
    last = (ended | chosen_next | (np.arange(steps) == steps - 1)).argmax(1)
    at_end = times + last
    inside = np.arange(steps) <= last[:, None]
    return Segments(
        obs=store.at("obs", window, across),
        final=store.next_obs(at_end, envs),
        option=store.at("option", times, envs),
        command=store.at("command", times, envs),
        action=store.at("action", window, across),
        reward=store.at("reward", window, across) * inside,
        length=last + 1,
        terminated=store.at("terminated", at_end, envs),
        truncated=store.at("truncated", at_end, envs),
    )


def _sample_choices(
    store: TrajectoryStore, rng: np.random.Generator, count: int, oldest: int, before: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times and envs [count] at which a command was chosen, uniform over `oldest` <= time < `before`: by rejection."""
    if before <= oldest:
        raise IndexError(f"no segment has ended in the {len(store)} vector steps of the store")
    times, envs = np.zeros(0, np.int64), np.zeros(0, np.int64)
    while len(times) < count:
        t = rng.integers(oldest, before, size=16 * count)
        n = rng.integers(store.num_envs, size=16 * count)
        chosen = store.at("option_age", t, n) == 0
        times, envs = np.concatenate([times, t[chosen]]), np.concatenate([envs, n[chosen]])
    return times[:count], envs[:count]


@dataclass(frozen=True)
class Windows:
    """M stretches of H consecutive steps of a recording, each within one episode.

    Attributes:
        episode: int64 [M].
        start: int64 [M], the first step of each.
        count: int64 [M], steps of each: H, or fewer where the episode ends before.
        length: H.
    """

    episode: NDArray[np.int64]
    start: NDArray[np.int64]
    count: NDArray[np.int64]
    length: int

    def __len__(self) -> int:
        return len(self.episode)

    def inside(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the H steps [B, H] the windows of `rows` [B] have."""
        return np.arange(self.length) < self.count[rows][:, None]

    def of(self, column: NDArray, rows: NDArray[np.int64]) -> NDArray:
        """The entries [B, H, ...] of a column [N, T, ...] in the windows of `rows` [B]; zero beyond their ends."""
        inside = self.inside(rows)
        steps = self.start[rows][:, None] + np.arange(self.length)
        found = column[self.episode[rows][:, None], np.minimum(steps, column.shape[1] - 1)]
        found[~inside] = 0
        return found

    def first(self, column: NDArray, rows: NDArray[np.int64]) -> NDArray:
        """The entries [B, ...] of a column [N, T, ...] where the windows of `rows` [B] start."""
        return column[self.episode[rows], self.start[rows]]

    def after(self, column: NDArray, rows: NDArray[np.int64]) -> NDArray:
        """The entries [B, ...] of a column [N, T, ...] after the last step of the windows of `rows` [B]."""
        return column[self.episode[rows], self.start[rows] + self.count[rows]]


def windows(recording: Recording, length: int) -> Windows:
    """Every stretch of `length` actions of a recording, one from each step on; the last ones of an episode are shorter.

    So what is done just before the end is seen at the start of a window, too: there success often comes about.
    """
    episode, start = np.nonzero(recording.acted)
    return Windows(episode, start, np.minimum(length, recording.lengths[episode] - 1 - start), length)


@dataclass(frozen=True)
class Chunks:
    """B chunks of k actions with what came of them: SMDP transitions of a policy that plays k actions at a time.

    A chunk with which an episode ends has fewer.

    Attributes:
        obs: [B, ...], where they begin.
        action: float32 [B, k, A], or int64 [B, k] of named actions; zero beyond the end.
        inside: bool [B, k], the steps that there are.
        reward: float32 [B], sum of gamma^i r_i over them.
        next_obs: [B, ...], after the last action.
        discount: float32 [B], of the value there: gamma to their number, and zero where the episode terminated there.
    """

    obs: NDArray
    action: NDArray
    inside: NDArray[np.bool_]
    reward: NDArray[np.float32]
    next_obs: NDArray
    discount: NDArray[np.float32]


def chunks(recording: Recording, view: Windows, rows: NDArray[np.int64], gamma: float) -> Chunks:
    """The windows of `rows` [B] as chunks. Truncated episodes bootstrap, terminated ones do not."""
    steps, episode = view.count[rows], view.episode[rows]
    decay = np.float32(gamma) ** np.arange(view.length, dtype=np.float32)
    ended = (view.start[rows] + steps == recording.lengths[episode] - 1) & recording.terminated[episode]
    return Chunks(
        obs=view.first(recording.obs, rows),
        action=view.of(recording.action, rows),
        inside=view.inside(rows),
        reward=(view.of(recording.reward, rows) * decay).sum(1, dtype=np.float32),
        next_obs=view.after(recording.obs, rows),
        discount=np.where(ended, 0.0, gamma**steps).astype(np.float32),
    )

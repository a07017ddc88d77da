"""Trained agents at work: observations in, actions out, without a teacher, a label store or an environment.

Several that play with one network are played together. What one of them does is the same, to the bit, as if it played
alone: each has a generator of its own, and each row of a product of matrices is worked out in the same way, once there
are a few rows. For fewer, the libraries of linear algebra take other ways, so that there the first row is repeated.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock
from preceptor.agent.distributions import Categorical, Distribution
from preceptor.agent.draws import Joined
from preceptor.agent.levels import FEWEST_ROWS, Observations, Player
from preceptor.controller.encoders import encoder_of
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT

_LARGEST_CODES = np.array([10, 5, 2, 4], np.uint8)  # of a cell: minigrid's kind, colour and state, and the agent


@dataclass(eq=False)
class Seat:
    """What one agent's play of N environments is made of, besides the network.

    Attributes:
        clock: Its commands.
        rng: Samples its options and actions; None to take the most probable ones.
        obs: The last observations [N, ...]; None before the first.
    """

    clock: Clock
    rng: np.random.Generator | None
    obs: NDArray | None = None

    def __len__(self) -> int:
        return len(self.clock.option)


@dataclass(frozen=True)
class Decision:
    """What is done now in N environments.

    Attributes:
        action: [N, ...], in the task's own numbers.
        ended: bool [N], where an option or a vector was over, or none ran, and another has begun.
        probs: float32 [N, K], what the next option is sampled from without advice; None where vectors are chosen.
    """

    action: NDArray
    ended: NDArray[np.bool_]
    probs: NDArray[np.float32] | None


@dataclass(frozen=True)
class Ahead:
    """What agents are about to decide, before anything is sampled, and while nothing has changed at their seats.

    Attributes:
        seats: Theirs.
        obs: Of each, observations [N, ...].
        idle: Rows that were filled up.
        clock: Of all rows, at these observations.
        observed: Of all rows.
        over: Where the high level ends its commands.
        choice: What it would choose from.
    """

    seats: Sequence[Seat]
    obs: Sequence[NDArray]
    idle: int
    clock: Clock
    observed: Observations
    over: NDArray[np.bool_]
    choice: Distribution

    @property
    def rows(self) -> list[slice]:
        """The rows of each seat."""
        return [slice(*ends) for ends in pairwise(accumulate(map(len, self.seats), initial=0))]

    def doubts(self, number: int, below: float) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Where an option has to be chosen at that seat, and none is as probable as that, [N]; and the options before
        it [N], -1 for none."""
        rows = self.rows[number]
        if not isinstance(self.choice, Categorical):
            return np.zeros(len(self.seats[number]), np.bool_), self.clock.option[rows]
        return (self.clock.due(self.over) & (self.choice.probs.max(1) < below))[rows], self.clock.option[rows]


class Table:
    """Where agents that share a player sit.

    Args:
        task: What is played.
        player: Its levels.
    """

    def __init__(self, task: Task, player: Player) -> None:
        self.task, self.player, self._encoder = task, player, encoder_of(task)

    def seat(self, environments: int, rng: np.random.Generator | None) -> Seat:
        """A new seat, for play that begins."""
        return Seat(Clock(environments, self.player.timeouts, self.player.transition), rng)

    def ahead(self, seats: Sequence[Seat], obs: Sequence[NDArray], begun: Sequence[NDArray[np.bool_]]) -> Ahead:
        """What is to be decided at seats, all with a generator, or all without one; the rest as `decide` has it."""
        idle = max(0, FEWEST_ROWS - sum(map(len, seats))) if self.player.free else 0
        new = [
            np.ones(len(seat), np.bool_) if seat.obs is None else each for seat, each in zip(seats, begun, strict=True)
        ]
        before = [now if seat.obs is None else seat.obs for seat, now in zip(seats, obs, strict=True)]
        joined = partial(_joined, idle=idle)
        clock, batch = self.seat(0, None).clock, joined(obs)
        for name in clock.saved:
            setattr(clock, name, joined([getattr(seat.clock, name) for seat in seats]))
        clock.advance(joined(new), joined(before), batch)
        # No level of training: there, methods explore.
        observed = Observations(self.task, self._encoder, batch, np.full(len(batch), SEEDS_PER_SPLIT))
        return Ahead(seats, obs, idle, clock, observed, *self.player.high.choose(observed, clock.option))

    def decide(
        self,
        seats: Sequence[Seat],
        obs: Sequence[NDArray],
        begun: Sequence[NDArray[np.bool_]],
        advice: Sequence[NDArray[np.float32] | None] = (),
    ) -> list[Decision]:
        """The next decision at each seat.

        Args:
            seats: All with a generator, or all without one.
            obs: Of each, observations [N, ...].
            begun: Of each, bool [N], the environments that have begun an episode since its last observations.
            advice: As `go` has it.
        """
        return self.go(self.ahead(seats, obs, begun), advice)

    def go(
        self, ahead: Ahead, advice: Sequence[NDArray[np.float32] | None] = (), waits: Container[int] = ()
    ) -> list[Decision]:
        """The decisions at all seats but those that wait, whose numbers are given, and where nothing changes.

        Args:
            ahead: What is to be decided.
            advice: Of each seat, distributions [N, K] from which options are chosen instead, zeros for none, or None.
            waits: Numbers of seats.
        """
        seats, idle, clock, choice = ahead.seats, ahead.idle, ahead.clock, ahead.choice
        go = [number not in waits for number in range(len(seats))]
        if not any(go):
            return []
        probs = choice.probs if isinstance(choice, Categorical) else None
        if probs is not None and any(each is not None for each in advice):
            none = np.zeros((1, probs.shape[1]), np.float32)
            given = [none.repeat(len(s), 0) if a is None else a for s, a in zip(seats, advice, strict=True)]
            said = _joined(given, idle)
            choice = choice.replaced(said.sum(1) > 0, Categorical(said))
        rng: Any = seats[0].rng
        if rng is not None and (len(seats) > 1 or idle):
            own = [seat.rng if goes else np.random.default_rng(0) for seat, goes in zip(seats, go, strict=True)]
            rng = Joined([(each, len(seat)) for each, seat in zip(own, seats, strict=True)], idle)
        due = clock.due(ahead.over)
        clock.start(due, choice.draw(rng))
        action = self.player.low.act(ahead.observed, clock).draw(rng)
        decisions = []
        for seat, now, rows, goes in zip(seats, ahead.obs, ahead.rows, go, strict=True):
            if goes:
                for name in clock.saved:
                    setattr(seat.clock, name, getattr(clock, name)[rows])
                seat.obs = now
                decisions.append(Decision(action[rows], due[rows], None if probs is None else probs[rows]))
        return decisions


def _joined(parts: Sequence[NDArray], idle: int) -> NDArray:
    """The rows of all parts, and the first row again so many times."""
    return parts[0] if len(parts) == 1 and not idle else np.concatenate([*parts, *[parts[0][:1]] * idle])


class Agent:
    """Plays one environment, or N side by side; the first `act` after `reset` says which.

    Args:
        task: What it plays.
        player: Its levels.
        greedy: Whether it takes the most probable option and action, instead of sampling them.
        seed: Of the sampling.
    """

    def __init__(self, task: Task, player: Player, *, greedy: bool = False, seed: int | None = None) -> None:
        self.task, self._table = task, Table(task, player)
        self._rng = None if greedy else np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        """Forget the options that run: the next observation begins an episode in every environment."""
        self._seat: Seat | None = None
        self._single = True

    def act(self, obs: Any, episode_start: Sequence[bool] | NDArray[np.bool_] | None = None) -> Any:
        """What to do now: the environment's own action, or an array of N.

        Args:
            obs: An observation as the environment gives it, or a batch of N.
            episode_start: bool [N], the environments that have begun an episode since the last call, where they reset
                themselves as Gymnasium's vector environments do; none if not given.

        Raises:
            UserError: The observations are of another shape or kind than the task's, or not as many as before.
        """
        batch, self._single = batch_of(self.task, obs)
        if self._seat is None:
            self._seat, episode_start = self._table.seat(len(batch), self._rng), None
        begun = np.zeros(len(batch), np.bool_) if episode_start is None else np.array(episode_start, np.bool_)
        if begun.shape != (len(self._seat),) or len(batch) != len(self._seat):
            raise UserError(
                f"act() was given {len(batch)} observations and {len(begun)} marks of beginnings, after "
                f"{len(self._seat)} observations.",
                "agent.reset()  # before environments of another number",
            )
        (decision,) = self._table.decide([self._seat], [batch], [begun])
        action = self.task.to_gymnasium(decision.action)
        return action[0] if self._single else action

    @property
    def option(self) -> str | list[str] | None:
        """The option that runs, in words, or those of the N environments; None before the first `act`, and where the
        high level chooses vectors."""
        if self._seat is None or self._seat.clock.command.shape[1]:
            return None
        words = [self.task.options[k].words for k in self._seat.clock.option.tolist()]
        return words[0] if self._single else words

    @property
    def command(self) -> NDArray[np.float32] | None:
        """The vector that the high level has chosen, [D] or [N, D]; None where it chose named options."""
        if self._seat is None or not self._seat.clock.command.shape[1]:
            return None
        return self._seat.clock.command[0] if self._single else self._seat.clock.command


def batch_of(task: Task, obs: Any) -> tuple[NDArray, bool]:
    """Observations [N, ...] of what was given, and whether that was a single one.

    Raises:
        UserError: They are of another shape or kind than the task's, or no numbers that its environment could give.
    """
    shape, own = task.observation_shape, f"preceptor.make({task.name!r}) is its environment"
    try:
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused
            found = task.from_gymnasium(obs)
    except (KeyError, OverflowError, TypeError, ValueError):
        found = np.empty((0, 0))  # of no task's shape
    single = found.shape == shape
    if not single and (found.shape[1:] != shape or not len(found)):
        raise UserError(
            f"{task.name} is played from observations of shape {shape}, or (N, {', '.join(map(str, shape))}), "
            f"not {found.shape}.",
            own,
        )
    found = found[None] if single else found
    if len(shape) == 3:  # compiled code takes the codes of cells as positions in tables
        alike = not isinstance(obs, Mapping) and np.shape(obs)[-1:] == shape[-1:]
        known = not alike or bool(np.all(found == obs))  # no rest was cut off
        known &= bool((found[:, :, : shape[1] - task.told_columns] <= _LARGEST_CODES).all())
    else:
        known = bool(np.isfinite(found).all())
    if not known:
        codes = f"numbers that are no codes of cells, up to {tuple(_LARGEST_CODES.tolist())}"
        what = codes if len(shape) == 3 else "NaN or infinite numbers"
        raise UserError(f"The observations of {task.name} hold {what}.", own)
    return found, single

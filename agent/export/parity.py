"""Whether an export computes what its run does: both are asked at every step of the run's own play."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock
from preceptor.agent.distributions import Distribution
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Observations, Player
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError

TOLERANCE = 1e-5  # of probabilities; of other numbers in relation to their size, where that is above one
_ENVS = 20  # side by side; and now and then one by itself, since a network might hold on to a number of environments


@dataclass
class Compared:
    """Both levels of a run, which acts, and of its export, which is compared with it.

    Attributes:
        compared: Choices that were compared.
        differed: Of these, greedy ones that differed, equally probable ones aside.
        worst: Largest difference of a number.
    """

    run: Player
    export: Player
    compared: int = 0
    differed: int = 0
    worst: float = 0.0
    where: set[str] = field(default_factory=set)

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        """As a high level."""
        (over, ours), (theirs_over, theirs) = (
            player.high.choose(observed, running) for player in (self.run, self.export)
        )
        runs = running >= 0  # where none does, whether it is over is not asked
        self._note("end of options", int((over != theirs_over)[runs].sum()), 0.0)
        self._compare("high level", ours, theirs)
        return over, ours

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """As a low level."""
        ours, theirs = (player.low.act(observed, clock) for player in (self.run, self.export))
        self._compare("low level", ours, theirs)
        return ours

    def _compare(self, level: str, ours: Distribution, theirs: Distribution) -> None:
        if type(ours) is not type(theirs):
            raise UserError(f"The {level} of the export is a {type(theirs).__name__}, not a {type(ours).__name__}.")
        worst = 0.0
        for name in (each.name for each in fields(ours)):  # type: ignore[arg-type]
            ours_is, theirs_is = getattr(ours, name), getattr(theirs, name)
            if isinstance(ours_is, np.ndarray):
                worst = max(worst, _difference(ours_is, theirs_is))
        chosen, other = ours.draw(None), theirs.draw(None)
        if chosen.dtype.kind == "f":
            worst, differ = max(worst, _difference(chosen, other)), 0
        else:
            probs: Any = getattr(ours, "probs", None)
            rows = np.arange(len(chosen))
            tied = np.abs(probs[rows, chosen] - probs[rows, other]) <= TOLERANCE
            differ = int(((chosen != other) & ~tied).sum())
        self.compared += len(chosen)
        self._note(level, differ, worst)

    def _note(self, what: str, differ: int, worst: float) -> None:
        self.differed += differ
        self.worst = max(self.worst, worst)
        if differ or not worst <= TOLERANCE:  # so that NaN counts, too
            self.where.add(what)


def check_parity(task: Task, run: Player, export: Player, observations: int, seed: int = 0) -> dict[str, Any]:
    """Play so many observations of held-out levels as the run does, and compare the export at each.

    Returns:
        What was compared, and the largest difference.

    Raises:
        UserError: Greedy choices differ, or numbers by more than `TOLERANCE`.
    """
    levels = Compared(run, export)
    alone = max(1, observations // 20)
    together = -(-(observations - alone) // _ENVS)
    for num_envs, steps in ((_ENVS, together), (1, alone)):
        env = task.make_vec(num_envs, split="eval", seed=seed)
        player = run._replace(high=levels, low=levels)
        hierarchy = Hierarchy(task, env, player, rng=np.random.default_rng(seed))
        for _ in range(steps):
            hierarchy.step()
        env.close()
    if levels.where:
        what = (
            f"The export computes something else than the run ({', '.join(sorted(levels.where))}): of "
            f"{levels.compared:,} choices {levels.differed:,} differ, and numbers by up to {levels.worst:.2g}, where "
            f"{TOLERANCE:g} is allowed. Nothing was written."
        )
        raise UserError(what, "--format torch  # or report it: make test says whether this installation is sound")
    return {
        "observations": _ENVS * together + alone,
        "compared": levels.compared,
        "differed": levels.differed,
        "largest_difference": levels.worst,
        "tolerance": TOLERANCE,
    }


def _difference(ours: NDArray, theirs: NDArray) -> float:
    """The largest difference, in relation to our numbers where these are above one; infinite where shapes differ."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return float("inf")
    return float((np.abs(ours - theirs) / np.maximum(np.abs(ours), 1.0)).max(initial=0.0))

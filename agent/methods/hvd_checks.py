"""What HVD refuses to learn from, and what it warns of."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.chunks import check_length
from preceptor.agent.data.recording import Recording
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError

if TYPE_CHECKING:
    from preceptor.agent.methods.hvd import HvdSettings

_BLIND = ("flat", "difference", "truth-chunk")  # attributions that do not tell groups apart


def check_demonstrations(
    task: Task,
    settings: "HvdSettings",
    recording: Recording,
    names: tuple[str, ...],
    faulty: NDArray[np.bool_] | None,
) -> None:
    """Whether demonstrations can be learned from as the settings say.

    Args:
        task: What was demonstrated.
        settings: Of the run.
        recording: The demonstrations.
        names: Of the G groups.
        faulty: bool [M, G], which groups were faulty in each chunk, where that is known.

    Raises:
        UserError: They cannot.
    """
    truth, cloned = settings.attribution.startswith("truth"), f"python main.py train --method bc --task {task.source}"
    check_length(recording, settings.chunk)
    if settings.replan > settings.chunk:
        what = f"Of a chunk of {settings.chunk} actions, {settings.replan} cannot be played."
        raise UserError(what, f"--replan {settings.chunk}  # or less")
    if not task.continuous and (settings.head == "flow" or settings.extract == "ddpg"):
        odd = "--head flow" if settings.head == "flow" else "--extract ddpg"
        raise UserError(f"{odd} is for vectors, and {task.name} has named actions.", f"leave {odd} out")
    if truth and settings.extract == "ddpg":
        what = f"--extract ddpg climbs a critic, and --attribution {settings.attribution} trains none."
        raise UserError(what, "--attribution shapley, or --extract regression")
    if truth and faulty is None:
        what = f"The demonstrations do not say which of the groups {', '.join(names)} were faulty."
        raise UserError(what, "--demos mixed:200+4, or --attribution shapley")
    if faulty is not None and truth:
        bad = np.broadcast_to(faulty.any(1, keepdims=True), faulty.shape) if settings.attribution != "truth" else faulty
        if never := [names[g] for g in np.flatnonzero(np.all(bad, axis=0))]:
            what = f"No chunk is without a fault of {', '.join(never)}, so that nothing is left to copy."
            raise UserError(what, "--demos mixed:200+4  # adds four optimal ones; or a shorter --chunk")
    if truth:
        return
    if not (recording.reward * recording.acted).any():
        what = "The demonstrations have no rewards, so that nothing can be valued."
        raise UserError(what, f"{cloned} --demos {settings.demos}")
    if settings.value_data == "optimal" and not recording.extra.get("optimal", np.zeros(1)).any():
        what = "None of the demonstrations is said to be optimal, so that the critic has nothing to learn from."
        raise UserError(what, "--demos mixed:200+4, or --value-data mixed")
    if settings.with_option and (recording.option < 0).all():
        raise UserError("The demonstrations know no option.", "leave --with-option out")


def doubts(task: Task, settings: "HvdSettings", recording: Recording, names: tuple[str, ...]) -> Iterator[str]:
    """Why little may come of demonstrations that can be learned from, in words."""
    if settings.attribution.startswith("truth"):
        return
    if len(names) == 1 and settings.attribution not in _BLIND:
        same = "flat" if settings.attribution == "prefix" else "difference"
        finer = "; --groups each is finer" if task.continuous else ""
        yield f"with one group of actions, {settings.attribution} equals {same}{finer}"
    won, optimal = recording.extra.get("success"), recording.extra.get("optimal")
    if optimal is not None and optimal.any(1).all():
        yield "all demonstrations are optimal, so that there is nothing to leave out (--demos mixed:200+4 has faults)"
    if won is not None and not won.any():
        yield "no demonstration succeeds, so that nothing tells which actions lead there"
    if not recording.terminated.any():
        yield "no demonstration terminated, so that values look beyond their ends; if they end there, data must say so"
    if len(recording) > 1 and np.ptp(recording.returns) == 0:
        yield "all demonstrations have the same return, so that only their lengths tell them apart"

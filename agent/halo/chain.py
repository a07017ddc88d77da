"""The hidden chain of options behind demonstrations, and answers about it as evidence.

    z_0 ~ mu(.|s_0);  z_t ~ pi_H(.|s_t, z_{t-1});  a_t ~ pi_L(.|s_t, z_t)

The option z_t drives the action a_t, and was chosen after s_t was seen. No separate termination: an option ends where
pi_H leaves the diagonal (the intent-switching chain of Jing et al., 2021, arXiv 2106.05530).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ground.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def inside(lengths: Ints, steps: int) -> Bools:
    """The steps [N, T] that are not padding."""
    return np.arange(steps) < lengths[:, None]


@dataclass(frozen=True)
class Chain:
    """Log-probabilities of N ragged trajectories, alone or for R restarts at once (the axes in brackets).

    Attributes:
        initial: log mu(j | s_0), [(R,) N, K].
        transition: log pi_H(j | s_t, i) at [.., i, j], from t - 1 to t: [(R,) N, T, K, K], where step 0 is not read; or
            a table [(R,) S, K, K], if `rows` says which of its rows a step uses.
        emission: log pi_L(a_t | s_t, j) plus the evidence of labels, [(R,) N, T, K]; zero where nothing was done, as at
            a terminal observation.
        lengths: Observations of each trajectory, [N], at least 1; the steps behind them are padding, never read.
        rows: int [N, T], rows of the transition table, or None.

    Raises:
        ValueError: If shapes do not fit each other.
    """

    initial: Floats
    transition: Floats
    emission: Floats
    lengths: Ints
    rows: Ints | None = None

    def __post_init__(self) -> None:
        *lead, n, t, k = self.emission.shape
        table = (n, t) if self.rows is None else self.transition.shape[len(lead) : len(lead) + 1]
        expected = {
            "initial": (*lead, n, k),
            "transition": (*lead, *table, k, k),
            "lengths": (n,),
            **({} if self.rows is None else {"rows": (n, t)}),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if len(lead) > 1 or n == 0 or self.lengths.min() < 1 or self.lengths.max() > t:
            raise ValueError(f"lengths must be within 1 and {t}, and one axis of restarts at most")

    @property
    def lead(self) -> tuple[int, ...]:
        """(R,), or () without restarts."""
        return self.emission.shape[:-3]

    @property
    def inside(self) -> Bools:
        """The steps [N, T] that are not padding."""
        return inside(self.lengths, self.emission.shape[-2])

    def given(self, evidence: Floats) -> "Chain":
        """This chain with the log-likelihood of answers, [(R,) N, T, K], on top of what it knows."""
        return replace(self, emission=self.emission + evidence)


@dataclass(frozen=True)
class Answers:
    """What annotators said, M answers; several may be about one step.

    Attributes:
        trajectory: int [M].
        step: int [M].
        report: float [M, K], the distribution over options that was reported; one-hot for a plain label.
        annotator: int [M], who said it, as a row of the confusion matrices.
    """

    trajectory: Ints
    step: Ints
    report: Floats
    annotator: Ints

    def __len__(self) -> int:
        return len(self.trajectory)

    @staticmethod
    def of_labels(where: ArrayLike, label: ArrayLike, options: int, annotator: ArrayLike = 0) -> "Answers":
        """Answers that name one option each.

        Args:
            where: int [M, 2], trajectory and step.
            label: int [M].
            options: K.
            annotator: int [M], or one for all.

        Raises:
            UserError: If a label is not an option.
        """
        at, labels = np.asarray(where, np.int64).reshape(-1, 2), np.asarray(label, np.int64).reshape(-1)
        unknown = labels[(labels < 0) | (labels >= options)]
        if len(unknown):
            raise UserError(
                f"Label {unknown[0]} is not one of the {options} options, 0 to {options - 1}.",
                "compare the task's options with the oracle's: python main.py doctor",
            )
        who = np.broadcast_to(np.asarray(annotator, np.int64), labels.shape)
        return Answers(at[:, 0], at[:, 1], np.eye(options)[labels], who)

    def evidence(self, lengths: Ints, steps: int, confusion: Floats | None = None) -> Floats:
        """log P(answers | z_t = j) at [n, t, j]; zero where nobody answered, -inf where a label is law and not j.

        An answer of annotator m weighs option j by sum_y report(y) C_m[j, y]; the answers of one step are independent
        given its option.

        Args:
            lengths: [N]
            steps: T
            confusion: [.., W, K, K], P(annotator w says y | option j) at [w, j, y]; axes in front, such as restarts,
                stay in front. Without it, or with the identity, labels are law.

        Returns:
            [.., N, T, K]

        Raises:
            UserError: If an answer is about a step that does not exist.
        """
        options = self.report.shape[1]
        if confusion is None:
            likelihood = self.report  # [M, K]
        else:
            likelihood = np.einsum("...mjy,my->...mj", confusion[..., self.annotator, :, :], self.report)
        evidence = np.zeros((*likelihood.shape[:-2], len(lengths), steps, options))
        self._check(lengths)
        with np.errstate(divide="ignore"):
            logs = np.log(likelihood)
        # ufunc.at adds each of several answers about the same step, where an assignment would keep the last.
        np.add.at(evidence, (Ellipsis, self.trajectory, self.step, slice(None)), logs)  # type: ignore[arg-type]
        return evidence

    def _check(self, lengths: Ints) -> None:
        outside = (self.trajectory < 0) | (self.trajectory >= len(lengths)) | (self.step < 0)
        outside |= self.step >= lengths[np.where(outside, 0, self.trajectory)]
        if outside.any():
            m = int(np.flatnonzero(outside)[0])
            raise UserError(
                f"{int(outside.sum())} of {len(self)} answers are about steps that the demonstrations do not have, the "
                f"first about step {self.step[m]} of demonstration {self.trajectory[m]}.",
                "use the answers with the demonstrations that they were given for, or start a new run",
            )

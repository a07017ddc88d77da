"""Where to ask for a label: rules that score steps, the questions that follow, and how much is expected to be wrong.

With an exact annotator the entropy of the whole path falls in expectation by H(z_t) when step t is asked (the chain
rule), and with one that errs by I(z_t; y_t). What a single fit does not know is which option is which: a committee of
restarts does.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from preceptor.agent.halo.config import RuleName
from preceptor.agent.halo.posterior import Bools, Floats, Ints, entropy
from preceptor.ground.errors import UserError

ANCHORS = 0.01  # share of the steps that `auto` asks before it trusts a committee
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class AskingContext:
    """What rules may look at.

    Attributes:
        gamma: Posteriors of the restarts, [R, N, T, K].
        lengths: Steps of each trajectory, [N].
        allowed: The steps that may be asked about, bool [N, T].
        asked: How often each step was asked about, int [N, T].
        label: The last answer about each step, int [N, T]; -1 without.
        best: The restart with the best likelihood.
        confusion: P(answer y | option j) of the annotator, [K, K]; None if its labels are exact.
        again: Whether a step may be asked more than once: only of an annotator that errs.
    """

    gamma: Floats
    lengths: Ints
    allowed: Bools
    asked: Ints
    label: Ints
    best: int = 0
    confusion: Floats | None = None
    again: bool = False

    @property
    def open(self) -> Bools:
        """The steps [N, T] that may be asked about now."""
        return self.allowed if self.again else self.allowed & (self.asked == 0)

    @property
    def mean(self) -> Floats:
        """The committee's posterior, [N, T, K]."""
        return self.gamma.mean(0)


def information(gamma: Floats, confusion: Floats | None) -> Floats:
    """I(z; y) in nats [..] of an option with posterior gamma [.., K] and its label; H(z) for exact labels."""
    if confusion is None:
        return entropy(gamma)
    return np.maximum(entropy(gamma @ confusion) - gamma @ entropy(confusion), 0.0)


def at_random(context: AskingContext, rng: np.random.Generator) -> Floats:
    """Every open step alike."""
    return rng.random(context.asked.shape)


def by_entropy(context: AskingContext, rng: np.random.Generator) -> Floats:
    """I(z; y) under the best restart alone: the rule that HALO was published with."""
    return information(context.gamma[context.best], context.confusion)


def bisection(context: AskingContext, rng: np.random.Generator) -> Floats:
    """Both ends first, then the middle of the longest stretch whose ends differ, then of the longest at all.

    Demonstrations of T steps with S switches and no option twice are labelled by 2 + S ceil(log2 T) answers.
    """
    score = np.zeros(context.asked.shape)
    for n, allowed in enumerate(context.allowed):
        steps = np.flatnonzero(allowed)
        score[n, np.append(steps[:1], steps[-1:])] = 3.0
        known = np.flatnonzero(context.label[n] >= 0)
        for a, b in itertools.pairwise(known):
            free = np.flatnonzero(context.open[n, a + 1 : b])
            if len(free):
                middle = a + 1 + free[np.abs(free - (b - a) / 2 + 1).argmin()]
                differs = context.label[n, a] != context.label[n, b]
                score[n, middle] = (1.0 if differs else 0.0) + (b - a) / len(steps)
    return score


def automatic(context: AskingContext, rng: np.random.Generator) -> Floats:
    """For the first 1% of the steps anchors that may also name an option, by the sum of both ranks; then I(z; y) under
    the mean of all restarts (query by committee; Dagan and Engelson, 1995).

    A committee of a few restarts that were told little is sure of too much to choose alone.
    """
    if context.asked.sum() >= math.ceil(ANCHORS * context.allowed.sum()):
        return information(context.mean, context.confusion)
    return _ranks(anchors(context), context.open) + _ranks(unnamed(context), context.open)


def anchors(context: AskingContext) -> Floats:
    """Demonstrations with the fewest questions first, at times that a golden-ratio sequence spreads.

    This trusts no fit, and still reaches options that are rare or come late.
    """
    count, steps = context.asked.shape
    asked = context.asked.sum(1)  # [N]
    wanted = (np.arange(count) + count * asked) * _GOLDEN % 1.0
    times = np.arange(steps) / np.maximum(context.lengths - 1, 1)[:, None]  # [N, T], 0 to 1
    return -asked[:, None] - np.abs(times - wanted[:, None])


def unnamed(context: AskingContext) -> Floats:
    """I(restart; y), entropy of the mean minus mean of the entropies (BALD; Houlsby et al., 2011, arXiv 1112.5745,
    eq. 2), of a committee that holds each restart under all names that its options may have.

    An option that no answer has spoken of may as well be any other such option: all their names are equally likely.
    """
    options = context.gamma.shape[-1]
    silent = ~np.isin(np.arange(options), context.label)
    names = np.where(np.outer(silent, silent), 1.0 / max(silent.sum(), 1), np.eye(options))  # P(named j | option i)
    confusion = np.eye(options) if context.confusion is None else context.confusion
    doubt = entropy(context.mean @ names @ confusion) - entropy(context.gamma @ confusion).mean(0)
    return np.maximum(doubt, 0.0)


def _ranks(score: Floats, where: Bools) -> Floats:
    """Place of each score among those in `where`, from the lowest, 0 to 1; equal scores share one."""
    ranks = np.zeros(score.shape)
    values, place = np.unique(score[where], return_inverse=True)
    ranks[where] = place / max(len(values), 1)
    return ranks


Rule = Callable[[AskingContext, np.random.Generator], Floats]  # a score of each step, [N, T]
RULES: dict[RuleName, Rule] = {
    "auto": automatic,
    "random": at_random,
    "entropy": by_entropy,
    "bisection": bisection,
}


def select(rule: Rule, context: AskingContext, count: int, rng: np.random.Generator) -> Ints:
    """The next questions, best score first, at most one per demonstration; ties are broken at random.

    Returns:
        int [M, 2], trajectory and step, M <= count; empty only if nothing is open or nothing wanted.
    """
    score, where = rule(context, rng), context.open
    ties = rng.random(score.shape)
    ordered = np.argwhere(where)[np.lexsort((ties[where], score[where]))[::-1]]
    _, first = np.unique(ordered[:, 0], return_index=True)  # the best step of each demonstration
    return ordered[np.sort(first)[:count]]


def expected_error(gamma: Floats, where: Bools) -> float:
    """The share of the steps in `where` [N, T] that a committee [R, N, T, K] expects to be wrong: mean 1 - max_k gamma.

    Of the mean of the restarts, because one alone is sure of whichever permutation it found.
    """
    return float((1 - gamma.mean(0).max(-1))[where].mean())


def questions(budget: str, steps: int) -> int:
    """How many questions "4%" or "160" are, of so many steps; shares are rounded down.

    Raises:
        UserError: If it is none, or more than there are steps.
    """
    text = budget.strip()
    try:
        # 1e-9 makes up for rounding: 3% of 100 steps are 3.
        count = int(float(text[:-1]) / 100 * steps + 1e-9) if text.endswith("%") else int(text)
    except (ValueError, OverflowError):
        raise UserError(f"{budget!r} is not a budget.", "--budget 4%, or a number of questions: --budget 160") from None
    if not 1 <= count <= steps:
        what = f"A budget of {budget} is {count} questions, of {steps} steps that could be asked about."
        raise UserError(what, f"choose from 1 to {steps}, for example --budget 4%")
    return count

"""Where to ask for a label: rules, each a score per step, and when enough was asked.

With a truthful annotator the entropy of the whole path falls in expectation by H(z_t) when step t is asked (the chain
rule), and with one who errs by I(z_t; y_t). What a single model does not know is which option is which: a committee of
restarts does (shared/reference/halo.md, sections 3 and 6.2).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agent.halo.chain import Bools, Floats, Ints
from agent.halo.pairs import error_reductions
from agent.halo.posterior import entropy
from ground.errors import UserError, unknown_name

ANCHORS = 0.01  # share of the steps that `auto` asks before it trusts a committee (halo.md, section 6.2)
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class AskingContext:
    """What rules may look at.

    Attributes:
        gamma: Posteriors of the restarts, [R, N, T, K].
        xi: Their pairs, [R, N, T, K, K].
        lengths: Steps of each trajectory, [N].
        allowed: bool [N, T], the steps that may be asked about: no padding, no held-out demonstration.
        asked: How often each step was asked about, int [N, T].
        label: The last answer about each step, int [N, T]; -1 without.
        best: The restart with the best likelihood.
        confusion: P(answer y | option j) of whoever will be asked, [K, K]; None for the truth.
        cost: Of one question at each step, float [N, T] in the units of the budget; None if all cost 1.
        again: Whether a step may be asked more than once: only of an annotator who errs.

    Raises:
        UserError: If the truth is to be asked twice, or a question costs nothing.
    """

    gamma: Floats
    xi: Floats
    lengths: Ints
    allowed: Bools
    asked: Ints
    label: Ints
    best: int = 0
    confusion: Floats | None = None
    cost: Floats | None = None
    again: bool = False

    def __post_init__(self) -> None:
        if self.again and self.confusion is None:
            raise UserError(
                "Asking the truth again about the same step would tell nothing.",
                "leave re-asking off, or use --trust learnt",
            )
        if self.cost is not None and not (self.cost > 0).all():
            raise UserError("A question must cost more than nothing.", "give a cost above 0 per question")

    @property
    def open(self) -> Bools:
        """The steps [N, T] that may be asked about now."""
        return self.allowed if self.again else self.allowed & (self.asked == 0)

    @property
    def mean(self) -> Floats:
        """The committee's posterior, [N, T, K]."""
        return self.gamma.mean(0)


Rule = Callable[[AskingContext, np.random.Generator], Floats]


def information(gamma: Floats, confusion: Floats | None) -> Floats:
    """I(z; y) in nats [..] of an option with posterior gamma [.., K] and what is said of it; H(z) for the truth."""
    if confusion is None:
        return entropy(gamma)
    return np.maximum(entropy(gamma @ confusion) - gamma @ entropy(confusion), 0.0)


def information_per_cost(gamma: Floats, confusions: Floats, costs: Floats) -> Floats:
    """I(z; y_w) / cost_w [W, ..] of each annotator, for options with posterior gamma [.., K].

    Args:
        gamma: [.., K]
        confusions: P(y | option j) of W annotators, [W, K, K].
        costs: Of one question to each, [W].
    """
    each = [information(gamma, matrix) / cost for matrix, cost in zip(confusions, costs, strict=True)]
    return np.stack(each)


def at_random(situation: AskingContext, rng: np.random.Generator) -> Floats:
    """Every open step alike."""
    return rng.random(situation.asked.shape)


def stratified(situation: AskingContext, rng: np.random.Generator) -> Floats:
    """Anchors: demonstrations with the fewest questions first, at times that a golden-ratio sequence spreads.

    It trusts no model, and still reaches options that are rare or come late.
    """
    count, steps = situation.asked.shape
    asked = situation.asked.sum(1)  # [N]
    wanted = (np.arange(count) + count * asked) * _GOLDEN % 1.0
    times = np.arange(steps) / np.maximum(situation.lengths - 1, 1)[:, None]  # [N, T], 0 to 1
    return -asked[:, None] - np.abs(times - wanted[:, None])


def by_entropy(situation: AskingContext, rng: np.random.Generator) -> Floats:
    """I(z; y) under the best restart alone: the rule of HALO, with the posterior that it meant."""
    return information(situation.gamma[situation.best], situation.confusion)


def by_margin(situation: AskingContext, rng: np.random.Generator) -> Floats:
    """How close the second option is to the first under the best restart, 0 to 1."""
    ordered = np.sort(situation.gamma[situation.best], -1)
    return 1.0 - (ordered[..., -1] - ordered[..., -2]) if ordered.shape[-1] > 1 else np.zeros(ordered.shape[:-1])


def by_committee(situation: AskingContext, rng: np.random.Generator) -> Floats:
    """I(z; y) under the mean of all restarts (query by committee; Dagan and Engelson, 1995)."""
    return information(situation.mean, situation.confusion)


def bald(situation: AskingContext, rng: np.random.Generator) -> Floats:
    """I(restart; y): entropy of the mean minus mean of the entropies (Houlsby et al., 2011, arXiv 1112.5745, eq. 2)."""
    said = situation.gamma if situation.confusion is None else situation.gamma @ situation.confusion
    return np.maximum(entropy(said.mean(0)) - entropy(said).mean(0), 0.0)


def error_reduction(situation: AskingContext, rng: np.random.Generator) -> Floats:
    """By how many steps the answer lowers the expected errors of its trajectory (Roy and McCallum, 2001), exactly."""
    options = situation.gamma.shape[-1]
    confusion = np.eye(options) if situation.confusion is None else np.ascontiguousarray(situation.confusion)
    reduction = np.zeros(situation.asked.shape)
    error_reductions(situation.gamma, situation.xi, situation.lengths, confusion, reduction)
    return np.maximum(reduction, 0.0)


def bisection(situation: AskingContext, rng: np.random.Generator) -> Floats:
    """Both ends first, then the middle of the longest stretch whose ends differ, then of the longest at all.

    Demonstrations of T steps with S switches and no option twice are labelled by 2 + S ceil(log2 T) answers.
    """
    score = np.zeros(situation.asked.shape)
    for n, length in enumerate(situation.lengths):
        score[n, [0, length - 1]] = 3.0
        known = np.flatnonzero(situation.label[n, :length] >= 0)
        for a, b in itertools.pairwise(known):
            free = np.flatnonzero(situation.open[n, a + 1 : b])
            if len(free):
                middle = a + 1 + free[np.abs(free - (b - a) / 2 + 1).argmin()]
                differs = situation.label[n, a] != situation.label[n, b]
                score[n, middle] = (1.0 if differs else 0.0) + (b - a) / length
    return score


def unnamed(situation: AskingContext) -> Floats:
    """BALD of a committee that holds each restart under all names that its options may have.

    An option that no answer has spoken of may as well be any other such option: all their names are equally likely.
    """
    options = situation.gamma.shape[-1]
    silent = ~np.isin(np.arange(options), situation.label)
    names = np.where(np.outer(silent, silent), 1.0 / max(silent.sum(), 1), np.eye(options))  # P(named j | option i)
    confusion = np.eye(options) if situation.confusion is None else situation.confusion
    doubt = entropy(situation.mean @ names @ confusion) - entropy(situation.gamma @ confusion).mean(0)
    return np.maximum(doubt, 0.0)


def _ranks(score: Floats, where: Bools) -> Floats:
    """Place of each score among those in `where`, from the lowest, 0 to 1; equal scores share one."""
    ranks = np.zeros(score.shape)
    values, place = np.unique(score[where], return_inverse=True)
    ranks[where] = place / len(values) if len(values) else 0.0
    return ranks


def automatic(situation: AskingContext, rng: np.random.Generator) -> Floats:
    """For the first 1% of the steps anchors that may also name an option, by the sum of both ranks; then the committee.

    A committee of a few restarts that were told little is sure of too much to choose alone.
    """
    if situation.asked.sum() >= math.ceil(ANCHORS * situation.allowed.sum()):
        return by_committee(situation, rng)
    spread = stratified(situation, rng)
    return _ranks(spread, situation.open) + _ranks(unnamed(situation), situation.open)


RULES: dict[str, Rule] = {
    "auto": automatic,
    "random": at_random,
    "entropy": by_entropy,
    "bisection": bisection,
}


def get_rule(name: str) -> Rule:
    """The rule of that name.

    Raises:
        UserError: If there is none.
    """
    if name not in RULES:
        raise unknown_name("rule", name, RULES, "python main.py train --method halo --rule auto")
    return RULES[name]


def enough(situation: AskingContext, error: float) -> bool:
    """Whether the committee expects no more than this share of the allowed steps to be wrong: sum 1 - max_k gamma.

    The mean of the restarts, because one alone is sure of whichever permutation it found.
    """
    wrong = (1 - situation.mean.max(-1))[situation.allowed]
    return bool(wrong.sum() <= error * wrong.size)

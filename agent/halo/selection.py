"""From scores to questions: batches that never overshoot a budget and never hold a step twice."""

import itertools
from typing import Literal, get_args

import numpy as np

from agent.halo.acquisition import AskingContext, Rule
from agent.halo.chain import Floats, Ints
from agent.halo.pairs import joint_entropies
from agent.halo.posterior import entropy
from ground.errors import UserError, unknown_name

Batching = Literal["demo", "top", "chain"]  # one per demonstration; the best; the best that tell different things
_ROUNDING = 1e-9  # of sums of costs


def questions(budget: str, steps: int) -> int:
    """How many questions "4%" or "160" are, of so many steps; shares are rounded down.

    Raises:
        UserError: If it is none, or more than there are steps.
    """
    text = budget.strip()
    try:
        count = int(float(text[:-1]) / 100 * steps + _ROUNDING) if text.endswith("%") else int(text)
    except (ValueError, OverflowError):
        raise UserError(f"{budget!r} is not a budget.", "--budget 4%, or a number of questions: --budget 160") from None
    if not 1 <= count <= steps:
        raise UserError(
            f"A budget of {budget} is {count} questions, of {steps} steps that could be asked about.",
            f"choose from 1 to {steps}, for example --budget 4%",
        )
    return count


def select(
    rule: Rule,
    situation: AskingContext,
    budget: float,
    batch: int,
    rng: np.random.Generator,
    batching: Batching = "demo",
) -> Ints:
    """The next questions, best score per cost first; ties are broken at random.

    Args:
        rule: Scores steps.
        situation: What is known.
        budget: What the questions may cost together.
        batch: How many questions at most.
        rng: Breaks ties.
        batching: "demo" asks at most one question per demonstration. "top" takes the best scores. "chain" counts only
            what the questions already chosen leave open of a step: score times H(z_t | z_A) / H(z_t), which is greedy
            on H(z_A) for the entropy of one model, and so within 1 - 1/e of the best set (Krause and Guestrin, 2009).

    Returns:
        int [M, 2], trajectory and step, M <= batch; empty only if nothing is open or affordable.
    """
    if batching not in get_args(Batching):
        raise unknown_name("batching", batching, get_args(Batching))
    cost = np.ones(situation.asked.shape) if situation.cost is None else situation.cost
    worth = rule(situation, rng)
    scale = np.ones_like(worth)  # share of a step's uncertainty that the chosen ones leave
    spread = _Spread(situation) if batching == "chain" else None
    ties = rng.random(worth.shape)
    free = situation.open.copy()
    chosen: list[tuple[int, int]] = []
    while len(chosen) < batch:
        affordable = free & (cost <= budget + _ROUNDING)
        if not affordable.any():
            break
        n, t = _best(_per_cost(worth * scale, cost), ties, affordable)
        chosen.append((n, t))
        budget -= cost[n, t]
        free[n, t] = False
        if batching == "demo":
            free[n] = False
        if spread is not None:
            scale[n] = spread.after(n, t)
    return np.array(chosen, np.int64).reshape(-1, 2)


def _per_cost(worth: Floats, cost: Floats) -> Floats:
    """Worth by cost; where worth is negative, as a rank may be, a higher cost makes it worse."""
    return np.where(worth < 0, worth * cost, worth / cost)


def _best(score: Floats, ties: Floats, where: np.ndarray) -> tuple[int, int]:
    masked = np.where(where, score, -np.inf)
    equal = where & (masked == masked.max())
    n, t = np.unravel_index(np.where(equal, ties, -1.0).argmax(), score.shape)
    return int(n), int(t)


class _Spread:
    """H(z_t | z_A) / H(z_t) as A grows, under the Markov chain nearest to the committee: the mean of its pairs."""

    def __init__(self, situation: AskingContext) -> None:
        self.gamma, self.xi, self.lengths = situation.mean, situation.xi.mean(0), situation.lengths
        self.chosen: dict[int, dict[int, Floats]] = {}  # trajectory -> step -> H(z_step, z_t) for all t

    def after(self, n: int, t: int) -> Floats:
        """The shares [T] left in trajectory n once step t is chosen."""
        length, rows = int(self.lengths[n]), self.chosen.setdefault(n, {})
        rows[t] = joint_entropies(self.gamma[n], self.xi[n], length, t)
        alone = entropy(self.gamma[n, :length])
        left = np.zeros(len(self.gamma[n]))
        steps = sorted(rows)
        first, last = steps[0], steps[-1]
        left[:first] = rows[first][:first] - alone[first]  # H(z_t | z_a) = H(z_a, z_t) - H(z_a)
        left[last + 1 : length] = rows[last][last + 1 :] - alone[last]
        for a, b in itertools.pairwise(steps):
            between = slice(a + 1, b)
            # a - t - b is a chain: H(z_t | z_a, z_b) = H(z_a, z_t) + H(z_t, z_b) - H(z_t) - H(z_a, z_b).
            left[between] = rows[a][between] + rows[b][between] - alone[between] - rows[a][b]
        share = np.divide(left[:length], alone, out=np.zeros(length), where=alone > _ROUNDING)
        left[:length] = np.clip(share, 0.0, 1.0)
        return left

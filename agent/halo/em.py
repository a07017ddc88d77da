"""Soft expectation maximisation over unknown options, with labels fixed, from several starts at once.

E-step: the exact posterior of every restart. M-step: weighted regression with the posterior as weight,

    L_low  = -sum gamma_t(k) log pi_L(a_t|s_t,k)
    L_high = -sum xi_t(i,j) log pi_H(j|s_t,i)
    L_init = -sum gamma_0(k) log mu(k|s_0)

(Dempster et al., 1977; for option policies, Giammarino and Paschalidis, 2021, arXiv 2103.08141). Unlabelled steps teach
the low level little at first and as much as labelled ones at the end (EM-lambda; Nigam et al., 2000, section 5.3): the
few labels decide which option is which before the many steps sharpen what they are. Many labels of hard steps show the
options from one side, which only restarts that use all steps from the beginning get away from; so that time differs
between restarts, and the likelihood decides. An annotator's confusion matrix is learned after it: learned earlier, it
takes in that two options have each other's names. Every fit starts from scratch: kept warm across rounds, it does not
recover from a permutation that early labels left open.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from preceptor.agent.data.recording import Recording
from preceptor.agent.halo.config import EMConfig
from preceptor.agent.halo.policies import Policies, near_identity
from preceptor.agent.halo.posterior import Answers, Floats, Posterior, infer, require_possible


@dataclass(frozen=True)
class Fit:
    """What a fit found, for all restarts.

    Attributes:
        policies: As they are after the last M-step.
        posterior: Of the demonstrations given the answers, under `policies`, with the axis of restarts.
        score: Log-likelihood of actions and answers plus the log-prior, [R].
        confusion: P(annotator w says y | option j), [R, W, K, K], or None where labels are exact.
    """

    policies: Policies
    posterior: Posterior
    score: Floats
    confusion: Floats | None

    @property
    def best(self) -> int:
        """The restart with the best penalised likelihood."""
        return int(self.score.argmax())

    @property
    def gamma(self) -> Floats:
        """The best restart's P(z_t | all), [N, T, K]."""
        return self.posterior.gamma[self.best]


def honest_but_fallible(annotators: int, options: int, accuracy: float = 0.8) -> Floats:
    """Confusion matrices [W, K, K] of annotators that err now and then, in no direction: where learning one starts."""
    one = near_identity(options, accuracy)
    return np.broadcast_to(one / one.sum(-1, keepdims=True), (annotators, options, options)).copy()


def fit(
    demos: Recording,
    answers: Answers,
    policies: Policies,
    config: EMConfig,
    confusion: Floats | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Fit:
    """Policies and posterior given answers; the same for the same policies at the start.

    Args:
        demos: The demonstrations, with states for observations.
        answers: What annotators said about them.
        policies: Fresh ones, drawn with the caller's seed; they are changed.
        config: How long.
        confusion: What is believed of the annotators before, [W, K, K]: their matrices are learned from there (Dawid
            and Skene, 1979). None: labels are exact.
        on_step: Called before each E-step; what it raises ends the fit.

    Raises:
        UserError: If labels contradict each other.
    """
    shape, restarts = demos.acted.shape, len(policies.log_prior())
    learned = None if confusion is None else np.broadcast_to(confusion, (restarts, *confusion.shape))
    prior = None if confusion is None else config.confusion_weight * confusion  # [W, K, K]

    def expect() -> Posterior:
        posterior = infer(policies.chain(demos).given(answers.evidence(shape, learned)))
        require_possible(posterior)
        return posterior

    rising = np.linspace(config.anneal, 0.0, restarts) * config.steps  # [R], rounds until all steps count alike
    for step in range(config.steps):
        on_step()
        posterior = expect()
        weight = np.empty((restarts, *shape))
        weight[:] = np.where(step < rising, step / np.maximum(rising, 1), 1.0)[:, None, None]
        weight[:, answers.trajectory, answers.step] = 1.0
        policies.improve(demos, posterior, weight)
        if prior is not None and learned is not None:
            ready = step >= np.minimum(rising, config.steps - 1)  # [R]
            learned = np.where(ready[:, None, None, None], _annotators(answers, posterior, prior), learned)
    posterior = expect()
    score = posterior.log_z.sum(-1) + policies.log_prior()
    if prior is not None and learned is not None:
        score = score + (prior * np.log(np.maximum(learned, np.finfo(float).tiny))).sum((1, 2, 3))
    return Fit(policies, posterior, score, learned)


def _annotators(answers: Answers, posterior: Posterior, prior: Floats) -> Floats:
    """The M-step of confusion matrices, [R, W, K, K]: what each said of which option, plus the prior's."""
    believed = posterior.gamma[:, answers.trajectory, answers.step]  # [R, M, K]
    counts = np.zeros((len(believed), *prior.shape))
    for annotator in range(len(prior)):
        said = answers.annotator == annotator
        counts[:, annotator] = np.einsum("rmj,my->rjy", believed[:, said], answers.report[said])
    counts += prior
    return counts / counts.sum(-1, keepdims=True)

"""The Dirichlet-process mixture, against scikit-learn, SciPy and its own mathematics."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import betaln
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from torch.distributions import Normal, kl_divergence

from bench.dpm import TRUE, distant, drawn, sklearn_mixture, stream
from preceptor.agent.dpm import DPMixture, _Ascent
from preceptor.agent.runs.checkpoint import load_tree, save_tree
from preceptor.ground.errors import UserError

DIMS = 10


def seven(n, rng):
    return drawn(distant(rng), range(7), n, rng)


def fitted(z, seed=0, **settings):
    mixture = DPMixture(z.shape[1], **settings)
    return mixture, mixture.fit(z, np.random.default_rng(seed))


def falls(trace):
    return [after - before for before, after in pairwise(trace) if after < before - 1e-9 * abs(before)]


def test_before_the_first_fit_it_is_the_gaussian_prior_of_a_plain_vae():
    rng = np.random.default_rng(0)
    mean, log_std = torch.as_tensor(rng.normal(size=(2, 50, DIMS)), dtype=torch.float32)
    mixture = DPMixture(DIMS)
    ours = mixture.divergence(mean, log_std, mixture.responsibilities(mean))
    theirs = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum(1)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mixture.log_prob(mean)[:, 0], Normal(0.0, 1.0).log_prob(mean).sum(1))


def test_one_component_has_the_exact_evidence():
    """The product of Student's t that predict each point from those before it (Murphy, 2007, eq. 100)."""
    z = np.random.default_rng(0).normal(3, 2, (30, 1))
    _, report = fitted(z, concentration=0.7)
    mean, pull, shape, rate, total = z.mean(), 0.01, 1.0, 0.1 * z.var(), 0.0
    for x in z[:, 0]:
        total += stats.t.logpdf(x, 2 * shape, mean, math.sqrt(rate * (pull + 1) / (shape * pull)))
        shape, rate = shape + 0.5, rate + pull * (x - mean) ** 2 / (2 * (pull + 1))
        mean, pull = (pull * mean + x) / (pull + 1), pull + 1
    assert report.components == 1
    assert report.elbo == pytest.approx(total + betaln(31, 0.7) - betaln(1, 0.7), rel=1e-9)


def test_it_finds_what_scikit_learn_finds():
    rng = np.random.default_rng(0)
    z, label = seven(2000, rng)
    mixture, report = fitted(z)
    prior = {"mean_precision_prior": 0.01, "covariance_prior": 0.2 * z.var(0), "degrees_of_freedom_prior": DIMS - 0.9}
    theirs = sklearn_mixture(**prior).fit(z)  # the degrees are its least, and count as nine points where ours has two
    assert report.components == 7 == (theirs.weights_ > 0.01).sum()
    points = torch.as_tensor(z)
    assert adjusted_rand_score(label, mixture.assign(points)) > 0.95
    assert adjusted_rand_score(theirs.predict(z), mixture.assign(points)) > 0.99
    ours = mixture.log_prob(points).logsumexp(1).mean()
    weight, mean, var = map(torch.as_tensor, (theirs.weights_, theirs.means_, theirs.covariances_))
    density = Normal(mean, var.sqrt()).log_prob(points[:, None]).sum(2)  # score_samples takes the digammas of a Wishart
    assert ours == pytest.approx(float((weight.log() + density).logsumexp(1).mean()), abs=0.01)
    match = [int(np.square(theirs.means_ - mean).sum(1).argmin()) for mean in mixture.mean.numpy()]
    np.testing.assert_allclose(mixture.mean, theirs.means_[match], atol=0.1)
    apart = np.abs(mixture.responsibilities(points).numpy() - theirs.predict_proba(z)[:, match])
    assert apart.mean() < 0.005
    assert mixture.weight.sum() == pytest.approx(1)


@pytest.mark.parametrize("warm", [True, False])
def test_streams_whose_true_number_rises_and_falls(warm):
    rng = np.random.default_rng(1)
    mixture = DPMixture(DIMS)
    for true, (z, label) in zip(TRUE, stream(2000, rng), strict=True):
        report = mixture.fit(z, rng, warm)
        assert report.components == true
        assert adjusted_rand_score(label, mixture.assign(torch.as_tensor(z))) >= 0.95
        assert not falls(report.trace)
        assert report.births >= (true - 1 if not warm else 0)


def test_scikit_learn_s_warm_start_does_not_follow_such_streams():
    rng = np.random.default_rng(1)
    warm = sklearn_mixture(warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = [(np.bincount(warm.fit_predict(z)) > 20).sum() for z, _ in stream(2000, rng)]
    assert np.mean(np.equal(found, TRUE)) < 0.5


def test_four_times_the_points_find_as_many_components():
    rng = np.random.default_rng(2)
    means = distant(rng)
    few, many = (fitted(drawn(means, range(7), n, rng)[0])[1].components for n in (2000, 8000))
    assert abs(few - many) <= 1


def test_overlapping_components_never_lower_the_bound():
    """Where responsibilities are soft, ascent takes many steps."""
    z = np.random.default_rng(0).standard_t(3, (1000, 3))
    _, report = fitted(z, share=0.0)
    assert len(report.trace) > 50
    assert not report.deletions
    assert not falls(report.trace)


def test_components_keep_their_places_and_the_absent_are_dissolved():
    rng = np.random.default_rng(3)
    means = distant(rng)
    mixture = DPMixture(DIMS)
    mixture.fit(drawn(means, range(7), 2000, rng)[0], rng)
    before = mixture.mean.clone()
    again = mixture.fit(drawn(means, range(7), 2000, rng)[0], rng)
    assert (again.components, again.births, again.merges, again.deletions) == (7, 0, 0, 0)
    assert (mixture.mean - before).abs().max() < 0.5
    fewer = mixture.fit(drawn(means, (0, 1, 3, 4, 6), 2000, rng)[0], rng)
    assert (fewer.components, fewer.births, fewer.merges + fewer.deletions) == (5, 0, 2)


def test_a_component_of_too_few_points_is_none():
    rng = np.random.default_rng(4)
    z = np.concatenate((rng.normal(size=(2000, 2)), 30 + rng.normal(size=(30, 2))))
    assert fitted(z)[1].components == 2
    assert fitted(z, share=0.02)[1].components == 1
    assert fitted(np.concatenate((z[:2000], z[-19:])))[1].components == 1


def test_halves_of_one_component_are_merged():
    rng = np.random.default_rng(5)
    mixture, _ = fitted(np.concatenate((rng.normal(-4, 1, (1000, 2)), rng.normal(4, 1, (1000, 2)))))
    assert len(mixture.weight) == 2
    report = mixture.fit(rng.normal(size=(2000, 2)), rng)
    assert (report.components, report.merges + report.deletions, report.collapsed) == (1, 1, True)


def test_the_cap_is_kept_and_told():
    z, _ = seven(2000, np.random.default_rng(6))
    report = fitted(z, cap=4)[1]
    assert (report.components, report.capped, report.collapsed) == (4, True, False)
    assert not fitted(z)[1].capped


def test_units_do_not_matter_and_the_seed_decides():
    z, _ = seven(2000, np.random.default_rng(7))
    scale = np.linspace(0.1, 10, DIMS)
    first, other, again = (fitted(x)[0] for x in (z, 1000 + scale * z, z))
    np.testing.assert_allclose(1000 + scale * first.mean.numpy(), other.mean, rtol=1e-6)
    np.testing.assert_allclose(scale**2 * first.var.numpy(), other.var, rtol=1e-6)
    assert torch.equal(first.var, again.var)


@pytest.mark.parametrize("constant", [1, 3])
def test_dimensions_that_never_change(constant):
    z = np.random.default_rng(0).normal(size=(500, 3))
    z[:, :constant] = 5.0
    mixture, report = fitted(z)
    assert report.components == 1
    np.testing.assert_allclose(mixture.mean[0], z.mean(0))
    assert (mixture.var[0, :constant] == 1e-6).all()
    assert (mixture.var[0, constant:] > 0.5).all()


@pytest.mark.parametrize(
    ("z", "why"),
    [
        (np.zeros((1, 3)), "needs 20 latents or more"),
        (np.zeros((19, 3)), "needs 20 latents or more"),
        (np.zeros((30, 2)), "of 3 dimensions"),
        (np.full((30, 3), np.nan), "30 of 30 latents are NaN"),
        (np.where(np.arange(90).reshape(30, 3) == 7, np.inf, 0), "1 of 30 latents are NaN, infinite"),
        (np.random.default_rng(0).normal(size=(30, 3)) * 1e200, "too large"),
    ],
)
def test_what_cannot_be_fitted_is_told_and_changes_nothing(z, why):
    mixture = DPMixture(3)
    with pytest.raises(UserError, match=why):
        mixture.fit(z, np.random.default_rng(0))
    assert mixture.var.equal(torch.ones(1, 3, dtype=torch.float64))


def test_divergence_is_the_weighted_sum_of_divergences():
    rng = np.random.default_rng(8)
    mixture, _ = fitted(seven(2000, rng)[0])
    mean, log_std = torch.as_tensor(rng.normal(size=(2, 20, DIMS)))
    share = torch.as_tensor(rng.dirichlet(np.ones(7), 20))
    one = Normal(mean[:, None], log_std[:, None].exp())
    each = kl_divergence(one, Normal(mixture.mean, mixture.var.sqrt())).sum(2)
    torch.testing.assert_close(mixture.divergence(mean, log_std, share), (share * each).sum(1))


def test_responsibilities_have_the_gradient_of_finite_differences():
    rng = np.random.default_rng(9)
    mixture, _ = fitted(np.concatenate([rng.normal(m, 1, (500, 2)) for m in (-2.5, 0, 2.5)]))
    assert len(mixture.weight) > 1
    z = torch.as_tensor(rng.normal(size=(6, 2))).requires_grad_()
    assert torch.autograd.gradcheck(mixture.responsibilities, z)
    assert torch.autograd.gradcheck(mixture.log_prob, z)
    assert mixture.responsibilities(z.detach().float()).dtype == torch.float32


def test_saved_and_loaded_it_goes_on_to_the_bit(tmp_path):
    rng = np.random.default_rng(10)
    means = distant(rng)
    mixture, _ = fitted(drawn(means, range(5), 1000, rng)[0])
    save_tree(tmp_path / "saved", mixture.state_dict(), {})
    loaded = DPMixture(DIMS)
    loaded.load_state_dict(load_tree(tmp_path / "saved")[0])
    z = drawn(means, range(7), 1000, rng)[0]
    for one in (mixture, loaded):
        one.fit(z, np.random.default_rng(0))
    for name in ("weight", "mean", "var"):
        assert torch.equal(getattr(mixture, name), getattr(loaded, name))
    with pytest.raises(UserError, match="has 10 dimensions, and the skills have 8"):
        DPMixture(8).load_state_dict(mixture.state_dict())


def test_a_gaussian_that_was_cut_in_two_is_merged_again():
    """Either half is narrower and fits its points better; that the cut must be told for each point costs more."""
    z = torch.as_tensor(np.random.default_rng(11).normal(size=(2000, 2)))
    left = (z[:, 0] < z[:, 0].median()).double()
    ascent = _Ascent(z - z.mean(0), DPMixture(2), np.random.default_rng(0))
    ascent.take(torch.stack((left, 1 - left), 1))
    assert ascent.merges() == 1
    assert not ascent.births()

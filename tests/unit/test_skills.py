"""Skills: mixtures, their divergences, the model of skills, the learner held to a prior, and what HELIOS refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.data.views import sample_segments
from preceptor.agent.demonstrating import record
from preceptor.agent.distributions import GaussianMixture
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.losses import PriorWeight
from preceptor.agent.methods.helios import Helios, HeliosSettings
from preceptor.agent.methods.sac import Transitions
from preceptor.agent.mixtures import Mixture, MixtureNetwork, cross_entropy
from preceptor.agent.skill_learner import SkillLearner, transitions
from preceptor.agent.skills import SkillModel, standard_divergence
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from tests.parts import parts

TWIN = get_task("WholeBodyTwin")
SMALL = HeliosSettings(horizon=5, dims=3, hidden=32, online=400, warmup=8, batch=16, least=0.02)


def mixture(components, seed, batch=3, dims=4):
    generator = torch.Generator().manual_seed(seed)
    logits, mean, log_std = (
        torch.randn(shape, generator=generator)
        for shape in ((batch, components), (batch, components, dims), (batch, components, dims))
    )
    return Mixture(logits.log_softmax(-1), mean, 0.3 * log_std)


def sampled(of, row, count):
    chosen = torch.distributions.Categorical(logits=of.log_weight[row]).sample((count,))
    return of.mean[row][chosen] + of.log_std[row][chosen].exp() * torch.randn(count, of.mean.shape[-1])


def density(of, row, vectors):
    alone = Mixture(*(part[row : row + 1].expand(len(vectors), *part.shape[1:]) for part in of))
    return alone.log_prob(vectors).logsumexp(1)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_divergence_bounds_that_of_the_mixtures_and_is_exact_for_gaussians(ours, theirs):
    torch.manual_seed(0)
    policy, prior = mixture(ours, 1), mixture(theirs, 2)
    for row, bound in enumerate(policy.divergence(prior)):
        vectors = sampled(policy, row, 50_000)
        true = (density(policy, row, vectors) - density(prior, row, vectors)).mean()
        assert bound > true - 0.03
        if ours == theirs == 1:
            assert abs(bound - true) < 0.03


def test_divergence_from_itself_is_zero():
    one = mixture(4, 3)
    torch.testing.assert_close(one.divergence(one), torch.zeros(3), atol=1e-5, rtol=0)


def test_divergence_from_a_box_is_least_for_the_widest():
    bound, narrow = torch.full((4,), 2.0), mixture(1, 3)
    wide = narrow._replace(log_std=narrow.log_std + 0.5)
    torch.testing.assert_close(
        narrow.divergence_from_box(bound) - wide.divergence_from_box(bound), torch.full((3,), 4 * 0.5)
    )
    entropy = -density(narrow, 0, sampled(narrow, 0, 50_000)).mean()
    assert abs(narrow.divergence_from_box(bound)[0] - (4 * np.log(4.0) - entropy)) < 0.05


def test_cross_entropy_is_the_mean_of_what_it_stands_for():
    torch.manual_seed(0)
    of, mean, log_std = mixture(2, 5, batch=1), torch.randn(1, 4), 0.1 * torch.randn(1, 4)
    vectors = mean + log_std.exp() * torch.randn(100_000, 4)
    alone = Mixture(*(part.expand(len(vectors), *part.shape[1:]) for part in of))
    wanted = -(alone.log_prob(vectors) - alone.log_weight).mean(0)
    torch.testing.assert_close(cross_entropy(mean, log_std, of)[0], wanted, atol=0.05, rtol=0.01)


def test_a_network_begins_at_its_components_and_stays_within_its_bound():
    network = MixtureNetwork(6, (16, 16), 3, 4)
    mean, std = torch.linspace(-1.5, 1.5, 12).view(3, 4), torch.full((3, 4), 0.4)
    network.begin(mean, std, torch.full((4,), 2.0))
    found = network(torch.randn(5, 6))
    torch.testing.assert_close(found.mean, mean.expand(5, -1, -1), atol=0.1, rtol=0)
    torch.testing.assert_close(found.log_std.exp(), std.expand(5, -1, -1), atol=0.05, rtol=0)
    with torch.no_grad():
        network.head.bias += 100.0
    assert (network(torch.randn(5, 6)).mean.abs() <= 2.0).all()


def test_skills_are_sampled_from_the_components_by_their_weight_and_greedily_from_the_likeliest():
    mean = np.array([[[-1.0], [1.0]]], np.float32).repeat(20_000, 0)
    probs = np.array([[0.25, 0.75]], np.float32).repeat(20_000, 0)
    of = GaussianMixture(probs, mean, np.full_like(mean, 0.1))
    vectors, _ = of.sample(np.random.default_rng(0))
    assert abs((vectors > 0).mean() - 0.75) < 0.01
    assert abs(vectors[vectors > 0].std() - 0.1) < 0.01
    np.testing.assert_array_equal(of.sample(None)[0], np.ones((20_000, 1)))


@pytest.mark.parametrize("encoder", ["mlp", "gru"])
def test_a_skill_model_tells_windows_apart(encoder):
    torch.manual_seed(0)
    model, generator = SkillModel(2, 2, 4, 3, 32, encoder), torch.Generator().manual_seed(0)
    optimizer, way = torch.optim.Adam(model.parameters(), 3e-3), torch.randn(200, 1, 2).tanh()
    obs, action = torch.zeros(200, 4, 2), way.expand(-1, 4, -1)
    for _ in range(400):
        optimizer.zero_grad()
        loss, info = model.loss(obs, action, 0.01, standard_divergence, generator)
        loss.backward()
        optimizer.step()
    assert info["error"] < 0.1 * 0.5 * action.square().sum((1, 2)).mean()
    mean, _ = model.encode(obs, action)
    told = model.decode(obs, mean[:, None].expand(-1, 4, -1))
    assert (told - action).abs().mean() < 0.1


def learner(hold, target=None, seed=0):
    """Two skills, one on either side of zero, as likely."""
    torch.manual_seed(seed)
    prior = MixtureNetwork(1, (16, 16), 2, 1)
    prior.begin(torch.tensor([[-1.0], [1.0]]), torch.full((2, 1), 0.2), torch.full((1,), 3.0))
    policy = MixtureNetwork(1, (16, 16), 2, 1)
    policy.load_state_dict(prior.state_dict())
    prior.requires_grad_(False)
    weight = PriorWeight(hold, target=target, rate=0.02)
    return SkillLearner(
        1,
        policy,
        lambda obs, of: of.divergence(prior(obs)),
        hidden=(32, 32),
        lr=3e-3,
        tau=0.05,
        weight=weight,
        seed=seed,
    )


def taught(which, steps):
    """Skills near 1 are rewarded, and all episodes end."""
    generator, info = torch.Generator().manual_seed(0), {}
    for _ in range(steps):
        skill = torch.randn(64, 1, generator=generator) * 1.5
        reward = torch.exp(-4 * (skill[:, 0] - 1.0).square())
        obs = torch.zeros(64, 1)
        info = which.update(Transitions(obs, skill, reward, obs, torch.zeros(64)))
    return info, which.policy(torch.zeros(1, 1))


def test_the_policy_takes_the_better_component_unless_it_is_held():
    _, free = taught(learner(0.01), 400)
    assert free.log_weight.exp()[0, 1] > 0.9
    _, held = taught(learner(30.0), 400)
    assert abs(held.log_weight.exp()[0, 1] - 0.5) < 0.1


def test_lambda_brings_the_divergence_to_its_target():
    which = learner(1.0, target=0.3)
    info, _ = taught(which, 1_200)
    assert abs(float(info["divergence"]) - 0.3) < 0.1
    assert which.weight(0) < 1.0  # the first one held too much


def test_values_count_what_the_divergence_costs():
    which = learner(0.5)
    obs, skill = torch.zeros(64, 1), torch.zeros(64, 1)
    with torch.no_grad():
        which.policy.head.bias[2:4] += 1.0  # strayed
        strayed = float(which._divergence(obs, which.policy(obs)).mean())
    which.policy_optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(1_000):
        skill = 3 * torch.rand(64, 1) - 1.5
        which.update(Transitions(obs, skill, torch.zeros(64), obs, torch.full((64,), 0.5)))
    with torch.no_grad():  # Q = 0.5 (E Q - lambda D), the same for all skills
        value = float(which.critic(obs, skill).mean())
    assert value == pytest.approx(-0.5 * strayed, rel=0.15)


@pytest.fixture(scope="module")
def demonstrations():
    return record(TWIN, 24, 0, 0.2)


def made(demonstrations, **changes):
    method = Helios(parts(TWIN, replace(SMALL, **changes), 4, 120))
    method.begin(demonstrations)
    return method


def learned(method, phases=2):
    for phase in method.phases[:phases]:
        while not phase.over(method.taken, 120):
            phase.advance(None, method.taken, 120)
        phase.end()
    return method


def test_the_loss_does_not_jump_where_the_mixture_takes_over(demonstrations):
    method = made(demonstrations)
    while not method.fits:
        method.update_skills()
    rows = method.rows[:512]
    windows = method._windows(rows)

    def loss(divergence):
        with torch.no_grad():
            return float(method.model.loss(*windows, 0.05, divergence, torch.Generator().manual_seed(1))[0])

    before, after = loss(standard_divergence), loss(method.divergence)
    assert abs(after - before) < 0.01 * before


@pytest.mark.parametrize("prior", ["dpm", "gauss", "mdn", "uniform"])
def test_the_policy_begins_as_its_prior_and_learns(demonstrations, prior):
    method = learned(made(demonstrations, prior=prior))
    obs = torch.as_tensor(method.obs[:, 0])
    before = method.learner.policy(obs)
    if prior != "uniform":
        assert method.divergence_from_prior(obs, before).abs().max() < 1e-5
    environments = TWIN.make_vec(4, seed=0)
    hierarchy = Hierarchy(TWIN, environments, method.player, rng=np.random.default_rng(0))
    online, steps, info = method.phases[-1], 120, {}
    while not online.over(steps, 520):
        steps, more = online.advance(hierarchy, steps, 520)
        info |= more
    assert np.isfinite(info["high/critic_loss"])
    assert not torch.equal(method.learner.policy(obs).mean, before.mean)
    method.store.column("reward")[:] = 1.0
    batch = transitions(sample_segments(method.store, method.rng, 16, 5), method.encoder, method.settings.gamma)
    assert batch.action.shape == (16, 3)
    # A transition has all steps of its skill; it has fewer only where the episode terminated (60 is a multiple of 5).
    assert ((batch.reward == 5) | (batch.discount == 0)).all()
    assert torch.isclose(batch.discount[batch.discount > 0], torch.tensor(0.99)).all()


@pytest.mark.parametrize(("policy", "decay"), [("prior", 1.0), ("mixture", 0.25)])
def test_a_learning_rate_falls_to_zero_over_the_last_share_of_both_phases(demonstrations, policy, decay):
    method = learned(made(demonstrations, decay=decay, prior="gauss", policy=policy), phases=1)
    rates = [method.optimizer.param_groups[0]["lr"]]
    while method.taken < 120:
        told = method.update_prior()
        rates.append(method.start_optimizer.param_groups[0]["lr"])
        assert told["high/learning_rate"] == rates[-1]
    first, *others = rates
    assert 0 < first < 2e-5 / decay
    assert np.allclose(others, 1e-3 * np.minimum(1, (1 - np.arange(len(others)) / len(others)) / decay))


def test_what_plays_before_the_prior_is_learned_plays_what_is_learned_after_it(demonstrations):
    """Environments are made first, with the player of then: once, all of reinforcement learning was played by it."""
    method = made(demonstrations)
    hierarchy = Hierarchy(TWIN, TWIN.make_vec(4, seed=0), method.player, rng=np.random.default_rng(0))
    learned(method)
    assert hierarchy.high.network is method.learner.policy
    method.load_state_dict(method.state_dict())
    assert hierarchy.high.network is method.learner.policy
    assert method.prior_player.high.network is method.prior
    obs = hierarchy.observed
    chosen = hierarchy.high.choose(obs, np.zeros(4, np.int64))[1]
    assert np.allclose(chosen.probs, method.learner.policy(obs.inputs[0]).log_weight.exp().detach(), atol=1e-6)


def test_plain_latents_are_held_to_one_gaussian(demonstrations):
    method = learned(made(demonstrations, latent="plain", prior="gauss"), phases=1)
    assert len(method.fits) == 1  # in the end, to say how many kinds there are


@pytest.mark.parametrize("decoder", ["frozen", "tuned"])
def test_the_decoder_learns_online_only_if_it_is_told_to(demonstrations, decoder):
    method = learned(made(demonstrations, decoder=decoder))
    before = {name: value.clone() for name, value in method.model.state_dict().items()}
    environments = TWIN.make_vec(4, seed=0)
    hierarchy = Hierarchy(TWIN, environments, method.player, rng=np.random.default_rng(0))
    method.phases[-1].advance(hierarchy, 120, 520)
    method.phases[-1].advance(hierarchy, 140, 520)
    method.phases[-1].advance(hierarchy, 160, 520)
    changed = {name for name, value in method.model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith("decoder") for name in changed)
    assert bool(changed) == (decoder == "tuned")


def test_a_mixture_that_says_little_is_doubted(demonstrations):
    method = made(demonstrations)
    assert "--beta" in method._doubt(method.mixture.cap)
    assert "one kind" in method._doubt(1)
    assert not method._doubt(5)


def test_what_cannot_be_learned_from_is_refused(demonstrations):
    with pytest.raises(UserError, match="No demonstration has 500 actions"):
        made(demonstrations, horizon=500)
    idle = replace(demonstrations, action=np.zeros_like(demonstrations.action))
    with pytest.raises(UserError, match="do the same at every step"):
        made(idle)
    with pytest.raises(UserError, match="named actions"):
        Helios(parts(get_task("SimpleDoorKey"), SMALL, 1, 100))

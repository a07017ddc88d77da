"""What IHAC's two levels learn from a roll-out, against loops over what was played; its prior, and what is saved."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods.ihac import Ihac, IhacSettings
from preceptor.agent.methods.ppo import PPOConfig
from preceptor.agent.teaching import Annotator
from preceptor.controller.network import TrunkConfig, to_tensors
from preceptor.envs.catalog import get_task
from preceptor.teacher.controls import ScriptedTeacher
from preceptor.teacher.labels import LabelStore
from tests.parts import parts

TASK, ENVS, LENGTH, TOTAL = get_task("SimpleDoorKey"), 4, 160, 10_000
SETTINGS = IhacSettings(
    PPOConfig(gamma=0.9, lam=0.0), LENGTH, reward_scale=2.0, trunk=TrunkConfig(2, 16), distil_steps=0
)


def student(settings=SETTINGS, **changes):
    torch.manual_seed(0)
    made = Ihac(replace(parts(TASK, settings, ENVS, TOTAL), **changes))
    for head in (made.low_network.value_head, made.high_network.value_head, made.controller.done_head):
        torch.nn.init.normal_(head.weight, std=2.0)
    return made


def played(method):
    """A roll-out with rewards, truncated episodes and, in the first environment, terminated ones."""
    hierarchy = Hierarchy(TASK, TASK.make_vec(ENVS), method.player, rng=np.random.default_rng(0))
    length = method.settings.rollout
    hierarchy.collect(method.rollouts, length)
    column = method.rollouts.column
    column("reward")[:] = np.random.default_rng(1).normal(size=(length, ENVS))
    column("terminated")[:, 0] |= column("truncated")[:, 0]
    column("truncated")[:, 0] = False
    return hierarchy.observed


def taught(method, observed, steps=TOTAL // 2):
    """What each level's learner is given."""
    given = {}
    method.low_learner.update = lambda *said: given.update(low=said) or {}
    method.high_learner.update = lambda *said: given.update(high=said) or {}
    return given | {"info": method.update(observed, steps)}


@torch.no_grad()
def test_each_level_is_rewarded_until_its_next_choice_and_bootstraps_but_for_termination():
    method = student()
    observed = played(method)
    store, encode = method.rollouts, method.encoder
    names = ("obs", "reward", "option", "prev_option", "option_age", "terminated", "truncated", "legal")
    saved = {name: store.column(name).copy() for name in names}
    finals = {tuple(row): obs for row, obs in zip(*store.final_observations(), strict=True)}
    given = taught(method, observed)

    def high(obs, previous):
        return float(method.high_network(*to_tensors(encode(obs[None])), torch.tensor([previous]))[1])

    def low(obs, option, goes_on):
        inputs = to_tensors(encode(obs[None]))
        values = method.low_network.all_options(*inputs)[1][0]
        if goes_on:
            return float(values[option])
        logits, done = method.controller(*inputs, torch.tensor([option]))
        predicted.add(bool(done[0, option] > 0))
        return float(logits[0].softmax(0) @ values if done[0, option] > 0 else values[option])

    wanted, choices, over, predicted = np.zeros((LENGTH, ENVS)), {}, set(), set()
    for n in range(ENVS):
        earned, following = 0.0, None
        for t in reversed(range(LENGTH)):
            obs, option = saved["obs"][t, n], saved["option"][t, n]
            ended = saved["terminated"][t, n] or saved["truncated"][t, n]
            if ended or t + 1 == LENGTH:
                after = finals[t, n] if ended else observed.obs[n]
                zero = saved["terminated"][t, n]
                earned, next_low, following = 0.0, 0.0, 0.0
                if not zero:
                    next_low, following = low(after, option, False), high(after, option)
                over.add((bool(zero), bool(ended)))
            else:
                next_low = low(saved["obs"][t + 1, n], saved["option"][t + 1, n], True)
            reward = 2.0 * saved["reward"][t, n]
            wanted[t, n] = reward + 0.9 * next_low
            earned, following = reward + 0.9 * earned, 0.9 * following
            if saved["option_age"][t, n] == 0:
                choices[t, n] = earned + following
                earned, following = 0.0, high(obs, saved["prev_option"][t, n])
    assert over == {(True, True), (False, True), (False, False)}
    assert predicted == {True, False}, "an option that goes on and one that is over"
    np.testing.assert_allclose(given["low"][0].returns.view(LENGTH, ENVS), wanted, atol=1e-4)
    batch = given["high"][0]
    chosen = saved["option_age"] == 0
    returns = np.array([choices[row] for row in map(tuple, np.argwhere(chosen))])
    np.testing.assert_allclose(batch.returns, returns, atol=1e-4)
    gained = returns - [high(*row) for row in zip(saved["obs"][chosen], saved["prev_option"][chosen], strict=True)]
    np.testing.assert_allclose(batch.advantage, (gained - gained.mean()) / gained.std(), atol=1e-3)
    np.testing.assert_array_equal(batch.legal, saved["legal"][chosen])
    np.testing.assert_array_equal(batch.action, saved["option"][chosen])


def test_a_roll_out_through_which_one_option_runs_teaches_the_high_level_nothing():
    method = student(replace(SETTINGS, rollout=2))
    observed = played(method)
    method.rollouts.column("option_age")[:] += 1
    given = taught(method, observed)
    assert "high" not in given
    assert all(np.isfinite(value) for value in given["info"].values())


def test_the_prior_fades_after_distillation_and_values_are_learned_alone_at_first():
    labeller = Annotator(TASK, ScriptedTeacher(TASK, LabelStore()))
    method = student(replace(SETTINGS, rollout=2, distil_steps=2_000), labeller=labeller)
    assert [method.prior_weight(steps) for steps in (0, 2_000, 4_500, 7_000)] == pytest.approx([0.5, 0.5, 0.25, 0.0])
    observed = played(method)
    given = taught(method, observed, 2_500)
    assert given["low"][1:] == (None, 0.0, True, 0.75), "there is no prior before distillation is over"
    method._freeze_priors()
    for steps, policy in ((2_800, False), (2_801, True)):
        observed = played(method)
        given = taught(method, observed, steps)
        for level, prior in zip(("low", "high"), method._priors, strict=True):
            assert given[level][1] is prior
            assert given[level][2:] == (method.prior_weight(steps), policy, 1 - steps / TOTAL)


def test_priors_and_their_weight_are_kept_as_they_were():
    method, other = (student(replace(SETTINGS, prior_target=0.1)) for _ in range(2))
    method._freeze_priors()
    for parameter in [*method.low_network.parameters(), *method.high_network.parameters()]:
        parameter.data += 1.0
    method.prior_weight.observe(0.3)
    other.load_state_dict(method.state_dict())
    assert other.prior_weight(0) == method.prior_weight(0) != 0.5
    for first, prior, network in zip(
        method._priors, other._priors, (other.low_network, other.high_network), strict=True
    ):
        columns = (module.parameters() for module in (first, prior, network))
        for ours, theirs, now in zip(*columns, strict=True):
            assert torch.equal(ours, theirs)
            torch.testing.assert_close(theirs + 1, now)


def test_options_end_where_their_end_is_predicted_and_legal_ones_alone_follow():
    method = student(replace(SETTINGS, rollout=9))
    observed = played(method)
    for options in (np.zeros(ENVS, np.int64), np.arange(ENVS)):
        over, choice = method.player.high.choose(observed, options)
        _, done = method.controller(*observed.inputs, torch.from_numpy(options))
        assert (over == (done.detach().numpy()[np.arange(ENVS), options] > 0)).all()
        assert ((choice.probs > 0) == observed.legal).all()

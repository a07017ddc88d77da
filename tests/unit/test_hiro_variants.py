"""HIRO with PPO as its low level, and with a planner's goal among the candidates."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.config import configure
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods.hiro import Hiro
from preceptor.agent.methods.ppo import PPOConfig
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from tests.hiro_played import CONFIG, ENVS, PERIOD, Planner, play
from tests.parts import parts


def test_the_rollout_of_a_low_level_that_learns_by_ppo_equals_a_loop():
    """Paid by what is left of the way; what a goal would still be worth counts where another one begins."""
    low = PPOConfig(gamma=0.9, lam=0.8, minibatch=32, epochs=1)
    length = 3 * PERIOD
    config = replace(CONFIG, low=low, rollout=length)
    played = play(config, length=length, update=False)
    method = played.method
    batch = method.low_rollout(played.hierarchy.observed, length)
    network = method.low_learner.network

    def worth(obs, goal):
        inputs = method.low_inputs(torch.tensor(obs)[None], torch.tensor(goal)[None])
        with torch.no_grad():
            return float(network(inputs, torch.zeros(1, dtype=torch.int64))[1])

    x, y = method.frame.indices
    returns, kinds = np.zeros((length, ENVS)), Counter()
    for n, env in enumerate(played.envs):
        advantage = 0.0
        for t in reversed(range(length)):
            step = env[t]
            left = step["obs"][[x, y]] + step["goal"] - step["after"][[x, y]]
            cut = t + 1 == length or step["ended"] or env[t + 1]["chosen"]
            following = 0.0 if step["terminated"] else worth(step["after"], left)
            if cut:
                advantage = 0.0
            value = worth(step["obs"], step["goal"])
            paid = -2.0 * np.sqrt((left**2).sum())
            advantage = paid + 0.9 * following - value + 0.9 * 0.8 * advantage
            returns[t, n] = advantage + value
            kinds[bool(cut), bool(step["terminated"])] += 1
    np.testing.assert_allclose(batch.returns.view(length, ENVS), returns, atol=1e-2, rtol=1e-4)
    assert set(kinds) == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize(("task", "space", "size"), [("AntMaze", "hiro_orig", 15), ("PointFall", "xyz", 3)])
def test_goals_may_be_set_in_another_space(task, space, size):
    settings = configure(method="hiro", task=task, goal_space=space, steps=1_000).settings
    method = Hiro(parts(get_task(task), settings, 2, 1_000))
    names = get_task(task).spec.observation_names
    assert [names[i] for i in method.frame.indices][:2] == ["x", "y"]
    assert len(method.frame.indices) == len(method.frame.reach) == size
    env = get_task(task).make_vec(2)
    hierarchy = Hierarchy(get_task(task), env, method.player, rng=np.random.default_rng(0))
    hierarchy.collect(method.store, 3)
    before = hierarchy.clock.command + method.frame.of(hierarchy.observed.obs)
    hierarchy.collect(method.store, 3)
    after = hierarchy.clock.command + method.frame.of(hierarchy.observed.obs)
    np.testing.assert_allclose(before, after, atol=1e-4, err_msg="the target stays where it is")


@pytest.mark.parametrize("words", [{"goal_space": "xyzw"}, {"goal_space": "xyz", "prior": "controller"}])
def test_a_space_that_is_not_there_or_not_the_controller_s_is_refused(words):
    with pytest.raises(UserError, match=r"goal space of PointFall|goals are places"):
        Hiro(parts(get_task("PointFall"), configure(method="hiro", task="PointFall", **words).settings, 2, 1_000))


def test_a_value_filter_follows_the_planner_only_where_the_critics_would():
    """Not where its goal is worth less than the actor's: a share of the behaviour would fill the memory with it."""
    planner = Planner(get_task("PointPush"))
    played = play(replace(CONFIG, prior="controller", prior_weight=2.0, value_filter=True), controller=planner)
    method, observed = played.method, played.hierarchy.observed
    learner, running = method.high_learner, np.zeros(len(observed), np.int64)
    method.steps = 0  # all of the prior is left
    own, _ = learner.act(observed.inputs[0]).sample(None)
    planned = method.planner(observed.obs)
    for sign in (1.0, -1.0):
        worth = torch.from_numpy(planned - own)

        def critic(inputs, action, worth=worth, sign=sign):
            return sign * (action * worth).sum(-1).expand(2, -1)

        learner.critic.forward = critic
        _, choice = method.player.high.choose(observed, running)
        assert (choice.share == (1.0 if sign > 0 else 0.0)).all()

"""HIRO's bookkeeping over a hierarchy that really plays, against a plain list of what happened."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.acting import Agent
from preceptor.agent.clock import Clock, moving
from preceptor.agent.config import configure
from preceptor.agent.goals import ExploringGoals
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Observations
from preceptor.agent.methods.hiro import Hiro
from preceptor.agent.methods.ppo import PPOConfig
from preceptor.agent.methods.td3 import TD3Config
from preceptor.controller.encoders import encoder_of
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from preceptor.ground.optim import FusedAdam
from tests.hiro_played import CONFIG, ENVS, PERIOD, TOTAL, Planner, once, play
from tests.parts import parts

TASK = get_task("PointPush")
NAMES = TASK.spec.observation_names
X, Y = (NAMES.index(name) for name in "xy")
HIDDEN = [NAMES.index(name) for name in ("x", "y", "block_x", "block_y", "goal_x", "goal_y")]
SEEN = [i for i in range(len(NAMES)) if i not in HIDDEN]
PRIOR = replace(CONFIG, prior="controller", prior_weight=2.0)
ENDS = {(False, False), (True, False), (True, True)}  # inside an episode, truncated and terminated


def left(step):
    """What is left of the way after a step."""
    return step["obs"][[X, Y]] + step["goal"] - step["after"][[X, Y]]


def test_goals_are_chosen_every_c_steps_and_with_each_episode_and_move_with_the_agent_and_are_stored():
    played, lengths = once(), Counter()
    store, columns = played.method.store, {"goal": "command", "age": "option_age"}
    for n, env in enumerate(played.envs):
        for name in ("obs", "action", "goal", "reward", "terminated", "age"):
            np.testing.assert_array_equal(store.column(columns.get(name, name))[:, n], [step[name] for step in env])
        goal, age, ended = None, 0, True
        for step in env:
            if ended or age == PERIOD:
                lengths[age] += 1
                goal, age = step["drawn"] * np.float32(5.0), 0  # the reach of the goals of point masses
            np.testing.assert_allclose(step["goal"], goal, atol=1e-4)
            assert (step["age"], step["chosen"]) == (age, age == 0)
            goal, age, ended = left(step), age + 1, step["ended"]
    assert set(range(1, PERIOD + 1)) <= set(lengths), "segments of every length"
    assert np.abs(store.column("command")).max() > 1


def test_the_low_levels_batch_equals_a_loop():
    played, kinds = once(), set()
    by_action = {tuple(step["action"]): step for env in played.envs for step in env[:-1]}
    for _ in range(20):
        batch = played.method.low_batch()
        for i in range(len(batch.reward)):
            step = by_action[tuple(batch.action[i].numpy())]
            seen, following = [*step["obs"][SEEN], *step["goal"] / 5], [*step["after"][SEEN], *left(step) / 5]
            np.testing.assert_allclose(batch.obs[i], seen, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(batch.next_obs[i], following, rtol=1e-5, atol=1e-5)
            assert float(batch.reward[i]) == pytest.approx(-2.0 * np.linalg.norm(left(step)), rel=1e-4, abs=1e-5)
            assert float(batch.discount[i]) == pytest.approx(0.0 if step["terminated"] else 0.9)
            kinds.add((bool(step["ended"]), bool(step["terminated"])))
        if kinds == ENDS:
            break
    assert kinds == ENDS
    assert batch.prior is None


def test_the_low_level_learns_from_other_goals_and_from_progress():
    """Rows whose goal ran say so as before; all others have a goal of the box, under which the same step was taken."""
    played, rows = once(), []
    by_action = {tuple(step["action"]): step for env in played.envs for step in env[:-1]}
    method, settings = played.method, played.method.settings
    method.settings = replace(settings, other_goals=0.75, reward_progress=True)
    for batch in [method.low_batch() for _ in range(10)]:
        for i, action in enumerate(batch.action):
            step, goal = by_action[tuple(action.numpy())], 5.0 * batch.obs[i, -2:].numpy()
            np.testing.assert_allclose(batch.obs[i, :-2], step["obs"][SEEN], rtol=1e-5, atol=1e-5)
            after = step["obs"][[X, Y]] + goal - step["after"][[X, Y]]
            np.testing.assert_allclose(batch.next_obs[i], [*step["after"][SEEN], *after / 5], rtol=1e-5, atol=1e-5)
            nearer = np.linalg.norm(goal) - np.linalg.norm(after)
            assert float(batch.reward[i]) == pytest.approx(2.0 * nearer, abs=1e-4)
            rows.append((*goal, np.allclose(goal, step["goal"], atol=1e-4)))
    method.settings = settings
    x, y, ran = np.array(rows).T
    assert ran.mean() == pytest.approx(0.25, abs=0.06)
    for axis in (x[ran == 0], y[ran == 0]):
        assert (axis.min(), axis.mean(), axis.max()) == pytest.approx((-5.0, 0.0, 5.0), abs=0.5)


def test_the_rollout_of_a_low_level_that_learns_by_ppo_equals_a_loop():
    """What a goal would still be worth counts where another one begins."""
    length = 3 * PERIOD
    low = PPOConfig(gamma=0.9, lam=0.8, minibatch=32, epochs=1)
    played = play(replace(CONFIG, low=low, rollout=length), length=length, update=False)
    method = played.method

    @torch.no_grad()
    def worth(obs, goal):
        inputs = method.low_inputs(torch.tensor(obs)[None], torch.tensor(goal)[None])
        return float(method.low_learner.network(inputs, torch.zeros(1, dtype=torch.int64))[1])

    returns, kinds = np.zeros((length, ENVS)), set()
    for n, env in enumerate(played.envs):
        advantage = 0.0
        for t in reversed(range(length)):
            step = env[t]
            cut = t + 1 == length or step["ended"] or env[t + 1]["chosen"]
            advantage = 0.0 if cut else advantage
            following = 0.0 if step["terminated"] else worth(step["after"], left(step))
            value = worth(step["obs"], step["goal"])
            advantage = -2.0 * np.linalg.norm(left(step)) + 0.9 * following - value + 0.9 * 0.8 * advantage
            returns[t, n] = advantage + value
            kinds.add((bool(cut), bool(step["terminated"])))
    rollout = method.low_rollout(played.hierarchy.observed, length)
    np.testing.assert_allclose(rollout.returns.view(length, ENVS), returns, atol=1e-2, rtol=1e-4)
    assert kinds == ENDS


def high_batch(played, kept=None, **changes):
    """What the high level learns from under other settings: the batch, and the segment of each of its rows."""
    method, encode = played.method, encoder_of(TASK)
    segments = {tuple(encode(part[0]["obs"][None]).parts[0][0]): part for part in played.segments()}
    settings, method.settings = method.settings, replace(method.settings, **changes)
    try:
        batch = method.high_batch(kept)
    finally:
        method.settings = settings
    return batch, [segments[tuple(row.numpy())] for row in batch.obs]


def test_the_high_levels_batch_equals_a_loop():
    batch, drawn = high_batch(once(), relabel=False)
    for i, part in enumerate(drawn):
        last = part[-1]
        np.testing.assert_allclose(batch.action[i], part[0]["drawn"], rtol=1e-5, atol=1e-6)
        reward = CONFIG.high_reward * sum(float(step["reward"]) for step in part)
        assert float(batch.reward[i]) == pytest.approx(reward, rel=1e-4)
        # s_{t+c}: after the last step, not the last that was acted on; of the episode's own where it ended.
        np.testing.assert_array_equal(batch.next_obs[i], encoder_of(TASK)(last["after"][None]).parts[0][0])
        assert float(batch.discount[i]) == pytest.approx(0.0 if last["terminated"] else 0.8)
    assert len({len(part) for part in drawn}) > 3
    assert {bool(part[-1]["terminated"]) for part in drawn} == {True, False}


def test_sampled_goals_explain_best_what_the_low_level_does_now():
    """h rolls the candidate over the stored states, and the sum of scores decides."""
    played = play(replace(CONFIG, high=replace(CONFIG.high, batch=16)))
    method, stored = played.method, played.method.store.column("command").copy()

    def explains(part, goal):
        total = 0.0
        for step in part:
            inputs = method.low_inputs(torch.tensor(step["obs"])[None], torch.tensor(goal)[None])
            total -= 0.5 * float((torch.tensor(step["action"])[None] - method.low_learner.mode(inputs)).square().sum())
            goal = step["obs"][[X, Y]] + goal - step["after"][[X, Y]]
        return total

    for opposite in (False, True):  # what explains best changes with the policy; what is stored stays
        for parameter in method.low_learner.actor.parameters() if opposite else ():
            parameter.data.neg_()
        kept, replaced = [], 0
        batch, drawn = high_batch(played, kept)
        for i, part in enumerate(drawn):
            original, best = part[0]["drawn"] * np.float32(5), batch.action[i].numpy() * np.float32(5)
            reached = np.clip(part[-1]["after"][[X, Y]] - part[0]["obs"][[X, Y]], -5, 5)
            assert np.abs(best).max() <= 5 + 1e-4
            assert explains(part, best) >= max(explains(part, original), explains(part, reached)) - 1e-3
            replaced += bool(np.abs(best - original).max() > 1e-3)
        assert 0 < replaced == 16 - kept.count("original")
    np.testing.assert_array_equal(method.store.column("command"), stored)


def test_the_low_level_does_not_know_where_it_is():
    method = once().method
    obs = np.random.default_rng(0).normal(size=(4, *TASK.observation_shape)).astype(np.float32)
    clock = Clock(4, np.full(1, PERIOD), moving(method.frame))
    clock.start(np.ones(4, bool), np.full((4, 2), 0.3, np.float32))

    def act(**moved):
        seen = obs + np.isin(np.arange(len(NAMES)), moved.get("columns", [])) * np.float32(3)
        return method.act(Observations(TASK, encoder_of(TASK), seen, np.zeros(4, np.int64)), clock).sample(None)[0]

    here = act()
    np.testing.assert_array_equal(here, act(columns=HIDDEN))
    assert not np.allclose(here, act(columns=[NAMES.index("vx")]))
    clock.command = -clock.command
    assert not np.allclose(here, act())


def test_a_high_level_may_see_what_changes_slowly_alone():
    """Actor and critics alike: of a point all but its speed."""
    played = play(replace(CONFIG, high_sees="slow", relabel=False))
    method, slow = played.method, [i for i, name in enumerate(NAMES) if name not in ("vx", "vy")]

    def inputs(obs):
        return (obs / np.array(TASK.observation_scale))[slow]

    by_goal = {tuple(np.round(part[0]["drawn"], 4)): part for part in played.segments()}
    batch = method.high_batch()
    for seen, goal, following in zip(batch.obs, batch.action, batch.next_obs, strict=True):
        part = by_goal[tuple(np.round(goal.numpy(), 4))]
        np.testing.assert_allclose(seen, inputs(part[0]["obs"]), atol=1e-4)
        np.testing.assert_allclose(following, inputs(part[-1]["after"]), atol=1e-4)
    observed, choice = choose(method, [1_000_000])
    wanted = method.high_learner.mode(torch.tensor(inputs(observed.obs[0]), dtype=torch.float32)[None])
    np.testing.assert_allclose(choice.sample(None)[0], wanted, atol=1e-5)
    np.testing.assert_allclose(method.high_computed()(*observed.inputs).sample(None)[0], wanted, atol=1e-5)


def made(config, planner=None):
    """A method that acts by what it has learned."""
    method = Hiro(parts(TASK, config, ENVS, TOTAL, planner))
    method.warm = True
    return method


def choose(method, levels):
    """One and the same observation on levels, and where its goals are drawn from."""
    obs = np.tile(np.linspace(0.1, 0.7, len(NAMES)).astype(np.float32), (len(levels), 1))
    observed = Observations(TASK, encoder_of(TASK), obs, np.asarray(levels))
    return observed, method.choose(observed, np.full(len(levels), -1))[1]


def test_there_is_no_exploration_on_held_out_levels():
    method = made(replace(PRIOR, random_goals=1.0, random_episodes=1.0), Planner(TASK))
    method.steps = 1
    for method.warm in (False, True):
        observed, choice = choose(method, np.arange(1_000_000, 1_000_040))
        policy = method.high_learner.act(observed.inputs[0])
        for rng in (None, 3):
            drawn, wanted = (c.sample(rng and np.random.default_rng(rng))[0] for c in (choice, policy))
            np.testing.assert_array_equal(drawn, wanted)
        drawn, _ = choose(method, np.arange(40))[1].sample(np.random.default_rng(3))
        assert not np.isclose(drawn, wanted).all(1).any()


def test_episodes_explore_as_a_whole_or_not():
    _, choice = choose(made(CONFIG), np.random.default_rng(0).integers(1_000_000, size=5_000))
    assert isinstance(choice, ExploringGoals)
    assert set(choice.uniform.tolist()) == {CONFIG.random_goals, 1.0}
    assert (choice.uniform == 1).mean() == pytest.approx(CONFIG.random_episodes, abs=0.03)
    goals = choice.sample(np.random.default_rng(1))[0]
    assert np.abs(goals).max() <= 1
    assert goals[choice.uniform == 1].std(0) == pytest.approx(3**-0.5, rel=0.1)


def test_the_prior_is_asked_where_the_goal_was_chosen_until_it_has_faded():
    """It never sees another goal, and what is left behind plays without it."""
    planner = Planner(TASK)
    played = play(PRIOR, controller=planner)
    method = played.method
    assert method.share == pytest.approx(1 - method.steps / (0.6 * TOTAL))
    for relabel in (True, False):
        planner.asked.clear()
        batch, drawn = high_batch(played, relabel=relabel)
        first = np.stack([part[0]["obs"] for part in drawn])
        assert batch.prior.weight == pytest.approx(2.0 * method.share)
        np.testing.assert_array_equal(np.concatenate(planner.asked), first)
        np.testing.assert_allclose(batch.prior.action, planner.unit_goals(method, first), atol=1e-5)
        assert not torch.allclose(batch.prior.action, batch.action)
    planner.refuses = True
    for steps in (600, TOTAL):
        method.update(played.hierarchy.observed, steps)
        assert method.high_batch().prior is None
        choose(method, np.arange(5))
    without = made(method.settings)
    without.load_policy(method.state_dict())
    ours, theirs = (choose(m, [1_000_000])[1].sample(None)[0] for m in (method, without))
    np.testing.assert_array_equal(ours, theirs)


def test_the_planners_share_of_the_goals_falls_with_the_prior():
    planner = Planner(TASK)
    method = made(replace(PRIOR, random_goals=0.0, random_episodes=0.0), planner)
    for method.steps, share in ((0, 1.0), (300, 0.5), (540, 0.1), (600, 0.0), (1_000, 0.0)):
        assert method.share == pytest.approx(share)
        observed, choice = choose(method, np.arange(4_000))
        goals = choice.sample(np.random.default_rng(0))[0]
        of_the_planner = np.isclose(goals, planner.unit_goals(method, observed.obs), atol=1e-5).all(1)
        assert of_the_planner.mean() == pytest.approx(share, abs=0.03)


def test_a_prior_may_last_to_the_end():
    played = play(replace(PRIOR, prior_until=2.0), controller=Planner(TASK))
    method = played.method
    for method.steps, share in ((0, 1.0), (500, 0.75), (TOTAL, 0.5)):
        assert method.share == pytest.approx(share)
        assert method.high_batch().prior.weight == pytest.approx(2.0 * share)


TD3 = TD3Config(hidden=(16, 16), lr=1e-3, batch=64)


@pytest.mark.parametrize("low", [CONFIG.low, TD3, PPOConfig(minibatch=32, epochs=1)])
@pytest.mark.parametrize("high", [CONFIG.high, TD3])
@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_learning_rates_fall_to_zero_over_the_last_part_of_the_run(low, high, decay):
    played = play(replace(CONFIG, low=low, high=high, decay=decay), 10)
    method = played.method
    learners = [method.high_learner, *([] if isinstance(low, PPOConfig) else [method.low_learner])]
    optimizers = [part for learner in learners for part in vars(learner).values() if isinstance(part, FusedAdam)]
    assert len(optimizers) >= 2 * len(learners)
    for steps, share in ((600, 1.0), (900, 0.25), (TOTAL, 0.0)):
        if not isinstance(low, PPOConfig):
            told = method.update(played.hierarchy.observed, steps)
        else:  # whose roll-out must have been played
            method.steps = steps
            told = method.scale_rates()
        for optimizer in optimizers:
            rate = optimizer.param_groups[0]["lr"] / optimizer.defaults["lr"]
            assert rate == pytest.approx(share if decay else 1.0)
        logged = {name for name in told if name.endswith("learning_rate")}
        assert {"high/actor_learning_rate", "high/critic_learning_rate"} <= logged if decay else not logged
        assert told.get("high/critic_learning_rate", 0.0) == pytest.approx(high.lr * share if decay else 0.0)


def test_what_is_deployed_does_not_explore():
    """`act` is told of no level, and is played as if on one that is held out."""
    commands = []
    for share in (0.0, 1.0):
        agent = Agent(TASK, made(replace(CONFIG, random_goals=share, random_episodes=share)).player, seed=0)
        agent.act(np.zeros((4, *TASK.observation_shape)))
        commands.append(agent.command)
    np.testing.assert_array_equal(*commands)


def test_a_planner_as_the_high_level_sets_all_goals_but_those_that_explore_and_nothing_learns_there():
    planner = Planner(TASK)
    method, fresh = (play(replace(CONFIG, high_level="controller"), n, planner).method for n in (120, 10))
    for ours, theirs in zip(*(m.high_learner.actor.parameters() for m in (method, fresh)), strict=True):
        assert torch.equal(ours, theirs)
    observed, choice = choose(method, [1_000_000, 1_000_001])
    np.testing.assert_allclose(choice.sample(None)[0], planner.unit_goals(method, observed.obs), atol=1e-6)


def test_a_value_filter_follows_the_planner_only_where_the_critics_would():
    """Not where its goal is worth less than the actor's: a share of the behaviour would fill the memory with it."""
    planner = Planner(TASK)
    method = made(replace(PRIOR, value_filter=True), planner)
    observed, _ = choose(method, np.arange(5))
    own, _ = method.high_learner.act(observed.inputs[0]).sample(None)
    better = torch.from_numpy(planner.unit_goals(method, observed.obs) - own).float()
    for sign in (1.0, -1.0):
        method.high_learner.critic.forward = lambda inputs, action, sign=sign: (
            sign * (action * better).sum(-1).expand(2, -1)
        )
        assert (choose(method, np.arange(5))[1].share == (1.0 if sign > 0 else 0.0)).all()


SPACES = [("PointFall", None, 2), ("AntFallRobust", None, 2), ("PointFall", "xyz", 3), ("AntMaze", "hiro_orig", 15)]


@pytest.mark.parametrize(("name", "space", "size"), SPACES)
def test_goals_are_places_unless_another_space_is_named(name, space, size):
    """nothing is the first k dimensions."""
    task, words = get_task(name), {"goal_space": space} if space else {}
    settings = configure(method="hiro", task=name, steps=1_000, **words).settings
    method, names = Hiro(parts(task, settings, 2, 1_000)), task.spec.observation_names
    assert [names[i] for i in method.frame.indices][:2] == ["x", "y"]
    assert len(method.frame.indices) == len(method.frame.reach) == size
    hierarchy = Hierarchy(task, task.make_vec(2), method.player, rng=np.random.default_rng(0))
    targets = []
    for _ in range(2):
        hierarchy.collect(method.store, 3)
        targets.append(hierarchy.clock.command + method.frame.of(hierarchy.observed.obs))
    np.testing.assert_allclose(*targets, atol=1e-4, err_msg="the target stays where it is")
    assert method.low_batch().obs.shape[1] == len(names) - len(task.hidden_from_low_level) + size


@pytest.mark.parametrize("words", [{"goal_space": "xyzw"}, {"goal_space": "xyz", "prior": "controller"}])
def test_a_space_that_is_not_there_or_not_the_controller_s_is_refused(words):
    with pytest.raises(UserError, match=r"goal space of PointFall|goals are places"):
        Hiro(parts(get_task("PointFall"), configure(method="hiro", task="PointFall", **words).settings, 2, 1_000))

"""Chunks of actions, cloning and implicit Q-learning: densities by torch's, values and policies that are known."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from preceptor.agent.chunks import ChunkPolicy, chunk_player
from preceptor.agent.clock import Clock
from preceptor.agent.data.recording import Recording
from preceptor.agent.data.views import windows
from preceptor.agent.demonstrating import demonstrations_of, record
from preceptor.agent.distributions import CategoricalChunk
from preceptor.agent.levels import Observations
from preceptor.agent.methods.cloning import Cloning, CloningSettings
from preceptor.agent.methods.iql import Iql, IqlSettings
from preceptor.agent.runs.run import Run
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import TrunkConfig, to_tensors
from preceptor.envs.catalog import get_task
from tests.parts import parts

SMALL = TrunkConfig(hidden=32)
POINT = get_task("PointReach")


@pytest.mark.parametrize("name", ["FetchPickAndPlace", "PointReach"])
def test_the_density_of_a_chunk_of_vectors_is_that_of_its_groups_up_to_a_constant(name):
    torch.manual_seed(0)
    task = get_task(name)
    policy = ChunkPolicy(task, 3, SMALL)
    torch.nn.init.uniform_(policy.log_std, -2, 0)
    mean, action = torch.rand(2, 5, 3, task.num_actions)
    each = Normal(mean, policy.log_std.exp()).log_prob(action).add(0.5 * np.log(2 * np.pi)).sum(1)
    wanted = torch.stack([each[:, list(group)].sum(1) for group in policy.groups], 1)
    torch.testing.assert_close(policy.by_group(mean, action, torch.ones(5, 3, dtype=torch.bool)), wanted)
    shorter = policy.by_group(mean, action, torch.tensor([True, False, False]).expand(5, 3))
    assert not torch.allclose(shorter, wanted)
    assert sorted(i for group in policy.groups for i in group) == list(range(task.num_actions))


def test_a_chunk_of_named_actions_is_as_probable_as_all_of_them():
    torch.manual_seed(0)
    policy, logits = ChunkPolicy(get_task("SimpleDoorKey"), 3, SMALL), torch.randn(50, 3, 7)
    drawn, log_prob = CategoricalChunk(logits.softmax(-1).numpy()).sample(np.random.default_rng(0))
    assert drawn.shape == (50, 3)
    wanted = sum(logits.log_softmax(-1)[range(50), k, drawn[:, k]] for k in range(3))
    torch.testing.assert_close(torch.from_numpy(log_prob), wanted)
    inside = torch.ones(50, 3, dtype=torch.bool)
    torch.testing.assert_close(policy.by_group(logits, torch.from_numpy(drawn).long(), inside)[:, 0], wanted)


def test_what_is_played_is_the_first_slice_of_what_the_policy_drew():
    policy, obs = ChunkPolicy(POINT, 2, SMALL), np.ones((3, *POINT.observation_shape), np.float32)
    torch.nn.init.constant_(policy.log_std, -3.0)
    observed = Observations(POINT, encoder_of(POINT), obs, np.zeros(3, np.int64))
    player = chunk_player(POINT, policy)
    over, choice = player.high.choose(observed, np.zeros(3, np.int64))
    assert not over.any()
    np.testing.assert_allclose(np.broadcast_to(choice.std, (3, 4)), np.exp(-3.0), rtol=1e-5)
    clock = Clock(3, player.timeouts, player.transition)
    clock.start(np.ones(3, np.bool_), np.arange(12, dtype=np.float32).reshape(3, 4) / 12)
    for columns in ([0, 1], [2, 3]):
        played, _ = player.low.act(observed, clock).sample(None)
        np.testing.assert_allclose(played, np.arange(12).reshape(3, 4)[:, columns] / 12)
        clock.advance(np.zeros(3, np.bool_), obs, obs)


def episodes(count=200):
    """Of two steps from -1 over 0 to 1; +-0.5 is done at each, and + pays at the second."""
    rng, scale = np.random.default_rng(0), np.array(POINT.observation_scale, np.float32)
    obs = np.broadcast_to(np.arange(-1, 2, dtype=np.float32)[:, None] * scale, (count, 3, len(scale))).copy()
    action = np.zeros((count, 3, 2), np.float32)
    action[:, :2, 0] = rng.choice([-0.5, 0.5], (count, 2))
    reward = np.zeros((count, 3), np.float32)
    reward[:, 1] = action[:, 1, 0] > 0
    unknown = np.full((count, 3), -1)
    return Recording(obs, action, unknown, reward, np.ones(count, np.bool_), np.full(count, 3), unknown[:, 0])


def with_data(method, recording):
    method.recording, method.windows, method._scale = recording, windows(recording, method.settings.chunk), 1.0
    return method


def test_cloning_does_what_was_done_where_it_was_done():
    torch.manual_seed(0)
    recording = episodes()
    recording.action[:, 0, 0], recording.action[:, 1, 0] = 0.5, -0.5
    settings = CloningSettings(lr=3e-3, batch=64, trunk=SMALL)
    method = with_data(Cloning(parts(POINT, settings, 1, 300)), recording)
    losses = [method.update()["low/nll"] for _ in range(300)]
    assert losses[-1] < losses[0]
    with torch.no_grad():
        played = method.policy(*to_tensors(method.encoder(recording.obs[0, :2])))[:, 0, 0]
    np.testing.assert_allclose(played, [0.5, -0.5], atol=0.05)


def test_implicit_q_learning_finds_the_expectile_its_discount_and_the_better_action():
    torch.manual_seed(0)
    settings = IqlSettings(gamma=0.5, expectile=0.9, tau=0.05, lr=3e-3, batch=64, trunk=SMALL)
    recording = episodes()
    method = with_data(Iql(parts(POINT, settings, 1, 500)), recording)
    for _ in range(500):
        method.update()
    seen = to_tensors(method.encoder(recording.obs[0, :2]))
    with torch.no_grad():
        q = {sign: method.q(seen, torch.tensor([[0.5 * sign, 0.0]] * 2)).mean(0) for sign in (1, -1)}
        value, mean = method.v(seen)[0], method.policy(*seen)[:, 0, 0]
    np.testing.assert_allclose([q[1][1], q[-1][1]], [1.0, 0.0], atol=0.1)
    np.testing.assert_allclose(value, [0.45, 0.9], atol=0.1)
    np.testing.assert_allclose(mean, [0.0, 0.45], atol=0.15)


def test_the_value_regresses_on_the_lower_of_the_target_critics():
    method = with_data(Iql(parts(POINT, IqlSettings(trunk=SMALL), 1, 10)), episodes())
    for head, worth in zip(method.target.heads, (1.0, -2.0), strict=True):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, worth)
    assert method.update()["low/q"] == -2.0
    one, other = method.q(
        to_tensors(method.encoder(np.ones((4, *POINT.observation_shape), np.float32))), torch.zeros(4, 2)
    )
    assert not torch.allclose(one, other), "two copies of a value are two networks"


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 10, 12])
def test_so_many_demonstrations_are_learned_from_as_were_asked_for(tmp_path, count):
    """And at least one is held out, today and when the run goes on."""
    task = get_task("PointReach")
    run = Run.create(tmp_path, "bc", "PointReach", "r", {"task": "PointReach", "method": "bc"}, resume=False)
    for _ in range(2):
        learned, held_out = demonstrations_of(str(count), task, 0, run)
        assert (len(learned), len(held_out)) == (count, max(1, round(count / 4)))


def test_a_run_of_an_earlier_version_keeps_its_split(tmp_path):
    task = get_task("PointReach")
    run = Run.create(tmp_path, "bc", "PointReach", "r", {"task": "PointReach", "method": "bc"}, resume=False)
    record(task, 4, 0).save(run.path / "demonstrations")  # of --demos 3, which held out none
    assert [len(part) for part in demonstrations_of("3", task, 0, run)] == [4, 0]

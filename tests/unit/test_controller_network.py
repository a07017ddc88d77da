"""The token network against plain torch, the encoder's symmetries, and calibration."""

import numpy as np
import pytest
import torch

from preceptor.agent.methods.sac_discrete import OptionNetwork
from preceptor.agent.networks import HighNetwork, LowNetwork
from preceptor.controller.encoders import NUM_TOKENS, GridEncoder, encoder_of, token_features
from preceptor.controller.network import ControllerNetwork, TokenTrunk, TrunkConfig, mask_logits, to_tensors
from preceptor.envs.catalog import get_task
from preceptor.teacher.calibration import expected_calibration_error, fit_temperature


def a_map(seed: int, size: int = 10) -> np.ndarray:
    """A random fogged map with the agent on it, uint8 [1, size, size, 4]."""
    rng = np.random.default_rng(seed)
    obs = np.zeros((1, size, size, 4), np.uint8)
    obs[..., 0] = rng.choice([0, 1, 1, 1, 2, 9], (1, size, size))
    obs[..., 3] = 4
    for kind, state in ((4, 2), (5, 0)):
        obs[0, rng.integers(size), rng.integers(size), :3] = (kind, rng.integers(6), state)
    obs[0, rng.integers(size), rng.integers(size)] = (1, 0, 0, rng.integers(4))
    return obs


def moved(obs: np.ndarray, quarter: bool) -> np.ndarray:
    """The same scene turned by a quarter: x' = size - 1 - y, y' = x; or mirrored, south and north exchanged."""
    there = np.swapaxes(obs, 1, 2)[:, ::-1].copy() if quarter else obs[:, :, ::-1].copy()
    agent = there[..., 3] != 4
    facing = there[..., 3][agent].astype(int)
    there[..., 3][agent] = (facing + 1 if quarter else -facing) % 4
    return there


@pytest.mark.parametrize(("made_for", "size"), [(10, 10), (20, 20), (10, 14)])
def test_turning_a_scene_changes_nothing_and_mirroring_it_mirrors_the_input(made_for: int, size: int) -> None:
    encoder = GridEncoder((made_for, made_for, 4))
    for seed in range(20):
        obs = a_map(seed, size)
        straight, turned, mirrored = encoder(obs), encoder(moved(obs, True)), encoder(moved(obs, False))
        np.testing.assert_array_equal(turned.parts[0], straight.parts[0])
        np.testing.assert_array_equal(mirrored.parts[0], encoder.mirror(straight).parts[0])
        np.testing.assert_array_equal(mirrored.parts[1], straight.parts[1])


def test_every_token_has_its_own_features_and_mirroring_exchanges_the_turns() -> None:
    assert len(np.unique(token_features(), axis=0)) == len(token_features()) == NUM_TOKENS
    assert GridEncoder.mirror_actions(np.arange(7)).tolist() == [1, 0, 2, 3, 4, 5, 6]


def test_the_trunk_is_an_embedding_and_two_layers() -> None:
    torch.manual_seed(0)
    encoder = GridEncoder((10, 10, 4))
    tokens, present = to_tensors(encoder(np.concatenate([a_map(seed) for seed in range(8)])))
    trunk = TokenTrunk(encoder, 0, TrunkConfig(embedding=3, hidden=16))
    cells = torch.nn.functional.embedding(tokens.long(), trunk.embed(trunk.parts)).flatten(1)
    both = torch.cat([trunk.cells.weight, trunk.others.weight], 1)
    torch.testing.assert_close(both @ both.T, 2 * torch.eye(16), atol=1e-4, rtol=1e-4)
    hidden = torch.relu(torch.cat([cells, present], 1) @ both.T + trunk.others.bias)
    plain = torch.relu(trunk.hidden(hidden))
    torch.testing.assert_close(trunk(tokens, present), plain)
    (gradient,) = torch.autograd.grad(trunk(tokens, present).square().sum(), trunk.embed.weight)
    (expected,) = torch.autograd.grad(plain.square().sum(), trunk.embed.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_masked_options_have_probability_zero() -> None:
    encoder = GridEncoder((10, 10, 4))
    network = ControllerNetwork(encoder, 3)
    logits, done = network(*to_tensors(encoder(a_map(0))), torch.tensor([-1]))
    assert torch.softmax(mask_logits(logits, torch.tensor([[True, False, True]])), 1)[0, 1] == 0
    assert done.shape == (1, 3)


def test_calibration_of_known_cases() -> None:
    logits = torch.as_tensor(np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32))
    assert fit_temperature(3 * logits, logits.softmax(1).numpy()) == pytest.approx(3, abs=0.2)
    probs = np.array([[0.8, 0.2]] * 10, np.float32)
    assert expected_calibration_error(probs, np.repeat([0, 1], 5)) == pytest.approx(0.3, abs=1e-6)


def test_repainting_a_scene_repaints_what_is_chosen() -> None:
    task, rng = get_task("ColoredDoorKey"), np.random.default_rng(0)
    encoder, options = encoder_of(task), len(task.options)
    env = task.make_vec(64)
    obs, held = env.reset()[0], set[int]()
    torch.manual_seed(0)
    high = HighNetwork(ControllerNetwork(encoder, options))
    low, critic = LowNetwork(encoder, options, 7, TrunkConfig()), OptionNetwork(encoder, options, TrunkConfig())
    flat = LowNetwork(encoder, 1, 7, TrunkConfig())
    for head in (high.controller.option_head, low.action_head, critic.head):
        torch.nn.init.normal_(head.weight)
    for _ in range(40):
        paint = rng.permutation(6)
        coloured = np.isin(obs[..., 0], (4, 5))
        seen = task.describe(obs)
        told = ["door colour=unknown" in scene.facts and "held=nothing" in scene.facts for scene in seen]
        kept = ~np.array(told)  # else which of two keys comes first may depend on its colour
        other = obs.copy()
        other[..., 1] = np.where(coloured, paint[obs[..., 1]], obs[..., 1])
        to = np.arange(options)
        to[1:7] = 1 + paint  # goto:<colour> key
        legal = task.legal(obs)
        before = np.array([rng.choice([-1, *scene.legal]) for scene in seen])
        after = np.where(before < 0, -1, to[before])
        ours, theirs = to_tensors(encoder(obs[kept])), to_tensors(encoder(other[kept]))
        condition, repainted = torch.as_tensor(before[kept]), torch.as_tensor(after[kept])
        for here, there in (
            (high(*ours, condition)[0], high(*theirs, repainted)[0]),
            (high.controller(*ours, condition)[1], high.controller(*theirs, repainted)[1]),
            *zip(low.all_options(*ours), low.all_options(*theirs), strict=True),
            (critic(*ours), critic(*theirs)),
        ):
            may = torch.as_tensor(legal[kept])  # a key that was never seen has no role of its own
            torch.testing.assert_close(there[:, to][may], here[may])
        torch.testing.assert_close(flat.all_options(*ours)[0], flat.all_options(*theirs)[0])
        held |= {int(fact.startswith("held=") and "key" in fact) for scene in seen for fact in scene.facts}
        obs = env.step(task.skill(obs, np.array([rng.choice(scene.legal) for scene in seen])))[0]
    assert held == {0, 1}, "keys were held on the way"

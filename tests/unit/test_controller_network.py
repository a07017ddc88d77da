"""The token network's own gradient, the encoder's symmetries, and calibration."""

import numpy as np
import torch

from controller.encoders import NUM_TOKENS, GridEncoder, token_features
from controller.network import ControllerNetwork, TokenTrunk, TrunkConfig, mask_logits, to_tensors
from teacher.calibration import expected_calibration_error, fit_temperature


def a_map(seed: int, size: int = 10) -> np.ndarray:
    """A random fogged map with the agent on it, uint8 [1, size, size, 4]."""
    rng = np.random.default_rng(seed)
    obs = np.zeros((1, size, size, 4), np.uint8)
    obs[..., 0] = rng.choice([0, 1, 1, 1, 2, 9], (1, size, size))
    obs[..., 3] = 4
    obs[0, rng.integers(size), rng.integers(size), :3] = (4, rng.integers(6), 2)
    obs[0, rng.integers(size), rng.integers(size), :3] = (5, rng.integers(6), 0)
    x, y = rng.integers(size, size=2)
    obs[0, x, y] = (1, 0, 0, rng.integers(4))
    return obs


def turned(obs: np.ndarray) -> np.ndarray:
    """The same world turned by a quarter: x' = size - 1 - y, y' = x, and every direction one further."""
    rotated = np.swapaxes(obs, 1, 2)[:, ::-1].copy()
    agent = rotated[..., 3] != 4
    rotated[..., 3][agent] = (rotated[..., 3][agent] + 1) % 4
    return rotated


def mirrored(obs: np.ndarray) -> np.ndarray:
    """The same world with y negated: south and north change places."""
    flipped = obs[:, :, ::-1].copy()
    agent = flipped[..., 3] != 4
    flipped[..., 3][agent] = (-flipped[..., 3][agent].astype(int)) % 4
    return flipped


def test_turning_the_world_changes_nothing_and_mirroring_it_mirrors_the_input():
    for size in (10, 20):
        encoder = GridEncoder((size, size, 4))
        for seed in range(20):
            obs = a_map(seed, size)
            straight = encoder(obs)
            np.testing.assert_array_equal(encoder(turned(obs)).parts[0], straight.parts[0])
            np.testing.assert_array_equal(encoder(mirrored(obs)).parts[0], encoder.mirror(straight).parts[0])
            np.testing.assert_array_equal(encoder(mirrored(obs)).parts[1], straight.parts[1])


def test_every_token_has_its_own_features():
    features = token_features()
    assert features.shape[0] == NUM_TOKENS
    assert len(np.unique(features, axis=0)) == NUM_TOKENS


def test_mirroring_actions_twice_is_the_identity():
    actions = np.arange(7)
    once = GridEncoder.mirror_actions(actions)
    assert once.tolist() == [1, 0, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(GridEncoder.mirror_actions(once), actions)


def test_the_trunk_is_an_embedding_and_two_layers():
    torch.manual_seed(0)
    encoded = GridEncoder((10, 10, 4))(np.concatenate([a_map(seed) for seed in range(8)]))
    tokens, present = to_tensors(encoded)
    trunk = TokenTrunk(tokens.shape[1], 0, TrunkConfig(embedding=3, hidden=16))
    trunk(tokens, present).square().sum().backward()
    gradient = trunk.embed.weight.grad.clone()
    trunk.zero_grad()
    cells = torch.nn.functional.embedding(tokens.long(), trunk.embed(trunk.parts)).flatten(1)
    both = torch.cat([trunk.cells.weight, trunk.others.weight], 1)
    hidden = torch.relu(torch.cat([cells, present], 1) @ both.T + trunk.others.bias)
    torch.relu(trunk.hidden(hidden)).square().sum().backward()
    torch.testing.assert_close(gradient, trunk.embed.weight.grad, rtol=1e-4, atol=1e-5)


def test_masked_options_have_probability_zero():
    network = ControllerNetwork(GridEncoder((10, 10, 4)), 3)
    encoded = GridEncoder((10, 10, 4))(a_map(0))
    logits, done = network(*to_tensors(encoded), torch.tensor([-1]))
    legal = torch.tensor([[True, False, True]])
    probs = torch.softmax(mask_logits(logits, legal), 1)
    assert probs[0, 1] == 0
    assert done.shape == (1, 3)
    assert sum(p.numel() for p in network.parameters()) < 1_000_000


def test_temperature_recovers_the_scale_of_overconfident_logits():
    rng = np.random.default_rng(0)
    true_logits = rng.normal(size=(2000, 4)).astype(np.float32)
    probs = torch.softmax(torch.from_numpy(true_logits), 1).numpy()
    assert abs(fit_temperature(torch.from_numpy(3 * true_logits), probs) - 3) < 0.2


def test_calibration_error_of_a_known_case():
    probs = np.array([[0.8, 0.2]] * 10, np.float32)
    truth = np.array([0] * 5 + [1] * 5)
    assert abs(expected_calibration_error(probs, truth) - 0.3) < 1e-6

"""What HALO's policies see, and that a policy which is saved plays as it did."""

import numpy as np
import pytest

from preceptor.agent.demonstrating import record
from preceptor.agent.halo.config import HaloConfig
from preceptor.agent.halo.ledger import Ledger
from preceptor.agent.halo.method import Halo, States, restored_player
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Observations
from preceptor.controller.encoders import encoder_of
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError


def test_in_a_rescue_world_the_cell_alone_is_seen() -> None:
    task = get_task("RescueWorld-n3")
    recording = record(task, 5, 0)
    other, flags = recording.obs.copy(), list(task.hidden_from_low_level)
    other[..., flags] = 1 - other[..., flags]
    for policies in ("auto", "neural"):
        states = States.of(task, recording, policies)
        assert states.counted == (policies == "auto")
        assert np.array_equal(states(recording.obs), states(other))


@pytest.mark.parametrize("name", ["SimpleDoorKey", "PointPush"])
def test_elsewhere_numbers_that_vary_and_facts(name: str) -> None:
    task = get_task(name)
    recording = record(task, 5, 0)
    states = States.of(task, recording, "auto")
    with pytest.raises(UserError, match="cannot be counted"):
        States.of(task, recording, "tabular")
    seen = states(recording.obs)[recording.inside]
    assert not states.counted
    assert seen.shape[1] == states.size
    assert (seen.min(0) < seen.max(0)).all()
    facts = seen[:, -len(states.codes) :]
    assert (facts.sum(1) == 1).all()
    assert np.array_equal(states.codes[facts.argmax(1)], task.fact_codes(recording.obs[recording.inside]))


@pytest.mark.parametrize(
    ("name", "policies"), [("RescueWorld-n3", "tabular"), ("RescueWorld-n3", "neural"), ("PointPush", "auto")]
)
def test_a_saved_policy_plays_as_it_did(name: str, policies: str, tmp_path) -> None:
    task = get_task(name)
    recording = record(task, 8, 0)
    halo = Halo(task, recording, HaloConfig(policies=policies, restarts=2), 0)
    found = halo.learn(Ledger(tmp_path / "ledger", task, recording).evidence(("truth",), 0), 0)
    tree = halo.student(found)
    player = restored_player(task, halo.config, tree)
    chain, best = found.policies.chain(halo.demos), found.best
    expected = {-1: np.exp(chain.initial[best]), 1: np.exp(chain.transition[best][chain.rows][:, 3, 1])}
    for running, step in ((1, 3), (-1, 0)):
        observed = Observations(task, encoder_of(task), recording.obs[:, step], np.zeros(8, np.int64))
        over, choice = player.high.choose(observed, np.full(8, running))
        assert over.all(), "the switch is part of the choice"
        np.testing.assert_allclose(choice.probs, expected[running], atol=1e-5)
    mixed, running = player.high.choose(observed, np.arange(8) % 2 - 1)[1].probs, np.arange(8) % 2 == 1
    np.testing.assert_allclose(mixed[~running], expected[-1][~running], atol=1e-5)
    assert not np.allclose(mixed[running], expected[-1][running])
    hierarchy = Hierarchy(task, task.make_vec(4, split="eval"), player, rng=np.random.default_rng(3))
    option, _ = hierarchy.step()
    seen = hierarchy.observed
    again = restored_player(task, halo.config, tree).high.choose(seen, option)[1]
    assert np.array_equal(player.high.choose(seen, option)[1].probs, again.probs)

"""What HALO's policies see, and that a policy which is saved plays as it did."""

import numpy as np
import pytest

from agent.demonstrating import record
from agent.halo.config import HaloConfig
from agent.halo.ledger import Ledger
from agent.halo.method import Halo, States, restored_player
from agent.hierarchy import Hierarchy, Observations
from controller.encoders import encoder_of
from envs.catalog import get_task
from ground.errors import UserError


def test_in_a_rescue_world_the_cell_alone_is_seen() -> None:
    task = get_task("RescueWorld-n3")
    recording = record(task, 5, 0)
    flags = list(task.hidden_from_low_level)
    other = recording.obs.copy()
    other[..., flags] = 1 - other[..., flags]
    for policies in ("auto", "neural"):
        states = States.of(task, recording, policies)
        assert states.counted == (policies == "auto")
        assert np.array_equal(states(recording.obs), states(other))
    assert States.of(task, recording, "auto")(recording.obs).max() < 100


@pytest.mark.parametrize("name", ["SimpleDoorKey", "PointPush"])
def test_elsewhere_numbers_that_vary_and_facts(name: str) -> None:
    task = get_task(name)
    recording = record(task, 5, 0)
    states = States.of(task, recording, "auto")
    seen = states(recording.obs)[recording.inside]
    assert not states.counted
    assert seen.shape[1] == states.size
    assert (seen.min(0) < seen.max(0)).all()
    facts = seen[:, -len(states.codes) :]
    assert (facts.sum(1) == 1).all()
    assert np.array_equal(states.codes[facts.argmax(1)], task.fact_codes(recording.obs[recording.inside]))


def test_states_that_cannot_be_counted_have_no_tables() -> None:
    task = get_task("PointPush")
    with pytest.raises(UserError, match="cannot be counted"):
        States.of(task, record(task, 2, 0), "tabular")


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
    obs = recording.obs[:, 3]
    observed = Observations(task, encoder_of(task), obs, np.zeros(len(obs), np.int64))
    over, choice = player.high.choose(observed, np.ones(8, np.int64))
    assert over.all(), "the switch is part of the choice"
    chain = found.policies.chain(halo.demos)
    best = found.best
    np.testing.assert_allclose(choice.probs, np.exp(chain.transition[best][chain.rows][:, 3, 1]), atol=1e-5)
    first = Observations(task, encoder_of(task), recording.obs[:, 0], np.zeros(8, np.int64))
    _, choice = player.high.choose(first, np.full(8, -1))
    np.testing.assert_allclose(choice.probs, np.exp(chain.initial[best]), atol=1e-5)
    one, two = (
        Hierarchy(
            task, task.make_vec(4, split="eval"), restored_player(task, halo.config, tree), rng=np.random.default_rng(3)
        )
        for _ in range(2)
    )
    for _ in range(10):
        assert all(np.array_equal(a, b) for a, b in zip(one.step(), two.step(), strict=True))

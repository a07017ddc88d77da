"""The kinematic kitchen: rules, orders, expert, and demonstrations that never show what the task pays for."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

import main as cli
from preceptor.agent.demonstrating import record
from preceptor.envs.catalog import get_task
from preceptor.envs.kitchen.kinematic import KitchenSimulator, ShownSimulator
from preceptor.envs.kitchen.layout import AWAY, CENTRE, DONE, GRASP, LENGTHS, LINES, LOWEST, NAMES, PLACE, SHARES, SITES
from preceptor.envs.kitchen.orders import demonstrable, numbered
from preceptor.envs.kitchen.tasks import KitchenKinematic
from preceptor.ground.errors import UserError
from tests.scripted import scripted

KETTLE, LIGHT, SLIDE, BOTTOM = map(NAMES.index, ("kettle", "light", "slide", "bottom"))
PLAIN = get_task("KitchenKinematic")


def kitchen(order: str = "kettle-light-slide-microwave", at: int = KETTLE) -> KitchenSimulator:
    """One kitchen with an open gripper at a handle."""
    simulator = KitchenKinematic(order).simulator(1)
    assert isinstance(simulator, KitchenSimulator)
    simulator.begin(np.zeros(1, np.int64), np.array([3]))
    simulator.place[0], simulator.grip[0] = SITES[at], 0.0
    return simulator


def act(simulator: KitchenSimulator, *way: float, grip: float = 1.0) -> float:
    return float(simulator.step(np.array([[*way, grip]]))[0][0])


def pull(simulator: KitchenSimulator, handle: int) -> float:
    """Go to a handle, close, pull it to its end and let go; what that paid."""
    simulator.place[0] = SITES[handle] + simulator.shares[0, handle] * LINES[handle]
    paid = sum(act(simulator, 0, 0, 0, grip=grip) for grip in (-1, -1, -1, 1, 1))
    way = LINES[handle] / np.abs(LINES[handle]).max()
    return paid + sum(act(simulator, *way) for _ in range(16)) + sum(act(simulator, 0, 0, 0, grip=-1) for _ in "two")


def test_a_handle_attaches_where_the_gripper_becomes_closed_and_lets_go_where_it_opens() -> None:
    simulator = kitchen()
    simulator.place[0] += (0, 0, GRASP - 0.001)
    act(simulator, 0, 0, 0)
    assert (simulator.held[0], simulator.grip[0]) == (-1, pytest.approx(0.34))
    act(simulator, 0, 0, 0)
    assert simulator.held[0] == KETTLE
    act(simulator, 0, 0, 0, grip=-0.01)  # the sign alone counts
    assert (simulator.held[0], simulator.grip[0]) == (-1, pytest.approx(0.34))
    far = kitchen()
    far.place[0] += (0, 0, GRASP + 0.001)
    for _ in range(3):
        act(far, 0, 0, 0)
    far.place[0] = SITES[KETTLE]
    act(far, 0, 0, 0)
    assert far.held[0] == -1, "it was closed before it came"


def test_of_two_handles_the_nearest_attaches() -> None:
    simulator = kitchen(at=BOTTOM)
    simulator.place[0] = 0.49 * SITES[BOTTOM] + 0.51 * SITES[NAMES.index("top")]  # within reach of both
    for _ in range(2):
        act(simulator, 0, 0, 0)
    assert NAMES[simulator.held[0]] == "top"


def test_while_attached_only_motion_along_the_line_counts() -> None:
    simulator = kitchen(at=SLIDE)
    act(simulator, 0, 0, 0)
    act(simulator, 0, 0, 0)
    start = simulator.place.copy()
    act(simulator, 0.5, 1, -1)
    assert simulator.shares[0, SLIDE] == pytest.approx(0.015 / LENGTHS[SLIDE])
    np.testing.assert_allclose(simulator.place - start, [[0.015, 0, 0]], atol=1e-8)
    act(simulator, -1, 0, 0)
    assert simulator.shares[0, SLIDE] == 0, "a line has a beginning"
    np.testing.assert_allclose(simulator.place, start, atol=1e-8)
    for there in (12, 30):
        for _ in range(there):
            act(simulator, 1, 0, 0)
        was = float(simulator.shares[0, SLIDE])
        for _ in range(40):
            act(simulator, -1, 0, 0)
        assert simulator.shares[0, SLIDE] == was > DONE, "what is done does not go back"
    assert was == 1
    act(simulator, 0, 0, 0, grip=-1)
    for _ in range(60):
        act(simulator, -1, 0, 0, grip=-1)
    assert simulator.place[0, 0] == LOWEST[0], "it flies freely, and not out of the kitchen"


def test_each_subtask_pays_in_its_turn_alone_and_one_done_early_blocks_the_rest() -> None:
    order = [NAMES.index(name) for name in ("kettle", "light", "slide", "microwave")]
    good = kitchen()
    assert [pull(good, handle) for handle in order[:3]] == [1, 1, 1]
    assert (pull(good, BOTTOM), pull(good, KETTLE)) == (0, 0), "neither is due, and none pays twice"
    assert not good.over()[0]
    assert pull(good, order[3]) == 1
    assert good.over()[0]
    early = kitchen()
    assert [pull(early, handle) for handle in (LIGHT, KETTLE, LIGHT, SLIDE, order[3])] == [0, 1, 0, 0, 0]
    assert early.done[0, order].all()
    assert not early.over()[0]


def test_an_episode_terminates_in_success_with_its_last_reward_or_is_truncated_after_its_steps() -> None:
    env = PLAIN.make_vec(64, split="eval", seed=0)
    obs, _ = env.reset()
    paid, steps = np.zeros((2, 64))
    for _ in range(200):
        obs, reward, terminated, truncated, info = env.step(PLAIN.skill(obs, scripted(PLAIN, obs)))
        paid, steps = paid + reward, steps + 1
        assert not truncated.any()
        assert (info["success"] == terminated).all()
        assert (paid[terminated] == 4).all()
        paid[terminated] = steps[terminated] = 0
    env.reset()
    for step in range(1, 281):
        _, _, terminated, truncated, _ = env.step(np.zeros((64, 4)))
        assert not terminated.any()
        assert truncated.all() == truncated.any() == (step == 280)


def test_an_observation_says_where_everything_is() -> None:
    simulator = kitchen()
    simulator.shares[0, SLIDE] = 0.25
    obs = simulator.observe()
    assert (obs.shape, obs.dtype) == ((1, 33), np.float32)
    np.testing.assert_allclose(obs[0, PLACE], 3 * (SITES[KETTLE] - CENTRE), rtol=1e-5)
    assert obs[0, SHARES].tolist() == [0, 0, 0, 0.25, 0, 0, 0]
    away = np.arctanh(obs[0, AWAY].reshape(7, 3)) / 8
    np.testing.assert_allclose(away[KETTLE], 0, atol=1e-6)
    np.testing.assert_allclose(away[LIGHT], SITES[LIGHT] - SITES[KETTLE], atol=0.02)
    np.testing.assert_allclose(away[SLIDE], SITES[SLIDE] + LINES[SLIDE] / 4 - SITES[KETTLE], atol=0.1)


def lasting(task: KitchenKinematic, noise: float, count: int = 100) -> tuple[float, float]:
    """Success, and the mean steps of success, of the expert with noise on held-out levels."""
    rng, env = np.random.default_rng(0), task.make_vec(count, split="eval", seed=1)
    obs, info = env.reset()
    won, alive, steps = np.zeros(count, np.bool_), np.ones(count, np.bool_), np.zeros(count)
    while alive.any():
        option = info["option"] if "option" in info else scripted(task, obs)
        actions = np.clip(task.skill(obs, option) + noise * rng.standard_normal((count, 4)), -1, 1)
        obs, _, terminated, truncated, info = env.step(actions)
        won, steps, alive = won | alive & info["success"], steps + alive, alive & ~(terminated | truncated)
    return float(won.mean()), float(steps[won].mean())


@pytest.mark.parametrize("name", ["KitchenKinematic", "KitchenKinematic:17", "KitchenKinematic:top-bottom-light-hinge"])
def test_the_expert_does_its_order_and_what_is_demonstrated_despite_noise(name: str) -> None:
    task = get_task(name)
    for play, shortest, longest in ((task, 110, 190), (task.demonstrated, 240, 270)):
        success, steps = lasting(play, 0.2)
        assert success >= 0.99
        assert shortest < steps < longest
    assert lasting(task, 0.0)[0] == 1


def test_a_skill_works_from_wherever_another_one_was_left() -> None:
    rng, wishes = np.random.default_rng(0), 0
    env = PLAIN.make_vec(200, seed=0)
    obs, _ = env.reset()
    option = rng.integers(7, size=200)
    for step in range(1, 100):
        obs, *_ = env.step(PLAIN.skill(obs, option))
        if step == 30 or step == 37:
            option = rng.integers(7, size=200)
            option = np.where(PLAIN.legal(obs)[np.arange(200), option], option, PLAIN.legal(obs).argmax(1))
        if step > 37:
            wishes = wishes | PLAIN.option_done(obs, option)
    assert np.mean(wishes) > 0.99


def in_order(some: tuple[int, ...], done: list[int]) -> bool:
    places = [done.index(handle) if handle in done else -1 for handle in some]
    return min(places) >= 0 and places == sorted(places)


def test_no_demonstration_shows_three_of_the_order_and_all_show_six_subtasks() -> None:
    task = get_task("KitchenKinematic:#17")
    assert isinstance(task, KitchenKinematic)
    recording = record(task, 300, seed=0)
    assert recording.extra["success"].any(1).mean() > 0.99
    assert recording.terminated.mean() > 0.99
    left_out, orders = set(), set()
    for n, length in enumerate(recording.lengths):
        seen = recording.obs[n, :length, SHARES] > DONE
        done = [
            int(handle) for handle in np.argsort(np.where(seen.any(0), seen.argmax(0), 999)) if seen[:, handle].any()
        ]
        assert not any(in_order(some, done) for some in combinations(task.order, 3))
        assert recording.returns[n] <= 2, "the rewards are those of the task"
        left_out |= {*range(7)} - {*done}
        orders.add(tuple(done))
        told = recording.option[n, : length - 1]
        assert [int(k) for k in told[np.flatnonzero(np.diff(told, prepend=-1))]] == done, "what drove each step is told"
    assert len(left_out) == 7
    assert len(orders) > 200
    assert recording.lengths.mean() > 240
    spread = recording.action[0, : recording.lengths[0] - 1] - task.skill(
        recording.obs[0, : recording.lengths[0] - 1], recording.option[0, : recording.lengths[0] - 1]
    )
    assert 0.15 < spread[:, :3].std() < 0.22, "the kitchen's own noise"


def test_length_and_holding_out_are_settings() -> None:
    every = demonstrable((0, 1, 2, 3), 6, 3)
    assert every.shape[1] == 6
    assert sum(any(in_order(some, list(row)) for some in combinations((0, 1, 2, 3), 3)) for row in every.tolist()) == 0
    assert len(demonstrable((0, 1, 2, 3), 7, 4)) > len(demonstrable((0, 1, 2, 3), 7, 3)) > 0
    shown = KitchenKinematic("17", length=4, held_out=2, shown_steps=90).demonstrated.simulator(5)
    assert isinstance(shown, ShownSimulator)
    assert (shown.shown.shape, shown.max_steps) == ((5, 4), 90)
    with pytest.raises(UserError, match="no 1 come as in"):
        KitchenKinematic("17", length=6, held_out=1).demonstrated.simulator(1)


def test_the_state_is_exact_whatever_is_played() -> None:
    for task in (PLAIN, PLAIN.demonstrated):
        rng, env, again = np.random.default_rng(0), task.make_vec(16, seed=2), task.make_vec(16, seed=9)
        obs, info = env.reset()
        again.reset()

        def hand(obs: NDArray, info: dict, rng: np.random.Generator = rng) -> NDArray:
            option = info.get("option", scripted(PLAIN, obs))
            return np.clip(PLAIN.skill(obs, option) + 0.3 * rng.standard_normal((16, 4)), -1, 1)

        for _ in range(130):
            obs, *_, info = env.step(hand(obs, info))
        again.set_state(env.get_state())
        for _ in range(200):
            actions = hand(obs, info)
            (obs, *ours, info), (seen, *theirs, told) = env.step(actions), again.step(actions)
            np.testing.assert_array_equal(obs, seen)
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, other)
            assert all(np.array_equal(info[name], told[name]) for name in info if name in ("option", "success"))


def test_an_order_has_one_name_and_agents_of_all_orders_are_alike() -> None:
    for said, name in (
        ("kitchenkinematic:Kettle-Light-Slide-Microwave", "KitchenKinematic:kettle-light-slide-microwave"),
        ("KitchenKinematic:microwave-kettle-light-slide", "KitchenKinematic"),
        ("KitchenKinematic:#17", get_task("KitchenKinematic:17").name),
    ):
        task = get_task(said)
        assert (task.name, task.source, task.base_name) == (name, name, "KitchenKinematic")
        assert get_task(name) is task
        assert task.options.digest == PLAIN.options.digest
    assert len(set(numbered())) == len(numbered()) == 840
    assert get_task("KitchenKinematic:17").goal != PLAIN.goal
    for wrong, why in (
        ("kettle-oven", "Unknown subtask of KitchenKinematic 'oven'"),
        ("840", "0 to 839"),
        ("kettle-kettle", "two or more different"),
        ("light", "two or more different"),
        ("-", "Unknown subtask"),
    ):
        with pytest.raises(UserError, match=why):
            get_task(f"KitchenKinematic:{wrong}")
    with pytest.raises(UserError, match="PointReach takes no parameters"):
        get_task("PointReach:light")


def test_the_script_does_the_next_of_the_order_that_is_not_done_then_anything() -> None:
    task = get_task("KitchenKinematic:kettle-light-slide-microwave")
    obs = np.zeros((4, 33), np.float32)
    obs[1, [SHARES.start + LIGHT]] = 1  # done early
    obs[2, [SHARES.start + k for k in (KETTLE, LIGHT)]] = 1
    obs[3, SHARES] = 1
    obs[3, SHARES.start + BOTTOM] = 0
    assert [NAMES[k] for k in scripted(task, obs)] == ["kettle", "kettle", "slide", "bottom"]
    assert task.describe(obs[3:])[0].legal == (BOTTOM,)


def test_it_learns_from_a_dataset_that_it_wrote(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    task = ["--task", "KitchenKinematic:17"]
    assert cli.main(["demos", *task, "--count", "6", "--to", "kitchen/expert-v0"]) == 0
    assert "segments: 36" in capsys.readouterr().out
    words = ["train", *task, "--method", "bc", "--steps", "20", "--eval-episodes", "2", "--logdir", str(tmp_path)]
    assert cli.main([*words, "--demos", "kitchen/expert-v0", "--savedir", "k"]) == 0
    assert "demonstrations: 5" in capsys.readouterr().out

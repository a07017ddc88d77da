"""Networks on every device that is here: each method learns there, and what it saves goes on elsewhere."""

import numpy as np
import pytest
import torch

import main as cli
from preceptor.agent.config import changed, configure
from preceptor.agent.evaluate import evaluate
from preceptor.agent.flags import EvalConfig
from preceptor.agent.methods.sac import SAC, SACConfig
from preceptor.agent.networks import LowNetwork
from preceptor.agent.train import train
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import ControllerNetwork, TrunkConfig
from preceptor.envs.catalog import get_task
from preceptor.ground.device import device, normal, records, to_numpy, use_device

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
PLANNED = {"prior": "controller", "value_filter": True}
TRAINING = {
    "ihac": {"task": "SimpleDoorKey", "steps": 2_048, "preset": "tiny"},
    "ppo": {"task": "SimpleDoorKey", "steps": 2_048},
    "hiro over options": {"task": "SimpleDoorKey", "steps": 2_048},
    "hiro over goals": {"task": "PointPush", "steps": 1_280, **PLANNED},
    "hiro with td3": {"task": "PointUMaze", "steps": 1_280, "low_learner": "td3", "high_learner": "td3"},
    "hiro with ppo": {"task": "PointUMaze", "steps": 1_280, "low_learner": "ppo"},
    "sac": {"task": "PointUMaze", "steps": 1_100},
    "td3": {"task": "PointUMaze", "steps": 1_100},
    "halo": {"task": "RescueWorld-n2", "policies": "neural", "demos": "5", "budget": "2", "rule": "random"},
}


@pytest.fixture(params=DEVICES)
def where(request):
    yield request.param
    use_device("cpu")


# On the processor alone one will do: it is the resumption that tests/resume has of every method.
@pytest.mark.parametrize("name", TRAINING if len(DEVICES) > 1 else ["sac"])
def test_every_method_learns_there_and_goes_on_and_is_judged_elsewhere(name, where, tmp_path):
    method = name.split()[0]
    words = {"method": method, "device": where, "teacher": "local", "logdir": str(tmp_path), "quiet": True}
    first = train(config := configure(words | {"eval_episodes": 2} | TRAINING[name]))
    assert device().type == where
    elsewhere = DEVICES[DEVICES.index(where) - 1]
    longer = {"budget": 4} if method == "halo" else {"steps": config.steps + 512}
    second = train(changed(config, {"device": elsewhere, "resume": True, **longer}))
    counted = "queries" if method == "halo" else "steps"
    assert second[counted] > first[counted]
    judged = EvalConfig(config.task, method=method, logdir=str(tmp_path), seeds="1000000:1000004", device=where)
    assert evaluate(judged)["student"]["greedy"]["episodes"] == 4


def test_weights_and_noise_are_the_same_everywhere(where):
    use_device(where)
    learner = SAC(3, 2, SACConfig(hidden=(8,)), seed=4)
    noise = normal((5,), torch.Generator().manual_seed(1))
    use_device("cpu")
    here = SAC(3, 2, SACConfig(hidden=(8,)), seed=4)
    assert noise.device.type == where
    np.testing.assert_array_equal(to_numpy(noise), torch.empty(5).normal_(generator=torch.Generator().manual_seed(1)))
    for there, mine in zip(learner.actor.parameters(), here.actor.parameters(), strict=True):
        assert there.device.type == where
        np.testing.assert_array_equal(to_numpy(there.detach()), to_numpy(mine.detach()))


@pytest.mark.parametrize(("name", "says"), [("cuda:99", "Networks cannot be on cuda:99"), ("tpu", "is not known")])
@pytest.mark.parametrize("verb", ["train", "eval"])
def test_a_device_that_is_not_there_is_refused(verb, name, says, capsys, tmp_path):
    assert cli.main([verb, "--task", "SimpleDoorKey", "--device", name, "--logdir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "next: --device cpu" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["SimpleDoorKey", "PointReach"])
def test_first_weights_do_not_depend_on_the_number_of_threads(task, one_thread):
    encoder, weights = encoder_of(get_task(task)), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        networks = ControllerNetwork(encoder, 5), LowNetwork(encoder, 5, 6, TrunkConfig(hidden=256))
        weights.append(torch.cat([p.flatten() for network in networks for p in network.parameters()]))
        assert torch.get_num_threads() == threads
    assert all(torch.equal(weights[0], other) for other in weights[1:])


def test_graphs_are_asked_for_and_are_of_a_gpu_alone(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("preceptor.agent.train.use_device", lambda *how: asked.append(how))
    train(
        configure(method="ppo", graphs=True, device="cpu", steps=64, eval_episodes=0, quiet=True, logdir=str(tmp_path))
    )
    assert asked == [("cpu", True)]
    use_device("cpu", recorded=True)
    assert not records()
    use_device("cpu")

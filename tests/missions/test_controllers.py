"""Controllers of missions: words are read, compared with what is seen, and options scored by their parts."""

import copy
import json

import gymnasium
import numpy as np
import pytest
import torch
from minigrid.envs.babyai.goto import GoToLocal

from preceptor.agent.config import configure
from preceptor.agent.evaluate import evaluate
from preceptor.agent.flags import EvalConfig
from preceptor.agent.train import train
from preceptor.controller.checkpoint import load_controller, save_controller
from preceptor.controller.encoders import encoder_of
from preceptor.controller.missions import described, padded
from preceptor.controller.network import to_tensors
from preceptor.controller.reader import Reader
from preceptor.controller.roles import Controller, network_of
from preceptor.envs.catalog import get_task
from preceptor.envs.missions.levels import WORDS
from preceptor.envs.missions.mission import VERBS
from preceptor.envs.missions.reading import COLOURS, HELD, KINDS_OF, NAMES, NUMBER, TARGETS
from preceptor.envs.missions.vocabulary import _SAID, VOCABULARY, told
from preceptor.ground.errors import UserError
from preceptor.ground.sealed import sealed

ROOM = get_task("OneRoom-GoTo:distractors=2,side=6")


def seen(count=6):
    env = ROOM.make_vec(count, seed=0)
    obs = env.reset()[0]
    env.close()
    return obs


@torch.no_grad()
def test_every_option_has_a_score_and_scores_are_probabilities():
    obs, network = seen(), network_of(ROOM)
    logits, over = network(*to_tensors(encoder_of(ROOM)(obs)), torch.full((len(obs),), -1))
    assert logits.shape == over.shape == (len(obs), len(ROOM.options))
    assert torch.allclose(logits.exp().sum(1), torch.ones(len(obs)), atol=1e-4)
    assert sum(parameter.numel() for parameter in network.parameters()) < 1_000_000
    done = ROOM.options_done(obs)
    walks = slice(-2 * len(TARGETS), -len(TARGETS))
    assert not (over[:, walks].numpy() > 0)[~done[:, walks]].any(), "what is over for the network is over for the task"


def test_no_observations_are_no_error():
    assert len(encoder_of(ROOM)(seen()[:0])) == 0


def test_descriptions_are_numbered_as_options_are():
    colour, kind, place = (torch.full((size,), -9.0) for size in (7, 5, 5))
    colour[5], kind[2], place[1] = 0.0, 0.0, 0.0
    best = int(described(colour, kind, place).argmax())
    assert NAMES[best] == "yellow ball left"
    assert NUMBER[TARGETS[best]] == best
    assert padded(kind, 7)[5:].max() < -20


@torch.no_grad()
def test_other_words_and_what_is_done_change_what_is_read():
    torch.manual_seed(0)
    reader, done = Reader(), torch.zeros(1, 4)
    texts = ["go to the red ball", "go to the blue ball", "go to the red ball, then open the grey door"]
    one, two, three = (torch.as_tensor(VOCABULARY.encode(text, 96).astype(np.int64))[None] for text in texts)
    assert not torch.allclose(reader(one, done)[1], reader(two, done)[1])
    after = done.clone()
    after[0, 0] = 1
    assert not torch.allclose(reader(three, done)[0], reader(three, after)[0])
    longer = torch.nn.functional.pad(one, (0, 20))
    for short, long in zip(reader(one, done), reader(longer, done), strict=True):
        assert torch.allclose(short, long, atol=1e-5), "padding is not read"


class Reads(torch.nn.Module):
    """A reader of one mission, whatever the words are: to open the red door."""

    def forward(self, words, done):
        def sure(index, size):
            return torch.full((len(words), 4, size), -30.0).index_fill(2, torch.tensor(index), 0.0)

        due = torch.tensor([0.0, -30.0, -30.0, -30.0]).expand(len(words), 4)
        numbers = VERBS.index("open"), 1 + COLOURS.index("red"), KINDS_OF.index("door"), 0, 0, 0, 0
        return [due, *map(sure, numbers, Reader().sizes)]


@torch.no_grad()
def test_of_the_key_of_a_named_door_it_is_seen_whether_it_is_held():
    network, inputs = network_of(ROOM), to_tensors(encoder_of(ROOM)(seen(1)))
    network.reader = Reads()
    inputs[2][:] = 0
    told = {}
    for key in ("none", "red key", "blue key"):
        status = inputs[2].clone()
        if key != "none":
            status[:, NAMES.index(key)] = HELD
        told[key] = network(inputs[0], inputs[1], status, *inputs[3:], torch.tensor([-1]))[0]
    assert torch.equal(told["none"], told["blue key"])
    assert not torch.allclose(told["none"], told["red key"])


def test_words_that_there_are_not_are_refused():
    obs = seen(2)
    ROOM.from_gymnasium(obs)
    strip = obs[:, :, -ROOM.told_columns :].reshape(2, -1)
    strip[1, WORDS.start] = len(VOCABULARY)
    obs[:, :, -ROOM.told_columns :] = strip.reshape(2, obs.shape[1], -1, 4)
    for given in (obs, obs[1]):
        with pytest.raises(UserError, match="words that there are not"):
            ROOM.from_gymnasium(given)


def test_a_controller_comes_back_from_disk(tmp_path):
    controller = Controller(ROOM, network_of(ROOM), 1.5, {"teacher": "scripted"})
    save_controller(tmp_path / "c", controller)
    other = load_controller(tmp_path / "c", ROOM)
    np.testing.assert_allclose(controller.probs(seen()), other.probs(seen()), rtol=1e-5)


def test_a_controller_of_before_clauses_could_be_absent_is_refused(tmp_path):
    save_controller(tmp_path / "old", Controller(ROOM, network_of(ROOM), 1.5, {"teacher": "scripted"}))
    place = tmp_path / "old" / "controller.json"
    description = json.loads(place.read_text())
    del description["encoder"]["clauses"]
    place.write_text(json.dumps(sealed(description)))
    with pytest.raises(UserError, match=r"has encoder \{\}, but .* needs \{'clauses': 'done or absent'\}"):
        load_controller(tmp_path / "old", ROOM)


@pytest.mark.timeout(300)
def test_a_controller_learns_to_do_what_it_is_told(tmp_path):
    said = {"method": "dagger", "task": ROOM.name, "teacher": "scripted", "steps": 2_048, "num_envs": 32}
    result = train(configure(said, logdir=str(tmp_path), quiet=True, eval_episodes=100, seed=0, updates=0.1))
    assert result["student"]["sampled"]["success"] >= 0.8


def test_ihac_reads_missions_too_and_goes_on_from_a_controller(tmp_path):
    short = {"task": ROOM.name, "steps": 128, "num_envs": 4, "eval_episodes": 2, "logdir": str(tmp_path), "quiet": True}
    train(configure(short | {"method": "dagger", "teacher": "scripted", "savedir": "d"}))
    result = train(configure(short | {"method": "ihac", "controller": "d", "savedir": "i"}))
    assert result["student"]["greedy"]["episodes"] == 2
    taught = train(configure(short | {"method": "ihac", "teacher": "scripted", "savedir": "t"}))
    assert taught["queries"] > 0


@torch.no_grad()
@pytest.mark.parametrize(
    ("mission", "complaint"),
    [
        ("polish the zebra", "abstain on missions with: polish, zebra$"),
        ("", "with: a mission of 0 words, where"),
        ("go to the red ball and " * 450, "with: a mission of 2700 words"),
        ("flurb " * 2000, "with: flurb$"),
    ],
    ids=["unknown", "empty", "long", "both"],
)
def test_a_controller_abstains_on_a_mission_that_it_cannot_read_and_that_is_said_once(mission, complaint):
    _SAID.clear()
    with pytest.warns(UserWarning, match=complaint):
        numbers = told(mission)
    assert (told(mission) == numbers).all(), "and no second warning, which would be an error here"
    obs, network = seen(2), network_of(ROOM)
    strip = obs[:1, :, -ROOM.told_columns :].reshape(1, -1)
    strip[:, WORDS] = numbers
    obs[:1, :, -ROOM.told_columns :] = strip.reshape(1, obs.shape[1], -1, 4)
    probs, legal = Controller(ROOM, network).probs(obs, legal=ROOM.legal(obs)), ROOM.legal(obs)
    np.testing.assert_allclose(probs[0], legal[0] / legal[0].sum(), rtol=1e-5)
    assert np.ptp(probs[1][legal[1]]) > 0.01


class StrangeRoom(GoToLocal):
    """Half of its missions have a word that nobody knows."""

    def _gen_grid(self, width, height):
        super()._gen_grid(width, height)
        if self.np_random.random() < 0.5:
            self.mission += " flurb"


def test_missions_that_no_controller_understands_are_counted_where_they_are_judged(tmp_path):
    _SAID.clear()
    gymnasium.register("StrangeRoom-v0", entry_point=StrangeRoom)
    with pytest.warns(UserWarning, match="flurb"):
        result = evaluate(EvalConfig("StrangeRoom-v0", compare="random", seeds="1000000:1000019", logdir=str(tmp_path)))
    assert 4 <= result["not_understood"] <= 16


def test_columns_that_are_no_cells_are_left_out_of_maps():
    plain, told = get_task("SimpleDoorKey"), copy.copy(get_task("SimpleDoorKey"))
    told.told_columns = 2
    env = plain.make_vec(3, seed=0)
    obs = env.reset()[0]
    env.close()
    more = np.concatenate([obs, np.full((*obs.shape[:2], 2, 4), 3, np.uint8)], 2)
    for part, other in zip(encoder_of(plain)(obs).parts, encoder_of(told)(more).parts, strict=True):
        np.testing.assert_array_equal(part, other)

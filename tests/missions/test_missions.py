"""Missions as text: read, said in other words, refused, and turned into numbers."""

import itertools
import json
import time

import gymnasium
import minigrid  # noqa: F401  registers the BabyAI levels
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minigrid.envs.babyai.core import verifier

from preceptor.envs.missions.grammar import CLAUSES, IN_ORDER, KNOWN, TOGETHER, literals, tokens
from preceptor.envs.missions.mission import Clause, Description, Mission, MissionError, words
from preceptor.envs.missions.paraphrase import paraphrase
from preceptor.envs.missions.parsing import _ORDERS, parse
from preceptor.envs.missions.vocabulary import LENGTH, PADDING, UNKNOWN, VOCABULARY, Vocabulary
from tests.missions.drawn import MISSION

LEVELS = [name for name in gymnasium.registry if name.startswith("BabyAI-")]
VERB = {
    verifier.GoToInstr: "goto",
    verifier.OpenInstr: "open",
    verifier.PickupInstr: "pickup",
    verifier.PutNextInstr: "putnext",
}
MISSIONS = 40  # of each level; 200 of each were read once
RNG = st.integers(0, 2**32).map(np.random.default_rng)


def expected(tree: verifier.Instr) -> Mission:
    """The mission of minigrid's own tree."""
    if isinstance(tree, verifier.BeforeInstr):
        return Mission(expected(tree.instr_a).first, expected(tree.instr_b).first)
    if isinstance(tree, verifier.AfterInstr):
        return Mission(expected(tree.instr_b).first, expected(tree.instr_a).first)
    if isinstance(tree, verifier.AndInstr):
        return Mission(expected(tree.instr_a).first + expected(tree.instr_b).first)
    objects = [tree.desc_move, tree.desc_fixed] if isinstance(tree, verifier.PutNextInstr) else [tree.desc]
    described = (Description(one.color or "", one.type or "", one.loc or "") for one in objects)
    return Mission((Clause(VERB[type(tree)], *described),))


@pytest.mark.parametrize("level", LEVELS)
def test_every_mission_of_minigrid_is_read_as_its_tree(level: str) -> None:
    env = gymnasium.make(level, disable_env_checker=True).unwrapped
    for seed in range(MISSIONS):
        env.reset(seed=seed)
        mission = expected(env.instrs)
        assert parse(env.mission) == mission, env.mission
        assert parse(words(mission)) == mission
        assert VOCABULARY.unknown(env.mission) == []


@settings(max_examples=300, deadline=None)
@given(MISSION, RNG)
def test_a_training_paraphrase_is_read_as_its_mission_and_a_held_out_one_is_not(
    mission: Mission, rng: np.random.Generator
) -> None:
    assert parse(words(mission)) == mission
    told = paraphrase(mission, rng, held_out=False)
    assert parse(told) == mission, told
    assert parse(told.upper() + ".") == mission
    held_out = paraphrase(mission, rng, held_out=True)
    with pytest.raises(MissionError):
        parse(held_out)
    assert VOCABULARY.unknown(told) == VOCABULARY.unknown(held_out) == []
    assert max(len(tokens(told)), len(tokens(held_out))) <= LENGTH


def test_no_two_clauses_in_any_order_are_read_as_others() -> None:
    objects = {"what": "the door", "beside": "the box"}
    told = [(verb, form.format(**objects)) for verb, forms in CLAUSES.items() for form in forms.training]
    told = [(verb, text if verb in ("goto", "open") else text.replace("door", "ball", 1)) for verb, text in told]
    for (verb, a), (other, b) in itertools.product(told, told):
        for form in (*TOGETHER.training, *IN_ORDER.training):
            text = form.format(a=a, b=b)
            assert [clause.verb for clause in parse(text).clauses] == [verb, other], text


def test_forms_are_enough_of_each_kind_and_in_one_set_only() -> None:
    for verb, forms in CLAUSES.items():
        assert len(forms.training) >= 6, verb
        assert len(forms.held_out) >= 2, verb
    everything = [form for forms in (*CLAUSES.values(), TOGETHER, IN_ORDER) for ways in forms for form in ways]
    plain = [" ".join(tokens(form)) for form in everything]
    assert len(set(plain)) == len(plain)
    assert {word for form in everything for word in literals(form)} <= KNOWN


def test_no_two_ways_to_join_clauses_look_alike() -> None:
    parts = 1 + len(TOGETHER.training)
    assert len(_ORDERS) == parts + len(IN_ORDER.training) * parts**2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        (" ., \n", "empty"),
        (7, "of type int"),
        ("go to the zebra and polish the red ball", "unknown words: zebra, polish"),
        ("pick up", '"pick up" is said of no object'),
        ("go to the red", "no object"),
        ("put the ball next to", "no object"),
        ("open the ball", 'only a door can be opened, not "ball"'),
        ("open the object", "only a door"),
        ("pick up the red door", "cannot be carried"),
        ("put a door next to the ball", "cannot be carried"),
        ("pick up the red ball on your left on your right", "the place left and right"),
        ("go to the red blue ball", "the colour red and blue"),
        ("go to the ball key", "the type ball and key"),
        (" and ".join(["go to the ball"] * 5), "5 things to do"),
        ("go to the ball and go to the key and go to the box", "joined"),
        ("go to the ball, then go to the key, then go to the box", "joined"),
        ("the red ball", "nothing that can be done"),
        ("go to the red ball then", "joined"),
        ("<red> <ball>", "unknown words"),
        ("go to the ball\x1b[2J", "unknown words"),
        ("x " * 5000, "10000 characters"),
        ("go to the ball and " * 500, "9500 characters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_a_mission_is_refused_with_what_was_not_understood(text: str, complaint: str) -> None:
    with pytest.raises(MissionError, match=complaint) as caught:
        parse(text)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_ten_kilobytes_are_refused_in_less_than_a_millisecond() -> None:
    def seconds(text: str) -> float:
        begin = time.perf_counter()
        with pytest.raises(MissionError):
            parse(text)
        return time.perf_counter() - begin

    assert min(seconds("go to the red ball and " * 450) for _ in range(20)) < 1e-3
    assert min(seconds(("put the " + "red " * 300)[:1000]) for _ in range(20)) < 0.02


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(sorted(KNOWN))).map(" ".join)))
def test_any_text_is_a_mission_or_refused(text: str) -> None:
    try:
        mission = parse(text)
    except MissionError:
        return
    assert parse(words(mission)) == mission


def test_a_vocabulary_numbers_known_words_and_names_the_others() -> None:
    vocabulary = Vocabulary(["go", "to", "ball"])
    assert vocabulary.encode("Go to, zebra ball!", 6).tolist() == [2, 3, UNKNOWN, 4, PADDING, PADDING]
    assert vocabulary.unknown("zebra go zebra on") == ["zebra", "on"]
    assert len(vocabulary) == 5
    assert vocabulary.encode("", 2).tolist() == [PADDING, PADDING]
    assert vocabulary.encode("go", 1).dtype == np.uint8
    with pytest.raises(MissionError, match="4 words, where at most 3"):
        vocabulary.encode("go to to to", 3)
    for wrong in (["go", "go"], ["Go"], ["go to"], [""]):
        with pytest.raises(ValueError, match="different words"):
            Vocabulary(wrong)
    again = Vocabulary(json.loads(json.dumps(VOCABULARY.words)))
    assert again.encode("grab a violet crate", 8).tolist() == VOCABULARY.encode("grab a violet crate", 8).tolist()
    assert VOCABULARY.unknown("put the grey key next to the box on your left after you open the blue door") == []

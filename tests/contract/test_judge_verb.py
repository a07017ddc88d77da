"""`labels judge`: teachers whose worth is known are given the figures that they deserve."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preceptor.envs.catalog import get_task
from preceptor.teacher.prompts import load_template
from tests.faulty_server import FaultyServer, faulty
from tests.faulty_server.toy import Toy

TASK = get_task("KeyInBox")


Weights = dict[str, float]


def answers(to_scenes: Callable[[str, list[str]], Weights]) -> Callable[[str], Weights | str]:
    """A server's model that answers questions about scenes so, and the questions of the probe as the toy model does."""

    def reply(prompt: str) -> Weights | str:
        scene, _, rest = prompt.rpartition("Scene: ")[2].partition("\n")
        options = [line for line in rest.splitlines() if line[1:2] == ")"]
        return to_scenes(scene, options) if "Scene: " in prompt else Toy().answer(prompt)

    return reply


def knows(scene: str, options: list[str]) -> Weights:
    """The script of KeyInBox, not quite sure of itself."""
    wrong = 0.1 / max(1, len(options) - 1)
    return {line[0]: 0.9 if line[3:] == _right()[scene] else wrong for line in options}


@cache
def _right() -> dict[str, str]:
    scenes = TASK.sample_scenes(np.random.default_rng(0), 4000)
    return {scene.text: TASK.options[TASK.script(scene)].words for scene in scenes}


@pytest.fixture
def expert() -> Iterator[FaultyServer]:
    """A server whose model knows the script."""
    with faulty(reply=answers(knows)) as server:
        yield server


def judged(verb: Callable[..., str], *words: str) -> dict[str, Any]:
    rows = json.loads(verb("judge", "--task", "KeyInBox", "--scenes", "25", "--json", *words))["rows"]
    return rows[0]


def test_a_server_that_is_right_is_judged_right(expert: FaultyServer, verb: Callable[..., str]) -> None:
    row = judged(verb, "--teacher", "llm", "--base-url", expert.url, "--usd-per-million-tokens", "2")
    assert (row["scenes"], row["accuracy"], row["valid"], row["abstained"]) == (25, 1.0, 1.0, 0.0)
    assert row["ece"] == pytest.approx(0.1, abs=1e-3), "it says 0.9 and is always right"
    assert row["order_changes"] == 0.0
    assert row["position_bias"] < 0.2
    assert row["model"] == "toy"
    assert row["template"] == f"chat {load_template('chat').hash_for(TASK)}"
    assert row["seconds_p95"] >= row["seconds_p50"] > 0
    assert row["tokens"] == 25 * row["tokens_per_scene"] > 25 * 2 * 300
    assert row["usd"] == pytest.approx(row["tokens"] * 2e-6)


def test_a_server_that_likes_the_first_place_is_found_out(expert: FaultyServer, verb: Callable[..., str]) -> None:
    expert.reply = answers(lambda scene, options: {"A": 0.98, "B": 0.02})
    row = judged(verb, "--teacher", "llm", "--base-url", expert.url)
    assert row["order_changes"] == 1.0
    assert row["position_bias"] > 0.4
    assert row["accuracy"] < 0.6


def test_what_was_judged_is_kept_and_can_be_judged_again(
    expert: FaultyServer, verb: Callable[..., str], tmp_path: Path
) -> None:
    kept = ["--labels", str(tmp_path / "kept.sqlite")]
    served = ["--teacher", "llm", "--base-url", expert.url, *kept]
    first, asked = judged(verb, *served), len(expert.requests)
    assert judged(verb, *served) == first
    assert len(expert.requests) - asked < 0.5 * first["calls"], "the probe alone"
    replayed = judged(verb, "--teacher", "replay", *kept)
    assert {name: replayed[name] for name in first} == first


def test_the_table_can_be_pasted(verb: Callable[..., str]) -> None:
    words = ["judge", "--tasks", "KeyInBox", "TwoDoor", "--teacher", "local", "--scenes", "5", "--seed", "4"]
    table, caption = verb(*words).split("\n\n")
    head, rule, *rows = table.splitlines()
    assert head.startswith("| model | task | n | accuracy [95%] | ECE | Brier |")
    assert {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}
    assert [row.split(" | ")[1:3] for row in rows] == [["KeyInBox", "5"], ["TwoDoor", "5"], ["all", "10"]]
    for said in ("compact", load_template("compact").hash_for(TASK), "seed 4", "method logprobs", "4 menu orders"):
        assert said in caption
    latex = verb(*words, "--latex")
    assert latex.count(r" \\") == 4
    assert r"95\%" in latex
    assert latex.count("{") == latex.count("}")


def test_controls_are_judged_without_calls(verb: Callable[..., str]) -> None:
    row = judged(verb, "--teacher", "random")
    assert (row["calls"], row["valid"], row["seconds_p50"], row["order_changes"]) == (0, None, None, None)
    assert 0.0 < row["accuracy"] < 0.9
    assert "position bias" not in verb("judge", "--task", "KeyInBox", "--teacher", "random").split("\n")[0]

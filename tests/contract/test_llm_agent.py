"""A language model that plays by itself in `eval`: what it is asked, what that costs, and how it fails."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import main as cli
from preceptor.agent.evaluate import _asked_once
from preceptor.agent.llm_agent import Question, option_questions, prompt_of
from preceptor.envs.catalog import get_task
from preceptor.envs.gridworld.outlook import ACTION_WORDS, outlook
from preceptor.envs.task import Option, OptionSpace, Scene
from preceptor.ground.errors import UserError
from preceptor.teacher import make
from preceptor.teacher.config import Limits
from tests.faulty_server import FaultyServer, Script, Step, faulty
from tests.small_task import SmallTask

TASK = get_task("SimpleDoorKey")
LEVELS = ["--task", "SimpleDoorKey", "--seeds", "1000000:1000003"]
Eval = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Eval:
    def run(server: FaultyServer, *words: str) -> tuple[int, str, str]:
        where = ["--logdir", str(tmp_path), "--teacher", "llm", "--base-url", server.url]
        code = cli.main(["eval", "--compare", "llm-agent", *LEVELS, *where, *words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def expert() -> Callable[[str], str]:
    """A model that says the words of the script's option."""
    scenes = TASK.sample_scenes(np.random.default_rng(0), 3000)
    right = {scene.text: TASK.options[TASK.script(scene)].words for scene in scenes}
    return lambda prompt: right.get(prompt.partition("\n\nChoices:")[0], "A")


def agent(out: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(out)["llm-agent"]
    assert result.keys() == {"sampled"}, "it is not played twice"
    return result["sampled"]


def test_it_is_asked_at_each_decision_with_its_past_and_the_cost_is_counted(evaluate: Eval) -> None:
    with faulty(reply=expert()) as server:
        code, out, _ = evaluate(server, "--json", "--agent-history", "2", "--compare", "llm-agent,random")
        asked = [body for body in server.bodies("chat") if "Choices:" in body["messages"][-1]["content"]]
        played = agent(out)
    assert (code, played["success"], played["unreadable"]) == (0, 1.0, 0)
    in_play = asked[-played["calls"] :]
    assert len(asked) - len(in_play) <= 3, "the others are the probe's"
    assert played["decisions"] > played["calls"] > 10, "a single option is a decision, and no call"
    turns = [[message["role"] for message in body["messages"]] for body in in_play]
    assert {len(roles) for roles in turns} == {4, 6}, "at first there is nothing but to explore"
    assert max(turns, key=len) == ["system", "user", "assistant", "user", "assistant", "user"]
    last = max(in_play, key=lambda body: len(body["messages"]))["messages"]
    assert last[4]["content"] in [option.words for option in TASK.options]
    assert "Choices" not in last[3]["content"]
    assert played["tokens_in"] > played["calls"] > 0 < played["tokens_out"]
    assert json.loads(out)["random"]["sampled"]["calls"] == 0


def test_nothing_is_asked_after_the_first_episode_of_an_environment(evaluate: Eval) -> None:
    counts = ("decisions", "calls", "length", "success")
    with faulty(reply=expert()) as server:
        together, alone = (agent(evaluate(server, "--json", "--batch", batch)[1]) for batch in ("3", "1"))
    assert [together[name] for name in counts] == [alone[name] for name in counts]


def test_a_reply_that_cannot_be_read_is_counted_and_play_goes_on(evaluate: Eval) -> None:
    with faulty(reply=expert()) as server:
        first = agent(evaluate(server, "--json")[1])
        answers, right = iter(range(10**6)), server.reply
        assert right is not None
        server.reply = lambda prompt: right(prompt) if next(answers) < 4 else "Perhaps the key, or rather the door?"
        code, out, _ = evaluate(server, "--json", "--seeds", "1000000:1000002")
    played = agent(out)
    assert (code, played["success"], first["success"]) == (0, 0.0, 1.0)
    assert played["calls"] - 4 <= played["unreadable"] <= played["calls"]


def test_for_actions_it_reads_where_things_are_and_its_action_is_taken(evaluate: Eval) -> None:
    with faulty(reply=lambda prompt: "C) go forward") as server:
        code, out, _ = evaluate(server, "--json", "--agent-asks", "action", "--seeds", "1000000")
        read = server.bodies("chat")[-1]["messages"]
    assert code == 0
    assert "In front of you: a wall." in read[-1]["content"], "it has gone forward to the wall"
    assert read[2] == {"role": "assistant", "content": "go forward"}
    assert agent(out)["decisions"] == agent(out)["calls"] == agent(out)["length"] == 150


def test_a_server_that_dies_and_a_budget_that_is_spent_end_it_with_what_to_do(
    evaluate: Eval, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(make.LIMITS, "abort", Limits(2.0, 0.5))
    with faulty(reply=expert()) as server:
        code, _, err = evaluate(server, "--max-llm-calls", "12")
        assert (code, "budget of 12 calls" in err, "decisions" in err) == (2, True, True)
        assert "play fewer levels" in err
        server.play(Script(steps=(Step("refused", after=12, seconds=60.0),)))
        code, _, err = evaluate(server)
    assert code == 2
    assert "start the server again, and repeat the command\n" in err
    assert "decisions" in err


REFUSED = [
    (["--task", "CartPole-v1"], "no scripted skills"),
    (["--task", "CartPole-v1", "--agent-asks", "action"], "leave llm-agent out"),
    (["--task", "RescueWorld-n3", "--agent-asks", "action"], "next: --agent-asks option"),
    (["--task", "SimpleDoorKey", "--teacher", "scripted"], "--teacher scripted is none"),
    (["--task", "SimpleDoorKey", "--prompt", "chta"], "Did you mean 'chat'"),
    (["--task", "SimpleDoorKey", "--agent-history", "-1"], "agent-history"),
]


@pytest.mark.parametrize(("words", "why"), REFUSED)
def test_what_cannot_be_is_refused(
    words: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", "--compare", "llm-agent", "--logdir", str(tmp_path), "--teacher", "llm", *words]) == 2
    assert why in capsys.readouterr().err


def test_the_built_in_model_plays_without_a_past(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--logdir", str(tmp_path), "--teacher", "local"]
    assert cli.main(["eval", "--json", "--compare", "llm-agent", *LEVELS, *where]) == 0
    played = agent(capsys.readouterr().out)
    assert (played["success"], played["tokens_out"]) == (1.0, played["calls"])
    assert played["tokens_in"] < 60 * played["calls"]


def test_what_the_teacher_was_asked_is_told_of_runs_that_have_ended() -> None:
    ended, going_on = ({"asking": {"calls": 3, "tokens": 9}}, {})
    runs = [SimpleNamespace(results=lambda: ended), SimpleNamespace(results=lambda: ended)]
    assert _asked_once({}, runs) == {"taught_calls": 6, "taught_tokens": 18}  # type: ignore[arg-type]
    runs[1] = SimpleNamespace(results=lambda: going_on)
    assert _asked_once({}, runs) == {}  # type: ignore[arg-type]


def test_what_has_been_seen_is_told_from_where_the_agent_stands() -> None:
    seen = np.zeros((5, 5, 4), np.uint8)
    seen[..., 3] = 4
    seen[:, 0] = 2, 5, 0, 4  # a wall in the north
    seen[1:5, 2] = seen[1:5, 1] = 1, 0, 0, 4
    seen[2, 2] = 5, 4, 0, 0  # holds the yellow key, and faces east
    seen[4, 1] = 4, 0, 2, 4
    seen[3, 3] = 7, 2, 0, 4
    assert outlook(seen) == (
        "In front of you: 2 free cells, then what you cannot see. To your right: what you have not seen. Behind you: "
        "1 free cell, then what you have not seen. To your left: 1 free cell, then a wall. You know of: the blue box "
        "1 ahead and 1 to the right; the locked red door 2 ahead and 1 to the left. You hold the yellow key."
    )
    assert len(set(ACTION_WORDS)) == len(ACTION_WORDS) == TASK.num_actions


def test_the_past_stands_between_what_the_game_is_about_and_the_question() -> None:
    question = Question("You see a door.", (3, 1), ("open it", "wait"), 1)
    template = make.load_template("agent")
    prompt = prompt_of(TASK, template, question, [("You see nothing.", "wait")])
    roles, texts = zip(*prompt.messages, strict=True)
    assert roles == ("system", "user", "assistant", "user")
    assert texts[1:3] == ("You see nothing.", "wait")
    assert texts[3] == "You see a door.\n\nChoices:\nA) open it\nB) wait\n\nReply with one letter: A or B."
    assert TASK.goal in texts[0]


class Many(SmallTask):
    options = OptionSpace([Option(f"go:{i}", f"go to box {i}", 5) for i in range(30)])

    def describe(self, obs: Any) -> list[Scene]:
        return [Scene(self.name, (), "There are many boxes.", tuple(range(30)))]


def test_more_options_than_letters_are_refused() -> None:
    with pytest.raises(UserError, match=r"30 options are legal(.*\n)*.*--agent-asks action"):
        option_questions(Many(), np.zeros((1, 1, 1, 4), np.uint8))

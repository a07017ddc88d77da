"""`labels show | prompt | export | import | judge`, as a stranger types them."""

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main as cli
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Scene
from preceptor.teacher.asking import AskingTeacher, Reply
from preceptor.teacher.call import Call
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.local import LocalModel
from preceptor.teacher.prompts import Prompt, load_template, menus

TASK = get_task("KeyInBox")
DRAWN = {scene.facts: scene for scene in TASK.sample_scenes(np.random.default_rng(5), 200)}
SCENES = [scene for scene in DRAWN.values() if len(scene.legal) == 3]


def call_about(scene: Scene, template: str = "chat", **changes: Any) -> Call:
    """A call about a scene, as a teacher would have written it."""
    menu = menus(scene, 1)[0].options
    prompt = load_template(template).hash_for(TASK)
    asked = ("some/model", prompt, TASK.name, TASK.options.digest, scene.facts, menu, 0, scene.text, scene.legal)
    probs = tuple({menu[0]: 0.75, menu[2]: 0.25}.get(option, 0.0) for option in range(len(TASK.options)))
    call = Call(*asked, "llm:some/model", "logprobs", "ok", probs, "A", 500, 0.25, 1.0)
    return replace(call, **changes)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with an answer, one row of each kind of trouble, and rows that cannot be rendered any more."""
    failed: dict[str, Any] = {"probs": (), "method": "samples"}
    rows: list[dict[str, Any]] = [
        {},
        {**failed, "status": "off_menu", "reply": "I would\n\x1b[31mopen the window"},
        {**failed, "status": "ambiguous", "reply": "A or B " * 300},
        {**failed, "status": "error", "reply": "The server is asleep."},
        {"source": "fallback:scripted", "method": "fallback", "status": "fallback", "reply": ""},
        {"probs": (), "status": "off_menu", "reply": "The"},
        {"prompt": "an older template"},
        {"task": "Gone"},
        {"template": "compact", **failed, "status": "unfinished", "reply": "<think>"},
    ]
    with LabelStore(tmp_path / "labels.sqlite") as labels:
        labels.put_many(call_about(SCENES[i], **row) for i, row in enumerate(rows))
    return tmp_path / "labels.sqlite"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sho"], "Did you mean 'show'"),
        (["shwo", "--last", "3"], "Unknown labels verb 'shwo'"),
        (["show", "--lst", "3"], "Did you mean '--last'"),
        (["show", "--last", "0"], "greater than or equal to 1"),
        (["show", "--only", "reject"], "Did you mean 'rejected'"),
        (["show", "--task", "KeyInBix"], "Did you mean 'KeyInBox'"),
        (["show", "nowhere"], "no run 'nowhere'"),
        (["show", "nowhere.sqlite"], "no label store at nowhere.sqlite"),
        (["show"], "no label store under"),
        (["prompt", "--prompt", "chatt"], "Did you mean 'chat'"),
        (["prompt", "--index", "-1"], "greater than or equal to 0"),
        (["prompt", "--limit", "lava"], "has no flaw"),
        (["import", "nowhere.jsonl", "--into", "x.sqlite"], "cannot be read: No such file"),
        (["export", "nowhere.sqlite"], "no label store"),
        (["batch"], "needs --task"),
        (["batch", "--task", "KeyInBix"], "Did you mean 'KeyInBox'"),
        (["batch", "--task", "KeyInBox", "--scenes", "1e-3"], "--scenes"),
        (["batch", "--task", "KeyInBox", "--player", "scripted"], "Did you mean 'script'"),
        (["batch", "--task", "KeyInBox", "--teacher", "scripted"], "Only a language model"),
        (["batch", "--task", "KeyInBox", *["--base-url", "http://127.0.0.1:9/v1"] * 2], "named twice"),
        (["judge", "--teacher", "locl"], "Did you mean 'local'"),
        (["judge", "--teacher", "replay"], "nothing to replay"),
        (["judge", "--teacher", "replay", "--labels", "nowhere.sqlite"], "no label store"),
        (["judge", "--tasks", "KeyInBox", "KeyInBox"], "names a task twice"),
        (["judge", "--scenes", "0"], "greater than or equal to 1"),
        (["judge", "--usd-per-million-tokens", "-1"], "greater than or equal to 0"),
    ],
)
def test_a_mistake_names_the_next_command(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["labels", *words]) == 2
    out, err = capsys.readouterr()
    assert said in err.partition("next: ")[0]
    assert "Traceback" not in err
    assert (out, os.listdir(tmp_path)) == ("", [])


def test_labels_alone_lists_its_verbs_and_each_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert (cli.main(["labels"]), cli.main(["labels", "--help"])) == (2, 0)
    usage = capsys.readouterr().out
    for verb in ("show", "prompt", "export", "import", "batch", "judge"):
        assert usage.count(f"python main.py labels {verb}") == 2
        with pytest.raises(SystemExit, match="0"):
            cli.main(["labels", verb, "--help"])
        assert "--json" in capsys.readouterr().out


def test_show_prints_prompt_reply_verdict_and_why(store: Path, verb: Callable[..., str]) -> None:
    text, menu = verb("show", str(store)), menus(SCENES[0], 1)[0]
    blocks = text.split("\n\n#")[1:]
    prompt = load_template("chat").render(TASK, SCENES[0], menu).messages[1][1]
    in_order: list[list[str]] = [
        [
            *(
                "KeyInBox  answer",
                TASK.rules,
                "500 tokens, 250.0 ms",
                *(f"    {line}\n" for line in prompt.splitlines()),
            ),
            f"  read as\n    0.750  A) {TASK.options[menu.options[0]].id}\n",
            f"    0.250  C) {TASK.options[menu.options[2]].id}",
        ],
        # What a model wrote may not command the terminal.
        ["the reply names nothing that is on the menu", "\\x1b[31mopen the window", "[system] as in #1"],
        ["(2,100 characters)", "does not name exactly one of its options"],
        ["no reply came back: The server is asleep."],
        ["fallback:scripted stood in"],
        ["almost none of the probability"],
        ["the template has changed since", SCENES[6].text],
        ["there is no task Gone here"],
        ["still thinking", f"Goal: {TASK.goal}"],  # of the compact template
    ]
    assert [[said for said in each if said not in block] for each, block in zip(in_order, blocks, strict=True)] == [
        []
    ] * 9
    assert "\x1b" not in text


def test_show_in_json_has_what_was_sent_and_chooses_by_number_kind_and_task_while_a_run_writes(
    store: Path, verb: Callable[..., str]
) -> None:
    def lines(*words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in verb("show", str(store), "--json", *words).splitlines()]

    def rows(*words: str) -> list[int]:
        return [line["row"] for line in lines(*words)]

    first, second, *_ = lines()
    assert first["messages"] == load_template("chat").render(TASK, SCENES[0], menus(SCENES[0], 1)[0]).chat
    assert first["why"] is None
    assert [option["probability"] for option in first["shown"]] == [0.75, 0.0, 0.25]
    assert (second["reply"], second["status"]) == ("I would\n\x1b[31mopen the window", "off_menu")
    assert rows() == list(range(1, 10))
    assert rows("--last", "2") == [8, 9]
    assert rows("--only", "rejected") == [2, 3, 4, 6, 9]
    assert rows("--only", "fallback") == [5]
    assert rows("--only", "answers", "--task", "keyinbox") == [1, 7]
    with LabelStore(store) as writer:
        for row in (10, 11):
            writer.put_many([call_about(SCENES[row])])
            assert rows("--last", "1") == [row]
            verb("export", str(store))
    assert len(store.with_suffix(".jsonl").read_text().splitlines()) == 11


def test_show_finds_a_run_and_the_store_that_was_written_last(tmp_path: Path, verb: Callable[..., str]) -> None:
    def run(name: str, age: int, labels: Path | None = None) -> str:
        folder = tmp_path / "ihac" / "KeyInBox" / name
        folder.mkdir(parents=True)
        settings = {"teacher": {"labels": labels and str(labels)}}
        config = {"format": "preceptor-config", "schema": 2, "config": settings}
        (folder / "config.json").write_text(json.dumps(config))
        path = labels or folder / "labels.sqlite"
        with LabelStore(path) as store:
            store.put_many([call_about(SCENES[0])])
        os.utime(path, (1e9 - age, 1e9 - age))
        return str(path)

    def shown(*words: str) -> str:
        return verb("show", *words, "--logdir", str(tmp_path)).partition(":")[0]

    new, old = run("new", 0), run("old", 1)
    assert (shown(), shown("old")) == (new, old)
    shared = run("sharing", -1, tmp_path / "shared.sqlite")
    assert shown() == shown("sharing") == shared


class Listener:
    """A model that only keeps what it was sent."""

    name = source = template = method = "listener"
    samples = 1
    extra: ClassVar[dict[str, float]] = {}

    def __init__(self) -> None:
        self.sent: list[list[dict[str, str]]] = []

    def replies(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, Reply]]]:
        self.sent += [prompt.chat for prompt in prompts]
        yield from ()


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(
    verb: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", refuse)
    words = ["prompt", "--task", "KeyInBox", "--seed", "3", "--index", "7", "--prompt", "chat"]
    dry = json.loads(verb(*words, "--json"))
    scene = TASK.sample_scenes(np.random.default_rng(3), 8)[7]
    listener = Listener()
    AskingTeacher("llm", TASK, listener, load_template("chat"), LabelStore()).label([scene])
    assert len(scene.legal) > 1
    assert [prompt["messages"] for prompt in dry["prompts"]] == listener.sent
    assert (dry["prompt"], dry["counted"]) == (load_template("chat").hash_for(TASK), "characters/4")
    text = verb(*words)
    for said in (scene.text, f"call 4 of {len(listener.sent)}", "nothing was sent"):
        assert said in text
    dry = json.loads(verb("prompt", "--task", "KeyInBox", "--prompt", "compact", "--seed", "1", "--json"))
    scene = TASK.sample_scenes(np.random.default_rng(1), 1)[0]
    prompts = [load_template("compact").render(TASK, scene, menu) for menu in menus(scene, 4)]
    assert [prompt["tokens"] for prompt in dry["prompts"]] == [len(ids) for ids in LocalModel().encode(prompts)]
    assert "built-in" in dry["counted"]
    scenes = TASK.sample_scenes(np.random.default_rng(0), 500)
    index = next(i for i, scene in enumerate(scenes) if len(scene.legal) == 1)
    assert "no model would be asked" in verb("prompt", "--task", "KeyInBox", "--index", str(index))


def refuse(*_: object) -> None:
    raise AssertionError("a socket was used")


def test_a_store_goes_out_and_comes_back_or_nothing_is_imported_and_no_file_of_others_is_overwritten(
    store: Path, verb: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "9 calls" in verb("export", str(store))
    file, copy, again = store.with_suffix(".jsonl"), tmp_path / "copy.sqlite", tmp_path / "again.jsonl"
    assert json.loads(verb("import", str(file), "--into", str(copy), "--json"))["added"] == 9
    with LabelStore(store, read_only=True) as before, LabelStore(copy, read_only=True) as after:
        assert after.calls(answers_only=False) == before.calls(answers_only=False)
    assert "0 calls added, 9 known already" in verb("import", str(file), "--into", str(copy))
    verb("export", str(copy), "--to", str(again))
    assert again.read_bytes() == file.read_bytes()
    verb("export", str(copy), "--to", str(again), "--answers-only", "--task", "keyinbox")
    assert [json.loads(line)["status"] for line in again.read_text().splitlines()] == ["ok", "ok"]
    file.write_bytes(file.read_bytes()[:-20])  # as a copy that was cut off
    assert cli.main(["labels", "import", str(file), "--into", str(tmp_path / "new.sqlite")]) == 2
    assert "labels.jsonl, line 9, cannot be imported" in capsys.readouterr().err
    assert not (tmp_path / "new.sqlite").exists()
    (tmp_path / "theirs.txt").write_text("their work")
    for target in (tmp_path / "theirs.txt", store):
        held = target.read_bytes()
        assert cli.main(["labels", "export", str(copy), "--to", str(target)]) == 2
        assert "did not write it" in capsys.readouterr().err
        assert target.read_bytes() == held


def test_a_run_is_repeated_from_exported_labels_without_a_network(
    verb: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--preset", "tiny", "--task", "KeyInBox", "--steps", "320", "--num-envs", "4", "--eval-episodes", "2"]
    small += ["--logdir", str(tmp_path), "--quiet"]
    assert cli.main(["train", *small, "--savedir", "taught", "--teacher", "local"]) == 0
    lines, copy = str(tmp_path / "labels.jsonl"), str(tmp_path / "copy.sqlite")
    verb("export", "taught", "--logdir", str(tmp_path), "--to", lines)
    verb("import", lines, "--into", copy)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert cli.main(["train", *small, "--savedir", "replayed", "--teacher", "replay", "--labels", copy]) == 0
    folders = [tmp_path / "ihac" / "KeyInBox" / name for name in ("taught", "replayed")]
    taught, replayed = (json.loads((folder / "result.json").read_text()) for folder in folders)
    assert replayed["queries"] == 0
    events = EventAccumulator(str(folders[0]))
    events.Reload()
    for name in ("queries", "calls", "hits", "invalid_rate", "tokens", "seconds", "latency_p50", "calls_per_1k_steps"):
        assert events.Scalars(f"teacher/{name}")[-1].value == pytest.approx(taught["asking"][name]), name
    for style in ("sampled", "greedy"):
        assert taught["student"][style]["success"] == replayed["student"][style]["success"]
    for file in ("controller/controller.safetensors", "episodes/student-sampled.json", "episodes/student-greedy.json"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()

"""What the README tells people to type works, and what it names exists."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import main as cli
from preceptor.agent.checks import check_train
from preceptor.agent.config import TrainConfig, places
from preceptor.agent.methods import METHODS, entry_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(\w+=\S+ )*(make|\S*python) ", line)
]
SAID = [words[words.index("main.py") + 1 :] for words in COMMANDS if "main.py" in words]
SMALLER = {
    "train": ["--preset", "tiny", "--steps", "640", "--num-envs", "4", "--eval-episodes", "4", "--quiet"],
    "eval": ["--seeds", "1000000:1000004", "--video", "1"],
    "report": [],
    "demos": ["--count", "6"],
    "labels show": [],
    "labels prompt": [],
    "labels judge": ["--teacher", "local", "--scenes", "10"],
}


def test_the_readme_shows_every_verb() -> None:
    assert {cli.verb_of(words)[0] for words in SAID} == set(cli.VERBS)


@pytest.mark.parametrize("words", SAID, ids=" ".join)
def test_every_command_is_understood(words: list[str]) -> None:
    verb, flags = cli.verb_of(words)
    config = cli.read(verb, flags)
    if verb == "train":
        check_train(config)
    if verb == "eval":
        assert config.levels
        assert config.players


def test_every_flag_in_the_text_exists() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    flags = set(re.findall(r"`(--[a-z-]+)", prose))
    names = {name for method in METHODS for kind in entry_of(method).settings for name in places(TrainConfig, kind)}
    for verb in cli.VERBS.values():
        names |= set(places(cli._function(verb.settings)))
    known = {f"--{name.replace('_', '-')}" for name in (*names, "set", "config")}
    assert flags
    assert flags <= known


def test_every_make_target_and_module_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {word for words in COMMANDS if words[0] == "make" for word in words[1:]}
    assert {"demo", "test"} <= made <= targets
    modules = {words[i + 1] for words in COMMANDS for i, word in enumerate(words) if word == "-m"}
    modules |= set(re.findall(r"python -m ([a-z_.]+)", README))
    ours = {module for module in modules if not module.startswith(("vllm.", "fastchat."))}  # those: .venv-serving
    assert all(importlib.util.find_spec(module) for module in ours)


def test_every_file_in_the_tree_exists() -> None:
    tree = next(block for block in BLOCKS if block.startswith("main.py"))
    missing, folder = [], ROOT
    parents: list[tuple[int, Path]] = [(-1, ROOT)]
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        names = re.split(r"\s{2,}", line.strip())[0].split()
        while parents[-1][0] >= indent:
            parents.pop()
        folder = parents[-1][1]
        missing += [str(folder / name) for name in names if not list(folder.glob(name.rstrip("/")))]
        mentioned = re.findall(r"[\w/]+\.(?:py|md)\b", line.partition("  ")[2] if indent == 0 else line)
        missing += [
            name for name in mentioned if not list(folder.rglob(name)) and not list((folder / names[0]).rglob(name))
        ]
        if names[0].endswith("/"):
            parents.append((indent, folder / names[0]))
    assert missing == []


def test_the_commands_work_one_after_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    for words in SAID:
        verb, flags = cli.verb_of(words)
        # Those need a server, or a run of one; and what is short already needs no shortening.
        if {"llm", "replay"} & set(words) or verb not in SMALLER:
            continue
        logdir = ["--logdir", str(tmp_path)] if verb not in ("labels prompt", "labels judge", "demos") else []
        assert cli.main([*verb.split(), *flags, *SMALLER[verb], *logdir]) == 0, words
    assert len(list(tmp_path.rglob("*.mp4"))) >= 1
    assert "KeyInBox" in capsys.readouterr().out

"""Every command of ours that the program names, in an error or a hint, is one that it understands.

The source's texts are read with `ast`; what an f-string fills in is replaced by a plausible word.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import main as cli
from preceptor.agent.checks import check_train
from preceptor.ground.errors import UserError

ROOT = Path(__file__).parents[2]
ROOMS = ("ground", "envs", "teacher", "controller", "agent", "serving")
SOURCES = [ROOT / "main.py", *(file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))]
CALL = "python main.py "
HOLE = "\0"
# What is said for a hole, by the flag before it; the first word after `main.py` is a verb.
BY_FLAG = {
    "--task": "RescueWorld-n3",
    "--method": "ihac",
    "--backend": "vllm",
    "--port": "8000",
    "--teacher": "scripted",
    "--to": "n3/expert-v0",
    "": "train",
}
# Texts that are no command to type as they stand, and why.
NOT_TYPED = {
    "python main.py VERB": "stands for any verb, in the usage",
    "python main.py \0 \0": "an example of the usage: VERBS, which test_every_example_of_the_usage has",
    "python main.py \0": "what the reader has typed, in the hint after an interruption",
    "python main.py \0VERB [--FLAG VALUE ...]": "stands for any verb, in the usage",
    "python main.py train --method \0 --task \0 \0 \0 --set \0=\0": "a learner's: tests/contract/test_hiro_cli.py",
    "python main.py serve \0": "agents with names of their own: tests/unit/test_backends.py",
    "python main.py serve --backend \0 \0 \0": "a flag of another backend: tests/unit/test_backends.py",
}


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in a syntax tree, with a mark where an f-string fills something in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
        for part in node.values:
            if not isinstance(part, ast.Constant):
                yield from texts(part)
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def commands(text: str) -> Iterator[str]:
    """The commands in a text: from `python main.py` to the end of what is typed."""
    for tail in text.split(CALL)[1:]:
        yield CALL + re.split(r"\n|`|,|;|\s#|\s{2}|\s(?:shows|then|or)\s", tail)[0].strip().rstrip(".:)")


def filled(command: str) -> list[str]:
    """The words of a command after `main.py`, with a plausible one for each hole."""
    words: list[str] = []
    for word in shlex.split(command.removeprefix(CALL)):
        before = words[-1] if words else ""
        if before == "--task" and ":" in word:  # of a module that the reader of the command writes
            word = HOLE
        words.append(word.replace(HOLE, BY_FLAG.get(before, "first") if word == HOLE else ""))
    return words


NAMED = sorted({c for file in SOURCES for text in texts(ast.parse(file.read_text())) for c in commands(text)})


def understood(words: list[str]) -> None:
    """Reads a command as the program would; one that asks for help ends there."""
    verb, flags = cli.verb_of(words)
    if "--help" in flags:
        with pytest.raises(SystemExit, match=r"^0?$"):
            cli.read(verb, flags)
    else:
        config = cli.read(verb, flags)
        if verb == "train":
            check_train(config)


@pytest.mark.parametrize("command", [c for c in NAMED if c not in NOT_TYPED])
def test_a_command_that_is_named_is_understood(command: str) -> None:
    words = filled(command)
    if (words[-1] == "--help" and len(words) == 1) or (words[0] in cli.GROUPS and words[1:] == ["--help"]):
        assert cli.main(words) == 0
    else:
        understood(words)


def test_what_is_excepted_is_still_there() -> None:
    assert set(NOT_TYPED) <= set(NAMED)


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if cli.VERBS[verb].example])
def test_every_example_of_the_usage_is_understood(verb: str) -> None:
    understood([*verb.split(), *shlex.split(cli.VERBS[verb].example)])


def test_a_command_that_is_wrong_is_found() -> None:
    code = 'raise UserError("No.", f"python main.py train --taks {task.name}  # again, or python main.py label x")'
    found = [c for text in texts(ast.parse(code)) for c in commands(text)]
    assert found == ["python main.py train --taks \0", "python main.py label x"]
    with pytest.raises(UserError, match="Unknown flag '--taks'"):
        understood(filled(found[0]))

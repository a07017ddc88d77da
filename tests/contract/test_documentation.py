"""What README and docs tell people to type works, and what they name exists."""

import ast
import importlib.util
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml

import main as cli
import preceptor
from dev import pages, results_json
from dev.tables import PARTS
from preceptor.agent.checks import check_train
from preceptor.agent.config import TrainConfig, places
from preceptor.agent.methods import METHODS, entry_of

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in (README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md")
}
GENERATED = "docs/cli.md"
TRANSCRIPT = "docs/ten-minutes.md"  # of an installed package, in a folder of its own; has its own test
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = [(page, language, block) for page, text in PAGES.items() for language, block in FENCED.findall(text)]
COMMANDS = [
    shlex.split(line, comments=True)
    for page, language, block in BLOCKS
    if page != TRANSCRIPT and language != "python"
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(\w+=\S+ )*(make|\S*python) ", line)
]
SAID = [
    *map(list, dict.fromkeys(tuple(words[words.index("main.py") + 1 :]) for words in COMMANDS if "main.py" in words))
]
TINY = {"preset": "tiny", "steps": 640, "num_envs": 4, "eval_episodes": 4}
SMALLER = {  # what makes a verb short; one that is not here needs a server or a person, and only has to parse
    "train": [*(f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()), "--quiet"],
    "eval": ["--seeds", "1000000:1000004", "--video", "1"],
    "report": [],
    "doctor": [],
    "tasks": [],
    "methods": [],
    "demos": ["--count", "6"],
    "tune": ["--trials", "2", "--episodes", "4", "--set", "preset=tiny", "--set", "steps=640", "--set", "num_envs=4"],
    "export": ["--observations", "40"],
    "labels show": [],
    "labels prompt": [],
    "labels export": [],
    "labels import": [],
    "labels batch": ["--scenes", "20"],
    "labels judge": ["--teacher", "local", "--scenes", "10"],
}


def test_every_verb_is_shown() -> None:
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
    prose = "\n".join(FENCED.sub("", text) for page, text in PAGES.items() if page != GENERATED)
    flags = {flag.replace("--no-", "--") for flag in re.findall(r"`(--[a-z.-]+)", prose)}
    names = {name for method in METHODS for kind in entry_of(method).settings for name in places(TrainConfig, kind)}
    for verb in cli.VERBS.values():
        names |= set(places(cli._function(verb.settings)))
    known = {f"--{name.replace('_', '-')}" for name in (*names, "set", "config")}
    assert flags
    assert flags - known == set()


def test_every_make_target_and_module_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(PAGES.values())
    made = {word for words in COMMANDS if words[0] == "make" for word in words[1:]}
    made |= set(re.findall(r"`make ([a-z-]+)`", text))
    assert {"demo", "test", "docs"} <= made <= targets
    modules = {words[i + 1] for words in COMMANDS for i, word in enumerate(words) if word == "-m"}
    modules |= set(re.findall(r"python -m ([a-z_.]+)", text))
    theirs = ("vllm.", "fastchat.")  # those are in .venv-serving
    assert [
        module for module in modules if not module.startswith(theirs) and not importlib.util.find_spec(module)
    ] == []


def references(page: str, text: str) -> Iterator[Path]:
    """The files that a page names: its links and pictures, and paths that begin with a folder of this repository."""
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text)):
        if not target.startswith(("http:", "https:", "#")):
            yield here / target.partition("#")[0]
    folders = (path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("log", "preceptor"))
    rooms = "|".join(name for name in folders if not name.startswith("."))
    for name in re.findall(rf"(?<![\w/.-])((?:{rooms}|examples)/[\w/.-]*\w)(?![\w*{{])", text):
        yield ROOT / name


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_file_that_is_not_here(page: str) -> None:
    assert [str(file) for file in references(page, PAGES[page]) if not file.exists()] == []


def test_a_reference_that_leads_nowhere_is_found() -> None:
    text = "see [the plan](plan.md), `agent/gone.py` and ![a picture](pictures/none.png), not https://x.org/docs/y.md"
    assert [file.name for file in references("docs/index.md", text)] == ["plan.md", "none.png", "gone.py"]


def test_every_page_is_in_the_navigation() -> None:
    def files(node: Any) -> Iterator[str]:
        for value in node.values() if isinstance(node, dict) else node:
            yield from [value] if isinstance(value, str) else files(value)

    named = {f"docs/{name}" for name in files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])}
    assert named == {page for page in PAGES if page.startswith("docs/")}


@pytest.mark.parametrize("page", PAGES)
def test_no_page_says_a_thing_twice(page: str) -> None:
    headings = re.findall(r"^#+ .*", FENCED.sub("", PAGES[page]), re.MULTILINE)
    assert sorted(set(headings)) == sorted(headings)


def test_the_first_page_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_a_method_is_known_from_few_files_and_their_lines_are_told() -> None:
    rows = re.findall(r"^\| (\w+) \| (`agent/.*) \| ([\d,]+) \|$", PAGES["docs/design.md"], re.MULTILINE)
    assert [method for method, *_ in rows] == ["ppo", "ihac", "sac", "hiro", "hvd", "helios", "halo"]
    for method, names, told in rows:
        files = re.findall(r"`([^`]+)`", names)
        lines = sum(len((ROOT / name).read_text().splitlines()) for name in files)
        assert len(files) <= (9 if method == "halo" else 6)
        assert abs(lines - int(told.replace(",", ""))) <= 100, f"{method}: {lines} lines"


def test_the_command_line_is_described_as_it_is() -> None:
    assert PAGES[GENERATED] == pages.page(), "python -m dev.pages"


def test_every_file_in_the_tree_exists() -> None:
    tree = next(block for page, _, block in BLOCKS if page == "docs/files.md")
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


@pytest.mark.parametrize("page", [page for page, language, _ in BLOCKS if language == "python"])
def test_every_block_of_python_compiles(page: str) -> None:
    for block in (block for name, language, block in BLOCKS if (name, language) == (page, "python")):
        ast.parse(block, page)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, evaluate = preceptor.train, preceptor.evaluate
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preceptor, "train", lambda *args, **said: train(*args, **said, **TINY), raising=False)
    monkeypatch.setattr(
        preceptor, "evaluate", lambda *args, **said: evaluate(*args, **said | {"episodes": 4}), raising=False
    )
    for name in ("wandb", "mlflow"):  # not ours to install: what is called upon them is taken as it comes
        monkeypatch.setitem(sys.modules, name, MagicMock())
    script = tmp_path / "page.py"
    script.write_text("\n".join(block for name, language, block in BLOCKS if (name, language) == (page, "python")))
    runpy.run_path(str(script))
    assert list(tmp_path.glob("log/*/*/*/result.json"))


@pytest.mark.timeout(1200)
def test_the_commands_work_one_after_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    for words in SAID:
        verb, flags = cli.verb_of(words)
        servers = {"llm", "replay", "--server", "--base-url", "--ray"}  # those need one, or a run of one
        if servers & set(words) or verb not in SMALLER:
            continue
        shorter = ["--online=640"] if "--online" in flags and "0" not in flags else []
        assert cli.main([*verb.split(), *flags, *SMALLER[verb], *shorter]) == 0, words
    assert len(list(tmp_path.rglob("*.mp4"))) >= 1
    assert "KeyInBox" in capsys.readouterr().out


def test_the_results_as_json_are_those_of_the_pages() -> None:
    assert json.loads(results_json.TABLES.read_text()) == results_json.tables(), "python -m dev.results_json"
    commands = {table["command"] for table in results_json.tables()}
    assert {f"python -m dev.tables {part}" for part in PARTS} <= commands


def test_the_first_page_has_the_figures_of_the_page_of_results() -> None:
    command = "python -m dev.tables tasks"
    (short,) = (t["rows"] for t in results_json.tables_of("README.md", PAGES["README.md"]) if t["command"] == command)
    (full,) = (table["rows"] for table in results_json.tables() if table["command"] == command)
    for few, all_ in zip(short, full, strict=True):
        assert few["row"] == all_["row"]
        assert few["scripted expert"] == all_["scripted"]["mean"]
        assert (few["steps"], few["queries"]) == (all_["steps"], all_["queries"])
        for style in ("sampled", "greedy"):
            assert few[style].items() <= all_[f"final, {style}"].items(), few["row"]


def test_the_tests_that_notice_planted_faults_are_there() -> None:
    found = re.findall(r"\| (test_\w+): (\w+)", (ROOT / "dev" / "FAULTS.md").read_text())
    texts = {file.stem: file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}
    assert len(found) > 30
    assert [name for file, name in found if f"def test_{name}(" not in texts[file]] == []


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("29,952", 29952),
        (".001", 0.001),
        ("–", None),
        ("1.000 · 19.8", {"mean": 1.0, "length": 19.8}),
        ("-74.376 [-76.687, -72.065]", {"mean": -74.376, "low": -76.687, "high": -72.065}),
        (
            "**0.985** [0.978, 0.990] (0.992 0.982 0.982), 21.7 steps",
            {"mean": 0.985, "low": 0.978, "high": 0.99, "seeds": [0.992, 0.982, 0.982], "length": 21.7},
        ),
        (".049 .058 1,015", [0.049, 0.058, 1015]),
        ("ours", "ours"),
    ],
)
def test_a_cell_is_read(cell: str, said: Any) -> None:
    assert results_json.value(cell) == said


def test_curves_are_thinned_and_those_of_other_machines_kept(tmp_path: Path) -> None:
    run = tmp_path / "ppo/T/table/seed-0"
    run.mkdir(parents=True)
    lines = [json.dumps({"step": step, "rollout/success": step / 1000}) for step in range(1, 1001)]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    assert results_json.curves(tmp_path, []) == []  # it is not over
    (run / "result.json").write_text("{}")
    old = {"run": "ppo/S/table/seed-0", "rollout/success": [[1, 0.5]]}
    kept, new = results_json.curves(tmp_path, [old])
    assert kept == old
    assert new["run"] == "ppo/T/table/seed-0"
    assert new["rollout/success"][-1] == (1000, 1.0)
    assert len(new["rollout/success"]) <= results_json.POINTS + 1

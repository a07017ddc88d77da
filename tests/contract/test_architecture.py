"""The shape of the code base: what may import what, what is forbidden, and how long a file may be."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("ground", "envs", "teacher", "controller", "agent", "main")
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
SERVING_KNOWS = {"ground", "envs", "teacher", "serving"}
POLICY_KNOWS = SERVING_KNOWS | {"controller", "agent"}  # what it serves
FOLDERS = (*FLOORS, "serving")
ROOMS = tuple(room for room in FOLDERS if room != "main")
SOURCES = sorted([ROOT / "main.py", *(path for floor in FOLDERS for path in (ROOT / floor).rglob("*.py"))])
EVERYTHING = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Modules that the import statements among nodes name, and whatever is taken from them."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("preceptor.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            module = (node.module or "").removeprefix("preceptor.")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if floor == "serving":
        policy = path.relative_to(ROOT).parts[1] == "policy"
        above = {*FLOORS, "tests", "bench"} - (POLICY_KNOWS if policy else SERVING_KNOWS)
    else:
        beside = set() if floor == "main" else {"serving"}  # trainers reach servers by HTTP alone
        above = {*FLOORS[FLOORS.index(floor) + 1 :], "tests", "bench"} | beside
    assert not [name for name in imported(ast.walk(ast.parse(path.read_text()))) if name.partition(".")[0] in above]


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_rooms_are_imported_through_the_package(path: Path) -> None:
    """Installed, there is no `agent`; and in a clone a module with two names would exist twice."""
    assert not re.findall(rf"^\s*(?:from|import) (?:{'|'.join(ROOMS)})[. ].*", path.read_text(), re.MULTILINE)


def test_no_file_needs_one_that_needs_it() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
    # What a file needs to be loaded at all: imports inside functions, and those for types alone, wait.
    graph = {name: set(imported(ast.parse(path.read_text()).body)) & set(names) for name, path in names.items()}
    assert sum(map(len, graph.values())) > len(graph)
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_nothing_runs_text_or_unpickles(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    roots = {name.partition(".")[0] for name in imported(nodes)}
    assert not roots & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        assert name not in {"eval", "exec", "compile", "os.system", "os.popen", "torch.load", "torch.save"}
        switched_on = {word.arg for word in call.keywords if ast.unparse(word.value) != "False"}
        assert not switched_on & {"shell", "allow_pickle"}, name


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            start = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno - 1  # docstrings do not count
            assert (node.end_lineno or 0) - (start or 0) <= LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names_say_what_is_inside(path: Path) -> None:
    assert not {"utils", "util", "common", "helpers", "misc"} & set(name_of(path).removesuffix(".py").split("/"))


@pytest.mark.parametrize("words", ["--help", "eval --help", "serve --help", "label --help", "labels judge --help"])
def test_help_loads_nothing_heavy(words: str) -> None:
    code = (
        "import sys, main\ntry:\n    main.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numba', 'numpy', 'transformers', 'gymnasium', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"
    assert "usage" in done.stdout

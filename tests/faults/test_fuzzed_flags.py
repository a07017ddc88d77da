"""What no flag may be, said to every verb: exit code 2 and the next command, no traceback, nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

import main as cli
from preceptor.agent.config import TrainConfig, configure, places
from preceptor.agent.methods import METHODS, entry_of
from preceptor.ground.errors import UserError

LONG, DIGITS = "x" * 300, "9" * 20
UNPRINTABLE = ("a\nb", "a\rb", "a\x1b[31mb", "a\0b", "\udcff")
NAMES = ("../seed-1", "..", ".", "", "a/b", "a\\b", "/tmp/x", *UNPRINTABLE, LONG, "é" * 60)
NO_PATHS = ("../seed-1", "", *UNPRINTABLE, LONG)
FILES = ("nowhere.toml", "/", "bom16.toml", "deep.yaml", "bytes.toml", f"{LONG}.toml")
SETTINGS = ("x", "=", "lr=", "lr=nan", "resume=maybe", "config=x", "seeds=1e5", "task=\n")
LEVELS = (DIGITS, f"1000000:{DIGITS}", f"{DIGITS}:{DIGITS}1", "nan", "1e6:2e6", ":")
TINY = ["train", "--method", "ppo", "--preset", "tiny", "--eval-episodes", "0", "--quiet", "--steps", "600"]
REFUSED = [
    *(["train", "--savedir", name] for name in NAMES),
    *(["tune", "--search", "lr=1e-4:1e-2", "--savedir", name] for name in NAMES),
    *(["label", "--savedir", name] for name in NAMES),
    *([verb, "--task", name] for verb in ("train", "eval", "demos", "report") for name in NAMES if name),
    *([verb, "--logdir", name] for verb in ("train", "eval", "report") for name in ("a\0b", "a\x1b[31mb", "\udcff")),
    *(["eval", "--loaddir", name] for name in NO_PATHS),
    *(["report", name] for name in NO_PATHS if name),
    *(["eval", "--compare", "random", "--savedir", name] for name in ("../x", "a/../../x", "..")),
    *(["tune", "--search", f"lr={low}:1"] for low in ("nan", "inf", "-inf", "1e999", "x", "", "2")),
    *(["eval", "--seeds", levels] for levels in LEVELS),
    *(["train", "--method", "bc", "--demos", number] for number in ("0", DIGITS, "-1", "nan", "../x", LONG)),
    *(
        ["train", "--method", "bc", "--task", "PointReach", "--demos", words]
        for words in ("mixed:0", "mixed:", "4+", "~+4", f"/{'x' * 5000}", "y" * 5000, "./a\0b")
    ),
    ["demos", "--task", "PointReach", "--to", "a/b-v0", "--quality", "mixed"],
    *(
        ["demos", "--format", "lerobot", "--to", name, "--count", "2"]
        for name in ("/dev/null/x", "y" * 300, ".", "a\0b")
    ),
    ["demos", "--task", "FetchPickAndPlace", "--to", "a/b-v0", "--quality", "mixed", "--fault-kinds", DIGITS],
    *(["train", "--device", device] for device in (f"cuda:{DIGITS}", "gpu", "cpu\n", "")),
    *(["train", "--config", file] for file in FILES),
    *(["train", "--set", text] for text in SETTINGS),
    [*TINY, "--set", f"trunk.hidden={2**50}"],
    [*TINY, "--num-envs", str(2**50), "--steps", str(2**52)],
    [*TINY, "--logdir", "/dev/null/x"],
    ["train", "--threads", "1000000"],
    ["demos", "--task", "PointReach", "--to", "a/b-v0", "--count", "1000001"],
]
ACCEPTED = [
    ["report", "--logdir", "bom.jsonl/../log", "--plot", "plot.png"],
    ["eval", "--compare", "random", "--seeds", "1000000", "--batch", str(2**50), "--quiet"],
    [*TINY, "--seed", str(2**50), "--config", "bom.toml", "--savedir", "é" * 40],
]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command deep in an empty folder, and looks that it wrote into its log folder alone; what it said."""
    here = tmp_path / "deep" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    (here / "bom.toml").write_bytes(b"\xef\xbb\xbflr = 1e-3\n")
    (here / "bom16.toml").write_text("lr = 1e-3\n", encoding="utf-16")
    (here / "deep.yaml").write_text("[" * 100_000)
    (here / "bytes.toml").write_bytes(b"lr = \xff\xfe\x80\n")
    (here / "bom.jsonl").mkdir()

    def run(words: list[str], code: int) -> str:
        before = {path for path in tmp_path.rglob("*") if "log" not in path.relative_to(tmp_path).parts}
        try:
            ended = cli.main(words)
        except SystemExit as error:
            ended = int(error.code or 0)
        out, err = capsys.readouterr()
        assert ended == code, (words, out, err)
        after = {path for path in tmp_path.rglob("*") if "log" not in path.relative_to(tmp_path).parts}
        assert after - before <= {here / "plot.png"}, words
        return err

    return run


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: " ".join(words)[:60].encode("ascii", "replace").decode())
def test_a_mistake_is_named_and_nothing_is_written(words: list[str], typed: Callable[..., str]) -> None:
    err = typed(words, 2)
    assert "error: " in err
    assert "next: " in err
    assert not {"\x1b", "\0", "\udcff"} & {*err}, "what was said is not sent to the terminal as it is"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_unusual_but_right_is_done(typed: Callable[..., str]) -> None:
    for words in reversed(ACCEPTED):
        typed(words, 0)


@pytest.mark.parametrize("method", METHODS)
def test_no_number_of_any_setting_is_infinite_or_too_large(method: str) -> None:
    """Every float and every whole number that `train` knows, of a method's own settings, too."""
    said = {"method": method, "task": "PointReach" if method in ("sac", "td3", "bc", "iql") else "RescueWorld-n3"}
    kind = type(configure(said).settings)
    tried = 0
    for name, place in places(TrainConfig, kind).items():
        values = {float: ("nan", "inf", "-inf", "1e999", float("nan")), int: (DIGITS, f"-{DIGITS}", 10**400)}
        for value in (value for of, some in values.items() if of in place.kinds for value in some):
            tried += 1
            with pytest.raises(UserError) as caught:
                configure({**said, name: value})
            assert "must be" in caught.value.what, (name, value)
    assert tried > 40
    assert entry_of(method)

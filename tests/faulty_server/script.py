"""The script of a server that misbehaves: what it can do, and what goes wrong when. TOML, read strictly."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ground.errors import UserError, unknown_name
from tests.faulty_server.faults import FAULTS

EXAMPLE = Path(__file__).parent / "example.toml"

MANNERS = ("honoured", "ignored", "refused")
DIALECTS = ("openai", "fastchat")
GENERATION = ("chat", "completions")
TARGETS = ("generation", *GENERATION, "models", "any")


@dataclass(frozen=True)
class Step:
    """One fault, and which of the requests that follow meet it.

    Attributes:
        fault: Its name, one of `FAULTS`.
        times: Requests that meet it; then the next step begins.
        forever: It never ends.
        probability: Chance that a request meets it, drawn with `seed`.
        after: Requests of its kind that are answered properly first.
        on: The requests that it is about: `generation` (chat or completions), `chat`, `completions`, `models`, `any`.
        seconds: How long it takes; for `rate_limit`, the Retry-After. None for the fault's own default.
    """

    fault: str
    times: int = 1
    forever: bool = False
    probability: float = 1.0
    seed: int = 0
    after: int = 0
    on: str = "generation"
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise unknown_name("fault", self.fault, FAULTS, f"see {EXAMPLE}")
        if self.on not in TARGETS:
            raise unknown_name("kind of request", self.on, TARGETS, f"see {EXAMPLE}")
        fault = FAULTS[self.fault]
        rules = {
            "times must be 1 or more": self.times >= 1,
            "after must be 0 or more": self.after >= 0,
            "probability must be above 0 and at most 1": 0 < self.probability <= 1,
            "seconds must be 0 or more": self.seconds is None or self.seconds >= 0,
            "seconds means nothing to it": self.seconds is None or fault.timed,
            "times means nothing with forever": not self.forever or self.times == 1,
            "it spoils replies, and lists of models are none": not fault.spoils or self.on not in ("models", "any"),
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            raise UserError(f"Step {self.fault!r}: {'; '.join(broken)}.", f"see {EXAMPLE}")

    def concerns(self, kind: str, request: Mapping[str, Any]) -> bool:
        """Whether a request of a kind can meet this fault; one that would change nothing is not spent on it."""
        wanted = {"generation": GENERATION, "any": (kind,)}.get(self.on, (self.on,))
        return kind in wanted and FAULTS[self.fault].matters(request)


@dataclass(frozen=True)
class Script:
    """A server: what it can do when it behaves, and the steps in which it does not.

    Attributes:
        models: Ids that it lists.
        dialect: Whose errors and habits it has: `openai` (vLLM's too) or `fastchat`.
        logprobs: What becomes of a wish for log-probabilities on chat: `honoured`, `ignored` (HTTP 200) or `refused`.
        top_logprobs: Most alternatives; more are refused.
        structured_outputs: What becomes of a constraint.
        echo: What becomes of `echo` on completions.
        context: Tokens of a prompt with its reply.
        key: The key that it wants; empty for none.
        off_menu: Share of the toy model's probability that is on no letter.
        likes: Option words -> weight against the 1 of an option that is not named here. Empty: a hash of the words.
        steps: Faults, in order.
    """

    models: tuple[str, ...] = ("toy",)
    dialect: str = "openai"
    logprobs: str = "honoured"
    top_logprobs: int = 20
    structured_outputs: str = "honoured"
    echo: str = "honoured"
    context: int = 4096
    key: str = ""
    off_menu: float = 0.0
    likes: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (
            ("dialect", DIALECTS),
            ("logprobs", MANNERS),
            ("structured_outputs", MANNERS),
            ("echo", MANNERS),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known, f"see {EXAMPLE}")
        if not self.models or not 0 <= self.off_menu < 1 or min(self.top_logprobs, self.context) < 1:
            raise UserError(
                "A script needs a model, 0 <= off_menu < 1, and top_logprobs and context of 1 or more.",
                f"see {EXAMPLE}",
            )
        if any(weight <= 0 for weight in self.likes.values()):
            raise UserError("Weights in [likes] must be above 0.", f"see {EXAMPLE}")


def read_script(source: Path | str) -> Script:
    """The script in a file. Raises `UserError` with the name of what is wrong."""
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The script {path} cannot be read: {error}.", f"begin with a copy of {EXAMPLE}") from error
    return parse_script(text, str(path))


def parse_script(text: str, name: str = "script") -> Script:
    """The script in a text. Raises `UserError` with the name of what is wrong."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name} is not TOML: {error}.", f"compare it with {EXAMPLE}") from error
    steps = table.pop("steps", [])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise UserError(f"{name}: steps must be tables.", "write [[steps]] above each of them")
    likes = table.pop("likes", {})
    if not isinstance(likes, dict) or not all(_is(float, weight) for weight in likes.values()):
        raise UserError(f"{name}: likes must be a table of numbers.", 'write [likes], then "go to the key" = 5.0')
    if "models" in table:
        models = table["models"]
        if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
            raise UserError(f"{name}: models must be a list of names.", 'write models = ["toy"]')
        table["models"] = tuple(models)
    read = [Step(**_checked(Step, step, f"{name}, step {i}")) for i, step in enumerate(steps, 1)]
    return Script(**_checked(Script, table, name), likes=likes, steps=tuple(read))


def _checked(kind: type, table: dict[str, Any], where: str) -> dict[str, Any]:
    """The table, if its keys are fields of the dataclass and its values of their types."""
    fields = {each.name: each for each in dataclasses.fields(kind)}
    for key, value in table.items():
        if key not in fields:
            raise unknown_name(f"key in {where}:", key, fields, f"see {EXAMPLE}")
        default = fields[key].default
        wanted = float if key == "seconds" else str if default is dataclasses.MISSING else type(default)
        if not _is(wanted, value):
            raise UserError(
                f"{where}: {key} must be of type {wanted.__name__}, not {type(value).__name__}.", f"see {EXAMPLE}"
            )
    if kind is Step and "fault" not in table:
        raise UserError(f"{where} names no fault.", f"write fault = NAME, one of {', '.join(sorted(FAULTS))}")
    return table


def _is(wanted: type, value: object) -> bool:
    """Whether a value has a type; an integer is a number too, a boolean is none."""
    return isinstance(value, bool) == (wanted is bool) and isinstance(
        value, (int, float) if wanted is float else wanted
    )

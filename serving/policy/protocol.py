"""What clients say to the policy server and what it answers; OpenAPI is made of these models.

Over HTTP arrays are nested lists; over the WebSocket, where `op` names the request, they are arrays.
"""

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError

MOST_ENVIRONMENTS = 4096
OPERATIONS = ("open", "act", "label", "reset", "export", "close")  # as `op` names them
_SHOWN = 500  # characters of an error
_Listed = PlainSerializer(lambda value: value.tolist() if isinstance(value, np.ndarray) else value, when_used="json")
Array = Annotated[Any, _Listed, Field(json_schema_extra={"type": "array", "items": {}})]


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: Of HTTP; over the WebSocket it is the same number.
        message: What is wrong.
        next: What would work.
        retry_after: Seconds after which the same request may be answered; None where it never will.
    """

    def __init__(self, status: int, message: str, next: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.next, self.retry_after = status, next, retry_after

    def body(self) -> dict[str, Any]:
        """As it is sent."""
        return Failure(
            status=self.status, message=str(self)[:_SHOWN], next=self.next, retry_after=self.retry_after
        ).model_dump(exclude_none=True)


class Failure(BaseModel):
    """Why a request was not answered, what would work, and when to send it again where that may help."""

    status: int
    message: str
    next: str = ""
    retry_after: float | None = None


class Ask(BaseModel):
    """A request: fields of the right type and no others."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    @classmethod
    def read(cls, fields: Any) -> Self:
        """The request of a message. Raises `Refused`, which names the first field that is wrong."""
        try:
            return cls.model_validate(fields)
        except ValidationError as problem:
            raise misread(problem.errors()) from problem


def misread(errors: Any) -> Refused:
    """The refusal that names the first field that is wrong."""
    error, *others = errors
    where = ".".join(str(part) for part in error["loc"] if part != "body") or "the request"
    more = f" (and {len(others)} more)" if others else ""
    return Refused(422, f"{where}: {error['msg']}{more}.", "GET /openapi.json describes every request")


class Open(Ask):
    """Begin to play N environments."""

    agent: str | None = None
    """Its name, or NAME@VERSION; may be left out where one agent is served."""
    environments: int = Field(default=1, ge=1, le=MOST_ENVIRONMENTS)
    greedy: bool = False
    """Take the most probable option and action instead of sampling them."""
    seed: int | list[int] | None = None
    """Of the sampling, as NumPy's default_rng takes it."""
    units: Literal["environment", "task"] = "environment"
    """Whether actions are in the environment's numbers or the task's, where vectors are in [-1, 1]."""
    fallback: float | None = Field(default=None, gt=0, le=1)
    """Ask the server's teacher where an option is chosen and none is as probable as that; null to ask nobody."""
    state: str | None = Field(default=None, max_length=2**22)
    """An exported session, to go on from; all but `agent` is then what it was."""
    generator: str | None = None
    """Where the generator stands, as exported sessions say it; instead of a seed."""


class Act(Ask):
    """The next step of a session."""

    session: str = ""
    """Of the session; over HTTP it is in the path."""
    number: int | None = Field(default=None, ge=1)
    """Counts the steps of the session from 1. The last one may be sent again and is answered as it was, whatever became
    of the connection or the server; without a number, a request must not be sent again."""
    obs: Array
    """Observations [N, ...]; of one environment also [...]."""
    began: Array | None = None
    """bool [N], the environments that have begun an episode since the last step; none if left out."""


class Label(Ask):
    """What the agent's controller says of observations [N, ...]."""

    agent: str | None = None
    obs: Array


class OfSession(Ask):
    """Reset, export or close a session."""

    session: str


class Told(BaseModel):
    """An answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Session(Told):
    """An open session."""

    session: str
    agent: str
    version: str
    task: str
    environments: int
    greedy: bool
    units: str
    fallback: float | None
    number: int
    """Of its last step; 0 before the first."""
    options: list[str]
    """In words; empty where vectors are chosen."""


class Acted(Told):
    """What to do now."""

    number: int
    action: Array
    """[N, ...]."""
    option: list[str] | None
    """The option that runs, in words; null where vectors are chosen."""
    command: Array | None
    """[N, D], the vector that runs; null where options have names."""
    probs: Array | None
    """[N, K], what an option would be sampled from now; null where vectors are chosen."""
    ended: Array
    """bool [N], where an option was over, or none ran, and another has begun."""
    advice: list[str] | None = None
    """Of sessions with `fallback`: `teacher` where it chose, why not where it was asked in vain, else nothing."""


class Labelled(Told):
    """What a controller says."""

    option: list[str]
    """The most probable option [N], in words."""
    index: Array
    """Its number [N]."""
    probs: Array
    """[N, K], calibrated, of the legal options."""


class Exported(Told):
    """A session as text, from which `open` goes on, on this server or another that has the same agent."""

    state: str


class Served(Told):
    """An agent."""

    agent: str
    version: str
    task: str
    source: str
    """What `get_task` makes the task of."""
    method: str
    run: str
    observation_shape: list[int]
    options: list[str]
    labels: bool
    """Whether it has a controller that labels."""
    batched: bool
    """Whether requests of several clients are worked out together."""
    sessions: int
    """That play this version."""
    newest: bool
    """Whether new sessions get this version."""
    learned: dict[str, Any] | None = None
    """Of a version that was learned at play: from how many `scenes`, and the `agreement` with the teacher on `held_out`
    others, before and after; null of one that was trained."""


class Watched(Told):
    """A session that plays, as the page lists it."""

    name: str
    """The beginning of its id."""
    agent: str
    version: str
    task: str
    environments: int
    number: int
    idle: float
    """Seconds since its last request."""


class Shown(Told):
    """What one environment of a session does, as the page shows it."""

    number: int
    """Of the step that is shown."""
    goal: str
    """Of its task, in words."""
    option: str | None
    """The option that runs, in words; null where vectors are chosen, or primitive actions alone."""
    command: list[float] | None
    options: list[str]
    probs: list[float] | None
    """What an option would be sampled from now."""
    running: int | None
    """The option that runs, by its place among `options`."""
    decided: Literal["controller", "low level", "teacher"]
    """The controller, where an option was over and it chose another, or a teacher in its place; else the low level."""
    advice: str
    """Why a teacher that was asked did not decide; else empty."""
    teacher: dict[str, float] | None
    """What the agent's teacher has cost: queries, calls, tokens, and usd where prices are known; null without one."""
    action: Array
    picture: str | None
    """PNG in base64 of what was observed; null where the task cannot draw its observations."""


class Done(Told):
    """It is done."""

    done: bool = True

"""How a teacher is chosen and asked, as on the command line. The text under each field is its `--help`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from preceptor.ground.ranges import NotNegative

TeacherName = Literal["local", "llm", "scripted", "replay", "random", "uniform-legal", "shuffled", "none"]
Scoring = Literal["auto", "logprobs", "choice", "echo", "samples"]
By = Literal["scene", "plan"]
# What stands in for a teacher that cannot be reached: the running option goes on, the controller that is being
# distilled decides, or the task's own expert; or the run stops.
Policy = Literal["abort", "hold", "controller", "scripted"]


@dataclass(frozen=True)
class TeacherConfig:
    """Who labels scenes, how a language model is asked, and what it may cost."""

    teacher: str = "local"
    """local (a tiny model in this process), llm (a server), scripted, replay, none, or a control: random,
    uniform-legal, shuffled (another scene's answer; shuffled:NAME for another teacher's than local)."""
    teacher_by: By = "scene"
    """scene: the teacher labels scenes; plan: it writes one plan for each mission, which is then followed (scripted and
    llm, on tasks with missions)."""
    base_url: str | None = None
    """Server of --teacher llm, OpenAI protocol; OPENAI_BASE_URL if not given. The key is read from OPENAI_API_KEY."""
    model: str | None = None
    """Model on that server, or for --teacher local a folder; the only one that the server offers if not given."""
    labels: str | None = None
    """Label store (SQLite) to read answers from and add answers to; the run's own if not given."""
    prompt: str | None = None
    """Prompt template: compact (for small models trained on the task), chat, or a file of yours with a section [user];
    the model's own if it tells."""
    permutations: Annotated[int, Ge(1)] = 4
    """Menu orders that the teacher's answer is averaged over."""
    margin: Annotated[float, Ge(0), Le(1)] = 0.0
    """Labels whose two best options are closer than this are abstentions."""
    scoring: Scoring = "auto"
    """How a server is asked: logprobs, choice, echo, samples; auto takes the first of these that it honours."""
    samples: Annotated[int, Ge(1)] = 10
    """Samples per menu where the server cannot score (choice, samples)."""
    temperature: Annotated[float, Ge(0), Le(2)] | None = None
    """Of a server's replies; 1 for labels and 0 for plans if not given."""
    reply_tokens: Annotated[int, Ge(1)] | None = None
    """Tokens of a sampled reply at most, thinking included; 16 if not given, or what the model is seen to need."""
    extra_body: str | None = None
    """More fields of each request to a server, a JSON object: '{"reasoning_effort": "low"}'."""
    concurrency: Annotated[int, Ge(1)] | None = None
    """Requests in flight at once; by the speed of the server if not given."""
    max_llm_calls: Annotated[int, Ge(1)] | None = None
    """Stop hard at this many calls; repetitions and probes count."""
    max_llm_tokens: Annotated[int, Ge(1)] | None = None
    """Stop hard at this many tokens, of prompts and replies."""
    max_llm_seconds: Annotated[float, Gt(0)] | None = None
    """Stop hard after this many seconds of asking."""
    usd_per_million_in: NotNegative | None = None
    """Price of a million tokens of prompts, for the cost that is told before a server is asked."""
    usd_per_million_out: NotNegative | None = None
    """Price of a million tokens of replies."""
    on_teacher_failure: Policy = "abort"
    """When the server stays away: abort (everything is kept, --resume goes on), or stand in for it: hold (the running
    option goes on), controller (the one being distilled decides), scripted (the task's expert decides)."""
    ask_below: Annotated[float, Gt(0), Le(1)] = 1.0
    """Ask about scenes where the controller that is being distilled gives its best option less than this probability
    (1: about all). In others it decides by itself, for the rest of the run, and learns nothing."""
    soft: bool = True
    """Learn from the teacher's probabilities (--soft_planner); --no-soft or --hard: from its best option alone."""
    label_noise: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability with which a query's label is replaced by a random legal option."""
    noise_per: Literal["query", "scene"] = "query"
    """query: noise is drawn anew for each query; scene: once for a scene, as with a model at temperature 0."""


@dataclass(frozen=True)
class Limits:
    """How long to wait, and how much to read."""

    request_seconds: float = 60.0  # one request, however slowly it drips
    deadline_seconds: float = 120.0  # one request with all its repetitions
    # How long a server that spent a deadline in vain is left alone, where the run may go on.
    cool_down_seconds: float = 30.0
    max_bytes: int = 256 * 1024  # of the reply to one prompt; more is cut off

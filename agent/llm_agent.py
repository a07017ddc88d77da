"""A language model that plays by itself: it is asked at each decision, for an option or for a primitive action.

The form is that of the naive agent of BALROG (Paglieri et al., 2025): what the game is about, the last observations and
choices, what is perceived now, and one choice as the reply. No label store stands between: that is what it costs.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock
from preceptor.agent.distributions import Categorical
from preceptor.agent.levels import Observations, Player, SingleOption, SkillLow, Spent
from preceptor.envs.task import Task, defines, lacking
from preceptor.ground.errors import UserError
from preceptor.teacher.asking import Model, Reply
from preceptor.teacher.base import BudgetExhausted, TeacherError
from preceptor.teacher.call import OK
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.make import make_player
from preceptor.teacher.prompts import LETTERS, Menu, Prompt, Template, menus

_HISTORY = 8  # BALROG's agents have 16
_PROBED = 16  # first observations, whose longest prompts a server is tried on


class Question(NamedTuple):
    """What is perceived, the options or actions that there are, by index and in words, and which one stands in for a
    reply that cannot be read, by its position."""

    text: str
    choices: tuple[int, ...]
    words: tuple[str, ...]
    stands_in: int


def option_questions(task: Task, obs: NDArray) -> list[Question]:
    """Which legal option to start in each observation [N, ...]."""
    questions = []
    for scene in task.describe(obs):
        if len(scene.legal) > len(LETTERS):
            what = f"{len(scene.legal)} options are legal in a scene of {task.name}, more than a menu has letters."
            raise UserError(what, "--agent-asks action")
        menu = menus(scene, 1)[0]
        questions.append(Question(scene.text, menu.options, menu.words(task), menu.options.index(scene.legal[0])))
    return questions


def action_questions(task: Task, obs: NDArray) -> list[Question]:
    """Which primitive action to take in each observation [N, ...]."""
    actions = tuple(range(task.num_actions))
    return [Question(text, actions, task.action_words, actions[-1]) for text in task.sights(obs)]


def prompt_of(task: Task, template: Template, question: Question, past: Iterable[tuple[str, str]]) -> Prompt:
    """What the model reads; `past` are earlier texts and choices in words, the oldest first."""
    return template.ask(task, question.text, Menu(tuple(range(len(question.words)))), question.words, past)


class Asker:
    """Asks a model about the environments of one batch, each until its first episode is over.

    Args:
        task: What is played.
        model: Who is asked.
        template: Words the prompts.
        questions: What is asked about observations.
        history: Past observations and choices in a prompt.

    Attributes:
        spent: What it came to.
    """

    def __init__(
        self,
        task: Task,
        model: Model,
        template: Template,
        questions: Callable[[Task, NDArray], list[Question]],
        history: int,
    ) -> None:
        self.task, self.model, self.template = task, model, template
        self.spent = Spent()
        self._questions, self._history = questions, history
        self._rng = np.random.default_rng(0)  # of a model that gives probabilities
        self._live = np.zeros(0, np.bool_)
        self._past: list[deque[tuple[str, str]]] = []

    def choose(
        self, begun: NDArray[np.bool_], due: NDArray[np.bool_], obs: NDArray, otherwise: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The option or action [N] in each observation [N, ...] where one is `due` [N], by one batch of calls, and
        `otherwise` [N] elsewhere.

        `begun` [N] is where an episode has just begun. In all at once: a batch begins. In some: the episode that counts
        is over there, and no more is asked about it.
        """
        if begun.all():
            self._live, self._past = begun.copy(), [deque(maxlen=self._history) for _ in begun]
        else:
            self._live &= ~begun
        rows, chosen = np.flatnonzero(due & self._live).tolist(), otherwise.copy()
        asked = list(zip(rows, self._questions(self.task, obs[rows]), strict=True)) if rows else []
        prompts = [prompt_of(self.task, self.template, q, self._past[row]) for row, q in asked if len(q.choices) > 1]
        replies = iter(self._replies(prompts))
        self.spent.decisions += len(rows)
        for row, question in asked:
            at = self._position(next(replies), question) if len(question.choices) > 1 else 0
            self._past[row].append((question.text, question.words[at]))
            chosen[row] = question.choices[at]
        return chosen

    def _position(self, reply: Reply, question: Question) -> int:
        """The position on the menu that a reply names, or that of what stands in."""
        if reply.status != OK:
            self.spent.unreadable += 1
            return question.stands_in
        return int(Categorical(np.array([reply.scores], np.float32)).sample(self._rng)[0][0])

    def _replies(self, prompts: list[Prompt]) -> list[Reply]:
        if not prompts:
            return []
        found: dict[int, Reply] = {}
        before, started = dict(self.model.extra), time.perf_counter()
        try:
            with contextlib.closing(self.model.replies(prompts)) as groups:
                for group in groups:
                    found |= dict(group)
        except TeacherError as error:
            raise self._stopped(error) from error
        spent, after = self.spent, self.model.extra
        spent.seconds += time.perf_counter() - started
        spent.calls += len(found)
        if not after:  # a model in this process: one token is the reply
            written = len(found)
            after, before = {"tokens_out": written, "tokens_in": sum(r.tokens for r in found.values()) - written}, {}
        spent.tokens_in += int(after["tokens_in"] - before.get("tokens_in", 0))
        spent.tokens_out += int(after["tokens_out"] - before.get("tokens_out", 0))
        return [found[i] for i in range(len(prompts))]

    def _stopped(self, error: TeacherError) -> UserError:
        """The error of an evaluation that cannot go on: it is all or nothing, since short episodes end first."""
        what = f"{error.what} llm-agent had made {self.spent.decisions:,} decisions, and its episodes are lost."
        if isinstance(error, BudgetExhausted):
            return UserError(what, "raise that limit, or play fewer levels: --seeds 1000000:1000010")
        return UserError(what, error.next_step.replace(" with --resume", ""))


class AskedHigh:
    """Chooses options as the model says, whenever one is due."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._age = np.zeros(0, np.int64)

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Categorical]:
        """Whether an option is due [N], and the model's choice with certainty [N, K]."""
        task, begun = observed.task, running < 0
        age = np.zeros_like(running) if begun.all() else self._age
        due = begun | task.option_done(observed.obs, running) | (age >= task.options.timeouts[running])
        self._age = np.where(due, 1, age + 1)
        idle = np.where(begun, observed.legal.argmax(1), running)
        return due, _certain(self._asker.choose(begun, due, observed.obs, idle), len(task.options))


class AskedLow:
    """Takes the primitive actions that the model names."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def act(self, observed: Observations, clock: Clock) -> Categorical:
        """The model's choice with certainty [N, A]; the last action where an episode is not looked at."""
        due, waits = np.ones(len(observed), np.bool_), np.full(len(observed), observed.task.num_actions - 1)
        chosen = self._asker.choose(clock.previous < 0, due, observed.obs, waits)
        return _certain(chosen, observed.task.num_actions)


def _certain(index: NDArray[np.int64], count: int) -> Categorical:
    return Categorical(np.eye(count, dtype=np.float32)[index])


def llm_player(task: Task, config: TeacherConfig, asks: str, history: int | None, device: str) -> Player:
    """A language model that is asked at each decision.

    Args:
        task: What it plays.
        config: Which model, and how it is asked.
        asks: For an `option`, which the scripted skills carry out, or for an `action`.
        history: Past observations and choices in each prompt. If None, 8, or none where the template has no section
            [system], since its model was trained on single questions.
        device: Where a model in this process computes.

    Raises:
        UserError: The task lacks what is asked for, or there is no such model.
    """
    _check(task, asks)
    questions = action_questions if asks == "action" else option_questions

    def probes(template: Template) -> list[Prompt]:
        obs, _ = task.make_vec(_PROBED, split="eval").reset()
        asked = [question for question in questions(task, obs) if len(question.choices) > 1]
        full = [[(q.text, max(q.words, key=len))] * _depth(template, history) for q in asked]
        prompts = [prompt_of(task, template, question, past) for question, past in zip(asked, full, strict=True)]
        return sorted(prompts, key=lambda prompt: -prompt.tokens)[:1]

    model, template = make_player(config, task, device, probes)
    asker = Asker(task, model, template, questions, _depth(template, history))
    if asks == "action":
        return Player(SingleOption(), AskedLow(asker), np.ones(1, np.int64), spent=asker.spent, free=False)
    return Player(AskedHigh(asker), SkillLow(), task.options.timeouts, spent=asker.spent, free=False)


def _depth(template: Template, history: int | None) -> int:
    return history if history is not None else _HISTORY if len(template.sections) > 1 else 0


def _check(task: Task, asks: str) -> None:
    """Refuse a task that lacks what the model is asked for. Raises `UserError`."""
    skilled = defines(task, "skill")
    if asks == "option" and not skilled:
        raise lacking(task, "skill")
    if asks == "action" and (task.continuous or not task.num_actions == len(task.action_words) <= len(LETTERS)):
        what = f"The actions of {task.name} have no names (`action_words`) that a language model could choose from."
        raise UserError(what, "--agent-asks option" if skilled else "leave llm-agent out of --compare")

"""Several servers of one model, as one `Model`: each takes the next prompts whenever it has room for them.

A fast server so takes more than a slow one. One that fails for as long as a request may be repeated is given up: what
it was asked is asked of the others, and after a while it gets one request, to find out whether it is back.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from time import monotonic

from preceptor.ground.errors import UserError
from preceptor.teacher.asking import Reply
from preceptor.teacher.base import BudgetExhausted, TeacherError
from preceptor.teacher.client import start
from preceptor.teacher.faults import Handling, ServerFault, say
from preceptor.teacher.llm import ServedModel
from preceptor.teacher.prompts import Prompt

_COOL_DOWN_SECONDS = 15.0
_OF_A_PROMPT = ("context", "refused")  # faults of what was asked, which no other server would take either
_Numbered = tuple[int, Prompt]
_Done = tuple["Member", list[_Numbered], Future[list[Reply]]]


@dataclass(eq=False)
class Member:
    """A server of the pool, and what it has done.

    Attributes:
        since: When it was given up; None while it answers.
        sent: Requests in flight.
        seconds: In which at least one of its requests was in flight.
    """

    model: ServedModel
    calls: int = 0
    tokens: int = 0
    failures: int = 0
    seconds: float = 0.0
    since: float | None = None
    sent: int = 0
    why: TeacherError | None = None
    _busy_since: float = field(default=0.0, repr=False)

    @property
    def room(self) -> int:
        """Requests that it may get now: of one that was given up, one when it has been left alone for long enough."""
        trial = self.since is not None and monotonic() - self.since >= _COOL_DOWN_SECONDS
        return (self.model.concurrency if self.since is None else int(trial)) - self.sent

    def began(self) -> None:
        """A request is on its way."""
        self._busy_since = self._busy_since if self.sent else monotonic()
        self.sent += 1

    def ended(self, replies: Sequence[Reply]) -> None:
        """A request is over, with replies or without."""
        self.sent -= 1
        self.seconds += 0.0 if self.sent else monotonic() - self._busy_since
        self.calls += len(replies)
        self.tokens += sum(reply.tokens for reply in replies)

    def failed(self, fault: ServerFault) -> None:
        """Give the server up."""
        self.failures += 1
        if self.since is None:
            say(f"warning: {self.model.base_url}: {fault}; it is left alone, and tried every {_COOL_DOWN_SECONDS:g} s")
        self.since, self.why = monotonic(), self.model.explain(fault)

    def succeeded(self) -> None:
        """It answers, perhaps again."""
        if self.since is not None:
            say(f"{self.model.base_url} is back")
        self.since = None


class ServerPool:
    """Servers of one model; see `asking.Model`. All that they are asked is charged to one budget.

    Args:
        servers: Prepared, with one `Spending`.

    Raises:
        UserError: They serve different models, or are asked in ways that give different labels.
    """

    def __init__(self, servers: Sequence[ServedModel]) -> None:
        first = servers[0]
        for other in servers[1:]:
            if (other.name, other.template) != (first.name, first.template):
                what = f"{first.base_url} serves {first.name}, and {other.base_url} serves {other.name}"
                raise UserError(f"{what}: a label is of one model.", "--model NAME --prompt compact --scoring logprobs")
        self.members = [Member(server) for server in servers]
        self.name, self.source, self.method = first.name, first.source, first.method
        self.samples, self.template, self.extra = first.samples, first.template, first.extra
        self.concurrency = sum(server.concurrency for server in servers)

    def replies(
        self, prompts: Iterable[Prompt], *, singly: bool = False
    ) -> Generator[list[tuple[int, Reply]], None, None]:
        """Replies as they come, with the numbers of their prompts, which are taken as there is room for them.

        `singly` asks about each prompt in a request of its own, so that one of no use does not spoil others.

        Raises:
            TeacherError: No server is left, or the budget is spent, once what is in flight has come back.
        """
        numbered, waiting = iter(enumerate(prompts)), deque[_Numbered]()
        done, flying = SimpleQueue[_Done](), set[Future[list[Reply]]]()
        failure: TeacherError | None = None
        for member in self.members:
            member.model.begin()
        try:
            while True:
                for member in self._with_room() if failure is None else ():
                    if not (group := _next(member.model, waiting, numbered, singly)):
                        break
                    flying.add(self._sent(member, group, done))
                if not flying and (failure or waiting):
                    raise failure or self._all_gone()
                if not flying:
                    return
                member, group, over = done.get()
                flying.discard(over)
                try:
                    replies = _outcome(member, group, over)
                except BudgetExhausted as exhausted:
                    replies, failure = [], exhausted
                if replies:
                    yield list(zip((number for number, _ in group), replies, strict=True))
                else:
                    waiting.extendleft(reversed(group))
        finally:  # early where the caller has had enough, or was interrupted
            for member in self.members:
                member.model.end()
            for one in flying:
                one.cancel()

    def _with_room(self) -> Iterator[Member]:
        """Servers that can take a request, each in turn, until none has room."""
        while with_room := [member for member in self.members if member.room > 0]:
            yield from with_room

    def _sent(self, member: Member, group: list[_Numbered], done: SimpleQueue[_Done]) -> Future[list[Reply]]:
        member.began()
        patience = None if member.since is None else 0.0
        sent = start(member.model.attempt([prompt for _, prompt in group], patience))
        sent.add_done_callback(lambda over: done.put((member, group, over)))
        return sent

    def _all_gone(self) -> TeacherError:
        """Why nobody is left to ask: the servers' faults, each in a line."""
        faults = "\n".join(member.why.what for member in self.members if member.why)
        return TeacherError(f"No server is left.\n{faults}", "start them again, and repeat the command: it goes on")


def _next(model: ServedModel, waiting: deque[_Numbered], more: Iterator[_Numbered], singly: bool) -> list[_Numbered]:
    """The prompts of a server's next request: those that came back first, else new ones; empty if there are none."""
    way, group = model.way, list[_Numbered]()
    while True:
        if not waiting:
            waiting.extend(islice(more, 1))
        if not waiting:
            return group
        # All samples of a prompt travel together.
        another = waiting[0][1] is not group[0][1] if group and way.sampled else len(group) >= (singly or way.size)
        if group and another:
            return group
        group.append(waiting.popleft())


def _outcome(member: Member, group: Sequence[_Numbered], over: Future[list[Reply]]) -> list[Reply]:
    """The replies to a request; none if it is to be asked of another server. Raises `BudgetExhausted`."""
    replies: list[Reply] = []
    try:
        replies = over.result()
        member.succeeded()
    except ServerFault as fault:
        if fault.handling == Handling.FALL_BACK or fault.name in _OF_A_PROMPT:
            replies = [Reply(fault.name, text=str(fault))] * len(group)
        else:
            member.failed(fault)
    finally:
        member.ended(replies)
    return replies

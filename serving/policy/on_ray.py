"""The policy server on a cluster, by Ray Serve: `serve run preceptor.serving.policy.on_ray:server agents=NAME=RUN`.

A session lives on one replica, which its id names. Each replica is a deployment of its own, so that Serve puts the one
that is lost back in its place, with the file of its sessions (on a disk that all nodes share). Before them are routers,
which remember nothing: any of them takes any request. Nothing else imports this file, nor Ray with it.
"""

import asyncio
import os
import random
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from preceptor.agent.remote.wire import packed, unpacked
from preceptor.serving.config import KEY_VARIABLE
from preceptor.serving.policy.agents import Agents
from preceptor.serving.policy.app import MOST_SOCKETS, create_app
from preceptor.serving.policy.measured import Measured
from preceptor.serving.policy.protocol import Refused
from preceptor.serving.policy.service import Service, store_in

_MOST_SESSIONS = 4096  # on a replica


class Settings(BaseModel, extra="forbid"):
    """What is said after the name of the application, as NAME=VALUE. Paths are the same on all nodes."""

    agents: str  # NAME=RUN of each, or RUN, with commas
    replicas: int = Field(default=2, ge=1)  # places where sessions live, of one core each
    routers: int = Field(default=1, ge=1)
    state: str = "log/serving/ray"  # where sessions are kept
    logdir: str = "log"


class Replica:
    """A policy server without HTTP of its own: the one of that number. Paths begin in a folder."""

    def __init__(self, number: int, settings: Settings, folder: str) -> None:
        import torch

        os.chdir(folder)
        torch.set_num_threads(1)
        said = (each.partition("=") for each in settings.agents.split(","))
        agents = Agents({name: run or name for name, _, run in said}, settings.logdir)
        how: dict[str, Any] = {"most_sessions": _MOST_SESSIONS, "keep_seconds": 3600.0, "wait_seconds": 0.001}
        store = store_in(Path(settings.state, str(number)))
        self.service = Service(agents, store, most_waiting=2 * _MOST_SESSIONS, **how)

    async def ask(self, what: str, *given: Any) -> tuple[Any, dict[str, Any] | None]:
        """What a method of the service gives, or its refusal."""
        try:
            return await getattr(self.service, what)(*given), None
        except Refused as error:
            return None, error.body()

    def check_health(self) -> None:
        """Raises where it is to be replaced."""
        assert self.service.alive, "the agents do not play any more"


class Router:
    """Answers as a `Service` does, by asking the replica that each request is for; `key` is as for `create_app`."""

    alive = True  # Serve replaces one that is not

    def __init__(self, key: str, *replicas: DeploymentHandle[Any]) -> None:
        self._key, self._replicas, self.measured = key, replicas, Measured()

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self, key=self._key)

    async def answer(self, op: Any, fields: dict[str, Any]) -> bytes:
        """The reply to a request. Raises `Refused`."""
        number = random.randrange(len(self._replicas))
        if "session" in fields:
            number, own = self._place(str(fields["session"]))
            fields = {**fields, "session": own}
        with self.measured.request(op):
            reply = bytes(await self._ask(number, "answer", op, fields))
        if op != "open":
            return reply
        opened = unpacked(reply)
        return packed({**opened, "session": f"{number}-{opened['session']}"})

    async def served(self) -> list[dict[str, Any]]:
        """Every version of each agent, with its sessions on all replicas."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for each in chain.from_iterable(await self._all("served")):
            known = found.setdefault((each["agent"], each["version"]), {**each, "sessions": 0})
            known["sessions"] += each["sessions"]
        return list(found.values())

    async def reload(self, name: str) -> dict[str, Any]:
        """Load an agent again on all replicas. Raises `Refused`."""
        return dict((await self._all("reload", name))[-1])

    async def watched(self) -> list[dict[str, Any]]:
        """Sessions that play, on any replica."""
        found = enumerate(await self._all("watched"))
        return [{**each, "name": f"{number}-{each['name']}"} for number, listed in found for each in listed]

    async def show(self, name: str, environment: int, after: int) -> dict[str, Any] | None:
        """What an environment of a session does. Raises `Refused`."""
        number, own = self._place(name)
        found: dict[str, Any] | None = await self._ask(number, "show", own, environment, after)
        return found

    def _place(self, session: str) -> tuple[int, str]:
        """The replica that an id names, and what that one calls the session. Raises `Refused`."""
        number, _, own = session.partition("-")
        if number not in map(str, range(len(self._replicas))):
            raise Refused(404, "There is no such session.", "open a new session")
        return int(number), own

    async def _all(self, what: str, *given: Any) -> list[Any]:
        return await asyncio.gather(*(self._ask(number, what, *given) for number in range(len(self._replicas))))

    async def _ask(self, number: int, what: str, *given: Any) -> Any:
        try:
            reply, refusal = await self._replicas[number].ask.remote(what, *given)
        except (RayActorError, RayServeException) as error:
            again = "The replica of this session was lost, and is being put back."
            raise Refused(503, again, "the same again", retry_after=1.0) from error
        if refusal is not None:
            raise Refused(**refusal)
        return reply


def server(settings: Settings) -> Any:
    """The application, as `serve run` and `serve.run` take it."""
    deployment: Any = serve.deployment
    place = deployment(Replica).options(max_ongoing_requests=2 * _MOST_SESSIONS, ray_actor_options={"num_cpus": 1})
    replicas = [
        place.options(name=f"replica-{number}").bind(number, settings, os.getcwd())
        for number in range(settings.replicas)
    ]
    router = deployment(serve.ingress()(Router)).options(
        num_replicas=settings.routers, max_ongoing_requests=2 * MOST_SOCKETS, ray_actor_options={"num_cpus": 0}
    )
    return router.bind(os.environ.get(KEY_VARIABLE, ""), *replicas)

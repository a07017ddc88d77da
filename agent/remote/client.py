"""A client of the policy server: open a session, act, and go on where the connection or the server broke off.

with Client("http://127.0.0.1:8000") as client, client.open("first", environments=8, seed=0) as play:
    actions = play.act(observations).action
"""

import contextlib
import json
import os
import random
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from preceptor.agent.remote.wire import packed, unpacked
from preceptor.ground.errors import UserError

KEY_VARIABLE = "PRECEPTOR_SERVER_KEY"
MOST_BYTES = 64 * 2**20  # of a reply
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_TOO_LARGE = 1009  # the WebSocket's code
LOST = (ConnectionClosed, InvalidHandshake, OSError, EOFError)  # a connection that may be had again


class RefusedError(UserError):
    """The server did not do what was asked.

    Args:
        error: What it said.

    Attributes:
        status: As in HTTP.
        retry_after: Seconds after which it may do it; None where it never will.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"The policy server says: {error.get('message')}", str(error.get("next", "")))
        self.status, self.retry_after = int(error.get("status", 500)), error.get("retry_after")


@dataclass(frozen=True)
class Answer:
    """What is to be done now in the N environments of a session.

    Attributes:
        number: Of the step.
        action: [N, ...].
        option: The options that run, in words; None where vectors are chosen.
        command: The vectors that run, [N, D]; None where options have names.
        probs: What an option would be sampled from now, [N, K]; None where vectors are chosen.
        ended: bool [N], where an option was over, or none ran, and another has begun.
        advice: Of sessions with `fallback`, for each environment: `teacher` where it chose, why not where it was asked
            in vain, else empty.
    """

    number: int
    action: NDArray[Any]
    option: list[str] | None
    command: NDArray[np.float32] | None
    probs: NDArray[np.float32] | None
    ended: NDArray[np.bool_]
    advice: list[str] | None = None


class Place:
    """Where a server is, and how it is reached.

    Args:
        url: `http://HOST:PORT`.
        key: Its key; that of the environment's PRECEPTOR_SERVER_KEY if not given.
        patience: Seconds for which a server that does not answer, or has no room, is asked again.

    Raises:
        UserError: That is no address.
    """

    def __init__(self, url: str, key: str | None = None, patience: float = 30.0) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UserError(f"{url!r} is no address of a server.", "http://127.0.0.1:8000")
        self.url, self.patience = f"{parts.scheme}://{parts.netloc}", patience
        key = os.environ.get(KEY_VARIABLE) if key is None else key
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.socket: dict[str, Any] = {
            "uri": f"{parts.scheme.replace('http', 'ws')}://{parts.netloc}/v1/ws",
            "additional_headers": self.headers,
            "compression": None,
            "proxy": None,
            "max_size": MOST_BYTES,
        }

    def pauses(self) -> "Pauses":
        """The pauses between attempts of one request."""
        return Pauses(self)


class Pauses:
    """How long to wait before a request is sent again, until patience is at its end."""

    def __init__(self, place: Place) -> None:
        self._place, self._next = place, _FIRST_PAUSE
        self._until = time.monotonic() + place.patience

    def after(self, error: Exception) -> float:
        """Seconds to wait after an error. Raises `UserError` where waiting is in vain, or has been."""
        if isinstance(error, InvalidStatus):
            error = _not_let_in(error, self._place.url)
        if isinstance(error, RefusedError) and error.retry_after is None:
            raise error
        if isinstance(error, ConnectionClosed) and error.rcvd and error.rcvd.code == _TOO_LARGE:
            raise UserError(
                f"The policy server takes no message so large: {error.rcvd.reason}.", "fewer at once"
            ) from error
        wait = getattr(error, "retry_after", None) or self._next * (1 + random.random())
        self._next = min(2 * self._next, _LONGEST_PAUSE)
        if time.monotonic() + wait <= self._until:
            return float(wait)
        if isinstance(error, RefusedError):
            raise error
        what = f"The policy server at {self._place.url} does not answer: {error or type(error).__name__}."
        raise UserError(what, "python main.py serve --status") from error


def read(reply: Any) -> dict[str, Any]:
    """A message of the server. Raises `RefusedError` if it is a refusal."""
    try:
        said = unpacked(reply)
        refusal = said.get("error")
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"The policy server sent what is no reply: {error}.", "the address of another server"
        ) from error
    if refusal is not None:
        raise RefusedError(refusal)
    return dict(said)


def _not_let_in(error: InvalidStatus, url: str) -> RefusedError:
    """Why a server opens no WebSocket."""
    status = error.response.status_code
    said = {"status": status, "message": f"HTTP {status} at {url}", "next": "python main.py serve --status"}
    if status in (502, 503, 504):  # of what stands before it
        said["retry_after"] = 1.0
    with contextlib.suppress(ValueError, LookupError, TypeError):
        said |= json.loads(error.response.body)["error"]
    return RefusedError(said)


class Steps:
    """What a session's next request is, and what its replies mean; `Client` and `AsyncClient` send them."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told, self.id, self.number = told, told["session"], int(told["number"])

    def act(self, obs: Any, began: Sequence[bool] | NDArray[np.bool_] | None) -> dict[str, Any]:
        """The next step; sent again, it is answered as before."""
        obs = {k: np.asarray(v) for k, v in obs.items()} if hasattr(obs, "items") else np.asarray(obs)
        began = None if began is None else np.asarray(began)
        return {"op": "act", "session": self.id, "number": self.number + 1, "obs": obs, "began": began}

    def taken(self, reply: dict[str, Any]) -> Answer:
        """The answer to it."""
        answer = Answer(**reply)
        self.number = answer.number
        return answer


class Client:
    """A connection to a policy server, for one thread; arguments as for `Place`."""

    def __init__(self, url: str = "http://127.0.0.1:8000", key: str | None = None, patience: float = 30.0) -> None:
        self._place = Place(url, key, patience)
        self._socket: ClientConnection | None = None

    def agents(self) -> list[dict[str, Any]]:
        """What is served. Raises `UserError` if that cannot be had."""
        return list(self._http("GET", "/v1/agents"))

    def agent(self, name: str | None = None) -> dict[str, Any]:
        """What is served under a name, NAME@VERSION, or, if none is given, as the only one. Raises `UserError`."""
        wanted, _, version = (name or "").partition("@")
        found = [
            each
            for each in self.agents()
            if wanted in ("", each["agent"]) and (each["version"] == version if version else each["newest"])
        ]
        if len(found) != 1:
            names = ", ".join(each["agent"] for each in self.agents())
            raise UserError(f"{name or 'One agent'} is not what {self._place.url} has: {names}.", "--agent NAME")
        return found[0]

    def reload(self, agent: str) -> dict[str, Any]:
        """Have an agent loaded again from its run. Raises `UserError`."""
        return dict(self._http("POST", f"/v1/agents/{agent}/reload", json={}))

    def open(self, agent: str | None = None, **how: Any) -> "RemoteSession":
        """Begin to play.

        Args:
            agent: Its name, or NAME@VERSION; may be left out where there is one.
            **how: `environments`, `greedy`, `seed`, `units`, `fallback` (the confidence of the controller below which
                the server's teacher is asked); or `state`, what another session's `export` gave.

        Raises:
            UserError: The server does not have it, has no room, or does not answer.
        """
        return RemoteSession(self, self.ask({"op": "open", "agent": agent, **how}))

    def label(self, obs: Any, agent: str | None = None) -> dict[str, Any]:
        """What an agent's controller says of observations [N, ...]: `option`, `index`, `probs`. Raises `UserError`."""
        return self.ask({"op": "label", "agent": agent, "obs": np.asarray(obs)})

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The reply to a message, which is sent again where a connection breaks. Raises `UserError`."""
        data, pauses = packed(message), self._place.pauses()
        while True:
            try:
                if self._socket is None:
                    self._socket = connect(**self._place.socket)
                    weakref.finalize(self, self._socket.close)
                self._socket.send(data)
                return read(self._socket.recv(self._place.patience))
            except RefusedError as error:
                time.sleep(pauses.after(error))
            except LOST as error:
                self.close()
                time.sleep(pauses.after(error))
            except BaseException:  # interrupted: a reply may still come, and must not be taken for the next one
                self.close()
                raise

    def close(self) -> None:
        """Close the connection; sessions stay open."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _http(self, method: str, path: str, **more: Any) -> Any:
        try:
            reply = httpx.request(
                method, self._place.url + path, headers=self._place.headers, timeout=60.0, trust_env=False, **more
            )
            said = reply.json()
        except (httpx.HTTPError, ValueError) as error:
            what = f"{self._place.url} does not answer as a policy server: {error or type(error).__name__}."
            raise UserError(what, "python main.py serve --status") from error
        if reply.is_error:
            raise RefusedError(said.get("error", {}) if isinstance(said, dict) else {})
        return said


class RemoteSession:
    """An open session; closed at the end of `with`."""

    def __init__(self, client: Client, told: dict[str, Any]) -> None:
        self._client, self._steps = client, Steps(told)

    @property
    def told(self) -> dict[str, Any]:
        """What the server said of it: agent, version, task, environments, options, ..."""
        return self._steps.told

    def act(self, obs: Any, began: Sequence[bool] | NDArray[np.bool_] | None = None) -> Answer:
        """What to do now; arguments as for `Agent.act`. Raises `UserError`."""
        return self._steps.taken(self._client.ask(self._steps.act(obs, began)))

    def reset(self) -> None:
        """The next observations begin episodes in all environments."""
        self._client.ask({"op": "reset", "session": self._steps.id})

    def export(self) -> str:
        """The session as text, from which `open(state=...)` goes on, here or elsewhere."""
        return str(self._client.ask({"op": "export", "session": self._steps.id})["state"])

    def close(self) -> None:
        """Close it; one that is gone already counts as closed."""
        try:
            self._client.ask({"op": "close", "session": self._steps.id})
        except RefusedError as error:
            if error.status != 404:
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()

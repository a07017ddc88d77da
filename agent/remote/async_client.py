"""The client of the policy server for programs with an event loop; as `client.py`, with `await`.

async with AsyncClient("http://127.0.0.1:8000") as client:
    play = await client.open("first", environments=8, seed=0)
    actions = (await play.act(observations)).action
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect

from preceptor.agent.remote.client import LOST, Answer, Place, RefusedError, Steps, read
from preceptor.agent.remote.wire import packed


class AsyncClient:
    """A connection to a policy server, whose requests are answered one after another; arguments as for `Place`."""

    def __init__(self, url: str = "http://127.0.0.1:8000", key: str | None = None, patience: float = 30.0) -> None:
        self._place, self._turn = Place(url, key, patience), asyncio.Lock()
        self._socket: ClientConnection | None = None

    async def open(self, agent: str | None = None, **how: Any) -> "AsyncSession":
        """Begin to play; as `Client.open`. Raises `UserError`."""
        return AsyncSession(self, await self.ask({"op": "open", "agent": agent, **how}))

    async def label(self, obs: Any, agent: str | None = None) -> dict[str, Any]:
        """What an agent's controller says of observations; as `Client.label`. Raises `UserError`."""
        return await self.ask({"op": "label", "agent": agent, "obs": np.asarray(obs)})

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The reply to a message, which is sent again where a connection breaks. Raises `UserError`."""
        data, pauses = packed(message), self._place.pauses()
        async with self._turn:
            while True:
                try:
                    if self._socket is None:
                        self._socket = await connect(**self._place.socket)
                    await self._socket.send(data)
                    return read(await asyncio.wait_for(self._socket.recv(), self._place.patience))
                except RefusedError as error:
                    await asyncio.sleep(pauses.after(error))
                except LOST as error:
                    await self.close()
                    await asyncio.sleep(pauses.after(error))
                except BaseException:  # cancelled: a reply may still come, and must not be taken for the next one
                    await self.close()
                    raise

    async def close(self) -> None:
        """Close the connection; sessions stay open."""
        connection, self._socket = self._socket, None
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


class AsyncSession:
    """An open session; as `RemoteSession`."""

    def __init__(self, client: AsyncClient, told: dict[str, Any]) -> None:
        self._client, self._steps = client, Steps(told)

    @property
    def told(self) -> dict[str, Any]:
        """What the server said of it."""
        return self._steps.told

    async def act(self, obs: Any, began: Sequence[bool] | NDArray[np.bool_] | None = None) -> Answer:
        """What to do now; arguments as for `Agent.act`. Raises `UserError`."""
        return self._steps.taken(await self._client.ask(self._steps.act(obs, began)))

    async def reset(self) -> None:
        """The next observations begin episodes in all environments."""
        await self._client.ask({"op": "reset", "session": self._steps.id})

    async def export(self) -> str:
        """The session as text."""
        return str((await self._client.ask({"op": "export", "session": self._steps.id}))["state"])

    async def close(self) -> None:
        """Close it; one that is gone already counts as closed."""
        try:
            await self._client.ask({"op": "close", "session": self._steps.id})
        except RefusedError as error:
            if error.status != 404:
                raise

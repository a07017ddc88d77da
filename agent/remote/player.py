"""An agent behind a policy server as a player, so that whatever plays local agents can play this one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock, latent
from preceptor.agent.distributions import ClippedNormal, Distribution, Sampled
from preceptor.agent.levels import Observations, Player
from preceptor.agent.remote.client import Client, RemoteSession
from preceptor.agent.remote.wire import as_text, generator_state


class _Remotely(Distribution):
    """What the server does at some observations; asked once, when a sample is taken."""

    def __init__(self, low: "_RemoteLow", obs: NDArray[Any], began: NDArray[np.bool_]) -> None:
        self._low, self._obs, self._began = low, obs, began

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Actions [N, ...]; their log-probabilities stay with the server, and are given as 0."""
        session = self._low.session(rng, len(self._obs))
        return session.act(self._obs, self._began).action, np.zeros(len(self._obs), np.float32)


class _Nothing:
    """A high level that chooses nothing, and draws nothing."""

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        return np.ones(len(observed), np.bool_), ClippedNormal(np.zeros((len(observed), 1), np.float32))


class _RemoteLow:
    def __init__(self, client: Client, agent: str | None) -> None:
        self._client, self._agent = client, agent
        self._open: RemoteSession | None = None
        self._rng: np.random.Generator | None = None

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        # A command that has just begun: of commands that end after a step, the first of an episode has none before it.
        return _Remotely(self, observed.obs, clock.previous < 0)

    def session(self, rng: np.random.Generator | None, environments: int) -> RemoteSession:
        """That which goes on from where a generator stands; a new one for another generator, or other environments."""
        known = self._open is not None and self._rng is rng and self._open.told["environments"] == environments
        if self._open is None or not known:
            if self._open is not None:
                self._open.close()
            state = None if rng is None else as_text(generator_state(rng))
            how: dict[str, Any] = {"environments": environments, "greedy": rng is None, "generator": state}
            self._open, self._rng = self._client.open(self._agent, units="task", **how), rng
        return self._open


def remote_player(client: Client, agent: str | None = None) -> Player:
    """The player that asks a server; its sessions have their clocks and generators there.

    Played with a generator, a session draws from a copy of it that the server has, which gives what it would have given
    here.

    Args:
        client: Connected to the server.
        agent: Its name, or NAME@VERSION.
    """
    return Player(_Nothing(), _RemoteLow(client, agent), np.ones(1, np.int64), latent(1), free=False)

"""`python -m preceptor.serving.policy --agent NAME=RUN --host H --port P`: trained agents behind HTTP and WebSocket.

If PRECEPTOR_SERVER_KEY is set, requests must carry it.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

from preceptor.serving.config import KEY_VARIABLE, FallbackConfig
from preceptor.serving.ports import bound, run_program, serve_app

_GRACE_SECONDS = 5


# Nothing is compressed, which takes longer than it saves on the way to this machine.
WEBSOCKETS = {"ws": "websockets-sansio", "ws_per_message_deflate": False, "loop": "uvloop"}


def serve(
    *,
    agent: list[str],
    state: Path,
    logdir: str = "log",
    host: str = "127.0.0.1",
    port: int = 8000,
    max_sessions: int = 4096,
    session_seconds: float = 3600.0,
    batch_wait_ms: float = 1.0,
    log_observations: bool = False,
    fallback: Annotated[FallbackConfig, tyro.conf.arg(name="")] = FallbackConfig(),  # noqa: B008
) -> None:
    """Serve trained agents until SIGINT or SIGTERM.

    Args:
        agent: NAME=RUN of each.
        state: Folder where sessions are kept.
        logdir: Where runs live.
        host: Address to listen on.
        port: 0 for any free one.
        max_sessions: Sessions that may be open.
        session_seconds: After which a session that is not used expires.
        batch_wait_ms: Milliseconds that a step may wait for others to be taken with it.
        log_observations: Log each step with its observations.
        fallback: Whom sessions ask that are opened with `fallback`, and whether agents learn from that.
    """
    with bound(host, port) as held:  # before seconds go into loading
        import torch

        from preceptor.serving.policy.agents import Agents
        from preceptor.serving.policy.app import MOST_BYTES, create_app
        from preceptor.serving.policy.service import Service, store_in

        torch.set_num_threads(1)
        agents = Agents(dict(each.split("=", 1) for each in agent), logdir, learns=fallback.learn)
        service = Service(
            agents,
            store_in(state),
            most_sessions=max_sessions,
            keep_seconds=session_seconds,
            most_waiting=2 * max_sessions,
            wait_seconds=batch_wait_ms / 1000,
            tells_observations=log_observations,
            fallback=fallback,
        )
        try:
            app = create_app(service, key=os.environ.get(KEY_VARIABLE, ""), host=host)
            held.listen(1024)  # so that a client that follows the address at once is answered
            where = f"http://{host}:{held.getsockname()[1]}"
            logging.getLogger("preceptor.policy").info("serving", extra={"agents": agent, "where": where})
            serve_app(app, held, _GRACE_SECONDS, **WEBSOCKETS, ws_max_size=MOST_BYTES)
        finally:
            service.end()


if __name__ == "__main__":
    from preceptor.serving.policy.measured import JsonLines

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("preceptor").setLevel(logging.INFO)
    run_program(serve)

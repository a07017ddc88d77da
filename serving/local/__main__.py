"""`python -m preceptor.serving.local --model DIR --host H --port P`: a model folder behind the OpenAI protocol.

Log-probabilities are the model's own: the temperature in its `preceptor.json`, by which the teacher in this process
divides, is not applied. If PRECEPTOR_SERVER_KEY is set, requests must carry it.
"""

import contextlib
import logging
import os
import sys
from pathlib import Path

from preceptor.serving.config import KEY_VARIABLE, name_of
from preceptor.serving.ports import bound, run_program, serve_app
from preceptor.teacher.card import TINY_MODEL, card_of

_GRACE_SECONDS = 5


def serve(
    *,
    model: Path = TINY_MODEL,
    host: str = "127.0.0.1",
    port: int = 8000,
    served_model_name: str | None = None,
    max_model_len: int | None = None,
    threads: int = 1,
) -> None:
    """Serve a model folder behind the OpenAI protocol until SIGINT or SIGTERM.

    Args:
        model: Folder of a transformers model; without it, the built-in one.
        host: Address to listen on.
        port: 0 for any free one.
        served_model_name: The model id; by default the folder's name.
        max_model_len: Most tokens of a prompt with its reply.
        threads: torch's threads.
    """
    with bound(host, port) as held:  # before seconds go into loading
        import torch

        from preceptor.serving.local.app import create_app
        from preceptor.serving.local.engine import Engine

        torch.set_num_threads(threads)
        name, key = served_model_name or name_of(str(model.resolve())), os.environ.get(KEY_VARIABLE, "")
        with contextlib.closing(Engine(model, max_model_len=max_model_len)) as engine:
            app = create_app(engine, name, str(model), prompt=card_of(model).get("prompt", ""), key=key, host=host)
            where = f"http://{host}:{held.getsockname()[1]}/v1"
            held.listen()  # so that a client that follows the address at once is answered
            logging.getLogger("preceptor.local").info("serving %s as %r at %s", model, name, where)
            serve_app(app, held, _GRACE_SECONDS)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run_program(serve)

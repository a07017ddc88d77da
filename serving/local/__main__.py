"""`python -m serving.local --model DIR --host H --port P`: a model folder behind the OpenAI protocol.

Log-probabilities are the model's own, before temperature: the temperature in its `preceptor.json`, by which the teacher
in this process divides, is not applied. If PRECEPTOR_SERVER_KEY is set, requests must carry it.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

from ground.errors import UserError
from serving.config import KEY_VARIABLE, name_of
from serving.ports import bound, serve_app
from teacher.card import TINY_MODEL, card_of

_GRACE_SECONDS = 5
_log = logging.getLogger("preceptor.local")


def main() -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.local", description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=TINY_MODEL, help="folder of a transformers model; without it, the built-in one"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    parser.add_argument("--served-model-name", help="the model id; by default the folder's name")
    parser.add_argument("--max-model-len", type=int, help="most tokens of a prompt with its reply")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    given = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    # uvicorn stops at these, and then raises them again for the handlers that it found.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        _serve(given)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _serve(given: argparse.Namespace) -> None:
    if given.max_model_len is not None and given.max_model_len < 1:
        raise UserError("--max-model-len must be 1 or more.", "leave it out")
    with bound(given.host, given.port) as port:  # before seconds go into loading
        import torch

        from serving.local.app import create_app
        from serving.local.engine import Engine

        torch.set_num_threads(given.threads)
        path = given.model
        name = given.served_model_name or name_of(str(path.resolve()))
        key = os.environ.get(KEY_VARIABLE, "")
        with contextlib.closing(Engine(path, max_model_len=given.max_model_len)) as engine:
            app = create_app(engine, name, str(path), prompt=card_of(path).get("prompt", ""), key=key)
            engine.warm_up()
            _log.info("serving %s as %r at http://%s:%d/v1", path, name, given.host, port.getsockname()[1])
            serve_app(app, port, _GRACE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())

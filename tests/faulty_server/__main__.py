"""`python -m tests.faulty_server --script FILE --host H --port P`: the server that misbehaves."""

import logging
import signal
import sys
import threading
from contextlib import closing

import tyro

from preceptor.ground.errors import UserError
from tests.faulty_server.script import EXAMPLE, read_script
from tests.faulty_server.server import FaultyServer


def main(*, script: str = str(EXAMPLE), host: str = "127.0.0.1", port: int = 8000) -> None:
    """Misbehave by a TOML script until SIGINT or SIGTERM; port 0 is any free one."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with closing(FaultyServer(read_script(script), host=host, port=port)) as server:
        logging.getLogger("preceptor.faulty").info("misbehaving at %s by %s", server.url, script)
        stop.wait()


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        tyro.cli(main)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)

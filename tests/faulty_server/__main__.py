"""`python -m tests.faulty_server --script FILE --host H --port P`: the server that misbehaves."""

import argparse
import logging
import signal
import sys
import threading

from ground.errors import UserError
from tests.faulty_server.script import EXAMPLE, read_script
from tests.faulty_server.server import FaultyServer


def main() -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faulty_server", description=__doc__)
    parser.add_argument("--script", default=str(EXAMPLE), help="TOML file; see tests/faulty_server/example.toml")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    given = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        server = FaultyServer(read_script(given.script), host=given.host, port=given.port)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    logging.getLogger("preceptor.faulty").info("misbehaving at %s by %s", server.url, given.script)
    stop.wait()
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A language-model server that misbehaves by script, for tests and for finding out how a run fares.

with faulty(Script(steps=(Step("rate_limit", times=2, seconds=1), Step("cut")))) as server:
    ServedModel(server.url)
    server.requests
"""

from serving.faulty.faults import FAULTS
from serving.faulty.script import EXAMPLE, Script, Step, parse_script, read_script
from serving.faulty.server import FaultyServer, Request, faulty

__all__ = [
    "EXAMPLE",
    "FAULTS",
    "FaultyServer",
    "Request",
    "Script",
    "Step",
    "faulty",
    "parse_script",
    "read_script",
]

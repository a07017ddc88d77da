"""A language-model server that misbehaves by script, for tests and for finding out how a run fares.

with faulty(Script(steps=(Step("rate_limit", times=2, seconds=1), Step("cut")))) as server:
    ServedModel(TeacherConfig("llm", base_url=server.url))
    server.requests
"""

from tests.faulty_server.faults import FAULTS
from tests.faulty_server.script import EXAMPLE, Script, Step, read_script
from tests.faulty_server.server import FaultyServer, faulty

__all__ = ["EXAMPLE", "FAULTS", "FaultyServer", "Script", "Step", "faulty", "read_script"]

"""A language-model server that misbehaves by script: `with faulty(Script(steps=(Step("cut"),))) as server: ...`"""

from tests.faulty_server.faults import FAULTS
from tests.faulty_server.script import EXAMPLE, Script, Step, read_script
from tests.faulty_server.server import FaultyServer, faulty

__all__ = ["EXAMPLE", "FAULTS", "FaultyServer", "Script", "Step", "faulty", "read_script"]

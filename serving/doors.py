"""Ports that are held before anything slow happens."""

import socket

from ground.errors import UserError


def bound(host: str, port: int) -> socket.socket:
    """A socket that holds a port and does not listen yet, so that who connects is refused.

    Raises:
        UserError: The port is taken, or the address is not this machine's.
    """
    # asyncio sets TCP_NODELAY on sockets that say they are TCP; without it a reply waits 40 ms for an acknowledgement.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except OSError as error:
        door.close()
        raise UserError(f"Port {port} of {host} cannot be had: {error}.", "give another with --port") from error
    return door

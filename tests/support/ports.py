"""Free ports for servers that the tests start."""

from __future__ import annotations

import contextlib
import random
import socket


def free_ports(count: int = 1) -> list[int]:
    """Different ports, below those that the system gives to outgoing connections.

    One that the system chooses may go to an outgoing connection before the server has it.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as stack:  # all are held at once, so that they differ
        for port in random.SystemRandom().sample(range(20_000, 32_000), 1_000):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise OSError("no free port between 20000 and 32000")

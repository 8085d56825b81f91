"""Loaded by every Python process that has this folder on its path: writes down each try to reach the network.

Unix sockets are not the network. The file is the one that FACE0_TEST_GUARD names; one JSON line per try.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

_FILE = os.environ.get("FACE0_TEST_GUARD")
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
_SENDS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def _watch(event: str, given: tuple[Any, ...]) -> None:
    if event in _SENDS:
        if given[0].family == socket.AF_UNIX:
            return
        to = given[1]
    elif event in _LOOKUPS:
        to = given[0]
    else:
        return
    tried = {"event": event, "to": str(to)[:200], "program": sys.argv[:4]}
    # appended in one write, so that lines of several processes do not mix
    with open(_FILE or os.devnull, "a") as out:
        out.write(json.dumps(tried) + "\n")


if _FILE:
    sys.addaudithook(_watch)

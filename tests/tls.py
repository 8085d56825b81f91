"""Servers that are no S3: one that speaks TLS and says nothing, one that closes at once."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def speaks_tls(certificate: Path, key: Path) -> Iterator[int]:
    """Give the port of a server that shakes hands by TLS and then closes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def shake(caller: socket.socket) -> None:
        context.wrap_socket(caller, server_side=True).close()

    with _serving(shake) as port:
        yield port


@contextmanager
def closes_at_once() -> Iterator[int]:
    """Give the port of a server that closes every connection, as one that waits for TLS does on hearing http."""

    def hang_up(caller: socket.socket) -> None:
        caller.recv(1)

    with _serving(hang_up) as port:
        yield port


@contextmanager
def _serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        ending = threading.Event()

        def serve() -> None:
            while not ending.is_set():
                try:
                    caller, _ = listener.accept()
                except TimeoutError:
                    continue
                caller.settimeout(10)
                with contextlib.suppress(OSError), caller:
                    answer(caller)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            ending.set()
            thread.join(20)

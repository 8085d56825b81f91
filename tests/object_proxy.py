"""A small HTTP proxy in front of an S3 server that does what networks and weak servers do."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Fault:
    """What happens to the next `times` requests of `method` (-1: to all). `seen` counts how often it has happened.

    `status` and `code`: answered so, without the server. `lose`: "request" (nothing arrives), "answer" (done, but the
    caller never hears of it) or "half" (the answer breaks off). `without`: a request header that is dropped.
    """

    method: str = "PUT"
    times: int = 1
    status: int = 0
    code: str = ""
    lose: str = ""
    without: str = ""
    seen: int = field(default=0, init=False)


class Proxy:
    """A running proxy. `faults` may be changed at any time; the first that fits a request is done to it."""

    def __init__(self, target: str) -> None:
        self.faults: list[Fault] = []
        self.methods: list[str] = []  # of every request, in the order of arrival
        self._lock = threading.Lock()
        self.target = urlsplit(target).netloc
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def fault_for(self, method: str) -> Fault | None:
        """Return what happens to a request now."""
        with self._lock:
            self.methods.append(method)
            for fault in self.faults:
                if fault.method == method and fault.seen != fault.times:
                    fault.seen += 1
                    return fault
        return None

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@contextmanager
def proxied(target: str, *faults: Fault) -> Iterator[Proxy]:
    """Give a proxy in front of a server's http URL."""
    proxy = Proxy(target)
    proxy.faults += faults
    try:
        yield proxy
    finally:
        proxy.stop()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.fault_for(self.command) or Fault()
            if fault.lose == "request":
                self._reset()
                return
            if fault.status:
                self._answer(fault.status, [], f"<Error><Code>{fault.code}</Code></Error>".encode())
                return
            status, headers, answer = self._ask(body, fault.without)
            if fault.lose == "answer":
                self._reset()
            else:
                self._answer(status, headers, answer, half=fault.lose == "half")

        def _ask(self, body: bytes, without: str) -> tuple[int, list[tuple[str, str]], bytes]:
            server = http.client.HTTPConnection(proxy.target, timeout=60)
            try:
                # the signature covers the headers, Host among them: they go on as they came
                server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "connection", without.lower()):
                        server.putheader(name, value)
                server.endheaders(body)
                got = server.getresponse()
                return got.status, got.getheaders(), got.read()
            finally:
                server.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, half: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "keep-alive"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if half else body)
            if half:
                self._reset()

        def _reset(self) -> None:
            self.wfile.flush()
            self.close_connection = True
            # lingering for no time: the caller sees a reset and not an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = _pass_on

    return Handler

"""The courier: tells receivers what waits for them, signed after Standard Webhooks, at least once.

A receiver is somebody else's machine: it is listened to for seconds only, its redirects are not followed, and it must
not be a machine inside this network unless the setting `webhook_hosts` names it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from face0_worker.contract.errors import Face0Error, ServiceDown, WorkFailed
from face0_worker.records import webhooks
from face0_worker.records.ledger import Ledger
from face0_worker.records.webhook_keys import Keys
from face0_worker.records.webhooks import Outgoing
from face0_worker.telemetry import Event, log

AT_ONCE = 8
TIMEOUT_S = 5.0  # for each step: to connect, to send, to answer
DEADLINE_S = 15.0  # for all of it
LEASE_S = 60.0
_PORTS = {"https": 443, "http": 80}
_ANSWER = 1024  # bytes that are read of it, and not kept


class Undelivered(WorkFailed):
    """A receiver did not take a message. `status`: what it answered, None where it did not."""

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Courier:
    """Delivers from the outbox; several may run at once. `hosts` may be told over http and at private addresses."""

    ledger: Ledger
    keys: Path
    hosts: Collection[str]
    clock: Callable[[], float] = time.time

    def round(self) -> int:
        """Try what is due, one message for each webhook; return how many were tried. Raises: LedgerDown."""
        due = webhooks.take(self.ledger, AT_ONCE, LEASE_S)
        if due:
            with ThreadPoolExecutor(len(due), thread_name_prefix="courier") as pool:
                list(pool.map(self._deliver, due))
        return len(due)

    def _deliver(self, message: Outgoing) -> None:
        try:
            secret = Keys.open(self.keys).unseal(message.webhook_id, message.secret)
            status = self._send(message, secret)
        except ServiceDown:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it counts as a try: none comes back for ever
            answered = error.status if isinstance(error, Undelivered) else None
            # 410: the receiver wants nothing more of this (Standard Webhooks)
            why = str(error) if isinstance(error, Face0Error) else f"it could not be sent ({type(error).__name__})"
            dead = webhooks.note_failed(self.ledger, message, answered, why, final=answered == 410)
            event = Event.WEBHOOK_GIVEN_UP if dead else Event.WEBHOOK_FAILED
            facts = {"webhook": message.webhook_id, "message": message.id, "tries": message.tries}
            log(event, level=logging.WARNING, status=answered, **facts)
        else:
            webhooks.note_delivered(self.ledger, message.id, status)
            log(Event.WEBHOOK_DELIVERED, webhook=message.webhook_id, message=message.id, tries=message.tries)

    def _send(self, message: Outgoing, secret: bytes) -> int:
        stamp = str(int(self.clock()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "face0",
            "webhook-id": message.id,
            "webhook-timestamp": stamp,
            "webhook-signature": sign(secret, message.id, stamp, message.body),
        }
        return post(message.url, message.body.encode(), headers, self.hosts)


def sign(secret: bytes, message_id: str, timestamp: str, body: str) -> str:
    """Return the signature after Standard Webhooks, version 1: HMAC-SHA256 over id, time and body."""
    whole = f"{message_id}.{timestamp}.{body}".encode()
    return f"v1,{base64.b64encode(hmac.new(secret, whole, hashlib.sha256).digest()).decode()}"


def post(url: str, body: bytes, headers: dict[str, str], hosts: Collection[str]) -> int:
    """Send one POST and return the status, which is 2xx. Raises: Undelivered, BadInput."""
    webhooks.check_url(url, hosts)  # the setting may be another by now
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        with contextlib.ExitStack() as stack:
            line = stack.enter_context(_connected(host, parts.port or _PORTS[parts.scheme], hosts))
            deadline = stack.enter_context(_deadline(line))
            if parts.scheme == "https":
                context = ssl.create_default_context()
                line = context.wrap_socket(line, server_hostname=host, do_handshake_on_connect=False)
                deadline.append(stack.enter_context(line))
                line.do_handshake()
            answer = _asked(line, parts, body, headers)
    except ssl.SSLError as error:
        raise Undelivered(f"{host}: no TLS that can be trusted ({error.reason or type(error).__name__})") from error
    except (OSError, http.client.HTTPException) as error:
        raise Undelivered(f"{host} did not answer ({type(error).__name__})") from error
    if 300 <= answer.status < 400:
        raise Undelivered(f"{host} answered {answer.status}; redirects are not followed", answer.status)
    if not 200 <= answer.status < 300:
        raise Undelivered(f"{host} answered {answer.status}", answer.status)
    return answer.status


def _asked(line: socket.socket, parts: SplitResult, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.sock = line
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("POST", path, body, {"Host": parts.netloc, **headers})
    answer = connection.getresponse()
    answer.read(_ANSWER)
    return answer


def _connected(host: str, port: int, hosts: Collection[str]) -> socket.socket:
    """Return a connection to an address that was looked at; asked for again by its name it could be another one."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Undelivered(f"there is no host of the name {host}") from error
    if host not in hosts and not all(ipaddress.ip_address(address[0]).is_global for *_, address in found):
        raise Undelivered(
            f"{host} is inside this network; name it in the setting webhook_hosts if it is meant to be told"
        )
    failed: OSError | None = None
    for family, kind, protocol, _, address in found:
        line = socket.socket(family, kind, protocol)
        line.settimeout(TIMEOUT_S)
        try:
            line.connect(address)
        except OSError as error:
            line.close()
            failed = error
        else:
            return line
    raise failed or OSError("no address")


@contextlib.contextmanager
def _deadline(line: socket.socket) -> Iterator[list[socket.socket]]:
    """Cut lines that are still busy at the deadline: each byte in time makes an answer without end."""
    lines = [line]

    def cut() -> None:
        for one in lines:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(DEADLINE_S, cut)
    timer.daemon = True
    timer.start()
    try:
        yield lines
    finally:
        timer.cancel()

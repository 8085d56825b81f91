"""Messages over a real Valkey: ids only, sent again after FLUSHALL, received by a real Celery worker."""

from __future__ import annotations

import base64
import json
import queue
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery.contrib.testing.worker import start_worker

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import batch_message, read_batch_message
from face0_worker.queue.app import RENDER_TASK, make_app, queue_length, sender

QUEUE = "face0.test-celery"


@pytest.fixture
def server(broker_url: str) -> Iterator[redis.Redis]:
    """A bare client of the session's Valkey."""
    with redis.Redis(unix_socket_path=broker_url.removeprefix("redis+socket://")) as client:
        client.delete(QUEUE)
        yield client


def test_a_message_holds_the_attempts_id_and_nothing_else(broker_url: str, server: redis.Redis) -> None:
    app = make_app(broker_url)
    sender(app)(QUEUE, batch_message("attempt-1"))
    assert queue_length(app)(QUEUE) == 1
    (raw,) = server.lrange(QUEUE, 0, -1)
    message = json.loads(raw)
    assert message["headers"]["argsrepr"] == ""
    assert not message["headers"]["kwargsrepr"]
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([{"v": 1, "attempt": "attempt-1"}], {})


def test_sending_goes_on_after_the_broker_was_emptied(broker_url: str, server: redis.Redis) -> None:
    app = make_app(broker_url)
    send, length = sender(app), queue_length(app)
    send(QUEUE, batch_message("attempt-1"))
    server.flushall()
    assert length(QUEUE) == 0
    send(QUEUE, batch_message("attempt-1"))
    assert length(QUEUE) == 1


def test_a_worker_receives_what_is_sent_before_and_after_the_broker_was_emptied(
    broker_url: str, server: redis.Redis
) -> None:
    app = make_app(broker_url)
    received: queue.Queue[str] = queue.Queue()

    @app.task(name=RENDER_TASK)  # type: ignore[untyped-decorator]
    def render(message: dict[str, Any]) -> None:
        received.put(read_batch_message(message))

    send = sender(app)
    with start_worker(app, pool="solo", queues=[QUEUE], perform_ping_check=False, shutdown_timeout=30):
        send(QUEUE, batch_message("before"))
        assert received.get(timeout=120) == "before"
        server.flushall()
        send(QUEUE, batch_message("after"))
        assert received.get(timeout=120) == "after"


def test_a_message_of_another_version_is_refused() -> None:
    with pytest.raises(BadInput):
        read_batch_message({"v": 2, "attempt": "x"})

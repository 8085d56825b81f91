"""The Celery app and its settings, and the two things the dispatcher needs of a broker: send and count.

The broker is disposable (promise P9): it carries ids only, messages are acknowledged on receipt, and whatever it
loses or repeats is put right from the ledger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from face0_worker.contract.errors import BrokerDown

RENDER_TASK = "face0.render_batch"

Send = Callable[[str, dict[str, Any]], None]
QueueLength = Callable[[str], int]
_ANSWER_S = 5.0
_PASSWORD = re.compile(r"(?<=://)([^/@]*)@")


def make_app(broker_url: str) -> Celery:
    """Return the Celery app for a redis://, rediss:// or redis+socket:// broker. Nothing is connected yet."""
    app = Celery("face0", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # on receipt, because the ledger redelivers: a late acknowledgement would repeat poison without bound
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # one render thread, chosen by the worker's pool; nothing here may start a second
        worker_concurrency=1,
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # a worker that rejoins after the broker was emptied must not wait for a restore that never comes
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5,
        broker_transport_options={
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "visibility_timeout": 3600,
            # the dispatcher looks after a broker that is away; a call that waits would keep it from all else
            "max_retries": 0,
        },
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        task_create_missing_queues=True,
        task_default_queue="face0.unused",
    )
    return app


def queue_name(model_digest: str) -> str:
    """Return the queue of the workers that hold this model."""
    return f"face0.{model_digest[:16]}"


def sender(app: Celery) -> Send:
    """Return the function that sends one batch message. It raises BrokerDown when the broker does not take it."""

    def send(queue: str, message: dict[str, Any]) -> None:
        with _translated():
            # repr's are for Celery's events and would be a second copy of the arguments in Redis
            app.send_task(RENDER_TASK, args=[message], queue=queue, argsrepr="", kwargsrepr="", retry=False)

    return send


def queue_length(app: Celery) -> QueueLength:
    """Return the function that counts the messages waiting in a queue. It raises BrokerDown."""

    def length(queue: str) -> int:
        with _translated(), app.connection_for_write() as connection:
            return int(connection.default_channel.client.llen(queue))

    return length


def check_broker(url: str) -> None:
    """Ask the broker at a redis://, rediss:// or unix:// URL for one answer.

    Raises: BrokerDown: within a few seconds nobody answered as Redis or Valkey; the message says what was wrong.
    """
    where = _PASSWORD.sub("***@", url)
    told = f"the broker at {where}"
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=_ANSWER_S, socket_timeout=_ANSWER_S) as client:
            client.ping()
            if client.info("server").get("redis_mode") == "cluster":
                raise BrokerDown(f"{told} is a cluster, which Celery can't use; name a single server")
    except (AuthenticationError, NoPermissionError) as error:
        raise BrokerDown(f"{told} refuses the user or the password; correct FACE0_BROKER_URL") from error
    except ResponseError as error:
        raise BrokerDown(f"{told} refuses to work ({_first_words(error)}); look at its log") from error
    except (RedisError, OSError, ValueError) as error:
        raise BrokerDown(
            f"{told} does not answer as Redis or Valkey ({_first_words(error)}); start it, or correct FACE0_BROKER_URL"
        ) from error


def _first_words(error: Exception) -> str:
    """Return what the library says, short enough for a sentence."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:120].rstrip('.')}" if lines else type(error).__name__


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, RedisError, ConnectionError, TimeoutError) as error:
        raise BrokerDown("the broker does not answer; is Redis or Valkey running, and not full?") from error

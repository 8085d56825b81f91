"""The settings that facts about Celery over Redis demand; tests/integration sends real messages."""

from __future__ import annotations

import pytest

from face0_worker.contract.errors import BrokerDown
from face0_worker.queue.app import make_app, queue_length, queue_name, sender


def test_messages_are_json_acknowledged_on_receipt_and_leave_no_results() -> None:
    conf = make_app("redis://localhost:1/0").conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert not conf.task_acks_late
    assert conf.task_ignore_result
    assert conf.result_backend is None
    assert conf.worker_prefetch_multiplier == 1
    assert conf.worker_disable_prefetch
    assert not conf.task_send_sent_event
    assert not conf.worker_send_task_events


def test_a_queue_is_named_by_its_model() -> None:
    assert queue_name("0123456789abcdef" + "f" * 48) == "face0.0123456789abcdef"


def test_a_broker_that_does_not_answer_is_named_in_our_words() -> None:
    app = make_app("redis+socket:///nowhere/valkey.sock")
    app.conf.broker_connection_timeout = 0.2
    with pytest.raises(BrokerDown):
        sender(app)("face0.x", {"v": 1})
    with pytest.raises(BrokerDown):
        queue_length(app)("face0.x")

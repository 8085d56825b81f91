"""Logs hold events of one list, and nothing of a person (promise P7)."""

from __future__ import annotations

import io
import json
import logging

import numpy as np
import pytest

from face0_worker.telemetry import WITHHELD, Event, configure, log


@pytest.fixture
def lines() -> io.StringIO:
    stream = io.StringIO()
    configure(stream=stream, json=True)
    return stream


def test_an_event_is_one_json_line_with_its_facts(lines: io.StringIO) -> None:
    log(Event.CHILD_READY, worker="w-1", seconds=1.5)
    entry = json.loads(lines.getvalue())
    assert (entry["event"], entry["level"], entry["worker"], entry["seconds"]) == ("child.ready", "info", "w-1", 1.5)
    assert entry["timestamp"].endswith("Z")


def test_personal_fields_and_payloads_never_reach_a_log(lines: io.StringIO) -> None:
    log(
        Event.CHILD_READY,
        photo=b"jpeg bytes",
        subject="Taro Yamada",
        raw=b"jpeg bytes",
        numbers=np.ones(128, np.float32),
        long="x" * 1000,
        nested={"name": "Taro Yamada", "parts": [b"jpeg bytes", 1]},
    )
    entry = json.loads(lines.getvalue())
    assert "Yamada" not in lines.getvalue()
    assert "jpeg" not in lines.getvalue()
    assert entry["numbers"] == entry["long"] == entry["photo"] == WITHHELD
    assert entry["nested"]["parts"] == [WITHHELD, 1]


def test_other_libraries_speak_in_the_same_form_and_without_tracebacks(lines: io.StringIO) -> None:
    try:
        raise ValueError("Taro Yamada")
    except ValueError:
        logging.getLogger("celery").exception("task failed")
    logging.getLogger("celery").info("chatter")
    entry = json.loads(lines.getvalue())
    assert (entry["event"], entry["error"]) == ("task failed", "ValueError")
    assert "Yamada" not in lines.getvalue()


def test_event_names_are_room_dot_word_and_differ() -> None:
    assert all(name.count(".") == 1 and name == name.lower() for name in Event)
    assert len(set(Event)) == len(Event)

"""A ledger reaches this program's schema from wherever it was, and says itself which programs may work with it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import inspect

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.errors import LedgerDown
from face0_worker.records import consents, offers, schema
from face0_worker.records.ledger import Ledger
from face0_worker.records.migrations import versions
from face0_worker.records.schema import HEAD, VERSION_TABLE, Upgrade
from face0_worker.records.tables import metadata
from face0_worker.service import prepare_schema
from face0_worker.settings import Settings
from producer import cli
from tests.integration.records.databases import (
    LAST_BUT_ONE,
    PATIENCE_S,
    dump,
    heartbeat,
    mark,
    older,
    opened,
    program_of,
    unmarked,
    url_of,
)
from tests.integration.records.program import Said, play, read, record, recording, session, write


def tables_of(ledger: Ledger) -> set[str]:
    """Return the names of a ledger's tables, but for the one that says its version."""
    return set(inspect(ledger.engine).get_table_names()) - {VERSION_TABLE}


def names_in(said: Sequence[Said]) -> set[str]:
    """Return every word of what a program said."""
    return set(re.findall(r"\w+", " ".join(one.statement for one in said)))


def revisions() -> list[Script]:
    """Return the revisions, oldest first."""
    config = Config()
    config.set_main_option("script_location", "face0_worker.records:migrations")
    return list(reversed([*ScriptDirectory.from_config(config).walk_revisions()]))


def test_an_upgraded_ledger_has_exactly_the_tables_that_the_program_describes(database: Callable[[], str]) -> None:
    with opened(database()) as upgraded, opened(database()) as described:
        assert schema.upgrade(upgraded.engine) == Upgrade(None, HEAD)
        metadata.create_all(described.engine)
        ours = dump(upgraded, f"--exclude-table={VERSION_TABLE}")
        assert "CREATE INDEX items_in_flight_key" in ours
        assert ours == dump(described)


def test_revisions_follow_one_another_to_the_programs_own_and_never_work_with_an_older_program_again() -> None:
    found = revisions()
    assert [script.revision for script in found] == [f"{number:04d}" for number in range(1, len(found) + 1)]
    assert found[-1].revision == HEAD
    oldest = [str(script.module.works_with) for script in found]
    assert oldest == sorted(oldest)
    assert all(works_with <= script.revision for works_with, script in zip(oldest, found, strict=True))
    # without these two files setuptools leaves the revisions out of the package
    folder = Path(next(iter(versions.__path__)))
    assert all((place / "__init__.py").is_file() for place in (folder, folder.parent))


def test_an_upgrade_can_be_repeated_and_the_ledger_says_which_programs_it_works_with(empty: Ledger) -> None:
    assert str(schema.upgrade(empty.engine)) == f"schema {HEAD} (was empty)"
    made = dump(empty)
    assert str(schema.upgrade(empty.engine)) == f"schema {HEAD}"
    assert dump(empty) == made
    with empty.transaction() as connection:
        said = connection.exec_driver_sql(f"SELECT version_num, works_with FROM {VERSION_TABLE}").one()
    assert said == (HEAD, revisions()[-1].module.works_with)


_LISTEN = """
import logging, sys
from face0_worker.records import schema
from face0_worker.records.ledger import open_ledger

def state():
    return logging.root.level, list(logging.root.handlers), logging.root.manager.disable

before = state()
schema.upgrade(open_ledger(sys.argv[1]).engine)
sys.exit(state() != before)
"""


def test_an_upgrade_says_nothing_to_the_terminal_and_leaves_the_root_logger_alone(empty: Ledger) -> None:
    # in a process of its own: this one has migrated before
    command = [sys.executable, "-c", _LISTEN, url_of(empty)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    schema.check(empty.engine)


def test_a_ledger_from_before_versions_were_counted_is_recognised_and_keeps_its_rows(empty: Ledger) -> None:
    with unmarked(empty).transaction() as connection:
        connection.exec_driver_sql(
            "INSERT INTO consents (id, subject, purposes, valid_from, valid_until, state, epoch)"
            " VALUES ('c1', 's', '[\"catalogue\"]', now(), now() + interval '1 day', 'granted', 1)"
        )
    found = schema.describe(empty.engine)
    assert (found.current, found.compatible) == (None, False)
    assert schema.upgrade(empty.engine) == Upgrade("0001", HEAD)
    consents.require(empty, "c1", Use(Purpose.CATALOGUE), stage="submit")


def test_a_database_with_other_tables_of_our_names_is_refused_and_left_as_it_is(empty: Ledger) -> None:
    with empty.transaction() as connection:
        connection.exec_driver_sql("CREATE TABLE jobs (id int)")
    before = dump(empty)
    with pytest.raises(LedgerDown, match="not a ledger's: jobs; name an empty one"):
        schema.upgrade(empty.engine)
    assert dump(empty) == before


def test_an_unprepared_or_older_ledger_is_refused_with_what_to_do(empty: Ledger) -> None:
    with pytest.raises(LedgerDown, match="is not prepared for this program; run `face0 init`") as refused:
        schema.check(empty.engine)
    assert refused.value.exit_code == 4
    older(empty)
    with pytest.raises(LedgerDown, match=f"has schema {LAST_BUT_ONE} and this program needs {HEAD}; run `face0 init`"):
        schema.check(empty.engine)
    assert schema.describe(empty.engine).current == LAST_BUT_ONE


def test_a_newer_ledger_is_worked_with_and_left_alone_when_it_says_so_and_refused_otherwise(empty: Ledger) -> None:
    schema.upgrade(empty.engine)
    mark(empty, "9001", works_with=HEAD)
    schema.check(empty.engine)
    assert schema.upgrade(empty.engine) == Upgrade("9001", "9001")
    mark(empty, "9002", works_with="9001")
    for ask in (schema.check, schema.upgrade):
        with pytest.raises(LedgerDown, match=f"needs a program of schema 9001 or newer, .*{HEAD}; update face0"):
            ask(empty.engine)
    assert not schema.describe(empty.engine).compatible


@pytest.mark.parametrize("revision", [script.revision for script in revisions()[:-1]])
def test_what_an_older_program_says_is_answered_as_ever_if_the_ledger_says_that_they_work_together(
    empty: Ledger, revision: str
) -> None:
    tables = tables_of(older(empty, revision))
    schema.upgrade(empty.engine)
    with program_of(revision):
        together = schema.describe(empty.engine).compatible
    if not together:
        pytest.skip(f"the ledger of {HEAD} refuses the program of {revision}")
    assert recording(revision).is_file(), f"record the program of {revision} (tests/integration/records/program.py)"
    said = read(recording(revision))
    assert tables <= names_in(said)
    assert play(url_of(empty), said) == []


def test_this_program_can_be_recorded_for_the_ones_to_come(database: Callable[[], str], tmp_path: Path) -> None:
    with opened(database()) as one, opened(database()) as other:
        for ledger in (one, other):
            schema.upgrade(ledger.engine)
        said = record(one, lambda ledger: session(ledger, tmp_path))
        assert {table.name for table in metadata.sorted_tables} <= names_in(said)
        write(tmp_path / "program.json", HEAD, said)
        assert play(url_of(other), read(tmp_path / "program.json")) == []


def test_workers_of_both_programs_are_listed_and_a_new_one_says_where_and_what_it_is(empty: Ledger) -> None:
    schema.upgrade(empty.engine)
    with psycopg.connect(url_of(empty)) as old:
        old.execute(*heartbeat())
    offers.offer_model(empty, "w2", "d" * 64, "new", {"device": "cuda:0"})
    offers.offer_model(empty, "w3", "d" * 64, "new", {})
    offers.withdraw_offers(empty, "w3")
    first, second = offers.list_workers(empty)
    assert (first.worker_id, first.host, first.device, first.version) == ("w1", "", "", "")
    assert (second.worker_id, second.device, second.model) == ("w2", "cuda:0", "new")
    assert second.host
    assert second.version
    again = next(worker for worker in offers.list_workers(empty) if worker.worker_id == "w2")
    offers.offer_model(empty, "w2", "d" * 64, "new", {"device": "cuda:0"})
    later = next(worker for worker in offers.list_workers(empty) if worker.worker_id == "w2")
    assert again.first_seen_at == later.first_seen_at
    assert again.seen_at < later.seen_at


def test_a_worker_known_before_the_upgrade_has_no_invented_first_time(empty: Ledger) -> None:
    with psycopg.connect(url_of(older(empty, "0001"))) as old:
        old.execute(*heartbeat())
    schema.upgrade(empty.engine)
    assert [worker.first_seen_at for worker in offers.list_workers(empty)] == [None]


def test_a_worker_changes_the_ledger_of_its_own_home_and_never_one_that_others_share(
    empty: Ledger, tmp_path: Path
) -> None:
    older(empty)
    with pytest.raises(LedgerDown, match="run `face0 init`"):
        prepare_schema(Settings(home=tmp_path, ledger_url=url_of(empty)), empty)
    assert schema.describe(empty.engine).current == LAST_BUT_ONE
    prepare_schema(Settings(home=tmp_path, ledger_url=""), empty)
    assert schema.describe(empty.engine).current == HEAD
    prepare_schema(Settings(home=tmp_path, ledger_url=url_of(empty)), empty)


def test_a_command_refuses_an_older_ledger_until_init_has_been_run_which_says_what_it_did(
    empty: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FACE0_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FACE0_LEDGER_URL", url_of(older(empty)))
    monkeypatch.setenv("FACE0_STORAGE", str(tmp_path / "storage"))

    def types(*words: str, code: int = 0) -> str:
        ended = cli.run([*words])
        said = capsys.readouterr()
        assert ended == code, said
        return said.out + said.err

    assert "run `face0 init`" in types("consent", "list", code=4)
    assert f"made   ledger: schema {HEAD} (was {LAST_BUT_ONE})" in types("init")
    assert f"found  ledger: schema {HEAD}, the server" in types("init")
    types("consent", "list")

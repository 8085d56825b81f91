"""Webhooks: signed as the scheme says, delivered at least once, given up visibly, and never a way into this network."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from standardwebhooks.webhooks import Webhook as Verifier

from face0_worker import webhooks as couriers
from face0_worker.contract.errors import BadInput, LedgerDown
from face0_worker.contract.job import ItemState
from face0_worker.errands import Errand, running
from face0_worker.records import attempts, consents, jobs, webhooks
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import webhook_deliveries
from face0_worker.records.tables import webhooks as webhooks_table
from face0_worker.records.webhook_keys import Keys
from face0_worker.records.webhooks import TRIES, WebhookEvent
from face0_worker.settings import Settings
from face0_worker.webhooks import Courier
from producer import cli
from tests import ledgers
from tests.authority import make_authority
from tests.receivers import Receiver, Told, receiving

pytestmark = pytest.mark.services

HOME = frozenset({"127.0.0.1"})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def courier(ledger: Ledger, tmp_path: Path) -> Courier:
    Keys.open(tmp_path, create=True)
    return Courier(ledger, tmp_path, HOME)


def add(courier: Courier, receiver: Receiver, *events: str) -> tuple[str, str]:
    """Add a webhook; return its id and its secret."""
    made, secret = webhooks.add(courier.ledger, Keys.open(courier.keys), receiver.url, events or [*WebhookEvent], HOME)
    return made.id, secret


def due_now(ledger: Ledger) -> None:
    """Let what waits for its next try be due."""
    with ledger.transaction() as connection:
        connection.execute(update(webhook_deliveries).values(due_at=func.now()))


def states(ledger: Ledger) -> list[tuple[str, int, int | None]]:
    return [(one.state, one.tries, one.status) for one in webhooks.deliveries(ledger)]


def read(secret: str, told: Told) -> dict[str, object]:
    """Return the message as the scheme's own library reads it: the signature is right and the time is now."""
    found = Verifier(secret).verify(told.body, told.headers)
    assert isinstance(found, dict)
    return found


def end_job(ledger: Ledger, *, fail: bool = False) -> str:
    ledgers.give_consent(ledger, "c1")
    claim = ledgers.claim_items(ledger, ledgers.some_items(2, prompt="a portrait of Taro Yamada"))
    first, second = claim.items
    ledgers.commit_item(ledger, claim, first)
    if fail:
        attempts.fail_item(ledger, claim.attempt_id, claim.token, second.item_id, "odd", "it is odd")
    else:
        rejected = (second.item_id, "blurred", "the picture is blurred")
        attempts.fail_item(ledger, claim.attempt_id, claim.token, *rejected, state=ItemState.REJECTED)
    attempts.finish_attempt(ledger, claim.attempt_id, claim.token)
    jobs.mark_finished(ledger, first.job_id, "a manifest")
    return first.job_id


def test_a_job_that_ends_is_told_signed_and_without_a_persons_data(courier: Courier, receiver: Receiver) -> None:
    _, secret = add(courier, receiver, "job.finished", "job.failed", "item.rejected")
    job_id = end_job(courier.ledger)
    while courier.round():
        pass
    messages = {told.headers["webhook-id"]: read(secret, told) for told in receiver.told}
    assert sorted(str(one["type"]) for one in messages.values()) == ["item.rejected", "job.finished"]
    (finished,) = (one for one in messages.values() if one["type"] == "job.finished")
    assert finished["data"] == {"job_id": job_id, "counts": {"done": 1, "rejected": 1}}
    assert [told.path for told in receiver.told] == ["/hooks?shop=1"] * 2
    whole = b"".join(told.body for told in receiver.told)
    assert not any(word in whole for word in (b"Taro", b"sku-", b"subject", b"portrait"))
    assert {state for state, _, _ in states(courier.ledger)} == {"delivered"}


def test_a_job_with_failed_items_is_told_twice_and_a_withdrawal_once(courier: Courier, receiver: Receiver) -> None:
    _, secret = add(courier, receiver)
    end_job(courier.ledger, fail=True)
    consents.revoke(courier.ledger, "c1")
    while courier.round():
        pass
    told = {str(read(secret, one)["type"]): read(secret, one)["data"] for one in receiver.told}
    assert set(told) == {"job.finished", "job.failed", "consent.revoked"}
    withdrawn = told["consent.revoked"]
    assert isinstance(withdrawn, dict)
    assert (withdrawn["consent_id"], withdrawn["pictures"]) == ("c1", 1)


def test_nobody_is_told_what_was_rolled_back_or_not_asked_for(courier: Courier, receiver: Receiver) -> None:
    add(courier, receiver, "consent.revoked")
    with courier.ledger.transaction() as connection:
        webhooks.emit(connection, WebhookEvent.JOB_FINISHED, {})
        webhooks.emit(connection, WebhookEvent.CONSENT_REVOKED, {})
        connection.rollback()
    assert courier.round() == 0
    assert receiver.told == []


def test_a_receiver_that_fails_is_told_again_later_with_the_same_id(courier: Courier, receiver: Receiver) -> None:
    webhook_id, secret = add(courier, receiver)
    receiver.answers = [500]
    webhooks.send_test(courier.ledger, webhook_id)
    assert courier.round() == 1
    (waiting,) = webhooks.deliveries(courier.ledger)
    assert (waiting.state, waiting.tries, waiting.status) == ("waiting", 1, 500)
    assert waiting.error == "127.0.0.1 answered 500"
    assert 3 < (waiting.due_at - waiting.created_at).total_seconds() < 120
    assert courier.round() == 0
    due_now(courier.ledger)
    assert courier.round() == 1
    assert states(courier.ledger) == [("delivered", 2, 200)]
    first, second = receiver.told
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert read(secret, second)["type"] == "webhook.test"


def test_a_courier_that_dies_after_sending_sends_again_with_the_same_id(
    courier: Courier, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook_id, _ = add(courier, receiver)
    webhooks.send_test(courier.ledger, webhook_id)

    def die(*_: object) -> None:
        raise LedgerDown("away")

    with monkeypatch.context() as patch:
        patch.setattr(webhooks, "note_delivered", die)
        with pytest.raises(LedgerDown):
            courier.round()
    assert courier.round() == 0  # the lease keeps others from sending it at the same time
    due_now(courier.ledger)
    courier.round()
    assert len({told.headers["webhook-id"] for told in receiver.told}) == 1
    assert [state for state, _, _ in states(courier.ledger)] == ["delivered"]


def test_a_message_is_given_up_after_its_last_try_and_can_be_tried_again(courier: Courier, receiver: Receiver) -> None:
    webhook_id, _ = add(courier, receiver)
    message_id = webhooks.send_test(courier.ledger, webhook_id)
    receiver.answers = [503] * TRIES
    for _ in range(TRIES):
        due_now(courier.ledger)
        assert courier.round() == 1
    due_now(courier.ledger)
    assert courier.round() == 0
    assert states(courier.ledger) == [("dead", TRIES, 503)]
    webhooks.retry(courier.ledger, message_id)
    courier.round()
    assert states(courier.ledger) == [("delivered", 1, 200)]
    with pytest.raises(BadInput, match="was given up"):
        webhooks.retry(courier.ledger, message_id)


def test_a_receiver_that_is_gone_for_good_is_not_told_again(courier: Courier, receiver: Receiver) -> None:
    webhook_id, _ = add(courier, receiver)
    webhooks.send_test(courier.ledger, webhook_id)
    receiver.answers = [410]
    courier.round()
    assert states(courier.ledger) == [("dead", 1, 410)]


def test_redirects_are_not_followed(courier: Courier, receiver: Receiver) -> None:
    webhook_id, _ = add(courier, receiver)
    webhooks.send_test(courier.ledger, webhook_id)
    receiver.answers, receiver.location = [307], receiver.url
    courier.round()
    assert len(receiver.told) == 1
    (waiting,) = webhooks.deliveries(courier.ledger)
    assert waiting.error == "127.0.0.1 answered 307; redirects are not followed"


def test_one_receiver_that_is_down_does_not_keep_others_waiting(courier: Courier, receiver: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = Receiver(listener.getsockname()[1])
    down, _ = add(courier, nobody)
    fine, _ = add(courier, receiver)
    for _ in range(3):
        webhooks.send_test(courier.ledger, down)
        webhooks.send_test(courier.ledger, fine)
    rounds = 0
    while courier.round():
        rounds += 1
    assert rounds == 3
    assert len(receiver.told) == 3
    tried = [one.tries for one in webhooks.deliveries(courier.ledger, webhook_id=down)]
    assert sorted(tried) == [0, 0, 1]  # the first try said enough; the others wait for it


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254", "192.168.1.1"])
def test_a_machine_inside_this_network_is_not_told_unless_the_setting_names_it(host: str) -> None:
    with pytest.raises(couriers.Undelivered, match="is inside this network; name it in the setting webhook_hosts"):
        couriers.post(f"https://{host}:9/", b"{}", {}, frozenset())


def test_a_receivers_certificate_is_checked(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_authority(tmp_path)
    with receiving(authority.sign(tmp_path / "tls", ["127.0.0.1"])) as secure:
        with pytest.raises(couriers.Undelivered, match="no TLS that can be trusted"):
            couriers.post(secure.url, b"{}", {}, HOME)
        assert secure.told == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        assert couriers.post(secure.url, b"{}", {}, HOME) == 200
        assert secure.told[0].headers["host"] == f"127.0.0.1:{secure.port}"
        with pytest.raises(couriers.Undelivered, match="no TLS that can be trusted"):
            couriers.post(secure.url.replace("https://127.0.0.1", "https://localhost"), b"{}", {}, {"localhost"})


def test_a_receiver_that_never_ends_its_answer_is_cut_off(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(couriers, "DEADLINE_S", 0.2)
    monkeypatch.setattr(couriers, "TIMEOUT_S", 100.0)
    receiver.drip = threading.Event()
    try:
        with pytest.raises(couriers.Undelivered, match="did not answer"):
            couriers.post(receiver.url, b"{}", {}, HOME)
    finally:
        receiver.drip.set()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://shop.example/", "plain http"),
        ("ftp://shop.example/", "not in the form https://"),
        ("https://", "not in the form https://"),
        ("https://user:word@shop.example/", "user or a password"),
        ("https://shop.example/a b", "not in the form"),
        ("https://shop.example/#a", "leave that part out"),
        ("https://shop.example:99999/", "is none"),
        ("https://例え.jp/", "xn--"),
    ],
)
def test_a_url_that_can_not_be_meant_is_refused(url: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        webhooks.check_url(url, frozenset())


def test_the_ledger_holds_no_secret_that_anybody_could_use(
    courier: Courier, receiver: Receiver, tmp_path: Path
) -> None:
    webhook_id, secret = add(courier, receiver)
    with courier.ledger.transaction() as connection:
        sealed = bytes(connection.execute(select(webhooks_table.c.secret)).scalar_one())
    plain = Keys.open(courier.keys).unseal(webhook_id, sealed)
    assert base64.b64decode(secret.removeprefix("whsec_")) == plain
    assert plain not in sealed
    (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match="does not open"):
        Keys.open(tmp_path / "other", create=True).unseal(webhook_id, sealed)
    with pytest.raises(BadInput, match="does not open"):
        Keys.open(courier.keys).unseal("wh_other", sealed)
    webhooks.remove(courier.ledger, webhook_id)
    with courier.ledger.transaction() as connection:
        assert bytes(connection.execute(select(webhooks_table.c.secret)).scalar_one()) == b""


def test_messages_of_last_month_are_forgotten_and_what_waits_is_not(courier: Courier, receiver: Receiver) -> None:
    webhook_id, _ = add(courier, receiver)
    webhooks.send_test(courier.ledger, webhook_id)
    courier.round()
    webhooks.send_test(courier.ledger, webhook_id)
    assert webhooks.forget(courier.ledger) == 0
    assert webhooks.forget(courier.ledger, days=0) == 1
    assert [state for state, _, _ in states(courier.ledger)] == ["waiting"]


def test_an_errand_goes_on_after_what_nobody_expected(capsys: pytest.CaptureFixture[str]) -> None:
    went_on = threading.Event()
    rounds: list[int] = []

    def odd() -> int:
        rounds.append(1)
        if len(rounds) == 1:
            raise RuntimeError("Taro Yamada")
        went_on.set()
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("face0_worker.errands.OUTAGE_PAUSE_S", 0.01)
        with Errand("odd", odd, pause_s=0.01):
            assert went_on.wait(120)
    said = capsys.readouterr()
    assert "Yamada" not in said.out + said.err


def test_errands_that_hang_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("face0_worker.errands.FAREWELL_S", 0.2)
    over, joined = threading.Event(), list[float]()
    join = Errand.join

    def noted(errand: Errand, timeout_s: float) -> None:
        joined.append(timeout_s)
        join(errand, timeout_s)

    monkeypatch.setattr(Errand, "join", noted)
    hanging = [Errand(f"hanging {number}", lambda: int(over.wait(120))) for number in range(4)]
    with running(hanging):
        pass
    over.set()
    assert len(joined) == 4
    assert joined[1:] == [0.0] * 3


def test_webhooks_on_the_command_line(
    ledger: Ledger,
    ledger_url: str,
    receiver: Receiver,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "keys").mkdir()
    for name, value in {"HOME": tmp_path, "LEDGER_URL": ledger_url, "WEBHOOK_HOSTS": "127.0.0.1"}.items():
        monkeypatch.setenv(f"FACE0_{name}", str(value))

    def types(*words: str, code: int = 0) -> str:
        assert cli.run(["webhook", *words]) == code
        out, err = capsys.readouterr()
        return out + err

    assert "did you mean job.finished?" in types("add", receiver.url, "--event", "job.finish", code=2)
    made = json.loads(types("add", receiver.url, "--event", "job.finished", "--event", "consent.revoked", "--json"))
    assert made["secret"].startswith("whsec_")
    assert (tmp_path / "keys" / "webhooks.key").stat().st_mode & 0o077 == 0
    listed = types("list")
    assert made["id"] in listed
    assert "whsec_" not in listed + types("list", "--json")
    settings = Settings(home=tmp_path, webhook_hosts="127.0.0.1")
    receiver.answers = [500]
    with Errand("webhooks", Courier(ledger, settings.keys_dir, settings.webhook_host_names).round, pause_s=0.05):
        assert "not delivered: 127.0.0.1 answered 500; it is tried again" in types("test", made["id"], code=1)
        due_now(ledger)
        assert "Delivered: it answered 200." in types("test", made["id"])
    assert "delivered" in types("deliveries", "--webhook", made["id"])
    assert read(made["secret"], receiver.told[-1])["type"] == "webhook.test"
    assert "is told nothing more" in types("remove", made["id"])
    assert "no such webhook" in types("test", made["id"], code=2)
    assert json.loads(types("list", "--json")) == []


def test_a_message_that_can_not_be_sent_for_an_odd_reason_is_given_up_like_any_other(
    courier: Courier, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook_id, _ = add(courier, receiver)
    webhooks.send_test(courier.ledger, webhook_id)
    monkeypatch.setattr(couriers, "post", lambda url, *_: dict[str, int]()[url])
    for _ in range(TRIES):
        assert courier.round() == 1
        due_now(courier.ledger)
    assert courier.round() == 0
    (one,) = webhooks.deliveries(courier.ledger)
    assert (one.state, one.error) == ("dead", "it could not be sent (KeyError)")

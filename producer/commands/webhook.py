"""`face0 webhook`: who is told when jobs end, and what became of the messages."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from face0_worker.contract.errors import ServiceDown, WorkFailed
from face0_worker.records import webhooks
from face0_worker.records.ledger import Ledger
from face0_worker.records.webhook_keys import Keys
from face0_worker.records.webhooks import Delivery, WebhookEvent
from producer.commands.setting import opened
from producer.services import keys_folder
from producer.show import as_json_option, local, print_json, print_table, say

_TEST_S = 30.0  # a courier needs a second to see a message, and fifteen at most to deliver it
_POLL_S = 0.3


@click.group()
def webhook() -> None:
    """Tell other systems when jobs end, pictures are rejected, consents are revoked or catalogues are published.

    Messages are signed after Standard Webhooks, kept until they are delivered, and hold ids and counts only.
    """


@webhook.command()
@click.argument("url")
@click.option(
    "--event", "events", multiple=True, required=True, help=f"What it is told of: {', '.join(WebhookEvent)}; repeat it."
)
@as_json_option
@click.pass_context
def add(ctx: click.Context, url: str, events: tuple[str, ...], as_json: bool) -> None:
    """Let URL be told of events; prints the secret that proves who sends, once.

    Plain http, and machines inside this network, only if the setting webhook_hosts names the host.
    """
    with opened(ctx) as services:
        keys = Keys.open(keys_folder(services.settings), create=True)
        made, secret = webhooks.add(services.ledger, keys, url, events, services.settings.webhook_host_names)
    if as_json:
        print_json({"id": made.id, "url": made.url, "events": made.events, "secret": secret})
        return
    say(f"Webhook {made.id} is told of {', '.join(made.events)}.")
    say(f"Its secret, which is not shown again: {secret}")
    say(f"Try it: face0 webhook test {made.id}")


@webhook.command(name="list")
@as_json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """Show every webhook."""
    with opened(ctx) as services:
        found = webhooks.list_all(services.ledger)
    if as_json:
        print_json(found)
    else:
        rows = ((one.id, one.url, ", ".join(one.events), local(one.created_at)) for one in found)
        print_table(("webhook", "url", "events", "since"), rows)


@webhook.command()
@click.argument("webhook_id", metavar="WEBHOOK")
@as_json_option
@click.pass_context
def test(ctx: click.Context, webhook_id: str, as_json: bool) -> None:
    """Send WEBHOOK a message of the type webhook.test, and say what it answers."""
    with opened(ctx) as services:
        message_id = webhooks.send_test(services.ledger, webhook_id)
        found = wait_for_try(services.ledger, message_id)
    if as_json:
        print_json(found)
    elif found.state == "delivered":
        say(f"Delivered: it answered {found.status}.")
    if found.state != "delivered":
        raise WorkFailed(f"not delivered: {found.error}; it is tried again, see `face0 webhook deliveries`")


def wait_for_try(ledger: Ledger, message_id: str, pause: Callable[[], None] = lambda: time.sleep(_POLL_S)) -> Delivery:
    """Return a message when it has been tried once. Raises: ServiceDown: no worker tries it."""
    until = time.monotonic() + _TEST_S
    while True:
        (found,) = webhooks.deliveries(ledger, message_id=message_id)
        if found.state != "waiting" or found.error:
            return found
        if time.monotonic() >= until:
            raise ServiceDown(
                f"no worker has sent the message for {_TEST_S:.0f} s; it waits until one runs (`face0 up`), see "
                "`face0 webhook deliveries`"
            )
        pause()


@webhook.command()
@click.argument("webhook_id", metavar="WEBHOOK")
@as_json_option
@click.pass_context
def remove(ctx: click.Context, webhook_id: str, as_json: bool) -> None:
    """Tell WEBHOOK nothing more; what still waits for it is dropped."""
    with opened(ctx) as services:
        dropped = webhooks.remove(services.ledger, webhook_id)
    if as_json:
        print_json({"webhook_id": webhook_id, "dropped": dropped})
    else:
        say(f"Webhook {webhook_id} is told nothing more; {dropped} messages were dropped.")


@webhook.command()
@click.option("--webhook", "webhook_id", default="", metavar="WEBHOOK", help="Only of this one.")
@click.option("--state", type=click.Choice(["waiting", "delivered", "dead"]), help="Only in this state.")
@as_json_option
@click.pass_context
def deliveries(ctx: click.Context, webhook_id: str, state: str | None, as_json: bool) -> None:
    """Show the newest messages: delivered, waiting for their next try, or given up (dead)."""
    with opened(ctx) as services:
        found = webhooks.deliveries(services.ledger, webhook_id=webhook_id, state=state or "")
    if as_json:
        print_json(found)
    else:
        columns = ("message", "webhook", "event", "state", "tries", "next try", "problem")
        print_table(columns, (_row(one) for one in found))


def _row(one: Delivery) -> tuple[str, ...]:
    due = local(one.due_at) if one.state == "waiting" else ""
    return one.id, one.webhook_id, one.kind, one.state, str(one.tries), due, one.error


@webhook.command()
@click.argument("message_id", metavar="MESSAGE")
@as_json_option
@click.pass_context
def retry(ctx: click.Context, message_id: str, as_json: bool) -> None:
    """Try a MESSAGE again that was given up."""
    with opened(ctx) as services:
        webhooks.retry(services.ledger, message_id)
        (found,) = webhooks.deliveries(services.ledger, message_id=message_id)
    if as_json:
        print_json(found)
    else:
        say(f"Message {message_id} is tried again.")

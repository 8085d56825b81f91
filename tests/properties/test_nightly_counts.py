"""After any sequence of list changes the manifest is the list, and only what nobody had asked for is rendered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from face0_worker.contract.job import RenderItem
from face0_worker.records.catalogue_pointer import read_entries
from face0_worker.records.ledger import Ledger
from face0_worker.settings import Settings
from producer.demo import PERSON
from producer.init import init
from producer.nightly import Order, run_night
from producer.nights.plan import Share
from producer.services import Services
from producer.sources import photo_files
from tests.integration.producer.plain_worker import grant, offer, render_everything

pytestmark = pytest.mark.services


@dataclass(frozen=True)
class Line:
    """One line of a list: whose it is, and its prompt, which stands for all that decides the pixels."""

    sku: str
    person: int
    prompt: int

    @property
    def item_key(self) -> str:
        """What names its picture in the model."""
        return f"{self.sku} {self.person} {self.prompt}"


_LISTS = st.dictionaries(
    st.integers(0, 5).map(str), st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=6
).map(lambda lines: [Line(sku, *rest) for sku, rest in lines.items()])
_numbers = count()


@pytest.fixture
def services(tmp_path: Path, ledger_url: str, ledger: Ledger) -> Iterator[Services]:
    prepared = Settings(home=tmp_path / "home", ledger_url=ledger_url)
    for _ in init(prepared):
        pass
    with Services(prepared) as opened:
        offer(opened)
        yield opened


def _item(line: Line) -> RenderItem:
    return RenderItem(line.sku, f"a shirt of kind {line.prompt}", seed=int(line.sku), width=64, height=64, steps=4)


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # each example is nights on a real ledger: shrinking would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(nights=st.lists(_LISTS, min_size=2, max_size=4))
def test_after_any_changes_the_manifest_is_the_list_and_only_new_keys_are_rendered(
    services: Services, nights: list[list[Line]]
) -> None:
    name = f"catalogue-{next(_numbers)}"
    people = [grant(services.ledger, f"{name}-{person}") for person in range(2)]
    ever: set[str] = set()
    before: list[Line] = []
    for lines in nights:
        lists = [[line for line in lines if line.person == person] for person in range(2)]
        shares = tuple(
            Share(people[person], tuple(map(_item, theirs)), lambda: photo_files([PERSON]))
            for person, theirs in enumerate(lists)
            if theirs
        )
        rendered = 0

        def work(_: object) -> None:
            nonlocal rendered
            rendered += render_everything(services)

        night = run_night(services, Order(name, shares), work, poll_s=0.01)
        in_order = [line for theirs in lists for line in theirs]
        new = {line.item_key for line in lines} - ever
        assert rendered == night.counts.rendered == len(new)
        ever |= new
        assert night.pointer is not None
        manifest = read_entries(services.storage, services.signer.public_key, night.pointer.manifest)
        shown = [(entry.sku, entry.consent_id) for entry in manifest]
        assert shown == [(line.sku, people[line.person]) for line in in_order]
        counts = night.counts
        was, now = ({line.sku: line.item_key for line in some} for some in (before, lines))
        both = was.keys() & now.keys()
        kept = sum(was[sku] == now[sku] for sku in both)
        assert (counts.added, counts.removed) == (len(now.keys() - both), len(was.keys() - both))
        assert (counts.kept, counts.changed) == (kept, len(both) - kept)
        assert (counts.items, counts.done, night.exit_code) == (len(lines), len(lines), 0)
        assert (night.run.state == "unchanged") == (in_order == before)
        before = in_order

"""Plans and turns are pure: what holds for every list of waiting items."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from face0_worker.queue.dispatch import WaitingItem, plan_batches
from face0_worker.records.waiting import JobQueue, fair_order


@st.composite
def waiting_items(draw: st.DrawFn) -> list[WaitingItem]:
    """Draw items of few shapes, so that many can share a batch; some must go alone."""
    shapes = draw(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from([64, 128]), st.sampled_from([10, 20]), st.booleans()),
            max_size=60,
        )
    )
    return [
        WaitingItem(number, f"job-{number % 3}", model, size, 128, steps, "ddim", "float32", solo)
        for number, (model, size, steps, solo) in enumerate(shapes)
    ]


def shape(item: WaitingItem) -> tuple[object, ...]:
    """Return what must be equal in a batch."""
    return item.model_digest, item.width, item.height, item.steps, item.sampler, item.precision


@given(waiting_items(), st.integers(1, 9))
def test_every_item_is_in_exactly_one_batch(waiting: list[WaitingItem], batch_size: int) -> None:
    planned = [item for batch in plan_batches(waiting, batch_size) for item in batch.items]
    assert sorted(planned, key=lambda item: item.item_id) == waiting


@given(waiting_items(), st.integers(1, 9))
def test_a_batch_has_one_shape_at_most_its_size_and_solo_items_are_alone(
    waiting: list[WaitingItem], batch_size: int
) -> None:
    for batch in plan_batches(waiting, batch_size):
        assert 1 <= len(batch.items) <= batch_size
        assert len({shape(item) for item in batch.items}) == 1
        assert batch.solo == batch.items[0].solo
        if any(item.solo for item in batch.items):
            assert len(batch.items) == 1


@given(waiting_items(), st.integers(1, 9))
def test_items_keep_their_order_in_a_batch_and_batches_that_of_their_first_items(
    waiting: list[WaitingItem], batch_size: int
) -> None:
    batches = plan_batches(waiting, batch_size)
    for batch in batches:
        ids = [item.item_id for item in batch.items]
        assert ids == sorted(ids)
    firsts = [batch.items[0].item_id for batch in batches]
    assert firsts == sorted(firsts)


@given(waiting_items(), st.integers(1, 9))
def test_only_the_last_batch_of_a_shape_is_not_full(waiting: list[WaitingItem], batch_size: int) -> None:
    sizes: dict[tuple[object, ...], list[int]] = {}
    for batch in plan_batches(waiting, batch_size):
        if not batch.solo:
            sizes.setdefault(shape(batch.items[0]), []).append(len(batch.items))
    for of_shape in sizes.values():
        assert set(of_shape[:-1]) <= {batch_size}


@st.composite
def job_queues(draw: st.DrawFn) -> list[JobQueue]:
    """Draw jobs of few submitters and priorities with items of their own."""
    drawn = draw(
        st.lists(
            st.tuples(st.sampled_from("xyz"), st.sampled_from([0, 5, 9]), st.integers(0, 9), st.integers(0, 7)),
            max_size=9,
        )
    )
    queues, next_id = [], 0
    for number, (submitter, priority, turn, count) in enumerate(drawn):
        heads = tuple(range(next_id, next_id + count))
        next_id += count
        queues.append(JobQueue(f"job-{number}", submitter, priority, turn, turn, heads))
    return queues


@given(job_queues(), st.integers(0, 80))
def test_the_fair_order_has_each_item_once_and_leaves_none_while_there_is_room(
    queues: list[JobQueue], count: int
) -> None:
    order = fair_order(queues, count)
    everything = {item for queue in queues for item in queue.heads}
    assert len(order) == len(set(order)) == min(count, len(everything))
    assert set(order) <= everything


@given(job_queues(), st.integers(0, 80))
def test_the_fair_order_keeps_each_lists_order_and_puts_urgent_items_first(queues: list[JobQueue], count: int) -> None:
    order = fair_order(queues, count)
    priority_of = {item: queue.priority for queue in queues for item in queue.heads}
    assert [priority_of[item] for item in order] == sorted(priority_of[item] for item in order)
    for queue in queues:
        taken = [item for item in order if item in queue.heads]
        assert taken == list(queue.heads[: len(taken)])


@given(job_queues(), st.integers(0, 80))
def test_nobody_with_waiting_items_is_more_than_one_behind(queues: list[JobQueue], count: int) -> None:
    """Among submitters of one priority, and among the jobs of one submitter."""
    order = fair_order(queues, count)
    queue_of = {item: queue for queue in queues for item in queue.heads}
    by_submitter = Counter((queue_of[item].priority, queue_of[item].submitter) for item in order)
    by_job = Counter(queue_of[item].job_id for item in order)
    for queue in queues:
        if by_job[queue.job_id] == len(queue.heads):
            continue  # nothing of it waits any more
        for other in queues:
            if other.priority != queue.priority:
                continue
            if other.submitter == queue.submitter:
                assert by_job[other.job_id] <= by_job[queue.job_id] + 1
            mine, theirs = (queue.priority, queue.submitter), (other.priority, other.submitter)
            assert by_submitter[theirs] <= by_submitter[mine] + 1


@given(job_queues())
def test_whoever_was_served_longest_ago_begins(queues: list[JobQueue]) -> None:
    queue_of = {item: queue for queue in queues for item in queue.heads}
    for item in fair_order(queues, 1):
        first = queue_of[item]
        rivals = [queue for queue in queues if queue.heads and queue.priority == first.priority]
        theirs = [queue.turn for queue in rivals if queue.submitter == first.submitter]
        assert first.turn == min(theirs)

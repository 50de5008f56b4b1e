"""Looking ahead in the page allocator and taking what was seen: as one page at a time."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.host.rig import small_machine

from dpamt.platform.page_allocator import PageAllocator


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from((0.0, 0.7)),
    st.lists(st.tuples(st.sampled_from(("take", "free")), st.integers(1, 300)), max_size=12),
)
def test_the_next_pages_are_those_that_come(share: float, script: list[tuple[str, int]]) -> None:
    ahead, plain = (PageAllocator(small_machine(16), 1, share) for _ in range(2))
    held: list[int] = []
    for what, count in script:
        if what == "free":
            for _ in range(min(count, len(held))):
                page = held.pop(count % len(held))
                ahead.free_page(page)
                plain.free_page(page)
            continue
        pages = ahead.next_pages(count)
        assert len(pages) <= count
        assert pages or not plain.free_count
        if pages:
            ahead.take_next(len(pages), "test")
        assert pages == [plain.alloc_page("test") for _ in pages]
        held += pages
        assert ahead.snapshot() == plain.snapshot()
        assert (ahead.allocations, ahead._front, ahead._held) == (
            plain.allocations,
            plain._front,
            plain._held,
        )


def test_nothing_is_known_ahead_of_injected_failures() -> None:
    allocator = PageAllocator(small_machine(16))
    allocator.fail_when = lambda _site, _ordinal: False
    assert allocator.next_pages(3) == []
    assert not allocator.can_pass(2)

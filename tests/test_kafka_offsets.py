"""What may be committed: everything below it is settled, in whatever order that happened."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from adapters.kafka.offsets import Offsets


@pytest.mark.promise("P6")
@given(st.data(), st.sets(st.integers(0, 60), min_size=1))
def test_the_position_never_passes_what_is_not_settled_and_always_reaches_it(
    data: st.DataObject, offsets: set[int]
) -> None:
    partition = Offsets()
    to_take, taken, settled = sorted(offsets), set[int](), set[int]()
    assert partition.position is None
    last = -1
    while to_take or taken - settled:
        if to_take and (not taken - settled or data.draw(st.booleans())):
            offset = to_take.pop(0)
            partition.take(offset)
            taken.add(offset)
        else:
            offset = data.draw(st.sampled_from(sorted(taken - settled)))
            partition.settle(offset)
            settled.add(offset)
        open_ones = taken - settled
        assert len(partition) == len(open_ones)
        position = partition.position
        expected = min(open_ones) if open_ones else max(taken) + 1
        assert position == (expected if settled else None)
        assert expected >= last
        last = expected if settled else last
    assert partition.position == max(offsets) + 1


def test_an_offset_is_settled_once_and_only_if_it_was_taken() -> None:
    partition = Offsets()
    partition.take(5)
    partition.settle(5)
    for wrong in (5, 6):
        with pytest.raises(KeyError):
            partition.settle(wrong)
    assert partition.position == 6

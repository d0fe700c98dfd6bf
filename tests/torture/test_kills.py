"""`kill -9` at every system call that changes anything: the whole deed happened, or none of it."""

import pytest

from tests.torture.arena import Arena
from tests.torture.deeds import DEEDS

SHORT = 12  # points of each deed in `make test`; `make torture` tries all


@pytest.mark.parametrize("deed", DEEDS)
def test_a_deed_killed_at_any_call_happened_as_a_whole_or_not_at_all(
    deed, template, tmp_path, report, exhaustive
):
    arena = Arena(deed, template, tmp_path)
    points = [call for call in arena.calls() if call.changes]
    tried = points if exhaustive else points[:: max(1, len(points) // SHORT)]
    seen = []
    for point in tried:
        outcome = template.kill(deed, arena.fresh(), point)
        assert outcome.killed, f"{point}: {outcome}"
        found = arena.assert_whole(outcome)
        seen.append(found == arena.new)
        arena.assert_repeatable(found)
    # Killed early it has not happened, killed late it has; never anything between.
    assert seen == sorted(seen)
    assert set(seen) == {False, True}
    report("kills", deed, points=len(tried), lost=0)

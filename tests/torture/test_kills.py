"""`kill -9` at every system call that changes anything: the whole deed happened, or none of it."""

import pytest

from tests.torture.arena import Arena, TeamArena
from tests.torture.deeds import DEEDS, HUB_DEEDS, TEAM_DEEDS

SHORT = 6  # points of each deed in `make test`; `make torture` tries all


@pytest.mark.parametrize("deed", DEEDS)
def test_a_deed_killed_at_any_call_happened_as_a_whole_or_not_at_all(
    deed, template, tmp_path, report, exhaustive
):
    kill_everywhere(Arena(deed, template, tmp_path), exhaustive, report)


@pytest.mark.parametrize("deed", TEAM_DEEDS)
def test_so_did_one_in_a_team_s_registry(
    deed, template, tmp_path, report, exhaustive, postgres_peer
):
    kill_everywhere(TeamArena(deed, template, tmp_path, postgres_peer), exhaustive, report)


@pytest.mark.parametrize("deed", HUB_DEEDS)
def test_so_did_one_over_http(deed, template, tmp_path, report, exhaustive, hub):
    kill_everywhere(Arena(deed, template, tmp_path), exhaustive, report)


def kill_everywhere(arena, exhaustive, report):
    points = [call for call in arena.calls() if call.changes]
    tried = points if exhaustive else [*points[:: max(1, len(points) // SHORT)], points[-1]]
    seen, missed, lost = [], 0, 0
    for point in tried:
        outcome = arena.template.kill(arena.name, arena.fresh(), point)
        if not outcome.killed:  # this time the deed came without that call
            assert outcome.status == 0, f"{point}: {outcome}"
            missed += 1
        lost += arena.lost(outcome)
        done = arena.assert_whole(outcome)
        seen.append(done)
        arena.assert_repeatable(done)
    # What a client says to a server is cut into calls now so, now otherwise.
    assert missed <= len(tried) // 4
    if arena.deed.visible:
        # Killed early it has not happened, killed late it has; never anything between.
        assert set(seen) == {False, True}
    assert lost == 0
    report("kills", arena.name, points=len(tried) - missed, happened=sum(seen), versions_lost=lost)

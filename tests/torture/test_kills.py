"""`kill -9` at every system call that changes anything: the whole deed happened, or none of it."""

import pytest

from tests.torture.arena import Arena, TeamArena
from tests.torture.deeds import DEEDS, HUB_DEEDS, TEAM_DEEDS

SHORT = 6  # points of each deed in `make test`; `make torture` tries all
ATTEMPTS = 5  # at a point, before it is given up as one that does not recur


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
    points = recurring(arena)
    tried = points if exhaustive else [*points[:: max(1, len(points) // SHORT)], points[-1]]
    seen, missed, lost = [], 0, 0
    for point in tried:
        outcome = killed_at(arena, point)
        if not outcome.killed:  # the deed came without that call, each time
            assert outcome.status == 0, f"{point}: {outcome}"
            missed += 1
        lost += arena.lost(outcome)
        done = arena.assert_whole(outcome)
        seen.append(done)
        arena.assert_repeatable(done)
    assert missed <= len(tried) // 10
    if arena.deed.visible:
        # Killed early it has not happened, killed late it has; never anything between.
        assert set(seen) == {False, True}
    assert lost == 0
    report("kills", arena.name, points=len(tried) - missed, happened=sum(seen), versions_lost=lost)


def recurring(arena):
    """The calls that change anything and that the deed makes each time it is done."""
    first, *others = ([call for call in arena.calls() if call.changes] for _ in range(3))
    again = [{(call.name, call.count) for call in calls} for calls in others]
    return [call for call in first if all((call.name, call.count) in calls for calls in again)]


def killed_at(arena, point):
    """What came of the deed killed there; what is said to a server is cut into calls variously."""
    for _ in range(ATTEMPTS):
        outcome = arena.template.kill(arena.name, arena.fresh(), point)
        if outcome.killed:
            break
    return outcome

"""Whatever the Hub or the way to it does: exactly one version each time, and an end."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from adaptery.errors import Conflict, CorruptFile, ReferenceNotFound, RemoteError
from adaptery.registry.gate.package import CONFIG, WEIGHTS
from adaptery.registry.hub.client import HubClient
from adaptery.registry.hub.registry import HubRegistry
from adaptery.types import AdapterRef
from tests.adapters import make_adapter
from tests.hub_peer import (
    CUT_DOWNLOAD,
    DROP_AFTER_COMMIT,
    NOT_YET_THERE,
    REFUSE_TAG,
    STALE_HEAD,
    STALE_PARENT,
)

REPO = "org/support"
COMMIT = "POST /api/models/org/support/commit/"
INFO = "GET /api/models/org/support$"
FOR_A_MOMENT = [408, 429, 500, 502, 503, 504]


def ref(text):
    return AdapterRef.parse(text)


def assert_whole(peer, registry, count):
    """Versions 1 to `count`, each one commit and one tag, and every byte of them as it must be."""
    peer.troubles.clear()
    peer.faults.clear()
    repo = peer.store.repo(REPO)
    published = [commit for commit in repo.commits if commit.title.startswith("Publish")]
    assert [version.number for version in registry.versions("support")] == [*range(1, count + 1)]
    assert len(published) == count
    assert repo.tags == {f"v{i}": commit.id for i, commit in enumerate(published, 1)}
    assert registry.fsck() == []


@pytest.mark.parametrize("status", FOR_A_MOMENT)
def test_a_commit_that_fails_for_a_moment_is_made_once(
    hub, peer, adapter, trouble, pauses, fresh, status
):
    hub.publish("support", adapter(1))
    trouble(COMMIT, status=status)
    assert hub.publish("support", adapter(2)).number == 2
    assert pauses
    assert_whole(peer, fresh(), 2)


@pytest.mark.parametrize("status", FOR_A_MOMENT)
def test_a_hub_that_takes_no_commit_ends_in_a_sentence(
    hub, peer, adapter, trouble, pauses, fresh, status
):
    hub.publish("support", adapter(1))
    peer.requests.clear()
    failing = trouble(COMMIT, times=1000, status=status)
    with pytest.raises(RemoteError, match=rf"Committing to org/support failed .*{status}"):
        hub.publish("support", adapter(2))
    assert sum(request.startswith(COMMIT) for request in peer.requests) < 20
    failing.times = 0
    assert hub.publish("support", adapter(2)).number == 2
    assert_whole(peer, fresh(), 2)


@pytest.mark.parametrize("status", FOR_A_MOMENT)
def test_a_look_is_repeated_a_few_times(hub, peer, adapter, trouble, pauses, status):
    hub.publish("support", adapter(1))
    trouble(INFO, times=2, status=status)
    assert hub.resolve(ref("support")).number == 1
    peer.requests.clear()
    trouble(INFO, times=1000, status=status)
    with pytest.raises(RemoteError, match=rf"Reading org/support failed .*{status}"):
        hub.resolve(ref("support"))
    assert len(peer.requests) == 4


@pytest.mark.parametrize("request_", [INFO, COMMIT, "PUT /lfs/", f"GET /{REPO}/resolve/.*json"])
def test_the_pause_that_the_hub_asks_for_is_made(
    hub, adapter, trouble, pauses, fresh, peer, request_
):
    hub.publish("support", adapter(1))
    trouble(request_, status=429, retry_after=37)
    other = fresh()
    other.publish("support", adapter(2))
    assert 37 <= max(pauses) <= 38  # the client adds a second of its own
    assert_whole(peer, other, 2)


@pytest.mark.parametrize("request_", [INFO, COMMIT, "PUT /lfs/", f"GET /{REPO}/resolve/.*json"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_of_hours_is_not_made(hub, adapter, trouble, pauses, fresh, peer, request_, status):
    hub.publish("support", adapter(1))
    trouble(request_, times=100, status=status, retry_after=7200)
    other = fresh()
    with pytest.raises(RemoteError, match=r"asks to come back in 7200 s"):
        other.publish("support", adapter(2))
    assert max(pauses, default=0) < 10
    assert_whole(peer, other, 1)


@pytest.mark.parametrize("retry_after", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-1", "", "²"])
def test_a_pause_that_cannot_be_read_is_a_short_one(hub, adapter, trouble, pauses, retry_after):
    hub.publish("support", adapter(1))
    trouble(INFO, status=503, retry_after=retry_after.encode().decode("latin-1"))
    assert hub.resolve(ref("support")).number == 1
    assert max(pauses) < 5


HARM = {"dropped": {"drop": True}, "answer lost": {"lose": True}, "503": {"status": 503}}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_any_one_request_of_a_publish_may_fail(hub, peer, adapter, trouble, pauses, fresh, harm):
    hub.publish("support", adapter(1))
    peer.requests.clear()
    fresh().publish("support", adapter(2))
    count = len(peer.requests)
    assert peer.requests[-1] == f"POST /api/models/org/support/tag/{peer.store.repo(REPO).head.id}"
    for place in range(count):
        trouble("", skip=place, **harm)
        number = fresh().publish("support", adapter(3 + place)).number
        peer.troubles.clear()
        assert number == 3 + place
    assert_whole(peer, fresh(), 2 + count)


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_any_one_request_of_a_move_may_fail(hub, peer, adapter, trouble, pauses, fresh, harm):
    for seed in (1, 2):
        hub.publish("support", adapter(seed))
    peer.requests.clear()
    fresh().promote(ref("support@2"))
    count = len(peer.requests)
    for place in range(count):
        trouble("", skip=place, **harm)
        fresh().promote(ref(f"support@{1 + place % 2}"))
        peer.troubles.clear()
    assert [event.generation for event in hub.history("support")[2:]] == [*range(2, count + 3)]
    assert_whole(peer, fresh(), 2)


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_any_one_request_of_a_pull_may_fail(hub, peer, adapter, trouble, pauses, fresh, harm):
    package = adapter(1)
    hub.publish("support", package)
    peer.requests.clear()
    other = fresh()
    other.materialize(other.resolve(ref("support")))
    for place in range(len(peer.requests)):
        trouble("", skip=place, **harm)
        other = fresh()
        directory = other.materialize(other.resolve(ref("support")))
        peer.troubles.clear()
        assert (directory / WEIGHTS).read_bytes() == (package.directory / WEIGHTS).read_bytes()


def test_an_upload_that_is_cut_off_is_taken_up_again(hub, peer, adapter, trouble, pauses, fresh):
    trouble("PUT /lfs/", half=True)
    hub.publish("support", adapter(1))
    assert_whole(peer, fresh(), 1)


def test_an_upload_that_never_arrives_publishes_nothing(hub, peer, adapter, trouble, pauses, fresh):
    hub.publish("support", adapter(1))
    trouble("PUT /lfs/", times=1000, half=True)
    with pytest.raises(RemoteError, match="Committing to org/support failed"):
        hub.publish("support", adapter(2))
    assert_whole(peer, fresh(), 1)
    assert hub.publish("support", adapter(2)).number == 2


def test_a_download_that_is_cut_off_is_taken_up_again(hub, peer, adapter, pauses, fresh):
    package = adapter(1)
    version = hub.publish("support", package)
    peer.faults[CUT_DOWNLOAD] = 2
    directory = fresh().materialize(version)
    assert peer.faults[CUT_DOWNLOAD] == 0
    assert (directory / WEIGHTS).read_bytes() == (package.directory / WEIGHTS).read_bytes()


def test_a_silent_hub_ends_in_a_sentence(hub, peer, adapter, trouble, pauses, tmp_path):
    hub.publish("support", adapter(1))
    trouble(INFO, times=100, delay=30)
    hasty = HubRegistry("org", HubClient(answer_s=0.1), tmp_path / "hasty")
    with pytest.raises(RemoteError, match=r"Reading org/support failed .*timed out"):
        hasty.resolve(ref("support"))


def test_a_commit_whose_answer_comes_too_late_is_made_once(
    hub, peer, adapter, trouble, pauses, tmp_path, fresh
):
    hub.publish("support", adapter(1))
    trouble(COMMIT, times=2, delay=1.5)
    hasty = HubRegistry("org", HubClient(answer_s=1.0), tmp_path / "hasty")
    assert hasty.publish("support", adapter(2)).number == 2
    assert_whole(peer, fresh(), 2)


def test_a_tag_that_is_refused_is_made_by_fsck(hub, peer, adapter, fresh):
    hub.publish("support", adapter(1))
    peer.faults[REFUSE_TAG] = 1
    with pytest.raises(RemoteError, match=r"support@2 is published, but without its tag"):
        hub.publish("support", adapter(2))
    other = fresh()
    assert other.materialize(other.resolve(ref("support@2")))
    assert [str(finding) for finding in fresh().fsck()] == ["support@2: Its tag v2 is missing."]
    (finding,) = fresh().fsck(repair=True)
    assert finding.repaired
    assert_whole(peer, fresh(), 2)


def test_a_tag_that_somebody_else_makes_meanwhile_is_named(hub, peer, adapter, tmp_path):
    hub.publish("support", adapter(1))

    class Overtaken(HubClient):
        def commit(self, *arguments):
            made = super().commit(*arguments)
            repo = peer.store.repo(REPO)
            repo.tags["v2"] = repo.commits[0].id
            return made

    with pytest.raises(Conflict, match=r"published as commit \w+, but the tag v2 .* names"):
        HubRegistry("org", Overtaken(), tmp_path / "cache").publish("support", adapter(2))


def test_a_foreign_commit_between_look_and_commit_loses_nothing(
    hub, peer, adapter, fresh, pauses, tmp_path
):
    hub.publish("support", adapter(1))

    class Disturbed(HubClient):
        disturbances = 3

        def commit(self, repo, *arguments):
            if self.disturbances:
                self.disturbances -= 1
                peer.foreign_commit(repo, "notes.md", b"%d" % self.disturbances)
            return super().commit(repo, *arguments)

    other = HubRegistry("org", Disturbed(), tmp_path / "another")
    assert other.publish("support", adapter(2)).number == 2
    assert "notes.md" in peer.store.repo(REPO).head.files
    assert_whole(peer, fresh(), 2)


def test_a_file_that_changes_after_it_was_checked_is_not_published(hub, peer, adapter):
    """The hooks are asked between the check and the upload."""
    package = adapter(1)
    config = package.directory / CONFIG

    class Tamper:
        def objections(self, version, alias):
            config.write_text(config.read_text().replace("8", "9"))
            return ()

    with pytest.raises(CorruptFile, match=rf"{CONFIG} does not have the digest"):
        HubRegistry.open("hf://org", Tamper()).publish("support", package)
    assert list(hub.versions()) == []


def test_an_upload_is_not_repeated_with_its_commit(hub, peer, adapter, pauses):
    peer.faults[STALE_PARENT] = 3
    hub.publish("support", adapter(1))
    assert sum(request.startswith("PUT /lfs/") for request in peer.requests) == 1
    assert sum(request.endswith("/info/lfs/objects/batch") for request in peer.requests) == 1
    assert sum(request.startswith(COMMIT) for request in peer.requests) == 4


def test_what_main_ignores_is_in_the_commit_all_the_same(hub, peer, adapter, fresh):
    hub.publish("support", adapter(1))
    peer.foreign_commit(REPO, ".gitignore", b"*.json\n*.safetensors\n.adapters/*\n")
    assert hub.publish("support", adapter(2)).number == 2
    assert_whole(peer, fresh(), 2)


def test_registries_that_race_lose_nothing(hub, peer, tmp_path, fresh):
    """Two registries, 8 threads, 4 versions each, with a promotion after every second one."""
    registries = [HubRegistry("org", HubClient(), tmp_path / f"racer-{i}") for i in range(2)]
    packages = [make_adapter(tmp_path / f"made-{i}", seed=i) for i in range(32)]

    def race(place):
        for i in range(4):
            registry = registries[place % 2]
            version = registry.publish("support", packages[4 * place + i])
            if i % 2:
                registry.promote(ref(str(version)), f"line-{place}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(race, range(8)))
    assert {v.manifest.seed for v in hub.versions("support")} == set(range(32))
    moves = [event for event in hub.history("support") if event.alias == "line-3"]
    assert [(move.generation, move.previous) for move in moves] == [(1, None), (2, moves[0].number)]
    assert_whole(peer, fresh(), 32)


# Reads that lag behind


@pytest.fixture
def two(hub, adapter):
    """The registry with two versions, of which another machine knows."""
    for seed in (1, 2):
        hub.publish("support", adapter(seed))
    return hub


def test_what_was_published_is_seen_at_once_by_its_publisher(hub, peer, adapter):
    for number in (1, 2):
        version = hub.publish("support", adapter(number))
        peer.faults[STALE_HEAD] = 1000
        assert hub.resolve(ref("support@latest")) == version
        assert len(hub.history("support")) == number
        assert hub.versions() == hub.versions("support")
        peer.faults.clear()


def test_what_was_published_is_not_published_again(two, peer, adapter, fresh, pauses):
    peer.faults[STALE_HEAD] = 1000
    assert two.publish("support", adapter(2)).number == 2
    peer.faults[STALE_HEAD] = 9
    assert fresh().publish("support", adapter(2)).number == 2
    assert_whole(peer, fresh(), 2)


def test_a_lost_answer_and_a_head_that_lags_make_one_version(two, peer, adapter, fresh, pauses):
    peer.faults[DROP_AFTER_COMMIT], peer.faults[STALE_HEAD] = 1, 9
    assert fresh().publish("support", adapter(3)).number == 3
    assert_whole(peer, fresh(), 3)


def test_a_move_planned_on_an_old_head_loses_no_event(two, peer, fresh, pauses):
    two.note(ref("support@2"), "a note that an old head does not have")
    peer.faults[STALE_HEAD] = 9
    event = fresh().promote(ref("support@2"))
    assert peer.faults[STALE_HEAD] == 0
    assert (event.id, event.generation) == (4, 2)
    assert [e.kind.value for e in two.history("support")] == [
        "published",
        "published",
        "noted",
        "promoted",
    ]


def test_a_head_that_never_catches_up_ends_in_a_sentence(two, peer, adapter, fresh, pauses):
    peer.faults[STALE_HEAD] = 10**6
    with pytest.raises(RemoteError, match=r"412 .*That was try 1\d\. .* may safely be repeated"):
        fresh().publish("support", adapter(3))
    assert sum(pauses) < 60
    assert_whole(peer, fresh(), 2)


def test_a_file_that_an_old_head_has_is_in_the_commit_all_the_same(two, peer, adapter, fresh):
    """The client leaves out what it finds unchanged, but it may look at an older state."""
    two.publish("support", adapter(3, lora_alpha=16))
    assert (
        peer.store.repo(REPO).commits[-2].files[CONFIG]
        == (peer.store.repo(REPO).commits[1].files[CONFIG])
    )
    peer.faults[STALE_HEAD] = 1000
    assert two.publish("support", adapter(4)).number == 4
    assert_whole(peer, fresh(), 4)


def test_a_repository_that_is_not_known_everywhere_yet_is_waited_for(hub, peer, adapter, pauses):
    peer.faults[NOT_YET_THERE] = 4
    assert hub.publish("support", adapter(1)).number == 1
    peer.faults[NOT_YET_THERE] = 1
    assert hub.resolve(ref("support")).number == 1
    assert_whole(peer, hub, 1)


def test_a_repository_that_never_appears_ends_in_a_sentence(hub, peer, adapter, pauses):
    peer.faults[NOT_YET_THERE] = 10**6
    with pytest.raises(RemoteError, match="cannot be read, although it was made just now"):
        hub.publish("support", adapter(1))


def test_a_repository_that_is_deleted_is_gone(two, peer, adapter, fresh):
    version = two.resolve(ref("support"))
    del peer.store.repos[REPO]
    for registry in (two, fresh()):
        with pytest.raises(ReferenceNotFound, match="There is no adapter 'support'"):
            registry.resolve(ref("support"))
    with pytest.raises(RemoteError, match=r"org/support is gone from the Hub"):
        fresh().materialize(version)
    assert two.publish("support", adapter(3)).number == 1
    assert_whole(peer, two, 1)

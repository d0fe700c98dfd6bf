"""What only the Hub registry promises: one commit per version, safe retries, verified pulls."""

import multiprocessing
from dataclasses import replace

import pytest
import yaml
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from adaptery.errors import Conflict, CorruptFile, InvalidName, RemoteError
from adaptery.registry.gate.package import TEMPLATE, WEIGHTS
from adaptery.registry.hub.client import HubClient
from adaptery.registry.hub.registry import HubRegistry
from adaptery.types import HUB_OWNER, NAME, AdapterRef, BaseIdentity
from tests.adapters import make_adapter, package
from tests.hub_peer import DROP_AFTER_COMMIT, DROP_BEFORE_COMMIT, REFUSE_TAG, STALE_PARENT

REPO = "org/support"
REF = AdapterRef.parse("support")


def content(peer, path):
    repo = peer.store.repo(REPO)
    return peer.store.blob(repo.head.files[path].sha256).read_text()


def test_a_version_is_one_commit_with_a_tag(hub, peer, adapter):
    first = hub.publish("support", adapter(1))
    second = hub.publish("support", adapter(2), reason="more data")
    _, one, two = peer.store.repo(REPO).commits
    assert one.title == f"Publish support@1 (publish id {first.digest[:16]})"
    assert (two.title, two.message) == (
        f"Publish support@2 (publish id {second.digest[:16]})",
        "more data",
    )
    assert peer.store.repo(REPO).tags == {"v1": one.id, "v2": two.id}
    assert {file.path for file in second.manifest.files} < two.files.keys()
    assert two.files[WEIGHTS].lfs
    assert content(peer, "manifest.json").encode() == second.manifest.canonical()


def test_an_alias_moves_by_one_commit_of_one_file(hub, peer, adapter):
    hub.publish("support", adapter(1))
    hub.publish("support", adapter(2))
    before = peer.store.repo(REPO).head
    hub.promote(AdapterRef.parse("support@2"), reason="better")
    after = peer.store.repo(REPO).head
    assert (after.title, after.message) == ("Promoted: live is support@2", "better")
    changed = {path for path in after.files if after.files[path] != before.files.get(path)}
    assert changed == {".adapters/registry.json"}


def test_the_card_says_what_it_is_and_how_to_use_it(hub, peer, tmp_path):
    base = BaseIdentity(id="Qwen/Qwen2.5-0.5B", revision="abc123", digest="c" * 64)
    hub.publish("support", make_adapter(tmp_path / "a", base=base, metrics={"macro_f1": 0.81234}))
    card = content(peer, "README.md")
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata == {
        "base_model": "Qwen/Qwen2.5-0.5B",
        "library_name": "peft",
        "tags": ["adaptery", "lora"],
    }
    assert "| macro_f1 | 0.8123 |" in card
    assert "adapters pull hf://org/support@v1" in card
    assert "trained with the method `lora`" in card


def test_a_local_base_is_named_but_not_linked(hub, peer, adapter):
    hub.publish("support", adapter(1))
    card = content(peer, "README.md")
    assert "base_model" not in yaml.safe_load(card.split("---\n")[1])
    assert "`examples/tiny-base`" in card


def test_a_commit_holds_no_file_of_the_version_before(hub, peer, adapter):
    directory = adapter(1).directory
    (directory / TEMPLATE).write_text("{{ messages }}")
    hub.publish("support", package(directory, seed=1))
    hub.publish("support", adapter(2))
    _, one, two = peer.store.repo(REPO).commits
    assert TEMPLATE in one.files
    assert TEMPLATE not in two.files
    first = hub.resolve(AdapterRef.parse("support@1"))
    assert (hub.materialize(first) / TEMPLATE).read_text() == "{{ messages }}"


@pytest.mark.parametrize("fault", [DROP_AFTER_COMMIT, DROP_BEFORE_COMMIT, STALE_PARENT])
def test_a_publish_that_is_retried_makes_exactly_one_version(hub, peer, adapter, fault):
    peer.faults[fault] = 1
    version = hub.publish("support", adapter(1))
    assert peer.faults[fault] == 0
    assert [commit.title[:7] for commit in peer.store.repo(REPO).commits] == ["initial", "Publish"]
    assert peer.store.repo(REPO).tags.keys() == {"v1"}
    assert [event.number for event in hub.history("support")] == [1]
    assert hub.resolve(REF) == version


@pytest.mark.parametrize("fault", [DROP_AFTER_COMMIT, DROP_BEFORE_COMMIT, STALE_PARENT])
def test_a_move_that_is_retried_happens_exactly_once(hub, peer, adapter, fault):
    hub.publish("support", adapter(1))
    hub.publish("support", adapter(2))
    peer.faults[fault] = 1
    event = hub.promote(AdapterRef.parse("support@2"))
    assert peer.faults[fault] == 0
    assert hub.history("support")[2:] == (event,)
    assert (event.number, event.generation) == (2, 2)


def test_retries_end(hub, peer, adapter, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    peer.faults[STALE_PARENT] = 1000
    with pytest.raises(
        RemoteError, match=r"Committing to org/support failed .*412 Precondition Failed"
    ):
        hub.publish("support", adapter(1))
    assert 1 < 1000 - peer.faults[STALE_PARENT] < 50


def test_a_publish_that_ended_before_its_tag_is_whole_and_can_be_finished(hub, peer, adapter):
    peer.faults[REFUSE_TAG] = 1
    with pytest.raises(RemoteError, match="Tagging org/support with v1 failed"):
        hub.publish("support", adapter(1))
    version = hub.resolve(REF)
    assert (hub.materialize(version) / WEIGHTS).exists()
    assert hub.publish("support", adapter(1)) == version
    repo = peer.store.repo(REPO)
    assert repo.tags == {"v1": repo.commits[1].id}


def test_a_tag_that_is_no_version_is_not_overwritten(hub, peer, adapter):
    hub.publish("support", adapter(1))
    peer.store.repo(REPO).tags["v2"] = peer.store.repo(REPO).head.id
    with pytest.raises(Conflict, match="has a tag v2 that is no version"):
        hub.publish("support", adapter(2))
    assert [version.number for version in hub.versions("support")] == [1]


def test_a_publisher_that_is_overtaken_takes_the_next_number(hub, peer, adapter, tmp_path):
    hub.publish("support", adapter(1))

    class Slow(HubClient):
        """Between its last look and its commit, another publisher does all of its own work."""

        looks = 0

        def snapshot(self, repo, commit=None):
            found = super().snapshot(repo, commit)
            self.looks += 1
            if self.looks == 2:
                hub.publish("support", adapter(2))
            return found

    slow = HubRegistry("org", Slow(), tmp_path / "slow-cache")
    assert slow.publish("support", adapter(3)).number == 3
    assert peer.store.repo(REPO).tags.keys() == {"v1", "v2", "v3"}


def publish_two(first, directory):
    registry = HubRegistry.open("hf://org")
    for seed in (first, first + 1):
        registry.publish("support", make_adapter(directory / str(seed), seed=seed))


def test_concurrent_publishers_get_contiguous_numbers_and_lose_nothing(hub, peer, tmp_path):
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=publish_two, args=(10 * i, tmp_path / "made")) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 3
    versions = hub.versions("support")
    assert [version.number for version in versions] == list(range(1, 7))
    assert {version.manifest.seed for version in versions} == {0, 1, 10, 11, 20, 21}
    assert len(peer.store.repo(REPO).tags) == 6


def fresh_cache(monkeypatch, tmp_path):
    """A registry that has downloaded nothing yet."""
    monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "another-cache"))
    return HubRegistry.open("hf://org")


@pytest.mark.parametrize("path", [WEIGHTS, "adapter_config.json"])
def test_a_file_that_changed_on_the_way_is_refused(hub, peer, adapter, path, monkeypatch, tmp_path):
    version = hub.publish("support", adapter(1))
    peer.corrupt(REPO, path)
    with pytest.raises(CorruptFile, match=rf"hf://org/support: {path} .* expected sha256:"):
        fresh_cache(monkeypatch, tmp_path).materialize(version)


def test_a_manifest_that_changed_on_the_way_is_refused(hub, peer, adapter, monkeypatch, tmp_path):
    hub.publish("support", adapter(1))
    peer.corrupt(REPO, "manifest.json")
    with pytest.raises(CorruptFile, match=r"manifest\.json at commit"):
        fresh_cache(monkeypatch, tmp_path).resolve(REF)


def test_a_version_that_lost_its_files_is_refused(hub, peer, adapter, monkeypatch, tmp_path):
    version = hub.publish("support", adapter(1))
    repo = peer.store.repo(REPO)
    repo.tags["v1"] = repo.commits[0].id
    with pytest.raises(CorruptFile, match=r"has no adapter_config\.json in commit"):
        fresh_cache(monkeypatch, tmp_path).materialize(version)


def test_a_moved_tag_cannot_pass_for_another_version(hub, peer, adapter, monkeypatch, tmp_path):
    first = hub.publish("support", adapter(1))
    hub.publish("support", adapter(2))
    tags = peer.store.repo(REPO).tags
    tags["v1"] = tags["v2"]
    with pytest.raises(CorruptFile, match=WEIGHTS):
        fresh_cache(monkeypatch, tmp_path).materialize(first)


def test_what_was_pulled_once_needs_no_network(hub, peer, adapter):
    version = hub.publish("support", adapter(1))
    directory = hub.materialize(version)
    peer.requests.clear()
    assert HubRegistry.open("hf://org").materialize(version) == directory
    assert peer.requests == []


def test_a_ledger_that_cannot_be_read_is_named(hub, peer, adapter):
    hub.publish("support", adapter(1))
    for text in (b"{}", b"nonsense", b'{"versions": {"1": "%s"}, "events": []}' % (b"a" * 64)):
        peer.foreign_commit(REPO, ".adapters/registry.json", text)
        with pytest.raises(CorruptFile, match=r"registry\.json in org/support cannot be read"):
            hub.resolve(REF)


def test_writing_without_the_token_is_refused_with_the_way_out(hub, peer, adapter, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    peer.token = "secret"
    with pytest.raises(RemoteError, match="Log in with `hf auth login`, or set HF_TOKEN"):
        hub.publish("support", adapter(1))
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert hub.publish("support", adapter(1)).number == 1


def test_a_hub_that_cannot_be_reached_is_named(hub_client, monkeypatch, pauses):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match=r"the Hub at http://127\.0\.0\.1:9: .*refused"):
        HubRegistry.open("hf://org").resolve(REF)


@pytest.mark.parametrize("url", ["hf://", "hf://org/repo", "hf://../x", "https://hub"])
def test_only_an_organisation_is_a_registry(url):
    with pytest.raises(InvalidName, match="write hf://ORG"):
        HubRegistry.open(url)


def test_a_name_that_the_hub_does_not_take_is_refused(peer):
    with pytest.raises(InvalidName, match="The Hub does not take this name"):
        HubClient().snapshot("org/a--b")


@given(st.from_regex(HUB_OWNER, fullmatch=True), st.from_regex(NAME, fullmatch=True))
def test_the_hub_takes_every_name_that_we_take(owner, name):
    validate_repo_id(f"{owner}/{name}")


def test_foreign_repositories_are_not_listed(hub, peer, adapter):
    hub.publish("support", adapter(1))
    for name in ("org/Not-Our-Name", "elsewhere/support", "org/untagged"):
        peer.store.repos[name] = replace(peer.store.repo(REPO), id=name)
    peer.store.repos["org/untagged"].commits = peer.store.repo(REPO).commits[:1]
    assert [str(version) for version in hub.versions()] == ["support@1"]

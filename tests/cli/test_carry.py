"""`adapters bundle`, `unbundle`, `publish`, `pull`, `sync`, `sign` and `registry copy`."""

import shutil
import signal
import subprocess
import sys
import time

import huggingface_hub.constants
import pytest

from adaptery.registry.hub.registry import HubRegistry
from adaptery.registry.line import history_digest
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef
from tests.adapters import make_adapter
from tests.command import adapters, done
from tests.hub_peer import HubPeer


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The registry that commands use, with two versions of `support`; commands run in `here`."""
    registry = LocalRegistry.open(str(tmp_path / "registry"))
    monkeypatch.setenv("ADAPTERS_REGISTRY", registry.url)
    for seed in (1, 2):
        registry.publish("support", make_adapter(tmp_path / str(seed), seed=seed))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return registry


@pytest.fixture
def other(tmp_path):
    return LocalRegistry.open(str(tmp_path / "other"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that commands find."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    with HubPeer(tmp_path / "peer") as peer:
        peer.token = "hf_ours"
        monkeypatch.setenv("HF_ENDPOINT", peer.url)
        yield HubRegistry.open("hf://org")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A folder with `key.pem`, `key.pub.pem` and `locked.pem`, made as the error messages say."""
    folder = tmp_path_factory.mktemp("keys")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    openssl("ec", "-in", "key.pem", "-pubout", "-out", "key.pub.pem")
    openssl("ec", "-in", "key.pem", "-aes256", "-passout", "pass:sesame", "-out", "locked.pem")
    return folder


def refused(code, pattern, *arguments):
    outcome = adapters(*arguments)
    assert outcome.code == code, (outcome.out, outcome.err)
    assert pattern in outcome.err
    assert "Traceback" not in outcome.err
    return outcome


# In a file


def test_a_version_is_carried_in_a_file(store, other, tmp_path):
    digest = store.resolve(AdapterRef("support", number=2)).digest
    outcome = done("bundle", "support@latest", "-o", "../carried.tar")
    assert outcome.out == f"../carried.tar holds support@2, sha256:{digest}.\n"
    outcome = done("unbundle", "../carried.tar", "--registry", other.url)
    assert outcome.out == f"support@2 is sha256:{digest}.\n"
    assert other.resolve(AdapterRef("support", number=2)).digest == digest


def test_a_bundle_is_called_like_its_version_unless_told(store, tmp_path):
    told = done("bundle", "support", "--json").json
    assert (told["file"], told["version"]) == ("support-1.tar", 1)
    assert told["bytes"] == (tmp_path / "here" / "support-1.tar").stat().st_size


def test_scripts_get_the_version_that_was_unbundled(store, other):
    done("bundle", "support@2")
    told = done("unbundle", "support-2.tar", "--name", "mine", "--json", "--registry", other.url)
    assert (told.json["name"], told.json["version"]) == ("mine", 2)


def test_what_is_no_bundle_or_is_there_already_is_refused(store, other, tmp_path):
    done("bundle", "support")
    refused(2, "support-1.tar is there already. Give --force", "bundle", "support")
    done("bundle", "support@2", "-o", "support-1.tar", "--force")
    refused(2, "is a directory: name the file", "bundle", "support", "-o", tmp_path, "--force")
    refused(2, "There is no support@9", "bundle", "support@9")
    refused(1, "cannot be written", "bundle", "support", "-o", "no/where.tar")
    at = ("--registry", other.url)
    refused(2, "missing.tar is not there", "unbundle", "missing.tar", *at)
    shutil.make_archive("packed", "gztar", tmp_path / "1")
    refused(2, "gzip data: only a plain tar is read", "unbundle", "packed.tar.gz", *at)
    done("unbundle", "support-1.tar", *at)
    other.publish("support", make_adapter(tmp_path / "3", seed=3), number=3)
    store.publish("support", make_adapter(tmp_path / "4", seed=4))
    done("bundle", "support@3")
    refused(1, "Use --name", "unbundle", "support-3.tar", *at)
    refused(2, "'Mine' cannot name", "unbundle", "support-3.tar", "--name", "Mine", *at)


# To the Hub and from it


def test_a_published_version_can_be_live_at_once(store, hub):
    done("publish", "support@1", "hf://org/support")
    arguments = ("support@2", "hf://org/support", "--alias", "live", "--reason", "better")
    assert "hf://org/support@v2 is sha256:" in done("publish", *arguments).out
    assert hub.resolve(AdapterRef.parse("support")).number == 2
    assert [event.reason for event in hub.history("support")] == [
        "copied from support@1",
        "copied from support@2: better",
        "better",
    ]
    refused(2, "'v2' cannot be an alias", *("publish", "support", "hf://org/x", "--alias", "v2"))


def test_what_is_published_as_private_is(store, hub, monkeypatch):
    done("publish", "support@1", "hf://org/secret", "--private")
    done("publish", "support@2", "hf://org/secret")
    assert hub.resolve(AdapterRef("secret", number=2)).number == 2
    done("publish", "support@1", "hf://org/open")
    refused(1, "everybody can read it", "publish", "support@2", "hf://org/open", "--private")
    assert [version.number for version in hub.versions("open")] == [1]
    monkeypatch.delenv("HF_TOKEN")
    refused(2, "no adapter 'secret'", "pull", "hf://org/secret@v1", "--name", "x")


def test_an_adapter_is_kept_in_step(store, hub, other):
    assert done("sync", "hf://org/support").out == (
        "Sent to hf://org: support@1, support@2.\n"
        "The history of support is the same here and in hf://org.\n"
    )
    at = ("--registry", other.url)
    assert done("sync", "hf://org/support", "--json", *at).json == {
        "name": "support",
        "sent": [],
        "received": [1, 2],
        "events_sent": 0,
        "events_received": 2,
        "aliases": None,
        "yanked": [],
        "remote": "hf://org",
    }
    assert done("sync", "hf://org/support").out == (
        "The history of support is the same here and in hf://org.\n"
    )


def test_what_differs_after_a_divergence_is_told(store, hub, other, tmp_path):
    done("sync", "hf://org/support")
    at = ("--registry", other.url)
    done("sync", "hf://org/support", *at)
    done("promote", "support@2")
    done("yank", "support@1", "--reason", "old")
    other.publish("support", make_adapter(tmp_path / "3", seed=3))
    done("sync", "hf://org/support", *at)
    assert done("sync", "hf://org/support").out.splitlines() == [
        "Received: support@3.",
        "The histories of support have diverged; both hold the same versions now.",
        "live means 2 here and 1 in hf://org.",
        "support@1 is yanked on one side only.",
    ]
    told = done("sync", "hf://org/support", "--json").json
    assert told["aliases"] == {"live": [2, 1]}


def test_a_remote_that_cannot_be_kept_in_step_is_refused(store, hub):
    refused(2, "a whole adapter is synchronized", "sync", "hf://org/support@v1")
    refused(2, "is not a remote reference", "sync", "support")
    refused(2, "There is no adapter 'other'", "sync", "hf://org/other")


# Whole registries


def test_a_registry_is_copied_to_another_of_any_kind(store, hub, team_url, other):
    before = history_digest(store.history("support"))
    for source, target in (
        (store.url, team_url),
        (team_url, "hf://org"),
        ("hf://org", other.url),
    ):
        told = done("registry", "copy", source, target, "--json")
        assert told.json == {"adapters": 1, "versions": 2, "events": 2, "present": 0}
        assert "Copying events (2)" in told.err
    assert history_digest(other.history("support")) == before
    again = done("registry", "copy", team_url, other.url)
    assert "0 versions and 0 events were copied, 2 events were there" in again.out
    assert "s3cret" not in again.out + again.err


def test_a_copy_that_cannot_be_is_refused(store, other, tmp_path):
    other.publish("support", make_adapter(tmp_path / "3", seed=3))
    refused(1, "from event 1 on", "registry", "copy", store.url, other.url)
    refused(2, "nothing to copy", "registry", "copy", tmp_path / "nowhere", other.url)
    refused(2, "no registry backend 's4'", "registry", "copy", store.url, "s4://bucket")


def test_ctrl_c_leaves_a_copy_that_goes_on_when_repeated(store, other):
    for number in range(60):
        store.note(AdapterRef.parse("support"), f"note {number}")
    command = [sys.executable, "-m", "adaptery.cli", "registry", "copy", store.url, other.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        while not other.names():
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.002)
        child.send_signal(signal.SIGINT)
        err = child.communicate()[1]
    assert child.returncode == 130, err
    assert err.endswith("Interrupted. What was copied stays; repeat the command to go on.\n")
    there = len(other.history("support"))
    assert 0 < there < 62
    told = done("registry", "copy", store.url, other.url, "--json").json
    assert (told["events"], told["present"]) == (62 - there, there)
    assert history_digest(other.history("support")) == history_digest(store.history("support"))


# Signatures


def test_a_signed_version_is_verified_wherever_it_went(store, other, keys):
    public = ("--signature", "--public-key", keys / "key.pub.pem")
    assert done("sign", "support@1", "--key", keys / "key.pem").out == (
        f"support@1 is signed with {keys / 'key.pem'}.\n"
    )
    done("registry", "copy", store.url, other.url)
    for registry in (store.url, other.url):
        outcome = done("verify", "support@1", *public, "--registry", registry)
        assert outcome.out == (
            f"Every byte has its digest and is signed by the key in {keys / 'key.pub.pem'}.\n"
        )
    outcome = refused(5, "1 thing is not as it must be", "verify", "--all", *public)
    assert outcome.out.startswith("the signature of support@2: support@2 was never signed")
    found = adapters("verify", "support@2", *public, "--json")
    assert (found.code, found.json["ok"]) == (5, False)


def test_a_key_can_have_a_password(store, keys, monkeypatch):
    monkeypatch.setenv("KEY_PASSWORD", "sesame")
    arguments = ("sign", "support", "--key", keys / "locked.pem")
    refused(2, "is encrypted: name the variable that holds its password", *arguments)
    refused(
        2,
        "There is no password in the variable KEY_PASWORD",
        *arguments,
        "--password-env",
        "KEY_PASWORD",
    )
    event = done(*arguments, "--password-env", "KEY_PASSWORD", "--json").json
    assert (event["kind"], event["number"]) == ("signed", 1)
    monkeypatch.setenv("KEY_PASSWORD", "open")
    refused(2, "does not open with this password", *arguments, "--password-env", "KEY_PASSWORD")


def test_signing_and_verifying_without_a_key_are_refused(store, keys):
    refused(2, "Missing option '--key'", "sign", "support")
    refused(2, "cannot be read", "sign", "support", "--key", "missing.pem")
    refused(2, "is a public key", "sign", "support", "--key", keys / "key.pub.pem")
    refused(2, "give both --signature and --public-key", "verify", "support", "--signature")
    refused(
        2,
        "give both --signature and --public-key",
        *("verify", "support", "--public-key", keys / "key.pub.pem"),
    )
    private = ("--signature", "--public-key", keys / "key.pem")
    refused(2, "is a private key", "verify", "support", *private)

"""A signature holds for exactly the version that was signed, with exactly that key."""

import base64
import json
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from adaptery.errors import CorruptFile, ReferenceNotFound, UsageError, VerificationError
from adaptery.registry.carry.histories import copy_registry
from adaptery.registry.carry.signing import sign, verify_signature
from adaptery.registry.carry.transfer import copy_version
from adaptery.registry.gate.package import CONFIG, WEIGHTS
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef, EventKind


def ref(text):
    return AdapterRef.parse(text)


@pytest.fixture
def make_key(tmp_path):
    """Makes the key `name`: paths of its private and its public half."""

    def make(name, key=None, password=None):
        key = key or ec.generate_private_key(ec.SECP256R1())
        locked = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
        subject = PublicFormat.SubjectPublicKeyInfo
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, subject))
        return private, public

    return make


@pytest.fixture
def signed(local, adapter, make_key):
    """`support@1` of two versions is signed by Ann."""
    for seed in (1, 2):
        local.publish("support", adapter(seed))
    private, _ = make_key("ann")
    sign(local, ref("support@1"), private)
    return local


def test_what_was_signed_is_verified(signed, tmp_path):
    event = verify_signature(signed, ref("support"), tmp_path / "ann.pub.pem")
    assert (event.kind, event.number) == (EventKind.SIGNED, 1)
    assert signed.standing("support")[1].signatures == (event.data["signature"],)


def test_it_covers_the_manifest_and_every_file(signed):
    (signature,) = signed.standing("support")[1].signatures
    payload = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
    version = signed.resolve(ref("support@1"))
    signed_digests = {r["name"]: r["digest"] for r in payload["predicate"]["resources"]}
    assert signed_digests == {
        "manifest.json": version.digest,
        **{file.path: file.sha256 for file in version.manifest.files},
    }
    assert signed_digests.keys() == {"manifest.json", CONFIG, WEIGHTS}
    assert len(signature) < 8000


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_each_curve_works_with_a_password_too(local, adapter, make_key, curve):
    local.publish("support", adapter(1))
    private, public = make_key("key", ec.generate_private_key(curve), password="pässword")
    sign(local, ref("support"), private, "pässword")
    verify_signature(local, ref("support"), public)


def test_another_key_does_not_verify(signed, make_key):
    _, public = make_key("eve")
    with pytest.raises(VerificationError, match=r"support@1: none is by the key .*eve"):
        verify_signature(signed, ref("support@1"), public)


def test_a_version_that_was_never_signed_is_not_verified(signed, tmp_path):
    with pytest.raises(VerificationError, match="support@2 was never signed"):
        verify_signature(signed, ref("support@2"), tmp_path / "ann.pub.pem")


def test_several_may_sign(signed, make_key, tmp_path):
    private, public = make_key("bob")
    event = sign(signed, ref("support@1"), private)
    assert verify_signature(signed, ref("support@1"), public) == event
    assert verify_signature(signed, ref("support@1"), tmp_path / "ann.pub.pem").id == event.id - 1
    _, eve = make_key("eve")
    with pytest.raises(VerificationError, match="2 signatures of support@1: none is by"):
        verify_signature(signed, ref("support@1"), eve)


def test_a_signature_of_another_version_does_not_hold(signed, tmp_path):
    (signature,) = signed.standing("support")[1].signatures
    signed.attach_signature(ref("support@2"), signature)
    with pytest.raises(VerificationError, match=r"of support@2 .* does not hold: .*mismatch"):
        verify_signature(signed, ref("support@2"), tmp_path / "ann.pub.pem")


def test_files_that_changed_are_found(signed, tmp_path):
    weights = signed.materialize(signed.resolve(ref("support@1"))) / WEIGHTS
    weights.chmod(0o644)
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    with pytest.raises(CorruptFile, match=WEIGHTS):
        verify_signature(LocalRegistry.open(signed.url), ref("support@1"), tmp_path / "ann.pub.pem")


def forged(signature, change):
    """The signature with another payload, or another envelope, under the same key's name."""
    bundle = json.loads(signature)
    change(bundle)
    return json.dumps(bundle)


def other_payload(bundle):
    envelope = bundle["dsseEnvelope"]
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["predicate"]["resources"] = payload["predicate"]["resources"][:1]
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()


FORGERIES = {
    "other files": lambda s: forged(s, other_payload),
    "no signature": lambda s: forged(s, lambda b: b["dsseEnvelope"].update(signatures=[])),
    "noise for one": lambda s: forged(
        s, lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA")
    ),
    "no envelope": lambda s: forged(s, lambda b: b.pop("dsseEnvelope")),
    "no key": lambda s: forged(s, lambda b: b["verificationMaterial"].pop("publicKey")),
    "a list": lambda s: "[]",
    "no JSON": lambda s: "signed, Ann",
    "deep JSON": lambda s: "[" * 60000,
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_signature_does_not_hold(kind, signed, tmp_path, capsys):
    (signature,) = signed.standing("support")[1].signatures
    signed.attach_signature(ref("support@2"), FORGERIES[kind](signature))
    with pytest.raises(VerificationError, match=r"support@2.*(does not hold: .+|none is by)"):
        verify_signature(signed, ref("support@2"), tmp_path / "ann.pub.pem")
    assert capsys.readouterr().out == ""
    # A good one beside it still counts.
    signed.attach_signature(ref("support@1"), FORGERIES[kind](signature))
    assert verify_signature(signed, ref("support@1"), tmp_path / "ann.pub.pem").id == 3


def test_a_signature_that_leaves_files_out_does_not_hold(local, adapter, make_key, tmp_path):
    from model_signing import hashing, signing

    version = local.publish("support", adapter(1))
    private, public = make_key("ann")
    directory = tmp_path / "loose"
    directory.mkdir()
    (directory / "manifest.json").write_bytes(version.manifest.canonical())
    (directory / CONFIG).write_bytes((local.materialize(version) / CONFIG).read_bytes())
    loose = hashing.Config().set_ignored_paths(paths=[WEIGHTS], ignore_git_paths=False)
    signer = signing.Config().use_elliptic_key_signer(private_key=private)
    signer.set_hashing_config(loose).sign(directory, tmp_path / "loose.json")
    local.attach_signature(ref("support"), (tmp_path / "loose.json").read_text())
    with pytest.raises(VerificationError, match=f"does not hold: .*{WEIGHTS}"):
        verify_signature(local, ref("support"), public)


def test_signatures_travel_with_the_history(signed, hub, tmp_path):
    copy_registry(signed, hub)
    back = LocalRegistry.open(str(tmp_path / "back"))
    copy_registry(hub, back)
    for registry in (hub, back):
        assert verify_signature(registry, ref("support@1"), tmp_path / "ann.pub.pem").id == 3


def test_a_version_under_another_name_can_have_the_same_signature(signed, tmp_path):
    """Names are not signed: what is signed is what the version holds."""
    back = LocalRegistry.open(str(tmp_path / "back"))
    copy_version(signed, ref("support@1"), back, "helpdesk")
    back.attach_signature(ref("helpdesk"), signed.standing("support")[1].signatures[0])
    verify_signature(back, ref("helpdesk"), tmp_path / "ann.pub.pem")


def test_signing_leaves_nothing_behind_and_touches_nothing(signed, make_key, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    checkout = signed.materialize(signed.resolve(ref("support@1")))
    before = {path.name: path.read_bytes() for path in checkout.iterdir()}
    private, public = make_key("bob")
    sign(signed, ref("support@1"), private)
    verify_signature(signed, ref("support@1"), public)
    assert {path.name: path.read_bytes() for path in checkout.iterdir()} == before
    assert list((tmp_path / "scratch").iterdir()) == []
    assert signed.fsck() == []
    assert signed.gc(grace=0).leased == 0


# Keys that cannot be used


def refusals(local, adapter):
    local.publish("support", adapter(1))

    def refused(call, path, message, *password):
        with pytest.raises(UsageError, match=message):
            call(local, ref("support"), path, *password)
        assert local.standing("support")[1].signatures == ()

    return refused


def test_keys_of_another_kind_are_refused_by_name(local, adapter, make_key, tmp_path):
    refused = refusals(local, adapter)
    strange = {
        "rsa": (rsa.generate_private_key(65537, 2048), "rsa.* is not an elliptic-curve key"),
        "dsa": (dsa.generate_private_key(1024), "dsa.* is not an elliptic-curve key"),
        "ed": (ed25519.Ed25519PrivateKey.generate(), "ed.* is not an elliptic-curve key"),
        "k1": (ec.generate_private_key(ec.SECP256K1()), "k1.* is on the curve secp256k1"),
    }
    for name, (key, message) in strange.items():
        private, public = make_key(name, key)
        full = rf"{message}; signatures need one of P-256, P-384, P-521.*openssl"
        refused(sign, private, full)
        refused(verify_signature, public, full)


def test_the_two_halves_are_not_interchangeable(local, adapter, make_key):
    refused = refusals(local, adapter)
    private, public = make_key("ann")
    refused(sign, public, "is a public key; signing takes the private one")
    refused(verify_signature, private, "is a private key, which must stay with whoever signs")


def test_files_that_are_no_keys_are_refused(local, adapter, tmp_path):
    refused = refusals(local, adapter)
    for name, content in (("empty", b""), ("noise", b"\xff\x00key"), ("half", b"-----BEGIN EC")):
        (tmp_path / name).write_bytes(content)
        refused(sign, tmp_path / name, f"{name} is no private key in PEM. `openssl ecparam")
        refused(verify_signature, tmp_path / name, f"{name} is no public key in PEM. `openssl")
    for path in (tmp_path / "missing", tmp_path):
        refused(sign, path, f"The key {path} cannot be read: ")
        refused(verify_signature, path, f"The key {path} cannot be read: ")


def test_passwords_are_missed_and_wrong_ones_refused(local, adapter, make_key):
    refused = refusals(local, adapter)
    locked, _ = make_key("locked", password="right")
    plain, _ = make_key("plain")
    refused(sign, locked, "is encrypted: name the variable .* --password-env")
    refused(sign, locked, "is encrypted: name the variable", "")
    refused(sign, locked, "does not open with this password", "wrong")
    refused(sign, plain, "is not encrypted, so it takes no password", "right")


def test_without_the_extra_it_says_what_to_install(signed, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for call, key in ((sign, "ann.pem"), (verify_signature, "ann.pub.pem")):
        with pytest.raises(UsageError, match=r"pip install 'adaptery\[sign\]'"):
            call(signed, ref("support@1"), tmp_path / key)


def test_a_reference_that_means_nothing_is_not_signed(signed, tmp_path):
    with pytest.raises(ReferenceNotFound):
        sign(signed, ref("support@9"), tmp_path / "ann.pem")


def test_a_signature_has_a_length(signed):
    for text in ("", "x" * 65537):
        with pytest.raises(UsageError, match="1 to 65536"):
            signed.attach_signature(ref("support@1"), text)

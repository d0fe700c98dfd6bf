"""Leases: who holds a checkout keeps collection from it, and collection keeps holders waiting."""

import os
import threading
import time

import pytest

from adaptery.registry.files.leases import Leases

DIGEST = "d" * 64


@pytest.fixture
def leases(tmp_path) -> Leases:
    return Leases(tmp_path / "leases")


def test_what_is_leased_is_not_free(leases):
    leases.take(DIGEST, "me", 10)
    with leases.collecting(DIGEST) as free:
        assert not free
    assert leases.holders(DIGEST) == ["me"]


def test_a_lease_that_was_given_back_or_ended_holds_nothing(leases):
    leases.take(DIGEST, "me", 10)
    leases.drop(DIGEST, "me")
    leases.drop(DIGEST, "nobody")
    leases.take(DIGEST, "dead", 0.01)
    time.sleep(0.02)
    assert leases.holders(DIGEST) == []
    with leases.collecting(DIGEST) as free:
        assert free


def test_renewing_makes_a_lease_longer(leases):
    leases.take(DIGEST, "me", 0.01)
    leases.take(DIGEST, "me", 10)
    time.sleep(0.02)
    assert leases.holders(DIGEST) == ["me"]


def test_a_holder_may_be_any_text(leases):
    for holder in ("../../etc/passwd", "server 7 on host", "名前", "x" * 5000):
        leases.take(DIGEST, holder, 10)
    assert len(leases.holders(DIGEST)) == 4


def test_two_collectors_do_not_take_the_same_checkout(leases):
    with leases.collecting(DIGEST) as first, leases.collecting(DIGEST) as second:
        assert (first, second) == (True, False)
    with leases.collecting(DIGEST) as third:
        assert third


def test_a_holder_waits_until_the_collector_is_done(leases):
    order = []

    def hold():
        leases.take(DIGEST, "me", 10)
        order.append("held")

    with leases.collecting(DIGEST) as free:
        assert free
        holder = threading.Thread(target=hold)
        holder.start()
        time.sleep(0.05)
        order.append("collected")
    holder.join()
    assert order == ["collected", "held"]


def test_a_collector_that_died_is_forgotten(leases, tmp_path):
    announcement = tmp_path / "leases" / DIGEST / ".collecting"
    announcement.parent.mkdir(parents=True)
    announcement.touch()
    os.utime(announcement, (1, 1))
    leases.take(DIGEST, "me", 10)
    assert not announcement.exists()


def test_forgetting_sweeps_only_what_ended_long_ago(leases, tmp_path):
    leases.take("a" * 64, "dead", -7200)
    leases.take("b" * 64, "late", -1)
    leases.take("c" * 64, "alive", 10)
    leases.forget()
    assert sorted(path.name[0] for path in (tmp_path / "leases").iterdir()) == ["b", "c"]


def test_a_checkout_that_is_held_is_never_taken_whoever_is_quicker(leases, tmp_path):
    """Holders and a collector race; a holder that was told it holds must find the checkout."""
    checkout, missing, stop = tmp_path / "checkout", [], threading.Event()
    checkout.mkdir()

    def hold(name):
        while not stop.is_set():
            leases.take(DIGEST, name, 10)
            checkout.mkdir(exist_ok=True)
            for _ in range(3):
                if not checkout.exists():
                    missing.append(name)
            leases.drop(DIGEST, name)

    def collect():
        while not stop.is_set():
            with leases.collecting(DIGEST) as free:
                if free and checkout.exists():
                    checkout.rmdir()
            leases.forget()

    threads = [threading.Thread(target=hold, args=(name,)) for name in "ab"]
    threads.append(threading.Thread(target=collect))
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert missing == []

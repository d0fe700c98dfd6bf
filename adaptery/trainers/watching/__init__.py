"""Watching a run: who is shown it, who records it, and what its figures say."""

from adaptery.trainers.watching.observer import Observer, make_observers
from adaptery.trainers.watching.watcher import Silent, Watcher

__all__ = ["Observer", "Silent", "Watcher", "make_observers"]

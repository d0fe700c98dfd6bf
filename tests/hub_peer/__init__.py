"""A small Hugging Face Hub: the part of its HTTP API that publishing and pulling adapters uses.

The real `huggingface_hub` client talks to it. Run it on its own, from the repository's root, with

    python -m tests.hub_peer --port 0 --root DIR

which prints its URL; give that to the client as HF_ENDPOINT, with HF_HUB_DISABLE_XET=1. It is
honest where clients rely on the Hub: a commit is one step, a stale parent is 412, an LFS object
must have been uploaded before it can be committed, a tag never moves, and writing needs a token if
the peer was given one. `faults` makes it fail on purpose, as often as the entry says; `troubles`
are failures of any request, such as 503 or silence.
"""

from tests.hub_peer.faults import (
    CUT_DOWNLOAD,
    DROP_AFTER_COMMIT,
    DROP_BEFORE_COMMIT,
    NOT_YET_THERE,
    REFUSE_TAG,
    STALE_HEAD,
    STALE_PARENT,
    Trouble,
)
from tests.hub_peer.server import HubPeer

__all__ = [
    "CUT_DOWNLOAD",
    "DROP_AFTER_COMMIT",
    "DROP_BEFORE_COMMIT",
    "NOT_YET_THERE",
    "REFUSE_TAG",
    "STALE_HEAD",
    "STALE_PARENT",
    "HubPeer",
    "Trouble",
]

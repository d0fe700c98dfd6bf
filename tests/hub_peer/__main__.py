"""`python -m tests.hub_peer`: the peer as a process of its own."""

import argparse
from pathlib import Path

from tests.hub_peer.server import HubPeer


def main() -> None:
    parser = argparse.ArgumentParser(description="A small Hugging Face Hub for tests and demos.")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--root", type=Path, required=True, help="where it keeps what it is given")
    parser.add_argument("--token", help="what writers must send; none by default")
    options = parser.parse_args()
    peer = HubPeer(options.root, options.port, options.token)
    print(peer.url, flush=True)
    peer.serve()


main()

"""What goes wrong on purpose, as often as it is told to."""

import re
from dataclasses import dataclass

DROP_BEFORE_COMMIT = "drop the connection before the commit"
DROP_AFTER_COMMIT = "drop the connection after the commit"
STALE_PARENT = "say that the parent is stale"
STALE_HEAD = "look at main as it was one commit ago"
NOT_YET_THERE = "not have heard of the repository"
REFUSE_TAG = "refuse to make a tag"
CUT_DOWNLOAD = "send half of a file and drop the connection"


@dataclass
class Trouble:
    """What happens to the next `times` requests such as `GET /api/models/org/x` that match.

    They wait `delay` seconds; then they are dropped, after half of the body that they bring if
    `half`; or answered with `status`; or, without either, answered as ever, but for the answer
    that gets lost if `lose`. The first `skip` of them are spared.
    """

    request: str
    times: int = 1
    skip: int = 0
    status: int | None = None
    retry_after: int | str | None = None
    delay: float = 0.0
    drop: bool = False
    half: bool = False
    lose: bool = False

    def meets(self, request: str) -> bool:
        """Whether this request is one of them; counts it."""
        if self.times == 0 or not re.search(self.request, request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True

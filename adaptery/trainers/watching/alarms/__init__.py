"""What can go wrong in a run: each alarm looks at its figures and finds one thing, or nothing."""

from collections.abc import Callable

import numpy as np

from adaptery.trainers.watching.alarms import answers, gradient, held_out, loss, resources
from adaptery.trainers.watching.findings import Finding
from adaptery.trainers.watching.history import History

Alarm = Callable[[History], Finding | None]

ALARMS: tuple[Alarm, ...] = (
    loss.no_number,
    loss.collapse,
    loss.rate,
    loss.early_rise,
    loss.rise,
    loss.swing,
    loss.plateau,
    loss.by_heart,
    gradient.explosion,
    gradient.vanishing,
    held_out.overfitting,
    held_out.gap,
    answers.repeating,
    answers.endless,
    resources.out_of_memory,
    resources.memory_growth,
    resources.throughput,
)


# Where steps are too large, that nothing is learnt is no reason to make them larger.
TOO_LARGE = {"rate", "not_a_number", "divergence", "swing", "gradient_explosion"}


def findings(history: History) -> list[Finding]:
    """Everything that is wrong with what has been measured so far, one finding per alarm's name."""
    with np.errstate(all="ignore"):  # what overflows is no comparison's reason to be true
        found = [alarm(history) for alarm in ALARMS]
    named: dict[str, Finding] = {}
    for finding in found:
        if finding:
            named.setdefault(finding.alarm, finding)
    if TOO_LARGE & named.keys():
        named.pop("plateau", None)
    return list(named.values())

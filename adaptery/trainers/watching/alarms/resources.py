"""Alarms of memory and speed."""

import numpy as np

from adaptery.trainers.watching.findings import Change, Finding
from adaptery.trainers.watching.history import History

PARTS = 6  # of the second half of a run
LINES = 5  # in each of them, at least
STEPS = 200  # in all of them: by then rows of all lengths have come
EVEN = 0.5  # of the mean step between parts, at least: what leaks does so evenly, but an allocator
# takes more at once when the longest rows come, and less and less of it the longer a run goes on
GROWTH = 0.1  # of what was in use
LEAST = 64e6  # bytes that are worth a word
SLOW = 0.5  # of the speed before
PATIENCE = 10  # lines that are slow, at least
SECONDS = 30.0  # that they take, at least: others use the machine for a moment


def memory_growth(history: History) -> Finding | None:
    """More memory is in use from part to part of the run, long after everything was loaded."""
    memory = history["memory_bytes"]
    half = memory.array[len(memory) // 2 :]
    if len(half) < LINES * PARTS or memory.steps[-1] - memory.steps[-len(half)] < STEPS:
        return None
    means = np.array([part.mean() for part in np.array_split(half, PARTS)])
    grown = means[-1] - means[0]
    if grown < max(GROWTH * means[0], LEAST) or np.diff(means).min() < EVEN * grown / (PARTS - 1):
        return None
    apart = (memory.steps[-1] - memory.steps[len(memory) // 2]) / (len(half) - 1)
    steps = apart * len(half) * (PARTS - 1) / PARTS  # from the middle of the first to the last's
    symptom = (
        f"Memory in use grew from {means[0] / 1e9:.2f} to {means[-1] / 1e9:.2f} GB by step "
        f"{memory.steps[-1]}, {grown / steps / 1e6:.1f} MB a step, without a pause."
    )
    cause = "Something keeps what each step makes: look at a method or metric plugin of your own."
    advice = "Ctrl-C and `adapters train --resume`, which begins with fresh memory"
    return Finding("memory_growth", memory.steps[-1], symptom, cause, (), advice)


def throughput(history: History) -> Finding | None:
    """The last lines are half as fast as those before, and stay so."""
    speed = history["tokens_per_second"]
    last = max(PATIENCE, len(speed) // 5)
    if len(speed) < 2 * last:
        return None
    before, now = np.median(speed.array[:-last]), np.median(speed.array[-last:])
    seconds = history["seconds"].values
    if now >= SLOW * before or len(seconds) < last or seconds[-1] - seconds[-last] < SECONDS:
        return None
    symptom = (
        f"Speed fell from {before:,.0f} to {now:,.0f} tokens/s for the last {last} lines, up to "
        f"step {speed.steps[-1]}."
    )
    cause = "Another process takes the processor or the GPU, it throttles, or memory is swapped."
    return Finding("slow", speed.steps[-1], symptom, cause, (), "`top` or `nvidia-smi`")


def out_of_memory(history: History) -> Finding | None:
    """Memory ran out and the loop went on with smaller micro-batches."""
    events = [event for event in history.events if event.get("kind") == "out_of_memory"]
    if not events:
        return None
    training, halvings = history.settings.training, len(events)
    size = max(1, training.batch_size >> halvings)
    changes = [
        Change("training.batch_size", training.batch_size, size),
        Change(
            "training.accumulation",
            training.accumulation,
            training.accumulation * training.batch_size // size,
        ),
    ]
    if not training.gradient_checkpointing:
        changes.append(Change("training.gradient_checkpointing", False, True))
    step = int(events[-1]["step"])
    times = "once" if halvings == 1 else f"{halvings} times"
    symptom = f"Memory ran out {times}, last at step {step}, and micro-batches were made smaller."
    cause = f"{training.batch_size} rows at once need more memory than there is."
    return Finding("out_of_memory", step, symptom, cause, tuple(changes))

"""How much memory a run takes, by part, and how much there is.

- base: its weights as the method holds them (4 bits: half a byte and the blocks' constants each).
- adapter: trained weights in fp32. gradients: as much again. optimizer: its states, by its name.
- activations: the most that is alive in forward and backward of the largest micro-batch, found by a
  rehearsal without numbers (`rehearsal.py`); logits: what of it is due to the learned positions.
- evaluation: the same without gradients for the largest batch of it, and the generation's cache.
- allocator: on a CPU, what glibc's heap keeps between the blocks that live, and what oneDNN holds;
  both as measured. A GPU's allocator has next to none of it.
- probe: the plain base that is loaded at the end, as it will be served.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

FP32 = 4  # bytes
HEAP = 0.1  # of what lives for the length of a step, by `adapters plan --measure`
LIBRARIES = 80_000_000  # bytes: code that is read in by the first step, oneDNN's scratch
# Bytes of state for each trained parameter, by what an optimizer's name contains; first match wins.
STATES = (
    ("lion_8bit", 1.0),
    ("8bit", 2.0),
    ("adafactor", 0.1),
    ("sgd", 0.0),
    ("lion", 4.0),
    ("rmsprop", 4.0),
    ("adagrad", 4.0),
    ("adam", 8.0),
)
OTHER_STATE = 8.0


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes, by part."""

    base: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    allocator: int
    evaluation: int
    probe: int

    @property
    def training(self) -> int:
        """While it trains."""
        states = self.gradients + self.optimizer
        step = self.activations + self.logits + self.allocator
        return self.base + self.adapter + states + step

    @property
    def measuring(self) -> int:
        """While it is evaluated."""
        return self.base + self.adapter + self.evaluation

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.training, self.measuring, self.probe)

    def told(self) -> dict[str, int]:
        """All parts and sums, as data."""
        sums = {"training": self.training, "measuring": self.measuring, "peak": self.peak}
        return asdict(self) | sums


def optimizer_state(name: str, trainable: int) -> int:
    """Bytes of an optimizer's states."""
    each = next((size for part, size in STATES if part in name), OTHER_STATE)
    return round(each * trainable)


def allocator_bytes(living: int) -> int:
    """What the allocator takes beside so many bytes that live for a step."""
    import torch

    return 0 if torch.cuda.is_available() else LIBRARIES + round(HEAP * living)


def cache_bytes(config: Any, rows: int, tokens: int, each: int) -> int:
    """Bytes of the keys and values of so many rows, as far as a configuration tells their size."""
    text = config.get_text_config()
    queries = int(getattr(text, "num_attention_heads", 0) or 1)
    heads = int(getattr(text, "num_key_value_heads", 0) or queries)
    width = int(getattr(text, "head_dim", 0) or getattr(text, "hidden_size", 0) // queries)
    layers = int(getattr(text, "num_hidden_layers", 0))
    return 2 * layers * heads * width * rows * tokens * each


@dataclass(frozen=True, slots=True)
class Room:
    """The memory of the machine that the run would use."""

    device: str
    available: int


def room() -> Room:
    """The GPU's free memory, or what this machine and its container have left."""
    import torch

    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Room(torch.cuda.get_device_name(), int(free))
    import psutil

    left = int(psutil.virtual_memory().available)
    return Room("CPU", min([left, *container_room()]))


def container_room(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What the container may still take, if there is a limit."""
    try:
        limit, used = (
            (root / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
        return [] if limit == "max" else [max(0, int(limit) - int(used))]
    except (OSError, ValueError):
        return []

"""Starting points by size of the base. Rates fall and micro-batches shrink as models grow."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"training": {"learning_rate": 2e-3, "batch_size": 16, "epochs": 3}},
    "small": {"training": {"learning_rate": 2e-4, "batch_size": 8, "accumulation": 2, "epochs": 3}},
    "large": {
        "training": {
            "learning_rate": 1e-4,
            "batch_size": 2,
            "accumulation": 8,
            "epochs": 2,
            "gradient_checkpointing": True,
        }
    },
}

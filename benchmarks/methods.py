"""All four methods on one task, each measured in a process of its own; prints a Markdown table.

    python -m benchmarks.methods --base examples/tiny-base \\
        --data train.jsonl --eval-data test.jsonl --preset tiny
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ADAPTERS = str(Path(sys.executable).parent / "adapters")
# Rates found on validation rows; LoRA+ gives A's, B's is 16 times that.
RATES = {"lora": 2e-3, "qlora": 2e-3, "loraplus": 5e-4, "adalora": 1e-2}


def train(method: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What `adapters train --json` says of one method."""
    command = [ADAPTERS, "train", "--name", "bench", "--json", "--preset", "tiny"]
    command += ["--base", options.base, "--data", options.data, "--eval-data", options.eval_data]
    command += ["--epochs", str(options.epochs), "--method", method, "--runs", str(folder / "runs")]
    command += ["--learning-rate", str(RATES[method])]
    environment = os.environ | {"ADAPTERS_REGISTRY": str(folder / "registry")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default="examples/tiny-base")
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data", required=True)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--methods", nargs="+", default=list(RATES))
    options = parser.parse_args()
    print("| method | rate | macro-F1 | accuracy | loss | seconds | peak memory | trainable |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for method in options.methods:
            result = train(method, options, Path(folder))
            scores = result["metrics"]
            print(
                f"| {method} | {RATES[method]:g} | {scores['macro_f1']:.3f} "
                f"| {scores['accuracy']:.3f} | {scores['loss']:.3f} | {result['seconds']:.0f} "
                f"| {result['peak_memory_bytes'] / 1e9:.2f} GB "
                f"| {result['trainable_parameters']:,} |",
                flush=True,
            )
        print(
            f"| base alone | | {scores['base.macro_f1']:.3f} | {scores['base.accuracy']:.3f} "
            f"| {scores['base.loss']:.3f} | | | |"
        )


if __name__ == "__main__":
    main()

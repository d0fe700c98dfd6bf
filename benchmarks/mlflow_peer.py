"""MLflow's model registry on SQLite, doing what `benchmarks.crowd` asks; run where it is.

    python -m benchmarks.mlflow_peer FOLDER MADE NAMES

Prints JSON. Each model version gets its files copied into the artifact store by MLflow's own
repository class, and is registered with them as its source: no run, no flavour, nothing else.
"""

import json
import logging
import sys
import uuid
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from benchmarks.publishers import Publish, apart, jobs_of, together


def main() -> None:
    folder, made, names = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    logging.disable(logging.WARNING)
    store = f"sqlite:///{folder / 'mlflow.db'}"

    def open_peer() -> Publish:
        client = MlflowClient(tracking_uri=store, registry_uri=store)

        def publish(name: str, directory: Path) -> None:
            source = f"{folder / 'artifacts'}/{uuid.uuid4().hex}"
            get_artifact_repository(source).log_artifacts(str(directory))
            client.create_model_version(name, source)

        client.search_registered_models(max_results=1)  # connected before the start
        return publish

    def prepare() -> None:
        client = MlflowClient(tracking_uri=store, registry_uri=store)
        for number in range(names):
            client.create_registered_model(f"adapter-{number}")

    apart(prepare)  # no connection may be shared with the publishers, which are forked
    print(json.dumps(asdict(together(open_peer, jobs_of(made, names)))))


if __name__ == "__main__":
    main()

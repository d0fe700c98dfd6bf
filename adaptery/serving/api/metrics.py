"""What Prometheus is told: one label per adapter and version, never names joined in one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "adaptery_requests",
            "Requests answered, by model and outcome (ok, error, cancelled).",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "adaptery_prompt_tokens", "Tokens of prompts.", ["model"], registry=self.registry
        )
        self.answer_tokens = Counter(
            "adaptery_answer_tokens", "Tokens of answers.", ["model"], registry=self.registry
        )
        self.in_flight = Gauge(
            "adaptery_requests_in_flight", "Being answered.", ["model"], registry=self.registry
        )
        self.first_token = Histogram(
            "adaptery_first_token_seconds",
            "From the engine's turn to the first token of the answer.",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.duration = Histogram(
            "adaptery_request_seconds",
            "From the engine's turn to the end of the answer.",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.resident = Gauge(
            "adaptery_resident", "Versions in the engine.", ["model"], registry=self.registry
        )
        self.ready = Gauge("adaptery_ready", "1 if the engine answers.", registry=self.registry)

    @contextmanager
    def request(self, model: str) -> Iterator[Callable[[], None]]:
        """Count a request to `model` while it is answered, and how it ends.

        Gives a function to be called when the first token is there.
        """
        begin, outcome = perf_counter(), "cancelled"

        def first_token() -> None:
            self.first_token.labels(model).observe(perf_counter() - begin)

        try:
            with self.in_flight.labels(model).track_inprogress():
                yield first_token
            outcome = "ok"
        except Exception:
            outcome = "error"
            raise
        finally:
            self.requests.labels(model, outcome).inc()
            self.duration.labels(model).observe(perf_counter() - begin)

"""What Prometheus is told: one label per adapter and version, never names joined in one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from adaptery.serving.engine import Engine

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class EngineMetrics(Collector):
    """What an engine says of itself, read whenever Prometheus asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Whether it answers, how often it was started anew, and what it stated at its start."""
        engine, state = self._engine, self._engine.state
        yield GaugeMetricFamily("adaptery_ready", "1 if the engine answers.", engine.healthy)
        yield CounterMetricFamily(
            "adaptery_engine_restarts", "How often the engine was started anew.", engine.restarts
        )
        texts = {key: value for key, value in state.items() if isinstance(value, str)}
        yield InfoMetricFamily("adaptery_engine", "What the engine runs with.", texts)
        for key in state.keys() - texts.keys():
            value = float(state[key])
            yield GaugeMetricFamily(f"adaptery_engine_{key}", "Stated at start.", value)


class Metrics:
    """Counters of one application, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineMetrics(engine))
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

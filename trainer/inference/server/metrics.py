"""Count requests, tokens and times for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class ServerMetrics:
    """Hold the metrics of one server.

    Args:
        num_active, num_waiting: return the texts in progress and those that wait.
        cache_bytes: returns the memory of the key-value cache.
    """

    def __init__(
        self,
        *,
        num_active: Callable[[], int],
        num_waiting: Callable[[], int],
        cache_bytes: Callable[[], int],
    ) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Answered requests.", "endpoint", "status")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of accepted prompts.")
        self.generated_tokens = self._counter("generated_tokens", "Tokens that were generated.")
        self.disconnects = self._counter("disconnects", "Requests whose client left before the end.")
        self.first_token_seconds = self._histogram("first_token_seconds", "From a request to its first token.")
        self.request_seconds = self._histogram("request_seconds", "From a request to the end of its answer.")
        self.step_seconds = self._histogram("step_seconds", "One step of the generator: a token for each text.")
        for name, text, function in (
            ("texts_running", "Texts in progress.", num_active),
            ("texts_waiting", "Texts that wait for their turn.", num_waiting),
            ("cache_bytes", "Memory of the key-value cache on the first rank.", cache_bytes),
        ):
            Gauge(f"trireme_{name}", text, registry=self._registry).set_function(function)

    def render(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)

    def observe_step(self, seconds: float, num_tokens: int) -> None:
        """Count a step of the generator."""
        self.step_seconds.observe(seconds)
        self.generated_tokens.inc(num_tokens)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"trireme_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"trireme_{name}", text, buckets=_SECONDS, registry=self._registry)

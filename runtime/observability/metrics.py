"""Prometheus metrics of a server: what its texts waited for, gained and cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import get_args
from weakref import WeakSet

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from runtime.decoding.batch import CallReport
from runtime.decoding.request import FinishReason, Request, Step
from runtime.decoding.scheduler import Scheduler
from runtime.decoding.stats import Stats
from runtime.observability.speedup import SpeedUp
from runtime.observability.state import StateCollector
from runtime.serving.generation import Generation
from runtime.serving.observer import Observer
from runtime.serving.targets import ServedTarget

# A GPU gives a token in less than a millisecond, a CPU a long prompt's first one after a minute.
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKEN_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
PARTS = ("draft", "verify", "host")
IDENTITY_RESULTS = ("identical", "different", "failed")


class Instruments:
    """The counters, gauges and histograms. All have the label ``model``, the name under which a target is served."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._of_targets: list[Counter | Gauge | Histogram] = []
        """Those that have no label but ``model``."""
        counter, gauge, histogram = self._counter, self._gauge, self._histogram

        self.received = counter("requests_received", "Requests that were understood")
        self.refused = counter("requests_refused", "Requests answered with an error", "status")
        self.ended = counter("requests", "Texts that have ended", "finish_reason")
        self.waiting = gauge("requests_waiting", "Texts that wait for their turn")
        self.running = gauge("requests_running", "Texts that are generated")
        self.queue_time = histogram("queue_time", "Waiting for a turn", REQUEST_BUCKETS)
        self.first_token = histogram("time_to_first_token", "From arrival to the first token", REQUEST_BUCKETS)
        self.duration = histogram("request_duration", "From arrival to the end of the text", REQUEST_BUCKETS)
        self.between_tokens = histogram(
            "inter_token_latency", "Between tokens; those of one step share its time evenly", TOKEN_BUCKETS
        )
        self.per_token = histogram("time_per_output_token", "A text's mean time between tokens", TOKEN_BUCKETS)

        self.prompt_tokens = counter("prompt_tokens", "Tokens of the prompts of texts that left the queue")
        self.restored_tokens = counter("prompt_tokens_restored", "Of these, taken from earlier texts")
        self.tokens = counter("generated_tokens", "Tokens that texts gained")
        self.drafts = counter("drafts", "Steps of a text that verified a drafted token")
        self.draft_tokens = counter("draft_tokens", "Drafted tokens that were verified")
        self.accepted = counter("accepted_tokens", "Drafted tokens that the target accepted")
        self.drafted_at = counter("drafts_per_position", "Drafts that reached a position", "position")
        self.accepted_at = counter("accepted_tokens_per_position", "Drafts accepted up to a position", "position")
        self.exits = counter("exit_answers", "Positions that an exit drafted, by its layer", "exit")

        self.steps = counter("steps", "Calls of the target")
        self.seconds = counter("step_seconds", "Time of steps by part: draft, verify, host", "part")
        self.decode_seconds = counter("decode_seconds", "Time of the steps that the speed-up is estimated from")
        self.plain_seconds = counter("plain_seconds", "Estimated time for the same tokens without drafting")
        self.predicted = counter("cost_predicted_seconds", "Time that calls should take by measured costs", "part")
        self.measured = counter("cost_measured_seconds", "Time that these calls took", "part")
        self.identity_checks = counter(
            "identity_checks", "Texts that were generated again without drafting and compared", "result"
        )

    def begin_at_zero(self, model: str, exits: tuple[int, ...]) -> None:
        """Make the series of a target, so that rates and alerts have a beginning."""
        for metric in self._of_targets:
            metric.labels(model)
        for counter, values in (
            (self.ended, get_args(FinishReason)),
            (self.exits, exits),
            (self.seconds, PARTS),
            (self.predicted, PARTS[:2]),
            (self.measured, PARTS[:2]),
            (self.identity_checks, IDENTITY_RESULTS),
        ):
            for value in values:
                counter.labels(model, value)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        counter = Counter(f"s2d_{name}", text, ["model", *labels], registry=self._registry)
        self._of_targets += [] if labels else [counter]
        return counter

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(f"s2d_{name}", text, ["model"], registry=self._registry)
        self._of_targets.append(gauge)
        return gauge

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(f"s2d_{name}_seconds", text, ["model"], buckets=buckets, registry=self._registry)
        self._of_targets.append(histogram)
        return histogram


class Metrics(Observer):
    """Counts as an observer of texts, on the event loop, and as a watcher of calls, in the scheduler's thread.

    What the scheduler's thread counts of a text is whole before the text's consumer gets the last step. ``unseen`` are
    the server's own texts, like checks: what they gain and cost is left out.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a time beside every series, which nobody reads
        self.registry = CollectorRegistry()
        self.instruments = Instruments(self.registry)
        self.unseen: WeakSet[Request] = WeakSet()
        self._names: dict[int, str] = {}
        self._speedups: dict[str, SpeedUp] = {}
        self._last_tokens: dict[Generation, float] = {}
        # A step looks up about twenty series; ``labels`` would take longer than all the rest.
        self._of: Callable[..., Counter] = cache(lambda metric, *labels: metric.labels(*labels))
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def begin(self, targets: Sequence[ServedTarget], scheduler: Scheduler) -> None:
        """Count what ``scheduler`` does for ``targets``; before its first step."""
        for served in targets:
            draft = served.decoder.draft
            self._names[id(served.decoder.target)] = served.name
            self._speedups[served.name] = SpeedUp()
            self.instruments.begin_at_zero(served.name, draft.exits if draft else ())
        self.registry.register(StateCollector(targets, scheduler, self._speedups))
        scheduler.watchers.append(self._watch)

    def received(self, target: str) -> None:
        """Count a request."""
        self.instruments.received.labels(target).inc()

    def refused(self, target: str | None, status: int) -> None:
        """Count a request that was answered with an error."""
        self.instruments.refused.labels(target or "", status).inc()

    def queued(self, generation: Generation) -> None:
        """Count a text that waits."""
        self.instruments.waiting.labels(generation.target).inc()

    def started(self, generation: Generation) -> None:
        """Count a text that runs, and how long it waited."""
        model, instruments = generation.target, self.instruments
        instruments.waiting.labels(model).dec()
        instruments.running.labels(model).inc()
        instruments.prompt_tokens.labels(model).inc(len(generation.request.prompt))
        if generation.started is not None and generation.queued is not None:
            instruments.queue_time.labels(model).observe(generation.started - generation.queued)

    def stepped(self, generation: Generation, step: Step) -> None:
        """Time the tokens of a step."""
        if not step.tokens or generation.last_token is None:
            return
        model, now, tokens = generation.target, generation.last_token, len(step.tokens)
        before = self._last_tokens.get(generation)
        self._last_tokens[generation] = now
        if before is None:
            self.instruments.first_token.labels(model).observe(now - generation.arrived)
            before, tokens = now, tokens - 1
        latency = self.instruments.between_tokens.labels(model)
        for _ in range(tokens):
            latency.observe((now - before) / tokens)

    def finished(self, generation: Generation) -> None:
        """Count a text that has ended."""
        model, instruments, request = generation.target, self.instruments, generation.request
        (instruments.waiting if generation.started is None else instruments.running).labels(model).dec()
        instruments.ended.labels(model, request.finish_reason or "error").inc()
        instruments.restored_tokens.labels(model).inc(request.stats.restored)
        if generation.ended is not None:
            instruments.duration.labels(model).observe(generation.ended - generation.arrived)
        last = self._last_tokens.pop(generation, None)
        if last is not None and generation.first_token is not None and len(request.tokens) > 1:
            instruments.per_token.labels(model).observe((last - generation.first_token) / (len(request.tokens) - 1))

    def _watch(self, report: CallReport) -> None:
        model, instruments, times = self._names.get(id(report.pair.target)), self.instruments, report.times
        if model is None or all(request in self.unseen for request in report.texts):
            return
        self._count_tokens(model, report)
        self._of(instruments.steps, model).inc()
        parts = (times.draft, times.verify, max(0.0, times.total - times.draft - times.verify))
        for part, seconds in zip(PARTS, parts, strict=True):
            self._of(instruments.seconds, model, part).inc(seconds)
        if (estimate := self._speedups[model].observe(report)) is not None:
            self._of(instruments.decode_seconds, model).inc(estimate.seconds)
            self._of(instruments.plain_seconds, model).inc(estimate.plain_seconds)
        self._count_costs(model, report)

    def _count_tokens(self, model: str, report: CallReport) -> None:
        instruments, counted = self.instruments, Stats()
        exits = report.pair.draft.exits if report.pair.draft else ()
        for request, outcome in report.outcomes.items():
            if request not in self.unseen:
                counted.record(outcome.proposal, exits, len(outcome.path), outcome.times)
        tokens = sum(len(step.tokens) for request, step in report.steps if request not in self.unseen)
        self._of(instruments.tokens, model).inc(tokens)
        self._of(instruments.drafts, model).inc(counted.drafts)
        self._of(instruments.draft_tokens, model).inc(counted.draft_tokens)
        self._of(instruments.accepted, model).inc(counted.accepted_tokens)
        for counter, counts in (
            (instruments.drafted_at, counted.drafted_at_depth),
            (instruments.accepted_at, counted.accepted_at_depth),
            (instruments.exits, counted.exit_counts),
        ):
            for label, count in counts.items():
                self._of(counter, model, label).inc(count)

    def _count_costs(self, model: str, report: CallReport) -> None:
        """Only of calls without prompts: catching up with them is not priced."""
        batch, times, costs = report.batch, report.times, report.pair.costs
        if costs is None or batch.prompt_rows or not batch.texts:
            return
        pairs = [("verify", costs.verify_ms(batch.rows, batch.lanes, batch.context) / 1e3, times.verify)]
        if report.predicted_draft_ms:
            pairs.append(("draft", report.predicted_draft_ms / 1e3, times.draft))
        for part, predicted, measured in pairs:
            self._of(self.instruments.predicted, model, part).inc(predicted)
            self._of(self.instruments.measured, model, part).inc(measured)

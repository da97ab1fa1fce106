"""How well the drafts of a request were accepted, in the form that load generators read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from runtime.decoding.stats import Stats
from runtime.serving.answers import Metrics, SpeculativeMetrics
from runtime.serving.generation import Generation


def speculative_metrics(texts: Iterable[Stats]) -> SpeculativeMetrics:
    """Count over all steps that verified draft tokens; the target's own tokens are not drafts."""
    drafted: list[int] = []
    accepted: Counter[int] = Counter()
    for stats in texts:
        steps = [(drafts, length) for drafts, length in zip(stats.drafted, stats.accept_lengths, strict=True) if drafts]
        drafted += [drafts for drafts, _ in steps]
        accepted.update(length - 1 for _, length in steps)
    longest, count, total = max(drafted, default=0), len(drafted), sum(drafted)
    kept = sum(length * times for length, times in accepted.items())
    return SpeculativeMetrics(
        mean_acceptance_length=1.0 + kept / count if count else 1.0,
        draft_acceptance_rate=kept / total if total else 0.0,
        acceptance_histogram=[accepted[length] for length in range(longest + 1)],
        accepted_per_position=[sum(times for n, times in accepted.items() if n > i) for i in range(longest)],
        num_spec_steps=count,
        num_accepted_draft_tokens=kept,
        num_draft_tokens=total,
        num_spec_tokens=longest,
    )


def metrics(generations: Sequence[Generation]) -> Metrics:
    """Of a request whose texts have ended. Only those of one text have times."""
    drafts = any(generation.request.options.draft for generation in generations)
    acceptance = speculative_metrics(generation.request.stats for generation in generations) if drafts else None
    only = generations[0]
    tokens = len(only.request.tokens)
    if len(generations) > 1 or only.queued is None or only.started is None or only.first_token is None:
        return Metrics(None, None, None, None, None, acceptance)
    last = only.last_token or only.first_token
    generating = last - only.first_token
    return Metrics(
        time_to_first_token_ms=1e3 * (only.first_token - only.started),
        generation_time_ms=1e3 * generating,
        queue_time_ms=1e3 * (only.started - only.queued),
        mean_itl_ms=1e3 * generating / (tokens - 1) if tokens > 1 else None,
        tokens_per_second=tokens / (last - only.started) if last > only.started else None,
        speculative_decoding=acceptance,
    )

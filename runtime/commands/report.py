"""Requests in words: the short tables that `run` prints."""

from __future__ import annotations

from runtime.decoding.decoder import Decoder
from runtime.decoding.request import Request
from runtime.drafting.learned import DISAGREEMENT
from runtime.evaluation.comparison import Comparison
from runtime.sampling.logprobs import TokenLogprob

_FINISHED = {
    "stop": "stopped",
    "length": "reached max-new-tokens",
    "capacity": "reached the end of the target's cache",
    "cancelled": "cancelled",
    "error": "ended by an error",
}


def request_lines(decoder: Decoder, request: Request) -> list[str]:
    """What a finished request of ``decoder`` gave and cost."""
    stats = request.stats
    lines = [
        f"new tokens      {len(request.tokens)} after {len(request.prompt)} of prompt,"
        f" {_FINISHED[request.finish_reason or 'cancelled']}"
        + (f", seed {request.seed}" if request.options.sampling.temperature else ""),
        f"speed           {request.tokens_per_second:.1f} tokens/s",
        f"mean accepted   {stats.mean_accepted_tokens:.2f} tokens a step, {stats.steps} steps",
    ]
    if stats.exit_counts:
        depths = " ".join(f"{share:.2f}" for share in stats.acceptance_by_depth())
        total = stats.exit_counts.total()
        exits = ", ".join(f"{exit_}: {count / total:.0%}" for exit_, count in sorted(stats.exit_counts.items()))
        lines += [f"by depth        {depths}", f"exits           {exits}"]
    elif request.options.draft and decoder.draft is not None:
        lines.append("exits           none: the draft model did not run, since that is faster here")
    lines.append(
        f"milliseconds    prefill {stats.prefill * 1e3:.0f}, draft {stats.draft * 1e3:.0f},"
        f" verify {stats.verify * 1e3:.0f}, host {stats.other * 1e3:.0f}"
    )
    if decoder.cost_disagreement > DISAGREEMENT:
        lines.append(
            f"costs           off by {decoder.cost_disagreement:.1f}x against this run; the next start measures again"
        )
    if not request.exact and request.options.draft:
        lines.append("exactness       the target's text, but for ties between scores of rounding size")
    return lines


def baseline_lines(request: Request, alone: Request, comparison: Comparison) -> list[str]:
    """How a request compares with the target alone."""
    speedup = request.tokens_per_second / alone.tokens_per_second
    return [
        f"target alone    {alone.tokens_per_second:.1f} tokens/s",
        f"speed-up        {speedup:.2f}x, tokens {describe(comparison)}",
    ]


def logprobs_json(request: Request) -> dict[str, object]:
    """The log-probabilities that were asked for, as fields of a JSON object."""

    def entry(found: TokenLogprob) -> dict[str, object]:
        top = [{"token": token, "logprob": logprob} for token, logprob in found.top]
        return {"token": found.token, "logprob": found.logprob, "top": top}

    fields: dict[str, object] = {}
    if request.options.logprobs is not None:
        fields["logprobs"] = [entry(found) for found in request.chooser.logprobs[: len(request.tokens)]]
    if request.prompt_logprobs is not None:
        fields["prompt_logprobs"] = [found and entry(found) for found in request.prompt_logprobs]
    return fields


def describe(comparison: Comparison) -> str:
    """``identical``, or where the outputs part and by how little."""
    if comparison.identical:
        return "identical, scores bit for bit" if comparison.bits else "identical"
    if comparison.margin is None:
        return f"differ from {comparison.position} on, by their length or a choice that has no scores"
    return f"differ from {comparison.position} on, where the two scores are {comparison.margin:.1e} apart"

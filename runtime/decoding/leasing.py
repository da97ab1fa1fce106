"""What a text holds of its target and of the drafters while it runs."""

from __future__ import annotations

import time
from dataclasses import replace

from runtime.decoding.request import Request
from runtime.drafting.forced import ForcedSequence
from runtime.drafting.ngram import LONGEST_DRAFT
from runtime.drafting.text import TextDrafting
from runtime.sampling.grammar import GrammarRule
from runtime.sampling.ruled_noise import RuledNoise


def lease(request: Request, sequences: int = 1) -> None:
    """Lease what a text needs, which may have tokens from an earlier lease; ``sequences`` texts may run beside it.

    Raises:
        S2DError: what the request's options ask for is not possible here.
    """
    began = time.perf_counter()
    pair, options, policy = request.pair, request.options, request.options.policy
    request.exact = pair.preparation.prepare(options, sequences=sequences)
    shape = policy.largest_tree(chain=request.exact)
    # Forced tokens may fill the tree.
    copied = shape.nodes if options.constraint else LONGEST_DRAFT if policy.looks_up else 0
    rows = min(shape.verify_rows(copied), pair.target.max_rows) if options.draft else 1
    request.sequence = pair.target.lease(rows if request.exact else 0)
    if options.draft:
        chain = request.exact or shape.is_chain or pair.target.drafts == "chain"
        shape = replace(shape, nodes=max(2, min(shape.nodes, pair.target.max_rows)))
        planner = pair.preparation.planner(policy.exit, options.sampling.temperature)
        shifts = [rule for rule in request.chooser.rules if rule.shifts]
        noise = RuledNoise(request.noise, shifts) if shifts else request.noise
        request.drafting = TextDrafting([], planner, shape, noise, chain)
        # Model drafters grow the tree level by level, so they come first.
        drafters = [pair.draft, pair.preparation.lookup(options.sampling.temperature) if policy.looks_up else None]
        text = [*request.prompt, *request.tokens]
        for drafter in drafters:
            if drafter is not None and (leased := drafter.lease(text, shape)) is not None:
                request.drafting.sequences.append(leased)
        grammars = [rule for rule in shifts if isinstance(rule, GrammarRule)]
        request.drafting.sequences += [ForcedSequence(grammar) for grammar in grammars]
    request.stats.preparation += time.perf_counter() - began


def release(request: Request) -> None:
    """Give back what ``lease`` took."""
    if request.sequence is not None:
        request.pair.target.release(request.sequence)
        request.sequence = None
    if request.drafting is not None:
        request.drafting.release()
        request.drafting = None
    request.pair.preparation.review()


def bytes_of(request: Request) -> int:
    """Bytes that a text's rows take in the caches after its next step, the target's and the draft's."""
    rows = request.length + 1 + request.options.policy.largest_tree(chain=request.exact).verify_rows()
    return rows * request.pair.token_bytes

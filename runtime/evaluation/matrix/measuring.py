"""Measuring one cell: baseline and drafted in turn, in one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.drafting.options import Policy
from runtime.drafting.proposal import Outcome
from runtime.evaluation.comparison import compare_with_target, generate, same_bits, target_alone, warm_up
from runtime.evaluation.matrix.runs import Journal
from runtime.evaluation.prompts import Prompt
from runtime.evaluation.replay.exactness import Traced
from runtime.evaluation.throughput import Mode, serve
from s2d_trt.errors import CapacityError, OptionError

BINS = 10
"""Of the probability of acceptance, for the calibration."""
Unit = dict[str, Any]


class Measuring:
    """Answers prompts with a decoder as ``options`` say, and notes each unit in a journal."""

    def __init__(self, decoder: Decoder, options: Options, journal: Journal) -> None:
        self.decoder, self.options, self.journal = decoder, options, journal
        self.skipped: Counter[str] = Counter()
        self._warm = False

    def turns(self, prompts: Sequence[Prompt], rounds: int, progress: Callable[[], None]) -> None:
        """Every turn of every prompt, alone; a turn stands behind all text before it."""
        for number in range(rounds):
            for index, prompt in enumerate(prompts):
                text = ""
                for turn, words in enumerate(prompt.turns):
                    text += words
                    unit = self._turn(f"{number}/{index}/{turn}", text, prompt, alone_first=(index + number) % 2 == 1)
                    progress()
                    if unit is not None:
                        text += unit["alone"]["text"] + "\n"
                    elif number == 0:
                        self.skipped[prompt.category] += 1
        if not self.journal.measured:
            raise OptionError(f"none of the prompts fits target {self.decoder.target.name}; use shorter prompts")

    def _turn(self, key: str, text: str, prompt: Prompt, alone_first: bool) -> Unit | None:
        """Measure a turn, unless it was measured before; None where it does not fit."""
        if key in self.journal.units:
            return self.journal.units[key]
        try:
            ids = self.decoder.request(text, self.options).prompt
        except CapacityError:
            return None
        self._warm_up(ids)
        traced = Traced(self.options.policy.exit)
        policy = Policy(traced, self.options.policy.tree, self.options.policy.looks_up)
        alone = target_alone(self.decoder, ids, self.options) if alone_first else None
        drafted = generate(self.decoder, ids, replace(self.options, policy=policy))
        alone = alone or target_alone(self.decoder, ids, self.options)
        comparison = compare_with_target(self.decoder, drafted, alone)
        unit = {
            "key": key,
            "category": prompt.category,
            "question_id": prompt.question_id,
            "prompt_tokens": len(ids),
            "drafted": _figures(drafted),
            "alone": _figures(alone),
            "exact": drafted.exact,
            "identical": comparison.identical,
            "bit_identical": comparison.bits,
            "margin": comparison.margin,
            "reliability": reliability(traced.outcomes),
        }
        self.journal.add(unit)
        return unit

    def together(self, prompts: Sequence[Prompt], texts: int, rounds: int, progress: Callable[[], None]) -> None:
        """All first turns, ``texts`` at a time, drafted and not, once a round."""
        encoded = list(self._encoded(prompts))
        modes = [Mode(texts, drafts) for drafts in (False, True)]
        alone: list[Request] | None = None
        for number in range(rounds):
            key = f"{number}"
            if key not in self.journal.units:
                if alone is None:
                    self._warm_up(encoded[0])
                    alone = serve(self.decoder, encoded, self.options, Mode(1, drafts=False)).requests
                order = modes[:: 1 if number % 2 == 0 else -1]
                served = {mode.drafts: serve(self.decoder, encoded, self.options, mode) for mode in order}
                self.journal.add(
                    {
                        "key": key,
                        "category": "",
                        "drafted": {"seconds": served[True].seconds, "new_tokens": served[True].tokens},
                        "alone": {"seconds": served[False].seconds, "new_tokens": served[False].tokens},
                        "texts": len(encoded),
                        "bit_identical": sum(map(same_bits, served[True].requests, alone)),
                    }
                )
            progress()

    def _encoded(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        for prompt in prompts:
            try:
                yield self.decoder.request(prompt.turns[0], self.options).prompt
            except CapacityError:
                self.skipped[prompt.category] += 1

    def _warm_up(self, ids: list[int]) -> None:
        if not self._warm:
            warm_up(self.decoder, ids, self.options)
            self._warm = True


def _figures(request: Request) -> Unit:
    stats = request.stats
    return {
        "text": request.text,
        "tokens": request.tokens,
        "new_tokens": len(request.tokens),
        "finish_reason": request.finish_reason,
        "seconds": stats.total,
        "parts": {part: getattr(stats, part) for part in ("prefill", "draft", "verify", "other")},
        "accept_lengths": trimmed(stats.accept_lengths, len(request.tokens)),
        "exits": {str(exit_): count for exit_, count in sorted(stats.exit_counts.items())},
        "drafted_at_depth": [stats.drafted_at_depth[depth] for depth in sorted(stats.drafted_at_depth)],
        "accepted_at_depth": [stats.accepted_at_depth[depth] for depth in sorted(stats.drafted_at_depth)],
    }


def trimmed(accept_lengths: Sequence[int], new_tokens: int) -> list[int]:
    """Accept lengths without what was accepted behind the end of the text, so that 1 + their sum is ``new_tokens``."""
    kept = list(accept_lengths)
    beyond = 1 + sum(kept) - new_tokens
    while kept and beyond > 0:
        cut = min(beyond, kept[-1])
        kept[-1] -= cut
        beyond -= cut
        if kept[-1] == 0:
            kept.pop()
    return kept


def reliability(outcomes: Sequence[Outcome]) -> list[list[float]]:
    """For tenths of the predicted probability that a node is accepted: nodes, sum of predictions, accepted nodes.

    Only nodes whose parent was accepted count: the target decided on no others.
    """
    table = np.zeros((BINS, 3))
    for outcome in outcomes:
        tree, accepted = outcome.proposal.tree, set(outcome.path)
        for node, parent in enumerate(tree.parents.tolist()[1:], 1):
            if parent in accepted and tree.logprobs:
                predicted = min(1.0, float(np.exp(tree.logprobs[node] - tree.logprobs[parent])))
                table[min(BINS - 1, int(predicted * BINS))] += 1.0, predicted, node in accepted
    rows: list[list[float]] = table.tolist()
    return rows

"""A request's options: from ``s2d_options``, whose pointers and counts the shim has checked."""

from __future__ import annotations

from typing import Any, cast

from runtime.decoding.options import Options
from runtime.drafting.options import choose_policy
from runtime.embedding.native import Native
from runtime.sampling.constraint import Constraint, Kind
from runtime.sampling.options import Sampling


def options_of(native: Native, given: Any) -> Options:
    """Raises OptionError, UnicodeDecodeError."""
    thresholds = [given.thresholds[at] for at in range(given.threshold_count)]
    return Options(
        max_new_tokens=given.max_new_tokens,
        sampling=Sampling(
            temperature=given.temperature,
            top_k=given.top_k,
            top_p=given.top_p,
            min_p=given.min_p,
            repetition_penalty=given.repetition_penalty,
            frequency_penalty=given.frequency_penalty,
            presence_penalty=given.presence_penalty,
            seed=given.seed if given.has_seed else None,
            logit_bias={given.logit_bias[at].token: given.logit_bias[at].bias for at in range(given.logit_bias_count)},
            bad_words=native.strings(given.bad_words, given.bad_word_count),
        ),
        stop=native.strings(given.stop, given.stop_count),
        stop_token_ids=tuple(given.stop_token_ids[at] for at in range(given.stop_token_id_count)),
        min_tokens=given.min_tokens,
        ignore_eos=bool(given.ignore_eos),
        logprobs=None if given.logprobs < 0 else given.logprobs,
        policy=choose_policy(thresholds=thresholds or None),
        draft=bool(given.draft),
        exact=None if given.exact < 0 else bool(given.exact),
        constraint=_constraint(native.text(given.constraint_kind), native.text(given.constraint)),
    )


def _constraint(kind: str | None, text: str | None) -> Constraint | None:
    return None if kind is None else Constraint(cast(Kind, kind), text or "")

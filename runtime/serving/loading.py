"""Loads what is served, and says what it takes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.serving.targets import ServedTarget
from runtime.targets import open_target
from s2d_trt.bundle import find_bundle
from s2d_trt.cli import byte_size
from s2d_trt.errors import OptionError

Progress = Callable[[str], None]


def load_targets(
    names: Sequence[str],
    draft: str | None,
    placement: Placement,
    options: Options,
    sequences: int,
    progress: Progress,
    verify: bool = False,
    measure: bool = False,
) -> list[ServedTarget]:
    """Load ``draft`` once and all targets, check that their texts are exact, and measure what they cost.

    Raises:
        S2DError: a bundle is missing or damaged, two have one name, or ``options`` do not fit.
    """
    loaded = None
    if draft is not None:
        progress(f"loading draft {draft} ...")
        loaded = SortedDraft.open(find_bundle(draft), placement, verify)
    served: list[ServedTarget] = []
    for name in names:
        progress(f"loading target {name} ...")
        decoder = Decoder(open_target(name, placement, verify), loaded)
        if decoder.target.name in (each.name for each in served):
            raise OptionError(f"two targets are named {decoder.target.name}; serve one of them, or rename its bundle")

        def indented(work: str, name: str = decoder.target.name) -> None:
            progress(f"  {name}: {work} ...")

        exact = decoder.prepare(options, indented, measure, sequences)
        # Requests may ask for it, and then nothing must be measured between two steps of others.
        decoder.prepare(Options(policy=Policy()), indented, sequences=sequences)
        served.append(ServedTarget(decoder.target.name, decoder, options.policy, exact=options.exact))
        progress(f"  {_description(decoder, exact)}")
    # What is loaded by now stays; to look through it again and again would delay single steps.
    gc.collect()
    gc.freeze()
    return served


def cache_bytes(served: Sequence[ServedTarget], sequences: int) -> int:
    """Most bytes that the caches of running texts take: each target and the draft may hold ``sequences`` full texts."""
    drafts = {id(each.decoder.draft): each.decoder.draft for each in served}.values()
    a_token = sum(each.decoder.target.token_bytes * each.decoder.target.max_length for each in served)
    return sequences * (a_token + sum(draft.token_bytes * draft.max_length for draft in drafts if draft))


def _description(decoder: Decoder, exact: bool) -> str:
    target = decoder.target
    kept = "bit-identical to the target alone" if exact else "the target's own but for ties of rounding size"
    return (
        f"{target.name}: {target.max_length} tokens a text, cache {target.token_bytes / 1024:g} KiB a token and"
        f" {byte_size(target.token_bytes * target.max_length)} a text; texts are {kept}"
    )

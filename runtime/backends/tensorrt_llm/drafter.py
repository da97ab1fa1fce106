"""The sorted draft as a drafter in TensorRT-LLM's PyTorch runtime, for versions that no longer run engines.

  from tensorrt_llm import LLM
  from tensorrt_llm.llmapi import UserProvidedDecodingConfig
  drafter = make_drafter(SortedDraft.open(Path("engines/draft.engine")), depth=4)
  LLM("CHECKPOINT", speculative_config=UserProvidedDecodingConfig(max_draft_len=4, drafter=drafter))

The checkpoint's tokenizer must be the draft's. Drafts are chains; the library verifies them.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from runtime.drafting.calls import run_together
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.sorted_draft import DraftSequence, SortedDraft
from runtime.sampling.noise import Noise
from runtime.text.prefix import common_prefix
from runtime.tree.builder import TreeBuilder
from runtime.tree.shape import TreeShape
from s2d_trt.errors import OptionError


class ChainDrafts:
    """Drafts for any number of texts, each known by a number; a text may grow, or be replaced by another."""

    def __init__(self, draft: SortedDraft, depth: int, policy: FixedThresholds | None = None) -> None:
        self._draft, self._budget = draft, (policy or FixedThresholds()).budget(draft.exits)
        self._shape = TreeShape(depth=depth - 1, top_k=1, nodes=depth + 1)
        draft.check_shape(self._shape)
        self._noise = Noise(0, 0.0, draft.vocab_size)
        self._sequences: dict[int, tuple[DraftSequence, list[int]]] = {}

    def after(self, number: int, text: list[int], most: int) -> list[int]:
        """At most ``most`` tokens that may follow text ``number``; none where the draft cannot hold the text."""
        if most < 1 or len(text) >= self._draft.max_length or not self._draft.covers(text):
            return []
        sequence, held = self._sequences.get(number) or (self._draft.empty_sequence(), [])
        sequence.shape = self._shape
        # The last token is committed again: drafting starts from its row.
        common = min(common_prefix(held, text), len(text) - 1)
        sequence.truncate(common)
        sequence.enqueue(text[common:])
        self._sequences[number] = sequence, list(text)
        builder = TreeBuilder(text[-1], self._shape)
        run_together([sequence.propose(builder, self._budget, self._noise, most)])
        tokens: list[int] = builder.finish().tokens[1:].tolist()
        return tokens

    def keep(self, numbers: set[int]) -> None:
        """Forget all other texts."""
        for number in self._sequences.keys() - numbers:
            self._sequences.pop(number)[0].release()


def make_drafter(draft: SortedDraft, depth: int = 4, policy: FixedThresholds | None = None) -> Any:
    """A ``Drafter`` of the installed library.

    Raises:
        OptionError: the library is not installed, or its ``Drafter`` wants arguments that this version does not have.
    """
    try:
        base: Any = importlib.import_module("tensorrt_llm._torch.speculative.drafter").Drafter
    except (ImportError, OSError, AttributeError) as cause:
        raise OptionError(
            f"TensorRT-LLM has no drafter interface here ({cause}); install tensorrt-llm 1.3 or later, or run an engine"
            " of an earlier one with --target DIR"
        ) from cause
    arguments = _constructor_arguments(base, depth)
    chains = ChainDrafts(draft, depth, policy)

    class SortedDrafter(base):  # type: ignore[misc]
        """Drafts for the requests that generate in this step."""

        def prepare_draft_tokens(self, scheduled_requests: Any, resource_manager: Any = None) -> None:
            """Set each request's ``py_draft_tokens``."""
            requests = scheduled_requests.generation_requests
            chains.keep({request.request_id for request in requests})
            for request in requests:
                text = list(request.get_tokens(0))
                most = request.py_orig_prompt_len + request.py_max_new_tokens - 1 - len(text)
                request.py_draft_tokens = chains.after(request.request_id, text, most)

    return SortedDrafter(**arguments)


def _constructor_arguments(base: Any, depth: int) -> dict[str, int | None]:
    """Arguments for the base class, whose constructor has grown over the versions. Raises OptionError."""
    known = {"max_draft_len": depth, "max_total_draft_tokens": depth, "max_concurrency": None}
    parameters = [p for p in inspect.signature(base.__init__).parameters.values() if p.name != "self"]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    unknown = [p.name for p in named if p.default is p.empty and p.name not in known]
    if unknown:
        raise OptionError(
            f"this TensorRT-LLM's Drafter wants {', '.join(unknown)}, which this version of s2d-trt does not know;"
            " install a version of it that is known to work"
        )
    return {p.name: known[p.name] for p in named if p.name in known}

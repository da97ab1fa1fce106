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

from runtime.decoding.noise import Noise
from runtime.drafting.policy import FixedThresholds
from runtime.drafting.sorted_draft import DraftSequence, SortedDraft
from runtime.drafting.tree import TreeShape
from s2d_trt.errors import OptionError


class ChainDrafts:
    """Chains for any number of texts, each with a number of its own; a text may have changed since its last call."""

    def __init__(self, draft: SortedDraft, depth: int, policy: FixedThresholds | None = None) -> None:
        self._draft, self._policy = draft, (policy or FixedThresholds()).fit(draft.exits)
        self._shape = TreeShape(depth=depth - 1, top_k=1, nodes=depth + 1)
        draft.check_shape(self._shape)
        self._noise = Noise(0, 0.0, draft.vocab_size)
        self._sequences: dict[int, tuple[DraftSequence, list[int]]] = {}

    def after(self, number: int, text: list[int], most: int) -> list[int]:
        """Tokens that may follow text ``number``, at most ``most``; none where the draft cannot hold the text."""
        depth = min(self._shape.depth + 1, most, self._draft.max_length - len(text))
        if depth < 1 or not self._draft.knows(text):
            return []
        sequence, known = self._sequences.get(number) or (self._draft.lease(), [])
        common = next((at for at, (a, b) in enumerate(zip(known, text, strict=False)) if a != b), len(known))
        if len(text) <= common:  # commit the last token again: drafting continues from its row
            common = len(text) - 1
        sequence.truncate(common)
        sequence.enqueue(text[common:])
        self._sequences[number] = sequence, list(text)
        shape = TreeShape(depth=depth - 1, top_k=1, nodes=depth + 1)
        tokens: list[int] = sequence.propose(self._noise, self._policy, shape).tree.tokens[1:].tolist()
        return tokens

    def keep(self, numbers: set[int]) -> None:
        """Forget all other texts."""
        for number in self._sequences.keys() - numbers:
            self._draft.release(self._sequences.pop(number)[0])


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

"""A target and the draft that may help it: what all texts of the two share."""

from __future__ import annotations

from functools import cached_property

from runtime.decoding.options import Options
from runtime.decoding.preparation import Preparation, Progress, silent
from runtime.drafting.costs import Costs
from runtime.drafting.sorted_draft import SortedDraft
from runtime.sampling.grammar import Grammars
from runtime.targets.interface import TargetModel
from s2d_trt.errors import BundleError, TokenizerMismatchError
from s2d_trt.tokenizer import load_tokenizer


class Pair:
    """``draft`` is None where the target decodes by n-gram lookup alone; several pairs may share one.

    Raises:
        TokenizerMismatchError: the two have different tokenizers. BundleError: the target's cannot be read.
    """

    def __init__(self, target: TargetModel, draft: SortedDraft | None = None) -> None:
        self.target, self.draft = target, draft
        self.tokenizer = load_tokenizer(target.tokenizer_path, BundleError)
        self.preparation = Preparation(target, draft)
        if draft is not None:
            ours, theirs = (part.tokenizer.fingerprint for part in (target, draft))
            if ours != theirs:
                raise TokenizerMismatchError(
                    f"target {target.name} and draft {draft.name} have different tokenizers ({ours[:12]} and"
                    f" {theirs[:12]}); use a draft trained with this target's tokenizer"
                )

    def check(self, options: Options) -> None:
        """Raise OptionError where the engines cannot do what ``options`` ask for."""
        self.target.check_scores(options.needing_scores)
        options.check_token_ids(self.target.vocab_size)
        if not options.draft:
            return
        shape = options.policy.largest_tree(chain=options.exact is not False and options.allows_exact)
        self.target.check_shape(shape)
        if self.draft is not None:
            self.draft.check_shape(shape)
            options.policy.exit.check(self.draft.exits)

    def prepare(
        self,
        options: Options | None = None,
        progress: Progress = silent,
        measure: bool = False,
        sequences: int = 1,
    ) -> bool:
        """Check and measure what requests with ``options`` need, once for each machine: whether outputs are exact,
        which is returned, and what calls cost with up to ``sequences`` texts. ``run`` does so too where it was not done
        before; ``measure`` measures again.

        Raises:
            OptionError: the engines cannot do what ``options`` ask for.
            S2DError: ``options.exact`` cannot be promised here.
        """
        options = options or Options()
        self.check(options)
        return self.preparation.prepare(options, progress, measure, sequences)

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles constraints. Raises OptionError where that is not possible."""
        target = self.target
        return Grammars(target.tokenizer_path, target.vocab_size, target.tokenizer.eos_token_ids)

    @property
    def costs(self) -> Costs | None:
        """What calls cost on this machine; None where no request needed it."""
        return self.preparation.costs

    @property
    def cost_disagreement(self) -> float:
        """How far the latest steps are from the measured costs, as a ratio of at least 1."""
        return self.preparation.disagreement

    @property
    def token_bytes(self) -> int:
        """Bytes that a token takes in the caches, the target's and the draft's."""
        return self.target.token_bytes + (self.draft.token_bytes if self.draft else 0)

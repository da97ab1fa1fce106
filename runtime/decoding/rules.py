"""The rules that a request's options put on its text, in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from runtime.decoding.options import Options
from runtime.decoding.pair import Pair
from runtime.sampling.chooser import Chooser
from runtime.sampling.noise import Noise
from runtime.sampling.rules import (
    BadWords,
    CountPenalty,
    LogitBias,
    MinTokens,
    RepetitionPenalty,
    Rule,
    UserProcessors,
)
from runtime.targets.interface import TargetModel


def chooser_of(prompt: Sequence[int], options: Options, noise: Noise, pair: Pair) -> Chooser:
    """What chooses the tokens of a text behind ``prompt``."""
    rules = list(_rules(prompt, options, pair))
    return Chooser(options.sampling, noise, rules, options.logprobs, options.logprobs_mode)


def stop_tokens(options: Options, target: TargetModel) -> list[int]:
    """The tokens that end a text."""
    return [*(() if options.ignore_eos else target.tokenizer.eos_token_ids), *options.stop_token_ids]


def _rules(prompt: Sequence[int], options: Options, pair: Pair) -> Iterator[Rule]:
    """Penalties and bias first, then the user's processors; bans last, so that nothing lifts them."""
    sampling, target = options.sampling, pair.target
    vocab_size = target.vocab_size
    if sampling.repetition_penalty != 1.0:
        yield RepetitionPenalty(sampling.repetition_penalty, prompt, vocab_size)
    if sampling.frequency_penalty or sampling.presence_penalty:
        yield CountPenalty(sampling.frequency_penalty, sampling.presence_penalty, vocab_size)
    if sampling.logit_bias:
        yield LogitBias(sampling.logit_bias)
    if options.processors:
        yield UserProcessors(options.processors, prompt)
    if sampling.bad_words:
        words = (tokens for word in sampling.bad_words for tokens in _sequences(word, pair.tokenizer))
        yield BadWords([*words], prompt)
    if options.min_tokens:
        yield MinTokens(options.min_tokens, stop_tokens(options, target))
    if options.constraint:
        yield pair.grammars.rule(options.constraint)


def _sequences(word: str | tuple[int, ...], tokenizer: Tokenizer) -> list[list[int]]:
    """The token sequences that a bad word stands for."""
    if not isinstance(word, str):
        return [list(word)]
    texts = dict.fromkeys((word, word if word.startswith(" ") else " " + word))
    encoded = [list(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    return [tokens for tokens in encoded if tokens]

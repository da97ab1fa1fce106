"""What a decoder refuses, and which drafts go with which targets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import compare, generate, target_alone
from runtime.sampling.options import Sampling
from runtime.targets.target import Target
from runtime.tree.shape import PAPER_TREE, TreeShape
from s2d_trt.errors import CapacityError, OptionError, S2DError, TokenizerMismatchError

ONE_THREAD = Placement(threads=1)


@pytest.mark.parametrize(
    ("ask", "error", "reason"),
    [
        (lambda d: d.request([]), OptionError, "prompt is empty"),
        (lambda d: d.request([5, 300]), OptionError, "token id 300 is outside the vocabulary of 300"),
        (lambda d: d.request([-1]), OptionError, "token id -1 is outside"),
        (lambda d: d.request([5] * 256), CapacityError, "the prompt has 256 tokens and target target holds 256"),
        (lambda d: d.request([5], max_new_tokens=0), OptionError, "max-new-tokens 0"),
        (lambda d: d.request([5], stop=("end", "")), OptionError, "stop string is empty"),
        (lambda d: d.request([5], policy=Policy(FixedThresholds((0.5, 0.0)))), OptionError, "2 thresholds for 3 exits"),
        (lambda d: d.request([5], policy=Policy(tree=TreeShape(top_k=17))), OptionError, "above the 16 candidates"),
        (lambda d: d.request([5], policy=Policy(tree=TreeShape(200, 2))), OptionError, "400 draft rows"),
        (lambda d: d.request([5], policy=Policy(tree=TreeShape(8, 8, 300))), OptionError, "300 nodes"),
        (lambda d: d.request([5], policy=Policy(tree=PAPER_TREE), exact=True), OptionError, "exact drafts chains"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_begins(
    decoder: Decoder, ask: Callable[[Decoder], object], error: type[S2DError], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        ask(decoder)


def test_a_request_cannot_run_twice(decoder: Decoder) -> None:
    request = generate(decoder, [5, 9], Options(3))
    with pytest.raises(OptionError, match="run before"):
        next(decoder.run(request))
    assert len(request.tokens) == 3


def test_a_request_cannot_run_beside_itself(decoder: Decoder) -> None:
    request = decoder.request([5, 9], Options(6))
    first = decoder.run(request)
    next(first)
    with pytest.raises(OptionError, match="run before"):
        next(decoder.run(request))
    list(first)
    assert request.finish_reason == "length"


def test_a_tree_as_large_as_the_target_verifies_at_once_is_allowed(decoder: Decoder) -> None:
    options = Options(4, policy=Policy(tree=TreeShape(depth=3, top_k=10, nodes=256)))
    prompt = [5] * 250
    assert compare(decoder, generate(decoder, prompt, options), target_alone(decoder, prompt, options)).identical


def test_a_draft_in_the_targets_place_is_refused_and_a_target_in_the_drafts(
    draft_bundle: Path, target_bundle: Path
) -> None:
    with pytest.raises(S2DError, match="is a draft bundle where a target is needed"):
        Decoder.open(draft_bundle, draft_bundle)
    with pytest.raises(S2DError, match="is a target bundle where a draft is needed"):
        Decoder.open(target_bundle, target_bundle)


def test_bundles_load_by_path(target_bundle: Path, draft_bundle: Path) -> None:
    decoder = Decoder.open(target_bundle, draft_bundle, ONE_THREAD)
    assert decoder.draft is not None
    assert Decoder.open(str(target_bundle), None, ONE_THREAD).draft is None


def changed_checkpoint(source: Path, out: Path, change: Callable[[Path], None]) -> Path:
    shutil.copytree(source, out)
    change(out)
    return out


def built_target(checkpoint: Path) -> Path:
    from export import target

    out = checkpoint.with_suffix(".engine")
    target.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity"])
    return out


def built_draft(checkpoint: Path) -> Path:
    from export import build

    out = checkpoint.with_suffix(".engine")
    build.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity"])
    return out


def another_tokenizer(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["merges"].pop()
    path.write_text(json.dumps(content), encoding="utf-8")


def padded_vocabulary(checkpoint: Path) -> None:
    """Twenty ids more than the tokenizer has, which the model finds more probable than any other."""
    import torch
    from safetensors.torch import load_file, save_file

    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], 2 * weights[name][20:40]])
    save_file(weights, path, metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps(config | {"vocab_size": 320}), encoding="utf-8")


def test_another_tokenizer_is_refused_with_both_fingerprints(
    target_checkpoint: Path, draft: SortedDraft, tmp_path: Path
) -> None:
    other = Target.open(
        built_target(changed_checkpoint(target_checkpoint, tmp_path / "new", another_tokenizer)), ONE_THREAD
    )
    ours, theirs = (its.bundle.manifest.tokenizer.fingerprint for its in (other, draft))
    assert ours != theirs
    with pytest.raises(TokenizerMismatchError, match=f"{ours[:12]} and {theirs[:12]}"):
        Decoder(other, draft)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_with_a_padded_vocabulary_drafts_as_if_it_were_not_padded(
    decoder: Decoder, draft_checkpoint: Path, tmp_path: Path, temperature: float
) -> None:
    padded = SortedDraft.open(
        built_draft(changed_checkpoint(draft_checkpoint, tmp_path / "new", padded_vocabulary)), ONE_THREAD
    )
    assert padded.vocab_size == 320
    options = Options(30, Sampling(temperature, seed=4), policy=Policy(FixedThresholds(), TreeShape(3, 4, 30)))
    plain = generate(decoder, [5, 9], options)
    request = generate(Decoder(decoder.target, padded), [5, 9], options)
    assert request.tokens == plain.tokens
    assert request.stats.accept_lengths == plain.stats.accept_lengths


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_target_with_a_padded_vocabulary_is_decoded_even_where_it_chooses_ids_that_the_draft_has_not(
    target_checkpoint: Path, draft: SortedDraft, tmp_path: Path, temperature: float
) -> None:
    padded = Target.open(
        built_target(changed_checkpoint(target_checkpoint, tmp_path / "new", padded_vocabulary)), ONE_THREAD
    )
    decoder, options = Decoder(padded, draft), Options(30, Sampling(temperature, seed=4))
    for prompt in ([5, 9], [5, 310]):
        alone = target_alone(decoder, prompt, options)
        assert max(prompt + alone.tokens) >= draft.vocab_size, "the target chose no padding: the test shows nothing"
        assert compare(decoder, generate(decoder, prompt, options), alone).identical


def test_opening_and_running_bundles_leaves_floating_point_arithmetic_as_it_was(decoder: Decoder) -> None:
    generate(decoder, [5, 9], Options(3))
    assert float.fromhex("0x1p-1074") * 1.0 > 0.0
    assert np.float32(1e-45) * np.float32(1.0) > 0.0


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Options(max_new_tokens=3.5), r"max-new-tokens is 3\.5: expected `int`"),
        (lambda: Options(max_new_tokens="9"), "max-new-tokens is '9'"),
        (lambda: Options(stop="return"), "stop is 'return': .* a tuple of texts"),
        (lambda: Options(stop=(1,)), r"stop is \(1,\)"),
        (lambda: Options(draft=1), "draft is 1"),
        (lambda: Sampling(temperature="1"), "temperature is '1'"),
        (lambda: Sampling(top_k=True), "top-k is True"),
        (lambda: Sampling(top_k=10**21), "top-k 1000"),
        (lambda: Sampling(seed=1.0), "seed is 1.0"),
        (lambda: TreeShape(depth=2.0), "depth is 2.0"),
        (lambda: FixedThresholds((0.5, float("nan"), 0.0)), "thresholds .* must be numbers"),
        (lambda: FixedThresholds((0.5, float("inf"), 0.0)), "thresholds .* must be numbers"),
        (lambda: FixedThresholds(rule="median"), "rule is 'median'"),
        (lambda: Placement(threads=10_000), "--threads 10000 must lie between 1 and the"),
        (lambda: Placement(threads=0), "--threads 0"),
        (lambda: Placement(backend="tpu"), "backend is 'tpu'"),
    ],
)
def test_an_option_of_a_wrong_type_or_without_meaning_is_refused_by_name(
    make: Callable[[], object], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        make()


def test_numbers_and_lists_of_numpy_are_as_good_as_pythons() -> None:
    options = Options(max_new_tokens=np.int64(3), stop=["a", "b"], sampling=Sampling(np.float32(0.5), seed=np.uint8(7)))
    assert options == Options(3, Sampling(0.5, seed=7), ("a", "b"))
    assert type(options.max_new_tokens) is int


@pytest.mark.parametrize("ids", [np.array([5, 9]), (5, 9), [np.int32(5), 9]])
def test_token_ids_may_be_of_any_integer_type(decoder: Decoder, ids: Sequence[int]) -> None:
    assert decoder.request(ids).prompt == [5, 9]


@pytest.mark.parametrize("ids", [[1.5, 2], ["a"], b"ab", 5, np.array([[1, 2]]), np.array([0.5])])
def test_what_is_no_sequence_of_token_ids_is_refused(decoder: Decoder, ids: Sequence[int]) -> None:
    with pytest.raises(OptionError, match="neither text nor a sequence of token ids"):
        decoder.request(ids)


def test_how_tokens_are_sampled_may_be_said_in_keywords(decoder: Decoder) -> None:
    request = decoder.request([5], Options(3), temperature=1, seed=7, max_new_tokens=2)
    assert request.options == Options(2, Sampling(1.0, seed=7))


def test_a_request_of_one_decoder_does_not_run_on_another(decoder: Decoder, other_decoder: Decoder) -> None:
    with pytest.raises(OptionError, match="made by another decoder"):
        next(other_decoder.run(decoder.request([5], Options(3))))


def test_a_bundle_may_be_named_by_a_string(target_bundle: Path) -> None:
    assert Target.open(str(target_bundle), ONE_THREAD).name == "target"


def test_a_prompt_that_is_much_too_long_is_not_tokenized_as_a_whole(decoder: Decoder, monkeypatch) -> None:
    seen = []
    tokenizer = decoder.tokenizer
    monkeypatch.setattr(
        decoder, "tokenizer", SimpleNamespace(encode=lambda t: seen.append(len(t)) or tokenizer.encode(t))
    )
    with pytest.raises(CapacityError, match=r"the prompt has more than \d+ tokens and target target holds 256"):
        decoder.request("a draft " * 1_000_000)
    assert max(seen) < 10_000


def test_a_long_prompt_that_fits_is_tokenized_as_a_whole(decoder: Decoder, monkeypatch) -> None:
    monkeypatch.setattr("runtime.decoding.decoder.CHARACTERS", 1)
    text = "the draft proposes and the target disposes " * 12
    assert decoder.request(text).prompt == decoder.tokenizer.encode(text).ids

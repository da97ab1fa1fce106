"""A head that answers with the most frequent tokens alone."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from export import build
from export.vocabulary import frequent_tokens
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.errors import OptionError

TEXT = "the draft proposes and the target disposes; a tree of tokens is verified in one call\n" * 3


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text" / "a.txt"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


def options(checkpoint, out, text, count, *others):
    head = ["--head-tokens", str(count), "--calibration", str(text)]
    return ["--checkpoint", str(checkpoint), "--out", str(out), *head, *others]


def test_the_most_frequent_tokens_are_kept_in_order_of_their_ids(draft_checkpoint, text):
    tokenizer = draft_checkpoint / "tokenizer.json"
    ids = Tokenizer.from_file(str(tokenizer)).encode(TEXT, add_special_tokens=False).ids
    found = frequent_tokens(tokenizer, text, 12, always=(0,))
    assert list(found) == sorted(set(found))
    assert len(found) == 12
    assert 0 in found  # never in the text, yet it ends one
    counts = [ids.count(token) for token in found if token]
    assert min(counts) >= max((ids.count(token) for token in set(ids) - set(found)), default=0)
    assert frequent_tokens(tokenizer, text.parent, 12, always=(0,)) == found


@pytest.mark.parametrize("form", [(), ("--precision", "int8")], ids=["fp32", "int8"])
@pytest.mark.parametrize("count", [16, 20])
def test_the_head_gives_the_best_of_its_tokens_and_pytorch_agrees(
    draft_checkpoint, draft_bundle, int8_draft_bundle, text, tmp_path, capsys, run_graph, form, count
):
    out = tmp_path / "draft.engine"
    build.main(options(draft_checkpoint, out, text, count, *form))
    shown = capsys.readouterr().out
    assert f"head     {count} of 300 tokens" in shown
    assert "against PyTorch (exit 2" in shown
    kept = np.array(frequent_tokens(draft_checkpoint / "tokenizer.json", text, count, always=(0,)))
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((1, 5, 64)).astype(np.float32)
    noise = rng.gumbel(size=(1, 300)).astype(np.float32)
    tokens, logprobs = run_graph(out, names.HEAD).candidates(hidden, noise)
    assert np.isin(tokens, kept).all()
    # The full head, with every other token banned, gives the same.
    banned = np.full((1, 300), -np.inf, np.float32)
    banned[0, kept] = noise[0, kept]
    full = int8_draft_bundle if form else draft_bundle
    expected_tokens, expected = run_graph(full, names.HEAD).candidates(hidden, banned)
    np.testing.assert_allclose(logprobs, expected, atol=1e-4)
    np.testing.assert_array_equal(tokens, expected_tokens)


def test_the_bundle_shrinks_by_the_rows_that_it_lacks(draft_checkpoint, draft_bundle, text, tmp_path):
    out = tmp_path / "draft.engine"
    build.main(options(draft_checkpoint, out, text, 16, "--no-parity"))
    sizes = [
        Bundle.open(bundle).manifest.files[Bundle.open(bundle).manifest.weights].bytes for bundle in (draft_bundle, out)
    ]
    assert 0.9 * 284 * 64 * 4 < sizes[0] - sizes[1] < 1.1 * 284 * 64 * 4


def test_a_tied_head_is_cut_and_the_embedding_is_not(other_target_checkpoint, text, tmp_path):
    out = tmp_path / "draft.engine"
    build.main(options(other_target_checkpoint, out, text, 16, "--exits", "3"))
    assert Bundle.open(out).manifest.head_top_k == 16


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--head-tokens", "20"], "belong together"),
        (["--calibration", "README.md"], "belong together"),
        (["--head-tokens", "15", "--calibration", "README.md"], "must be at least 16 and below the vocabulary of 300"),
        (["--head-tokens", "300", "--calibration", "README.md"], "below the vocabulary of 300"),
        (["--head-tokens", "20", "--calibration", "no/such/text"], "cannot be read .*name a text file"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(draft_checkpoint, tmp_path, extra, message):
    out = tmp_path / "draft.engine"
    with pytest.raises(OptionError, match=message):
        build.main(["--checkpoint", str(draft_checkpoint), "--out", str(out), *extra])
    assert not out.exists()


def test_too_little_text_is_refused(draft_checkpoint, text, tmp_path):
    with pytest.raises(OptionError, match=r"fewer than --head-tokens 290; give more text"):
        build.main(options(draft_checkpoint, tmp_path / "draft.engine", text, 290))

"""An engine as a target: the greedy tokens of its model, and errors that name a remedy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation.comparison import generate, target_alone
from runtime.sampling.options import Sampling
from runtime.targets import open_target
from runtime.tree.shape import TreeShape
from s2d_trt.errors import CapacityError, OptionError, S2DError
from tests.runtime.backends.trtllm.conftest import CONFIG, PROMPT, GreedyTarget, changed, library


def options(tree: TreeShape, **changes: Any) -> Options:
    return Options(30, policy=Policy(FixedThresholds((0.6, 0.6, 0.0)), tree), **changes)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("more", [0, 10])
@pytest.mark.parametrize("tree", [TreeShape(depth=3), TreeShape(depth=4, top_k=4, nodes=30)])
def test_an_engine_gives_the_greedy_tokens_of_its_model(
    engine: Path, draft: SortedDraft, decoder: Decoder, oracle: GreedyTarget, tree: TreeShape, more: int
) -> None:
    oracle.more = more
    there = Decoder(open_target(engine), draft)
    request = generate(there, PROMPT, options(tree))
    assert request.tokens == target_alone(decoder, PROMPT, options(tree)).tokens
    assert request.stats.mean_accepted_tokens > 1.2
    assert target_alone(there, PROMPT, options(tree)).tokens == request.tokens


@pytest.mark.usefixtures("installed")
def test_each_step_asks_with_the_text_so_far_and_at_most_one_token_beyond_the_draft(
    engine: Path, draft: SortedDraft, oracle: GreedyTarget
) -> None:
    request = generate(Decoder(open_target(engine), draft), PROMPT, options(TreeShape(depth=3)))
    first, *others = oracle.requests
    assert list(first.input_token_ids) == PROMPT
    assert first.external_draft_tokens_config is None
    text = PROMPT + request.tokens
    for asked in others:
        length = len(asked.input_token_ids)
        assert asked.input_token_ids == text[:length]
        drafted = asked.external_draft_tokens_config
        assert asked.max_tokens == (len(drafted.tokens) if drafted else 0) + 1


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        ({"sampling": Sampling(temperature=0.5)}, "decodes only greedily"),
        ({"sampling": Sampling(repetition_penalty=1.2)}, "decodes only greedily"),
        ({"sampling": Sampling(logit_bias={3: 1.0}), "logprobs": 0}, "gives no scores; leave logit_bias, logprobs out"),
        ({"sampling": Sampling(frequency_penalty=1.0, bad_words=("a",))}, "leave frequency_penalty, bad_words out"),
        ({"min_tokens": 3, "prompt_logprobs": 1}, "leave min_tokens, prompt_logprobs out"),
        ({"processors": (lambda tokens, scores: scores,)}, "leave processors out"),
        ({"exact": True, "policy": Policy(tree=TreeShape(depth=2))}, "cannot promise --exact"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(
    engine: Path, draft: SortedDraft, ask: dict[str, Any], reason: str
) -> None:
    with pytest.raises(S2DError, match=reason):
        generate(Decoder(open_target(engine), draft), PROMPT, Options(**ask))


@pytest.mark.usefixtures("installed")
def test_no_draft_is_longer_than_the_engine_was_built_for(
    engine: Path, draft: SortedDraft, oracle: GreedyTarget
) -> None:
    generate(Decoder(open_target(engine), draft), PROMPT, options(TreeShape(depth=9)))
    drafts = [asked.external_draft_tokens_config for asked in oracle.requests]
    assert max(len(draft.tokens) for draft in drafts if draft) == CONFIG["build_config"]["max_draft_len"]


@pytest.mark.usefixtures("installed")
def test_stop_tokens_need_no_scores(engine: Path, draft: SortedDraft) -> None:
    decoder = Decoder(open_target(engine), draft)
    tokens = generate(decoder, PROMPT, Options(12, ignore_eos=True)).tokens
    request = generate(decoder, PROMPT, Options(12, ignore_eos=True, stop_token_ids=(tokens[4],)))
    assert (request.tokens, request.finish_reason) == (tokens[: tokens.index(tokens[4]) + 1], "stop")


@pytest.mark.usefixtures("installed")
def test_a_text_ends_where_the_engine_does(engine: Path, draft: SortedDraft) -> None:
    decoder = Decoder(open_target(engine), draft)
    assert decoder.target.max_length == 220
    with pytest.raises(CapacityError, match="the prompt has 220 tokens"):
        decoder.request([5] * 220)
    request = generate(decoder, [5] * 214, options(TreeShape(depth=3)))
    assert request.finish_reason in ("capacity", "stop")


def test_an_error_of_the_executor_is_one_line(
    engine: Path, draft: SortedDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", library(lambda _: "out of blocks"))
    with pytest.raises(S2DError, match=r"failed on a request of 21 tokens \(out of blocks\)"):
        generate(Decoder(open_target(engine), draft), PROMPT, options(TreeShape(depth=3)))


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("1.1.0", "built by TensorRT-LLM 1.2.1, and here is 1.1.0"),
        ("1.3.0", "TensorRT-LLM 1.3.0 runs no engines .1.2 is the last"),
        ("2.0.0", "runs no engines"),
    ],
)
def test_another_version_is_refused(engine: Path, monkeypatch: pytest.MonkeyPatch, version: str, reason: str) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", library(None, version=version))
    with pytest.raises(OptionError, match=reason):
        open_target(engine)


def test_without_the_library_it_says_how_to_get_it(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(OptionError, match="TensorRT-LLM is not installed here"):
        open_target(engine)


def two_gpus(engine: Path) -> Path:
    (engine / "config.json").write_text(json.dumps(changed("pretrained_config.mapping.world_size", 2)))
    (engine / "rank1.engine").write_bytes(b"engine")
    return engine


def test_several_gpus_have_a_leader_under_mpirun_and_an_orchestrator_without(
    engine: Path, monkeypatch: pytest.MonkeyPatch, oracle: GreedyTarget
) -> None:
    for started, mode in ((2, "LEADER"), (1, "ORCHESTRATOR")):
        module = library(oracle.answer, ranks=started)
        monkeypatch.setitem(sys.modules, "tensorrt_llm", module)
        executor: Any = open_target(two_gpus(engine))._executor  # type: ignore[attr-defined]
        config = executor.executor_config.parallel_config
        assert config.communication_mode is getattr(module.bindings.executor.CommunicationMode, mode)
        worker = getattr(config, "orchestrator_config", None)
        assert (worker is None) == (mode == "LEADER")
        if worker:
            assert worker.worker_executable_path == "/library/tensorrt_llm/bin/executorWorker"


def test_a_process_that_does_not_lead_serves_and_ends(
    engine: Path, monkeypatch: pytest.MonkeyPatch, oracle: GreedyTarget
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", library(oracle.answer, ranks=2, leads=False))
    with pytest.raises(SystemExit) as ended:
        open_target(two_gpus(engine))
    assert ended.value.code == 0


def test_another_number_of_processes_is_refused(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", library(None, ranks=4))
    with pytest.raises(OptionError, match="takes 2 processes and mpirun started 4; run it as mpirun -n 2"):
        open_target(two_gpus(engine))

"""What the graphs compute, in real ONNX Runtime sessions."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.graph import MAX_HEAD_TOP_K
from s2d_trt import names
from s2d_trt.bundle import Bundle

SLOTS = 64


def graph_path(bundle, name):
    return bundle / Bundle.open(bundle).manifest.graphs[name]


def shapes(values):
    return {value.name: value.shape for value in values}


def segment_inputs(first, layers, width):
    caches = {names.past(layer, part): [1, "cache_length", width] for layer in layers for part in ("key", "value")}
    return {
        **first,
        names.POSITION_IDS: [1, "query_length"],
        names.ATTENTION_MASK: ["query_length", "cache_length"],
        names.WRITE_INDEX: [1],
        **caches,
    }


def test_a_segments_inputs_and_outputs_are_those_of_the_contract(draft_bundle, run_graph):
    for index, first in enumerate((names.INPUT_IDS, names.HIDDEN_STATES, names.HIDDEN_STATES)):
        session = run_graph(draft_bundle, names.segment(index)).session
        layers = range(2 * index, 2 * index + 2)
        shape = [1, "query_length"] + ([64] if index else [])
        assert shapes(session.get_inputs()) == segment_inputs({first: shape}, layers, 32)
        present = {names.present(n, part): [1, "cache_length", 32] for n in layers for part in ("key", "value")}
        assert shapes(session.get_outputs()) == {names.OUTPUT_HIDDEN_STATES: [1, "query_length", 64], **present}


def test_the_heads_and_the_targets_inputs_and_outputs_are_those_of_the_contract(draft_bundle, target_bundle, run_graph):
    head = run_graph(draft_bundle, names.HEAD).session
    assert shapes(head.get_inputs()) == {
        names.HIDDEN_STATES: [1, "query_length", 64],
        names.NOISE: ["noise_length", 300],
    }
    best = ["query_length", MAX_HEAD_TOP_K]
    assert shapes(head.get_outputs()) == {names.TOP_TOKENS: best, names.TOP_LOGPROBS: best}
    target = run_graph(target_bundle, names.TARGET).session
    assert shapes(target.get_inputs())[names.LOGIT_ROWS] == ["logit_rows_length"]
    assert shapes(target.get_outputs())[names.LOGITS] == ["logit_rows_length", 300]


def test_graphs_use_standard_operators_of_opset_24_and_pass_the_checker(draft_bundle, target_bundle):
    for bundle in (draft_bundle, target_bundle):
        for name in Bundle.open(bundle).manifest.graphs:
            path = graph_path(bundle, name)
            onnx.checker.check_model(str(path), full_check=True)
            model = onnx.load(path, load_external_data=False)
            assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 24)]
            assert not model.functions
            assert not any(node.domain for node in model.graph.node)


def test_every_graph_reads_the_one_weight_file(draft_bundle):
    manifest = Bundle.open(draft_bundle).manifest
    for name in manifest.graphs:
        model = onnx.load(graph_path(draft_bundle, name), load_external_data=False)
        external = [tensor for tensor in model.graph.initializer if tensor.external_data]
        assert external
        for tensor in external:
            assert {entry.key: entry.value for entry in tensor.external_data}["location"] == manifest.weights
        assert graph_path(draft_bundle, name).stat().st_size < 64 * 1024


def test_past_and_present_in_the_same_memory_are_updated_in_place(target_bundle, run_graph, tokens):
    copied = run_graph(target_bundle, names.TARGET, SLOTS)
    expected = [copied.causal(tokens[None, a:b], a, logit_rows=np.arange(b - a)) for a, b in ((0, 9), (9, 20))]

    session = run_graph(target_bundle, names.TARGET, SLOTS).session
    caches = {name: np.zeros_like(cache) for name, cache in copied.caches.items()}
    values = {name: ort.OrtValue.ortvalue_from_numpy(cache) for name, cache in caches.items()}
    for (a, b), logits in zip(((0, 9), (9, 20)), expected, strict=True):
        positions = np.arange(a, b)
        binding = session.io_binding()
        binding.bind_cpu_input(names.INPUT_IDS, tokens[None, a:b].copy())
        binding.bind_cpu_input(names.POSITION_IDS, positions[None])
        binding.bind_cpu_input(names.ATTENTION_MASK, np.arange(SLOTS) <= positions[:, None])
        binding.bind_cpu_input(names.WRITE_INDEX, np.array([a]))
        binding.bind_cpu_input(names.LOGIT_ROWS, np.arange(b - a))
        binding.bind_output(names.LOGITS)
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], logits)
    for name, cache in caches.items():
        np.testing.assert_array_equal(cache, copied.caches[name])
        assert cache[0, :20].any(axis=-1).all()
        assert not cache[0, 20:].any()


def test_a_prefix_view_of_the_cache_gives_the_same_bits(target_bundle, run_graph, tokens):
    rows = np.array([len(tokens) - 1])
    found = [run_graph(target_bundle, names.TARGET, n).causal(tokens[None], 0, logit_rows=rows) for n in (32, 64, 128)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_rows_that_may_read_nothing_stay_finite_and_leave_the_others_alone(draft_bundle, run_graph, tokens):
    run = run_graph(draft_bundle, "segment_0", SLOTS)
    positions = np.arange(20)
    mask = np.arange(SLOTS) <= positions[:, None]
    expected = run.rows(tokens[None, :12], 0, mask[:12], positions[:12])
    mask[12:] = False
    positions[12:] = 0
    found = run_graph(draft_bundle, "segment_0", SLOTS).rows(tokens[None], 0, mask, positions)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, :12], expected)


def test_what_lies_behind_the_mask_does_not_matter(draft_bundle, run_graph, tokens):
    clean, dirty = (run_graph(draft_bundle, "segment_0", SLOTS) for _ in range(2))
    for cache in dirty.caches.values():
        cache[0, 20:] = 1e3
    np.testing.assert_array_equal(clean.causal(tokens[None], 0), dirty.causal(tokens[None], 0))


def test_writing_beyond_the_cache_is_an_error_and_not_a_corruption(draft_bundle, run_graph, tokens):
    run = run_graph(draft_bundle, "segment_0", SLOTS)
    mask = np.ones((4, SLOTS), bool)
    with pytest.raises(Exception, match="TensorScatter"):
        run.rows(tokens[None, :4], SLOTS - 2, mask, np.arange(4))


def test_logit_rows_chooses_orders_and_repeats_rows(target_bundle, run_graph, tokens):
    every = run_graph(target_bundle, names.TARGET).causal(tokens[None], 0, logit_rows=np.arange(20))
    rows = np.array([19, 3, 3, 0])
    some = run_graph(target_bundle, names.TARGET).causal(tokens[None], 0, logit_rows=rows)
    assert every.shape == (20, 300)
    np.testing.assert_array_equal(some, every[rows])


def test_the_head_ranks_logits_plus_noise_and_bans_what_the_noise_bans(draft_bundle, run_graph, tokens):
    head = run_graph(draft_bundle, names.HEAD).session
    hidden = run_graph(draft_bundle, "segment_0").causal(tokens[None], 0)
    rng = np.random.default_rng(1)
    noise = rng.gumbel(size=(1, 300)).astype(np.float32)
    outputs = [names.TOP_TOKENS, names.TOP_LOGPROBS]
    ids, logprobs = head.run(outputs, {names.HIDDEN_STATES: hidden, names.NOISE: noise})
    assert (np.diff(logprobs, axis=-1) <= 0).all()
    banned = np.unique(ids[:, 0])
    noise[0, banned] = -np.inf
    others, logprobs = head.run(outputs, {names.HIDDEN_STATES: hidden, names.NOISE: noise})
    assert not np.isin(others, banned).any()
    assert np.isfinite(logprobs).all()

"""Comparing a bundle's graphs on ONNX Runtime with the same checkpoint in PyTorch, before it is published."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.encoding import Encoding
from export.session import Array, GraphRun
from export.tensors import EMBEDDING, LM_HEAD
from export.weight_spec import WeightSpec
from s2d_trt import names
from s2d_trt.errors import CheckpointError, S2DError
from s2d_trt.manifest import Manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BOUND = 1e-3
"""Largest difference of a logit, or a log-probability, that counts as rounding in float32."""

ROWS = 24
"""Tokens tried."""

TREE_PARENTS = (-1, 0, 0, 1, 1, 2, 5)
"""Parent of each node of the tree that a target is tried with."""


class ParityError(S2DError):
    """A graph disagrees with its checkpoint, which is a fault of the exporter; nothing was published."""


def check_parity(
    manifest: Manifest,
    directory: Path,
    checkpoint: Path,
    weights: WeightSpec | None = None,
) -> str:
    """Compare every float32 graph in ``directory`` with PyTorch on random tokens; one line on the outcome.

    PyTorch computes with the numbers that ``weights`` stores (None: float32, with the whole head), so that the graphs
    are compared and not the rounding.

    Raises:
        ParityError: a difference above ``BOUND``.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        return "skipped: torch and transformers are not installed (the train extra has both)"
    return report(measure(manifest, directory, checkpoint, weights))


def report(errors: Mapping[str, float]) -> str:
    """The largest difference of each part, in one line.

    Raises:
        ParityError: one of them is above ``BOUND``, or not a number.
    """
    listed = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    if not all(error <= BOUND for error in errors.values()):
        raise ParityError(f"the graphs differ from PyTorch by more than {BOUND:g} ({listed}); nothing was published")
    return f"max abs logit error {max(errors.values()):.1e} against PyTorch ({listed}; bound {BOUND:g})"


def measure(
    manifest: Manifest,
    directory: Path,
    checkpoint: Path,
    weights: WeightSpec | None = None,
) -> dict[str, float]:
    """Largest absolute difference of a logit or log-probability: one for each exit, or for the target's calls."""
    weights = weights or WeightSpec(manifest.model, manifest.cache.max_length)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, manifest.model.vocab_size, ROWS)
    reference = Reference.load(checkpoint, weights.encoding)
    graphs = {name: GraphRun(manifest, directory, name) for name in manifest.graphs}
    if manifest.kind == "draft":
        return _draft_errors(manifest, graphs, reference, tokens, rng, weights.head_tokens)
    return _target_errors(graphs[names.TARGET], reference, tokens)


@dataclass(frozen=True, slots=True)
class Reference:
    """The checkpoint as transformers runs it, in float32, its weights rounded as a bundle's are."""

    model: PreTrainedModel

    @classmethod
    def load(cls, checkpoint: Path, encoding: Encoding) -> Reference:
        """Read the whole checkpoint into memory.

        Raises:
            CheckpointError: transformers cannot.
        """
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
        except Exception as cause:  # its loaders raise errors of many libraries
            raise CheckpointError(
                f"transformers cannot load {checkpoint} ({cause}); mend it, or pass --no-parity to build without it"
            ) from cause
        _round(model, encoding)
        return cls(model.eval())

    def logits(self, tokens: Array, layers: int | None = None) -> Array:
        """Logits ``[len(tokens), V]`` of norm and head after the first ``layers`` layers, all by default."""
        import torch

        caught: list[torch.Tensor] = []

        def catch(_module: object, _inputs: object, output: Any) -> None:
            caught.append(output if isinstance(output, torch.Tensor) else output[0])

        stack = self.model.model.layers
        hook = stack[(layers or len(stack)) - 1].register_forward_hook(catch)
        try:
            with torch.inference_mode():
                self.model(torch.from_numpy(tokens)[None], use_cache=False)
                found: Array = self.model.lm_head(self.model.model.norm(caught[0]))[0].numpy()
        finally:
            hook.remove()
        return found


def _round(model: PreTrainedModel, encoding: Encoding) -> None:
    """Replace every weight by the numbers that a graph reads from the weight file."""
    import torch

    embedding = model.model.embed_tokens.weight
    with torch.no_grad():
        if encoding.quantizes and model.lm_head.weight is embedding:
            model.lm_head.weight = torch.nn.Parameter(embedding.clone())
        for name, parameter in model.named_parameters():
            linear = parameter.ndim == 2 and name != EMBEDDING
            rounded = encoding.rounded(name, parameter.numpy(), 1 if linear else None, head=name == LM_HEAD)
            parameter.copy_(torch.from_numpy(rounded))


def _draft_errors(
    manifest: Manifest,
    graphs: Mapping[str, GraphRun],
    reference: Reference,
    tokens: Array,
    rng: np.random.Generator,
    head_tokens: tuple[int, ...],
) -> dict[str, float]:
    errors = {}
    hidden: Array = tokens[None]
    noise = rng.standard_normal((1, manifest.model.vocab_size)).astype(np.float32)
    for index, layers in enumerate(manifest.exits):
        segment, half = graphs[names.segment(index)], len(tokens) // 2
        hidden = np.concatenate([segment.causal(hidden[:, :half], 0), segment.causal(hidden[:, half:], half)], axis=1)
        top_tokens, top_logprobs = graphs[names.HEAD].candidates(hidden, noise)
        scores = reference.logits(tokens, layers) + noise
        if head_tokens:
            scores[:, np.setdiff1d(np.arange(scores.shape[1]), head_tokens)] = -np.inf
        expected = _log_softmax(scores)
        best = -np.sort(-expected, axis=-1)[:, : manifest.head_top_k]
        chosen = np.take_along_axis(expected, top_tokens, axis=-1)
        errors[f"exit {layers}"] = max(_difference(top_logprobs, best), _difference(top_logprobs, chosen))
    return errors


def _target_errors(target: GraphRun, reference: Reference, tokens: Array) -> dict[str, float]:
    """Prefill in two calls, then a tree under its ancestor mask, each path of which PyTorch reads as plain text."""
    size = len(TREE_PARENTS)
    prompt, nodes = tokens[:-size], tokens[-size:]
    half = len(prompt) // 2
    found = [
        target.causal(part[None], start, logit_rows=np.arange(len(part)))
        for part, start in ((prompt[:half], 0), (prompt[half:], half))
    ]
    errors = {"prefill": _difference(np.concatenate(found), reference.logits(prompt))}
    paths = [_path(node) for node in range(size)]
    mask = np.zeros((size, target.slots), bool)
    mask[:, : len(prompt)] = True
    for node, path in enumerate(paths):
        mask[node, len(prompt) + np.array(path)] = True
    positions = len(prompt) - 1 + np.array([len(path) for path in paths])
    tree = target.rows(nodes[None], len(prompt), mask, positions, logit_rows=np.arange(size))
    errors["tree"] = max(
        _difference(tree[list(path)], reference.logits(np.concatenate([prompt, nodes[list(path)]]))[len(prompt) :])
        for path in paths
        if path[-1] not in TREE_PARENTS  # the paths to the leaves hold every node
    )
    return errors


def _path(node: int) -> Sequence[int]:
    """The node's ancestors from the root down, and itself."""
    return (*_path(TREE_PARENTS[node]), node) if node >= 0 else ()


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _difference(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max())

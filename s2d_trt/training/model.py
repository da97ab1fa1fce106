"""The model that is trained: a decoder whose exits share the final norm and the head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from s2d_trt.spec import ModelSpec
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.objective import Rows


def new_model(
    spec: ModelSpec, max_length: int, exits: Sequence[int], seed: int, vocabulary: Vocabulary
) -> LlamaForCausalLM:
    """A randomly initialised Llama for texts of ``max_length`` tokens; its config records exits and special ids."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=spec.hidden_size,
        num_hidden_layers=spec.num_hidden_layers,
        num_attention_heads=spec.num_attention_heads,
        num_key_value_heads=spec.num_key_value_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.intermediate_size,
        vocab_size=spec.vocab_size,
        max_position_embeddings=max_length,
        tie_word_embeddings=spec.tie_word_embeddings,
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
        exits=list(exits),
    )
    model = LlamaForCausalLM(config)
    # As GPT-2 does: the size of the hidden states does not depend on the number of layers.
    for layer in model.model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.normal_(
                projection.weight, std=config.initializer_range / math.sqrt(2 * spec.num_hidden_layers)
            )
    return model


class Exits(torch.nn.Module):
    """Runs a model once and returns the logits of several exits.

    ``forward(input_ids [B, T])`` returns the logits, one ``[B, T, V]`` tensor for each exit, shallowest first.
    Every exit goes through the same final norm and head (SoFT, arXiv 2407.01955).
    ``close()`` removes the hooks from the model.
    """

    def __init__(self, model: PreTrainedModel, exits: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.exits = tuple(exits)
        self._hidden: dict[int, torch.Tensor] = {}
        self._hooks = [self._keep(exit_) for exit_ in self.exits]

    @classmethod
    def last(cls, model: PreTrainedModel) -> Exits:
        """The whole model, whose only exit is the last layer."""
        return cls(model, [len(model.model.layers)])

    def _keep(self, exit_: int) -> RemovableHandle:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            self._hidden[exit_] = output[0] if isinstance(output, tuple) else output

        layer: torch.nn.Module = self.model.model.layers[exit_ - 1]
        return layer.register_forward_hook(hook)

    def hidden(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        """Hidden states of each exit after the final norm, ``[B, T, D]``."""
        decoder = self.model.model
        decoder(input_ids=input_ids, use_cache=False)
        return [decoder.norm(self._hidden.pop(exit_)) for exit_ in self.exits]

    def forward(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        """Logits of each exit, ``[B, T, V]``."""
        return [self.model.lm_head(states) for states in self.hidden(input_ids)]

    def rows(self, input_ids: torch.Tensor, chosen: torch.Tensor) -> list[Rows]:
        """Hidden states and logits of each exit at the ``chosen`` positions (bool ``[B, T]``) only."""
        found = []
        for states in self.hidden(input_ids):
            picked = states[chosen]
            found.append(Rows(picked, self.model.lm_head(picked)))
        return found

    def close(self) -> None:
        """Remove the hooks; the model can still be used."""
        for hook in self._hooks:
            hook.remove()
        # With gradient checkpointing the backward pass runs the hooks again.
        self._hidden.clear()

    def compile_layers(self) -> None:
        """Compile each layer separately: all layers share one compiled graph, so it takes seconds.

        The hooks are outside the compiled code, so adding or removing one needs no new graph.
        """
        for layer in self.model.model.layers:
            layer.forward = torch.compile(layer.forward)

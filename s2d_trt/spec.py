"""The sizes of a Llama-family model."""

from __future__ import annotations

from dataclasses import dataclass

from s2d_trt.errors import OptionError
from s2d_trt.ranges import Channels, Epsilon, Heads, Layers, Theta, Vocabulary


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The sizes that decide a model's graphs and caches; field names follow Hugging Face's config.

    ``output_bias`` is the bias of the attention's output projection. With ``qk_norm`` each head's query and key are
    normalised before the rotary embedding.
    """

    hidden_size: Channels
    num_hidden_layers: Layers
    num_attention_heads: Heads
    num_key_value_heads: Heads
    head_dim: Channels
    intermediate_size: Channels
    vocab_size: Vocabulary
    rms_norm_eps: Epsilon
    rope_theta: Theta
    tie_word_embeddings: bool
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @classmethod
    def llama(
        cls, *, hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int, tied: bool
    ) -> ModelSpec:
        """A Llama without biases whose heads have ``hidden / heads`` channels; ``tied``: the head is the embedding.

        Raises:
            OptionError: heads and channels do not divide evenly, or a head has an odd number of channels.
        """
        if hidden % heads or (hidden // heads) % 2:
            raise OptionError(f"hidden {hidden} needs an even number of channels per head (heads: {heads})")
        if heads % kv_heads:
            raise OptionError(f"{heads} heads cannot share {kv_heads} key/value heads evenly")
        return cls(hidden, layers, heads, kv_heads, hidden // heads, ffn, vocab, 1e-6, 10000.0, tied)

    @property
    def parameters(self) -> int:
        """How many numbers the weights hold, without norms and biases."""
        attention = (2 * self.num_attention_heads * self.head_dim + 2 * self.kv_width) * self.hidden_size
        layers = self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)
        return layers + self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def kv_width(self) -> int:
        """Channels of one key (or value) row: ``num_key_value_heads * head_dim``."""
        return self.num_key_value_heads * self.head_dim

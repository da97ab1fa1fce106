"""Texts that a target writes itself, for a draft to be distilled on: the draft meets them when it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import PreTrainedModel, StaticCache

from s2d_trt.training.corpus import cached
from s2d_trt.training.windows import Stream, Windows


@torch.no_grad()
def continue_texts(
    model: PreTrainedModel, prompts: torch.Tensor, length: int, temperatures: torch.Tensor, seed: int
) -> torch.Tensor:
    """Sample each of ``prompts`` (int64 ``[B, P]``) on to ``length`` tokens; returns int64 ``[B, length]``.

    ``temperatures`` is ``[B]``; at 0 a text is greedy. A text that ends goes on with another, as in training.
    """
    noise = torch.Generator().manual_seed(seed)
    cache = StaticCache(config=model.config, max_cache_len=length)
    tokens = prompts
    new = prompts
    while tokens.shape[1] < length:
        positions = torch.arange(tokens.shape[1] - new.shape[1], tokens.shape[1])
        logits = model(
            input_ids=new, past_key_values=cache, position_ids=positions[None], logits_to_keep=1, use_cache=True
        ).logits[:, -1].float()  # fmt: skip
        gumbel = -torch.empty_like(logits).exponential_(generator=noise).log()
        new = (logits + temperatures[:, None] * gumbel).argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], 1)
    return tokens


def sampled_stream(
    model: PreTrainedModel, text: Stream, folder: Path, texts: int, length: int, prompt: int, batch: int, seed: int
) -> Stream:
    """``texts`` texts of ``length`` tokens, each begun with ``prompt`` tokens of ``text``, temperatures from 0 to 1.

    Each batch is a file in ``folder``, so that a stopped run goes on; several processes share the batches.
    """
    accelerator = Accelerator(mixed_precision="no")
    model = model.eval()
    numbers = range(-(-texts // batch))
    mine = numbers[accelerator.process_index :: accelerator.num_processes]
    windows = Windows(text, prompt, seed)
    files = [folder / f"{number}.npy" for number in numbers]
    for number in tqdm(mine, "samples", unit="batch", disable=not accelerator.is_main_process):

        def make(number: int = number) -> np.ndarray:
            prompts = torch.from_numpy(windows.batch(number * batch, batch).inputs)
            temperatures = torch.linspace(0, 1, batch)
            return continue_texts(model, prompts, length, temperatures, seed + number).numpy().astype(np.int32)

        cached(files[number], make)
    accelerator.wait_for_everyone()
    return Stream.whole(np.concatenate([np.load(file).ravel() for file in files])[: texts * length])

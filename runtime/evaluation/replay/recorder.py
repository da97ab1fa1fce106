"""Recording texts with the engines: the target's text once, the draft's candidates in as few calls as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from runtime.backends import Candidates, HeadLane, Lane
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.preparation import silent
from runtime.drafting.ngram import LONGEST_DRAFT
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import DraftSequence, SortedDraft
from runtime.evaluation.comparison import generate
from runtime.evaluation.replay.prices import Prices
from runtime.evaluation.replay.recording import PairShape, Recording, TextRecord
from runtime.evaluation.replay.steps import Replay, ReplayedText
from runtime.sampling.noise import Noise
from s2d_trt.errors import OptionError
from s2d_trt.manifest import SCRATCH_ROWS

GENERATIONS = 3
"""Nodes off the text are recorded with what follows their best candidates, so many tokens in all."""
BEYOND = LONGEST_DRAFT + 2
"""Tokens that are recorded behind the end of a text which stopped early: its last step may draft so far."""


class Recorder:
    """Records texts of one pair of engines."""

    def __init__(self, decoder: Decoder) -> None:
        if decoder.draft is None:
            raise OptionError("recording needs a draft model; give --draft")
        self.decoder, self.draft = decoder, decoder.draft

    @property
    def pair(self) -> PairShape:
        """The pair's limits."""
        target, draft = self.decoder.target, self.draft
        return PairShape(
            target.identity,
            draft.identity,
            draft.exits,
            draft.head_top_k,
            draft.max_length,
            draft.vocab_size,
            draft.engines.lanes,
            target.max_rows,
            target.drafts,
        )

    def record(
        self,
        prompts: Sequence[tuple[str, Sequence[int]]],
        options: Options,
        progress: Callable[[str], None] = silent,
    ) -> Recording:
        """Generate after each prompt (its category and token ids) with the seed of ``options``, and record."""
        texts = []
        for number, (category, prompt) in enumerate(prompts, 1):
            progress(f"recording {number}/{len(prompts)}")
            record = self._text(category, list(prompt), options)
            if record.tokens:
                texts.append(record)
        recording = Recording(self.pair, options.sampling.temperature, texts)
        for record in texts:
            self._fill(record, recording.temperature, record.drafted_from)
        return recording

    def _text(self, category: str, prompt: list[int], options: Options) -> TextRecord:
        request = generate(self.decoder, prompt, options)
        if any(rule.shifts for rule in request.chooser.rules):
            raise OptionError("penalties, bias and bans that a draft follows cannot be recorded; leave them out")
        if not request.exact:
            request = generate(self.decoder, prompt, replace(options, draft=False))
        beyond: list[int] = []
        if request.finish_reason == "stop":
            while len(beyond) < BEYOND and len(prompt) + len(request.tokens) + len(beyond) < self.draft.max_length:
                more = replace(options, max_new_tokens=BEYOND - len(beyond), stop=())
                beyond += generate(self.decoder, [*prompt, *request.tokens, *beyond], more).tokens
        limit = min(options.max_new_tokens, self.decoder.target.max_length - len(prompt))
        return TextRecord(category, prompt, request.tokens, beyond, request.seed, limit)

    def complete(self, recording: Recording) -> int:
        """Compute the candidates that a replay asked for in vain; returns how many nodes were missing."""
        count = 0
        for record in recording.texts:
            count += len(record.missing)
            self._fill(record, recording.temperature, sorted(record.missing))
        return count

    def _fill(self, record: TextRecord, temperature: float, nodes: Iterable[int]) -> None:
        """Candidates of ``nodes`` at every exit."""
        record.missing.clear()
        length = next((place for place, token in enumerate(record.text) if token >= self.draft.vocab_size), None)
        length = min(len(record.text) if length is None else length, self.draft.max_length)
        wanted = [node for node in nodes if record.position(node) < self.draft.max_length]
        if not wanted or length < len(record.prompt):
            return
        sequence = self.draft.empty_sequence()
        try:
            sequence.prefill(record.text[:length])
            noise = Noise(record.seed, temperature, self.decoder.target.vocab_size)
            reader = _Reader(self.draft, sequence, noise, temperature)
            on_text = [node for node in wanted if node < length]
            reader.read(record, [(node, node) for node in on_text])
            wanted = [node for node in wanted if node >= len(record.text)]
            for _ in range(GENERATIONS):
                for rows in _batches(record, wanted):
                    reader.read(record, reader.place(record, rows, length))
                wanted = self._followed(record, wanted)
        finally:
            sequence.release()

    def _followed(self, record: TextRecord, nodes: Sequence[int]) -> list[int]:
        """Nodes that the best candidates of ``nodes`` lead to: chains ask for them next."""
        best = {record.child(node, int(ids[0, 0])) for node in nodes for ids, _ in record.candidates[node]}
        new = best - record.candidates.keys()
        return sorted(node for node in new if record.position(node) < self.draft.max_length)


def replayed(
    recorder: Recorder, recording: Recording, prices: Prices, policy: Policy, chain: bool = True, lanes: int = 1
) -> list[ReplayedText]:
    """Replay all texts, and record what is missing until nothing is."""
    while True:
        texts = Replay(recording, prices, policy, chain).run(lanes)
        if recording.complete or not recorder.complete(recording):
            return texts


class _Reader:
    """Reads the head's candidates from rows of one text in the draft."""

    def __init__(self, draft: SortedDraft, sequence: DraftSequence, noise: Noise, temperature: float) -> None:
        self._draft, self._sequence, self._noise, self._temperature = draft, sequence, noise, temperature

    def place(self, record: TextRecord, nodes: Sequence[int], length: int) -> list[tuple[int, int]]:
        """Run ``nodes``, parents first, in the rows behind the text; returns each node and its row."""
        row_of = {node: length + index for index, node in enumerate(nodes)}
        base = min(self._root(record, node) for node in nodes) + 1
        visible = np.zeros((len(nodes), length + len(nodes) - base), bool)
        positions = np.array([record.position(node) for node in nodes])
        tokens = np.array([record.parent(node)[1] for node in nodes])
        for node, row in row_of.items():
            mask, (parent, _) = visible[row - length], record.parent(node)
            if parent in row_of:
                mask[:] = visible[row_of[parent] - length]
            else:
                mask[: parent + 1 - base] = True
            mask[row - base] = True
        engines, chunk = self._draft.engines, min(self._draft.engines.max_rows, 128)
        for segment in range(len(self._draft.exits)):
            for start in range(0, len(nodes), chunk):
                part = slice(start, min(start + chunk, len(nodes)))
                seen = visible[part, : length + part.stop - base]
                lane = Lane(self._sequence.context, tokens[part], positions[part], length + start, base, seen)
                engines.forward(segment, [lane])
        return list(row_of.items())

    def read(self, record: TextRecord, rows: Sequence[tuple[int, int]]) -> None:
        """Note the candidates of nodes, given their rows; rows with the same noise are read together."""
        groups: list[tuple[list[int], HeadLane]] = []

        def noise_position(pair: tuple[int, int]) -> int:
            return 1 + record.position(pair[0]) if self._temperature else 0

        for position, group in groupby(sorted(rows, key=lambda pair: (noise_position(pair), pair[1])), noise_position):
            for nodes, start, stop in _runs(list(group), self._draft.engines.max_head_rows):
                noise = self._noise.row(position)
                groups.append((nodes, HeadLane(self._sequence.context, 0, start, stop, noise)))
        together = self._draft.engines.lanes[-1]
        for first in range(0, len(groups), together):
            part = groups[first : first + together]
            answers = [self._answers([lane for _, lane in part], exit_) for exit_ in range(len(self._draft.exits))]
            for index, (nodes, _) in enumerate(part):
                for row, node in enumerate(nodes):
                    here = slice(row, row + 1)
                    record.candidates[node] = [
                        (ids[here].copy(), logprobs[here].copy()) for ids, logprobs in (each[index] for each in answers)
                    ]

    def _answers(self, lanes: Sequence[HeadLane], segment: int) -> list[Candidates]:
        of_exit = [replace(lane, segment=segment) for lane in lanes]
        return [(ids.copy(), logprobs.copy()) for ids, logprobs in self._draft.engines.candidates(of_exit)]

    @staticmethod
    def _root(record: TextRecord, node: int) -> int:
        """The last node of the text from which ``node`` leaves it."""
        while node >= len(record.text):
            node, _ = record.parent(node)
        return node


def _runs(pairs: Sequence[tuple[int, int]], most: int) -> list[tuple[list[int], int, int]]:
    """Nodes whose rows follow each other, with the first row and the one behind the last."""
    runs: list[tuple[list[int], int, int]] = []
    for node, row in pairs:
        if runs and runs[-1][2] == row and len(runs[-1][0]) < most:
            nodes, start, _ = runs[-1]
            runs[-1] = [*nodes, node], start, row + 1
        else:
            runs.append(([node], row, row + 1))
    return runs


def _batches(record: TextRecord, nodes: Sequence[int]) -> list[list[int]]:
    """``nodes`` and the nodes before them that left the text too, parents first, in batches that the cache holds."""
    batches: list[set[int]] = []
    for node in nodes:
        path: list[int] = []
        while node >= len(record.text):
            path.append(node)
            node, _ = record.parent(node)
        if not batches or len(batches[-1] | set(path)) > SCRATCH_ROWS:
            batches.append(set())
        batches[-1].update(path)
    return [sorted(batch, key=lambda node: (record.position(node), node)) for batch in batches]

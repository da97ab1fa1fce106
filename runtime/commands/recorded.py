"""What commands that work on recordings share: their options, recording with progress, and prices."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runtime.commands.arguments import NO_DRAFT, add_engine_arguments, placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.evaluation.prompts import encoded, load_prompts
from runtime.evaluation.replay.files import read_recordings, write_recordings
from runtime.evaluation.replay.prices import Prices, read_prices, write_prices
from runtime.evaluation.replay.probes import measured_prices
from runtime.evaluation.replay.recorder import Recorder
from runtime.evaluation.replay.recording import Recording
from runtime.sampling.options import Sampling
from s2d_trt.cli import ArgumentParser, comma_floats, positive_int
from s2d_trt.errors import OptionError


def add_recording_arguments(parser: ArgumentParser, policy_too: bool = False) -> None:
    """Which pair is recorded on which prompts, at what prices; with ``policy_too`` --exact comes with the policy."""
    parser.add_argument("--target", required=True, help="target bundle, a path or a name under engines/")
    parser.add_argument("--prompts", required=True, help="JSON lines, or demo; a category is a source file")
    parser.add_argument("--limit", type=positive_int, help="use only the first prompts, or texts of a recording")
    parser.add_argument("--temperature", type=comma_floats, default=(0.0,), help="one or several, like 0,1 (0)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=96, help="of each text (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of sampled texts (%(default)s)")
    if not policy_too:
        parser.add_argument(
            "--exact",
            action=argparse.BooleanOptionalAction,
            help="decode exactly, with chains (the default on a CPU); --no-exact allows trees",
        )
    parser.add_argument("--recording", type=Path, metavar="FILE", help="read the recording; made if it is not there")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="read what steps cost; measured if it is not there")
    add_engine_arguments(parser)


def note(work: str) -> None:
    """Progress on stderr."""
    end = "" if sys.stderr.isatty() else "\n"
    print(f"\r\033[K{work} ..." if not end else f"{work} ...", end=end, file=sys.stderr, flush=True)


class Recorded:
    """A pair with its recordings, one for each temperature, and its prices."""

    def __init__(self, arguments: argparse.Namespace, lanes: Sequence[int] = (1,)) -> None:
        self.arguments = arguments
        draft = None if arguments.draft == NO_DRAFT else arguments.draft
        self.decoder = Decoder.open(arguments.target, draft, placement(arguments), arguments.verify)
        self.recorder = Recorder(self.decoder)
        self.options = Options(max_new_tokens=arguments.max_new_tokens, exact=arguments.exact)
        self.decoder.prepare(self.options, note, arguments.measure, max(lanes))
        self.recordings = self._recordings()
        self.chain = self.decoder.target.exact_by_default if arguments.exact is None else arguments.exact
        self.prices = self._prices(lanes)

    def _recordings(self) -> list[Recording]:
        path = self.arguments.recording
        if path is not None and path.exists():
            recordings = read_recordings(path)
            if recordings[0].pair != self.recorder.pair:
                raise OptionError(f"{path} is of another pair, device or number of threads; name another file")
            limit = self.arguments.limit or len(recordings[0].texts)
            return [each.subset(range(min(limit, len(each.texts)))) for each in recordings]
        prompts = self._prompts()
        recordings = []
        for temperature in self.arguments.temperature:
            sampling = Sampling(temperature=temperature, seed=self.arguments.seed)
            recordings.append(self.recorder.record(prompts, replace(self.options, sampling=sampling), note))
        self.keep(recordings)
        return recordings

    def keep(self, recordings: list[Recording] | None = None) -> None:
        """Write the recordings where the user asked for it; replays may have added to them."""
        path = self.arguments.recording
        if path is not None and (recordings is not None or self.arguments.limit is None):
            write_recordings(recordings or self.recordings, path)

    def _prompts(self) -> list[tuple[str, list[int]]]:
        loaded = load_prompts(self.arguments.prompts, self.arguments.limit)
        prompts = encoded(self.decoder, loaded, self.options)
        if skipped := len(loaded) - len(prompts):
            print(f"{skipped} prompts are too long for the target, skipped", file=sys.stderr)
        if not prompts:
            raise OptionError(f"none of the prompts fits target {self.decoder.target.name}; use shorter prompts")
        return prompts

    def _prices(self, lanes: Sequence[int]) -> Prices:
        path = self.arguments.prices
        if path is not None and path.exists():
            return read_prices(path, len(self.recorder.pair.exits))
        note("measuring what steps cost")
        prices = measured_prices(self.recorder, self.recordings[0], self.options, lanes)
        if path is not None:
            write_prices(prices, path)
        return prices

"""How far off are predicted speed-ups?

Every prompt is decoded alone and under each policy in turn. Before that and after it, texts are drawn to be recorded;
probes of these texts set the prices, and each policy's speed-up on the texts that were not drawn is predicted. Beside
it stand the speed-up that was measured on the drawn texts themselves, the textbook's formula, and "as another target".
Of several targets each is also predicted from its 7 calls and its drawn texts, everything else from the target before.

  python -m tests.benchmarks.predictions --target target-17m,target-6m --threads 1 --out predictions

Nothing else should run beside it.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from runtime.backends.placement import Placement
from runtime.commands.recorded import note
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.evaluation.comparison import generate, target_alone, warm_up
from runtime.evaluation.prediction import UNDECIDED, constant_acceptance, predict
from runtime.evaluation.prompts import encoded, load_prompts
from runtime.evaluation.replay.prices import Prices
from runtime.evaluation.replay.probes import measured_prices
from runtime.evaluation.replay.recorder import Recorder
from runtime.evaluation.statistics import Interval
from runtime.sampling.options import Sampling
from runtime.tree.shape import TreeShape
from s2d_trt.cli import ArgumentParser, comma_floats, comma_ints, positive_int, run_command
from s2d_trt.errors import OptionError
from tests.benchmarks.tables import Row, table_lines, write_report

PROG = "python -m tests.benchmarks.predictions"
POLICIES = {
    "adaptive": Policy(Adaptive()),
    "adaptive without lookup": Policy(Adaptive(), lookup=False),
    "published thresholds": Policy(FixedThresholds()),
    "first exit": Policy(FixedThresholds((0.0, 0.0, 0.0)), TreeShape(3, 1, 60)),
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """A speed-up on texts that were not recorded, and what it was said to be."""

    target: str
    temperature: float
    policy: str
    texts: int
    measured: float
    predicted: float
    low: float
    high: float
    same_texts: float
    """What the prices say of the measured texts: without the chance of the recorded ones."""
    recorded_texts: float
    """Measured on the recorded texts."""
    formula: float
    other_prices: float | None = None
    """Predicted from the target's calls and the overheads of the target before."""
    other_target: float | None = None
    """Measured with the target before."""

    @property
    def verdict_right(self) -> bool | None:
        """Whether drafting was rightly advised or not; None where it makes little difference."""
        if abs(self.measured - 1.0) <= UNDECIDED:
            return None
        return (self.predicted > 1.0) == (self.measured > 1.0)


def main(argv: Sequence[str]) -> None:
    """Measure, predict, print."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--target", default="target-17m", help="bundles, separated by commas (%(default)s)")
    parser.add_argument("--draft", default="draft", help="a bundle (%(default)s)")
    parser.add_argument("--prompts", default="demo", help="JSON lines, or demo (%(default)s)")
    parser.add_argument("--limit", type=positive_int, help="use only the first prompts (all)")
    parser.add_argument("--temperature", type=comma_floats, default=(0.0, 1.0), help="one or several (0,1)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=64, help="of each text (%(default)s)")
    parser.add_argument("--recorded", type=comma_ints, default=(8, 24), help="numbers of recorded texts (8,24)")
    parser.add_argument("--draws", type=positive_int, default=6, help="of texts, before and after (%(default)s)")
    parser.add_argument("--threads", type=positive_int, help="CPU threads (the physical cores)")
    parser.add_argument("--out", type=Path, metavar="NAME", help="also write NAME.md and NAME.json")
    arguments = parser.parse_args(argv)
    predictions: list[Prediction] = []
    before: dict[float, Campaign] = {}
    for target in arguments.target.split(","):
        for temperature in arguments.temperature:
            campaign = Campaign(target, temperature, arguments)
            predictions += campaign.run(before.get(temperature))
            before[temperature] = campaign
    lines = table_lines("Predicted speed-ups", rows(predictions))
    print("\n".join(lines))
    if arguments.out is not None:
        write_report(arguments.out, lines, [asdict(each) for each in predictions])


class Campaign:
    """One target at one temperature. ``spent`` holds each text's milliseconds of decoding, alone and by policy."""

    def __init__(self, target: str, temperature: float, arguments: Namespace) -> None:
        self.temperature, self.arguments = temperature, arguments
        self.decoder = Decoder.open(target, arguments.draft, Placement(threads=arguments.threads))
        self.recorder = Recorder(self.decoder)
        self.options = Options(arguments.max_new_tokens, sampling=Sampling(temperature=temperature, seed=0))
        prompts = encoded(self.decoder, load_prompts(arguments.prompts, arguments.limit), self.options)
        self.recording = self.recorder.record(prompts, self.options, note)
        if len(self.recording.texts) < 2 * max(arguments.recorded):
            raise OptionError(f"{max(arguments.recorded)} recorded texts need as many others to be held against")
        self.spent: dict[str, np.ndarray] = {}
        self.prices: list[dict[int, Prices]] = []
        """For each draw, by the number of recorded texts."""

    def run(self, before: Campaign | None) -> list[Prediction]:
        """Probe, measure, probe again; predict from each draw of texts, and from the target ``before``."""
        count, rng = len(self.recording.texts), np.random.default_rng(0)
        draws = [rng.permutation(count) for _ in range(2 * self.arguments.draws)]
        half = self.arguments.draws
        self._probe(draws[:half])
        self._measure()
        self._probe(draws[half:])
        return [
            self._predicted(name, draw, prices, texts, before)
            for draw, by_texts in zip(draws, self.prices, strict=True)
            for texts, prices in by_texts.items()
            for name in POLICIES
        ]

    def _probe(self, draws: Sequence[np.ndarray]) -> None:
        for draw in draws:
            note(f"{self.decoder.target.name}, temperature {self.temperature:g}: probe {len(self.prices) + 1}")
            subsets = {texts: self.recording.subset(draw[:texts].tolist()) for texts in self.arguments.recorded}
            self.prices.append(
                {texts: measured_prices(self.recorder, subset, self.options) for texts, subset in subsets.items()}
            )

    def _measure(self) -> None:
        """Each text alone and under each policy, which goes first changes from text to text."""
        ways: dict[str, Callable[[list[int]], Request]] = {
            "alone": lambda prompt: target_alone(self.decoder, prompt, self.options)
        }
        for name, policy in POLICIES.items():
            options = replace(self.options, policy=policy)
            decoder = Decoder(self.decoder.target, self.decoder.draft)
            decoder.prepare(options)
            warm_up(decoder, self.recording.texts[0].prompt, options)
            ways[name] = partial(generate, decoder, options=options)
        spent: list[dict[str, float]] = []
        for number, record in enumerate(self.recording.texts):
            note(f"{self.decoder.target.name}, temperature {self.temperature:g}: text {number + 1}")
            order = [*ways][number % len(ways) :] + [*ways][: number % len(ways)]
            spent.append({name: _decoding_ms(ways[name](record.prompt)) for name in order})
        self.spent = {name: np.array([each[name] for each in spent]) for name in ways}

    def measured(self, policy: str, texts: np.ndarray) -> float:
        """The speed-up on some texts."""
        return float(self.spent["alone"][texts].sum() / self.spent[policy][texts].sum())

    def _predicted(
        self, name: str, draw: np.ndarray, prices: Prices, texts: int, before: Campaign | None
    ) -> Prediction:
        recorded, others = np.sort(draw[:texts]), np.sort(draw[texts:])
        chain = self.decoder.target.exact_by_default

        def said(chosen: np.ndarray, prices: Prices, measured: int | None = None) -> Interval:
            subset = self.recording.subset(chosen.tolist())
            return predict(self.recorder, subset, prices, POLICIES[name], 1, chain, measured).speedup

        ours = said(recorded, prices, len(others))
        prediction = Prediction(
            self.decoder.target.name,
            self.temperature,
            name,
            texts,
            self.measured(name, others),
            ours.value,
            ours.low,
            ours.high,
            said(others, prices).value,
            self.measured(name, recorded),
            constant_acceptance(self.recording.subset(recorded.tolist()), prices),
        )
        if before is None:
            return prediction
        everything = np.arange(len(before.recording.texts))
        borrowed = Prices(prices.costs, before.prices[-1][texts].overheads)
        return replace(
            prediction,
            other_prices=said(recorded, borrowed).value,
            other_target=before.measured(name, everything),
        )


def _decoding_ms(request: Request) -> float:
    return (request.stats.total - request.stats.prefill) * 1e3


def rows(predictions: Sequence[Prediction]) -> list[Row]:
    """The median errors for each number of recorded texts, how many intervals hold and how many verdicts are right."""
    table = []
    for texts in sorted({each.texts for each in predictions}):
        chosen = [each for each in predictions if each.texts == texts]
        verdicts = [each.verdict_right for each in chosen if each.verdict_right is not None]
        table.append(
            {
                "recorded texts": texts,
                "predictions": len(chosen),
                "median error": _error(chosen, lambda each: each.predicted),
                "90 % intervals hold": _share([each.low <= each.measured <= each.high for each in chosen]),
                "verdict right": _share(verdicts),
                "prices alone": _error(chosen, lambda each: each.same_texts),
                "measured on the recorded texts": _error(chosen, lambda each: each.recorded_texts),
                "formula": _error(chosen, lambda each: each.formula),
                "from the other target's overheads": _error(chosen, lambda each: each.other_prices),
                "as the other target": _error(chosen, lambda each: each.other_target),
            }
        )
    return table


def _share(values: Sequence[bool]) -> str:
    return f"{sum(values)} of {len(values)}"


def _error(predictions: Sequence[Prediction], figure: Callable[[Prediction], float | None]) -> str:
    """The median of how far a figure is from what was measured."""
    errors = [abs(value / each.measured - 1) for each in predictions if (value := figure(each)) is not None]
    return f"{median(errors):.1%}" if errors else ""


if __name__ == "__main__":
    run_command(PROG, main)

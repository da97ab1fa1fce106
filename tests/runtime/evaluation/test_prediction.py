"""Predictions from recorded texts and prices: of this machine, of several texts, of other hardware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.decoding.decoder import Decoder
from runtime.drafting.costs import WIDTHS
from runtime.drafting.options import Policy
from runtime.drafting.proposal import StepTimes
from runtime.drafting.sorted_draft import SortedDraft
from runtime.evaluation import statistics
from runtime.evaluation.matrix.figures import grouped_category
from runtime.evaluation.prediction import (
    Predicted,
    acceptance_rate,
    break_even,
    constant_acceptance,
    predict,
)
from runtime.evaluation.replay.drift import PRIOR, drift, remembered
from runtime.evaluation.replay.prices import Overhead, Prices, Slowness, read_prices, write_prices
from runtime.evaluation.replay.probes import Probe, ProbedStep, host_milliseconds, measured_prices, overhead
from runtime.evaluation.replay.recorder import Recorder
from runtime.evaluation.replay.recording import Recording, TextRecord
from runtime.evaluation.roofline import Hardware, Sizes, elsewhere, here
from runtime.evaluation.statistics import Interval, predicted
from runtime.targets.target import Target
from s2d_trt.errors import OptionError
from tests.runtime.evaluation.conftest import PRICES, encoded, sampled


def test_the_speedup_is_the_time_alone_over_the_time_drafted(recorder: Recorder, recording: Recording) -> None:
    predicted = predict(recorder, recording, PRICES, Policy())
    assert predicted.speedup.low <= predicted.speedup.value <= predicted.speedup.high
    assert len(predicted.by_text) == len(recording.texts)
    ratio = predicted.tokens_per_second / predicted.alone_per_second
    assert predicted.speedup.value == pytest.approx(ratio)
    alone = sum(PRICES.alone_ms(record) for record in recording.texts)
    tokens = sum(len(record.tokens) - 1 for record in recording.texts)
    assert predicted.alone_per_second == pytest.approx(tokens / alone * 1e3)


def test_a_dear_draft_is_advised_against_and_a_free_one_for(recorder: Recorder, recording: Recording) -> None:
    costs = PRICES.costs
    free = replace(costs, segments=((1e-6,) * len(WIDTHS),) * 3, head=(1e-6,) * len(WIDTHS))
    assert predict(recorder, recording, Prices(free), Policy()).verdict == "draft"
    slow = Predicted(1, Interval(0.8, 0.7, 0.9), 1.0, 1.0)
    assert slow.verdict == "do not draft"
    assert replace(slow, speedup=Interval(1.02, 0.9, 1.1)).verdict == "makes no difference"


def test_the_first_number_of_texts_at_which_drafting_loses_is_found() -> None:
    def at(texts: int, value: float) -> Predicted:
        return Predicted(texts, Interval(value, value, value), 1.0, 1.0)

    assert break_even([at(8, 0.9), at(1, 2.0), at(4, 0.99), at(2, 1.3)]) == 4
    assert break_even([at(1, 1.1)]) is None


def test_the_textbooks_formula_has_its_limits(recording: Recording) -> None:
    assert 0.0 <= acceptance_rate(recording) <= 1.0
    free = Prices(replace(PRICES.costs, segments=((0.0,) * len(WIDTHS),) * 3, head=(0.0,) * len(WIDTHS)))
    rate = acceptance_rate(recording)
    assert constant_acceptance(recording, free, 3) == pytest.approx(1 + rate + rate**2 + rate**3)


def coverage(rounds: int, drifting: float, predicted_noise: Callable[[np.random.Generator], float]) -> float:
    """Share of invented measurements inside the interval: 8 texts are recorded, 16 others measured at another time."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(rounds):
        tokens, speedups = rng.uniform(40, 64, 24), np.exp(rng.normal(0.4, 0.2, 24))
        now, later = np.exp(rng.normal(0, drifting, 2))
        ours = tokens / speedups
        interval = predicted(now * ours[:8], tokens[:8], [""] * 8, predicted_noise(rng), measured=16)
        inside += interval.low <= tokens[8:].sum() / (later * ours[8:]).sum() <= interval.high
    return inside / rounds


@pytest.mark.parametrize("drifting", [0.03, 0.06, 0.12])
def test_intervals_hold_nine_of_ten_measurements_where_times_drift(
    drifting: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 100)

    def noise(rng: np.random.Generator) -> float:
        return 2**0.5 * drift(rng.normal(0, drifting, 12).tolist())

    assert 0.85 <= coverage(400, drifting, noise) <= 0.95
    assert drifting < 0.12 or coverage(400, drifting, lambda rng: 0.0) < 0.85


def test_an_interval_from_few_texts_is_wider_than_the_bootstraps() -> None:
    ours, theirs = np.random.default_rng(0).uniform(0.9, 1.1, (2, 400))
    few, many = predicted(ours[:4], theirs[:4], [""] * 4, 0.0), predicted(ours, theirs, [""] * 400, 0.0)
    assert few.high / few.low > many.high / many.low
    drawn = statistics.bootstrap(lambda chosen: float(theirs[chosen].sum() / ours[chosen].sum()), [""] * 400, 0.9)
    assert many.high / many.low == pytest.approx(drawn.high / drawn.low, rel=0.01)
    assert predicted(ours, theirs, [""] * 400, 0.2).low < many.low
    assert predicted(ours, theirs, [""] * 400, 0.0, measured=4).low < many.low


def test_drift_is_the_spread_between_starts_and_at_first_a_prior() -> None:
    assert PRIOR < drift([]) == drift([0.3]) < 1.5 * PRIOR
    assert drift([0.3] * 20) < PRIOR / 2
    assert drift(np.random.default_rng(0).normal(1.0, 0.2, 300).tolist()) == pytest.approx(0.2, rel=0.1)


def test_starts_remember_what_earlier_ones_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock = tmp_path / "drift.json", iter([0.0, 100.0, 101.0, 1000.0])
    monkeypatch.setattr("runtime.evaluation.replay.drift.time.time", lambda: next(clock))
    assert remembered(path, 0.1) == [0.1]
    assert remembered(path, 0.2) == [0.1, 0.2]
    assert remembered(path, 0.3) == [0.1, 0.3]
    path.write_text("torn")
    assert remembered(path, 0.4) == [0.4]


# Prices


def test_prices_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_prices(PRICES, tmp_path / "prices.json")
    assert read_prices(tmp_path / "prices.json", 3) == PRICES
    with pytest.raises(OptionError, match="another kind of draft"):
        read_prices(tmp_path / "prices.json", 2)
    (tmp_path / "prices.json").write_text("{")
    with pytest.raises(OptionError, match="holds no prices"):
        read_prices(tmp_path / "prices.json", 3)


def test_without_any_step_the_host_costs_nothing() -> None:
    assert host_milliseconds([], 0.1) == (0.0, 0.0, 0.0)


def test_the_hosts_work_is_told_apart_by_steps_that_draft_by_exits_and_by_accepted_tokens() -> None:
    def step(exits: int, accepted: int, drafting: float = 0.3) -> ProbedStep:
        times = StepTimes(0.002, 0.005, 0.007 + (0.2 + drafting + 0.15 * exits + 0.04 * accepted) * 1e-3)
        return ProbedStep(times, times, 1, exits, exits, accepted)

    done = [(1, 0), (2, 1), (5, 1), (9, 3), (3, 6)]
    assert host_milliseconds([step(*each) for each in done], 0.2) == pytest.approx((0.3, 0.15, 0.04))
    quick = [step(*each, drafting=-0.05) for each in done]
    assert min(host_milliseconds(quick, 0.2)) >= 0


def test_a_probe_counts_at_the_machines_usual_speed() -> None:
    def probe(speed: float) -> Probe:
        drafted = ProbedStep(StepTimes(0.003, 0.006, 0.0105), StepTimes(0.002, 0.005, 0.007), 1, 1, 1, 0).at(speed)
        return Probe([drafted] * 20, alone_ms=55.0 * speed, priced_ms=50.0, host_ms=0.5 * speed)

    def figures(*speeds: float) -> list[float]:
        found = overhead(1, [probe(speed) for speed in speeds])
        slowness = found.slowness
        drafting = found.host_draft_ms + found.host_exit_ms
        return [slowness.alone, *slowness.verify, *slowness.draft, found.host_step_ms, drafting, found.noise]

    assert figures(1.0) == pytest.approx([1.1, 1.2, 1.5, 0.5, 1.0, 0.0])
    assert figures(0.5, 1.0, 3.0) == pytest.approx(figures(1.0))


def test_calls_are_slower_by_what_ran_before_them_in_a_step() -> None:
    prices = Prices(PRICES.costs, (Overhead(1, Slowness(1.0, (1.0, 5.0), (1.2, 2.0), (1.0, 3.0), (2.0, 1.6))),))
    calls = [prices.verify_ms(4, 1, 0, exits) / PRICES.costs.verify_ms(4) for exits in (0, 1, 3, 5, 1000)]
    assert calls == pytest.approx([1.0, 1.2, 1.6, 2.0, 2.0])
    assert [prices.draft_ms(1.0, levels) for levels in (1, 2, 9)] == pytest.approx([2.0, 1.8, 1.6])


def test_several_texts_have_the_overhead_of_the_nearest_number_that_was_probed() -> None:
    one, four = PRICES.overheads
    assert [PRICES.of(texts) for texts in (1, 2, 3, 4, 9)] == [one, one, four, four, four]
    assert PRICES.verify_ms(8, 4, 0, exits=2) == pytest.approx(1.1 * PRICES.costs.verify_ms(8, 4, 0))
    assert PRICES.verify_ms(4, 4, 0) == pytest.approx(0.9 * PRICES.costs.verify_ms(4, 4, 0))
    assert PRICES.draft_ms(1.0, 3, texts=4) == 1.2
    assert PRICES.host_ms(4, 10, 5, texts=4) == pytest.approx(0.4 + 0.6 + 1.0 + 0.1)


def test_texts_that_decode_together_without_a_draft_share_steps_until_they_end() -> None:
    def text(prompt: int, tokens: int) -> TextRecord:
        return TextRecord("", [0] * prompt, [0] * tokens, [], 0, tokens)

    def step(*lengths: int) -> float:
        texts = len(lengths)
        return (PRICES.verify_ms(texts, texts, sum(lengths)) + PRICES.host_ms(0, texts=texts)) / texts

    records = [text(5, 3), text(7, 2), text(2, 1), text(4, 2)]
    expected = [step(5, 7) + step(6, 4), step(5, 7), 0.0, step(6, 4)]
    assert PRICES.alone(records, 2) == pytest.approx(expected)
    assert PRICES.alone(records) == pytest.approx([step(5) + step(6), step(7), 0.0, step(4)])


def test_more_texts_at_a_time_than_were_recorded_are_copies(recorder: Recorder, recording: Recording) -> None:
    several = predict(recorder, recording, PRICES, Policy(), 6)
    records = [*recording.texts, *recording.texts]
    tokens = sum(len(record.tokens) - 1 for record in records)
    assert several.alone_per_second == pytest.approx(tokens / sum(PRICES.alone(records, 6)) * 1e3)
    ratio = several.tokens_per_second / several.alone_per_second
    assert several.speedup.value == pytest.approx(ratio)


def test_steps_are_probed_for_each_number_of_texts(target: Target, draft: SortedDraft) -> None:
    recorder = Recorder(Decoder(target, draft))
    recording = recorder.record(encoded(recorder.decoder), sampled(0.0))
    prices = measured_prices(recorder, recording, sampled(0.0), (1, 4))
    assert [each.texts for each in prices.overheads] == [1, 4]
    for each in prices.overheads:
        assert each.host_step_ms > 0
        assert each.noise > 0
        assert each.slowness.alone > 0
        assert min(*each.slowness.verify, *each.slowness.draft) > 0
    assert recording.complete


# Other hardware


def test_hardware_is_found_from_three_probes() -> None:
    made = Hardware(bandwidth=1e6, peak=1e7, launch=0.05)
    size, work = 4e6, 1e6
    found = Hardware.fitted(made.call_ms(size, work, 1), made.call_ms(size, work, 64), 0.05, size, work)
    assert (found.bandwidth, found.peak, found.launch) == pytest.approx((1e6, 1e7, 0.05))


@pytest.fixture
def sizes(target: Target, recorder: Recorder) -> Sizes:
    return Sizes.of(target.bundle, recorder.draft.bundle)


def test_the_same_hardware_gives_the_same_prices(sizes: Sizes) -> None:
    moved = elsewhere(PRICES, sizes, here(PRICES.costs, sizes))
    assert moved.costs.verify == pytest.approx(PRICES.costs.verify)
    assert moved.overheads == PRICES.overheads


def test_where_every_call_is_launch_a_faster_memory_changes_nothing(sizes: Sizes) -> None:
    ours = here(PRICES.costs, sizes)
    launching = replace(ours, launch=1e6)
    faster = replace(launching, bandwidth=launching.bandwidth * 10)
    slow, fast = (elsewhere(PRICES, sizes, hardware).costs.verify[0] for hardware in (launching, faster))
    assert fast == pytest.approx(slow, rel=1e-3)
    assert (
        elsewhere(PRICES, sizes, replace(ours, bandwidth=ours.bandwidth * 2)).costs.verify[0] < PRICES.costs.verify[0]
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"speed": 1}', '{"bandwidth": 0, "peak": 1, "launch": 0}'])
def test_a_file_that_describes_no_hardware_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "h.json").write_text(text)
    with pytest.raises(OptionError, match="write it with --write-hardware"):
        Hardware.read(tmp_path / "h.json")


def test_hardware_is_read_as_it_was_written(tmp_path: Path) -> None:
    hardware = Hardware(1.0, 2.0, 3.0, 4.0)
    (tmp_path / "h.json").write_text(hardware.to_json())
    assert Hardware.read(tmp_path / "h.json") == hardware


def test_mt_benchs_categories_count_as_one() -> None:
    assert {grouped_category(name) for name in ("writing", "stem", "qa")} == {"mt_bench", "qa"}

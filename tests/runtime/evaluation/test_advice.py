"""Advice: cost of a million tokens, the front, the next change, and when the load is too much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.evaluation.advice import Setting, cheapest, next_changes, pareto
from runtime.evaluation.forecast import backtest, intervals_to_saturation, read_rates, seasonal
from s2d_trt.errors import OptionError

NOW = Setting("t-fp32", "d-fp32", "adaptive", "cpu", 2, 1, 100.0)
SETTINGS = st.lists(
    st.builds(
        lambda lanes, speed: replace(NOW, lanes=lanes, tokens_per_second=speed),
        st.integers(1, 8),
        st.floats(1.0, 500.0),
    ),
    min_size=1,
    max_size=12,
)


def test_a_million_tokens_cost_the_hours_that_they_take() -> None:
    assert NOW.cost(price=3.6) == pytest.approx(10.0)
    assert replace(NOW, lanes=4).ms_per_token == pytest.approx(40.0)


@given(SETTINGS)
def test_nothing_beats_a_setting_of_the_front_in_both(settings: list[Setting]) -> None:
    front = pareto(settings)
    for ours in front:
        for other in settings:
            assert not (other.tokens_per_second > ours.tokens_per_second and other.ms_per_token < ours.ms_per_token)
    for other in settings:
        assert any(
            ours.tokens_per_second >= other.tokens_per_second and ours.ms_per_token <= other.ms_per_token
            for ours in front
        )


def test_the_cheapest_keeps_to_the_delay_that_is_allowed() -> None:
    batched = replace(NOW, lanes=8, tokens_per_second=300.0)
    assert cheapest([NOW, batched]) is batched
    assert cheapest([NOW, batched], most_ms=15.0) is NOW
    with pytest.raises(OptionError, match="no setting takes 1 ms"):
        cheapest([NOW, batched], most_ms=1.0)


def test_the_next_change_is_one_choice_and_says_whether_the_text_stays() -> None:
    draft = replace(NOW, draft="d-int8", tokens_per_second=112.0)
    target = replace(NOW, target="t-int8", tokens_per_second=200.0)
    both = replace(target, draft="d-int8", tokens_per_second=400.0)
    slower = replace(NOW, threads=1, tokens_per_second=60.0)
    changes = next_changes(NOW, [NOW, draft, target, both, slower])
    assert [change.choice for change in changes] == ["target", "draft"]
    assert str(changes[1]) == "draft d-int8: -11% cost, same text"
    assert not changes[0].same_text


# Load


def test_a_season_repeats_and_grows_as_it_did() -> None:
    rates = [1.0, 5.0, 3.0, 2.0, 10.0, 6.0]
    assert seasonal(rates, 3, 6).tolist() == pytest.approx([3.0, 15.0, 9.0, 4.0, 20.0, 12.0])


def test_a_forecast_of_noisy_load_is_nearer_than_the_last_season_repeated() -> None:
    rng, course = np.random.default_rng(0), 50 + 40 * np.sin(np.arange(24) / 24 * 2 * np.pi)
    rates = rng.poisson(np.tile(course, 12)).astype(float).tolist()
    naive = np.mean([np.abs(np.subtract(rates[end : end + 24], rates[end - 24 : end])) for end in range(48, 288, 24)])
    assert backtest(rates, 24) * np.mean(rates) < 0.9 * naive


def test_a_machine_that_idled_is_forecast_to_idle() -> None:
    assert seasonal([0.0] * 6, 3, 2).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("capacity", "after"), [(14.5, 2), (19.5, 5), (1e9, None)])
def test_saturation_is_when_the_forecast_first_exceeds_the_capacity(capacity: float, after: int | None) -> None:
    assert intervals_to_saturation([1.0, 5.0, 3.0, 2.0, 10.0, 6.0], 3, capacity) == after


def test_a_load_that_only_repeats_is_forecast_without_error() -> None:
    assert backtest([1.0, 5.0, 2.0] * 6, 3) == pytest.approx(0.0, abs=1e-12)
    noisy = np.random.default_rng(0).uniform(1, 2, 30).tolist()
    assert backtest(noisy, 3) > 0.1


def test_too_short_a_record_is_refused() -> None:
    with pytest.raises(OptionError, match="two seasons"):
        seasonal([1.0] * 5, 3, 1)
    with pytest.raises(OptionError, match="three seasons"):
        backtest([1.0] * 8, 3)


@pytest.mark.parametrize("text", ["", "a,b", "1\n-2\n"])
def test_a_file_without_rates_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "load.csv").write_text(text)
    with pytest.raises(OptionError, match="holds no rates"):
        read_rates(tmp_path / "load.csv")


def test_the_last_column_holds_the_rates(tmp_path: Path) -> None:
    (tmp_path / "load.csv").write_text("# time,rate\n10:00,1.5\n11:00,2\n")
    assert read_rates(tmp_path / "load.csv") == [1.5, 2.0]

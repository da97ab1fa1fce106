"""The settings of an application file."""

from __future__ import annotations

import pytest

from runtime.scaling.settings import Settings
from s2d_trt.errors import OptionError


def test_the_servers_options_are_one_text_or_a_list() -> None:
    expected = Settings(("--target", "a b", "--threads", "1"), replicas=3)
    assert Settings.of({"serve": "--target 'a b' --threads 1", "replicas": 3}) == expected
    assert Settings.of({"serve": ["--target", "a b", "--threads", 1], "replicas": 3}) == expected


def test_an_unknown_setting_is_refused_by_its_name() -> None:
    with pytest.raises(OptionError, match="setting replica is unknown; the settings are serve, replicas"):
        Settings.of({"serve": "--target a", "replica": 3})


@pytest.mark.parametrize("name", ["replicas", "ingresses", "max_queued"])
@pytest.mark.parametrize("value", [0, -1, "2", 1.5])
def test_counts_are_whole_numbers_of_at_least_one(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"{name.replace('_', '.')} is "):
        Settings.of({"serve": "--target a", name: value})


def test_cores_are_a_number_of_at_least_zero() -> None:
    with pytest.raises(OptionError, match="cpus is -1"):
        Settings.of({"serve": "--target a", "cpus": -1})

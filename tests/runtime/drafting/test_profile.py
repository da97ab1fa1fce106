"""A profile holds a policy for one pair, and says clearly what is wrong with a file that is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.learned import CONFIDENCE_BINS, Priors
from runtime.drafting.options import Policy
from runtime.drafting.profile import Profile, fingerprint
from runtime.drafting.static import StaticTree
from runtime.tree.shape import TreeShape
from s2d_trt.errors import OptionError

PRIORS = Priors((((1.2, 0.1), (0.8, -0.3)),) * 3, ((0.05,) * CONFIDENCE_BINS,) * 2, 0.6)
POLICIES = [
    Policy(),
    Policy(Adaptive(priors=PRIORS), lookup=False),
    Policy(FixedThresholds((0.3, 0.6, 0.0)), TreeShape(5, 1, 7), lookup=True),
    Policy(FixedThresholds(None, "max"), TreeShape(3, 4, 20)),
    Policy(StaticTree((0.2, 0.2, 0.0), "mean", {(0,): 0.8, (0, 1): 0.1, (1,): 0.05}, TreeShape(1, 4, 4))),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy.exit).__name__)
def test_a_profile_is_read_as_it_was_written(tmp_path: Path, policy: Policy) -> None:
    profile = Profile("target", "draft", policy, exact=True, evidence={"gain": 1.2})
    profile.write(tmp_path / "profile.json")
    assert Profile.read(tmp_path / "profile.json") == profile


def test_a_profile_of_another_pair_is_refused() -> None:
    profile = Profile(fingerprint("here\ntarget"), fingerprint("here\ndraft"), Policy(), exact=True)
    profile.check("elsewhere\ntarget", "elsewhere\ndraft", "p.json")
    with pytest.raises(OptionError, match="another target"):
        profile.check("here\nother", "here\ndraft", "p.json")
    for draft in ("here\nother", None):
        with pytest.raises(OptionError, match="another draft"):
            profile.check("here\ntarget", draft, "p.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: "{", "not JSON"),
        (lambda data: "[]", "not a profile of this version"),
        (lambda data: json.dumps(data | {"schema": 99}), "not a profile of this version"),
        (lambda data: json.dumps(data | {"extra": 1}), "not a profile of this version"),
        (lambda data: json.dumps({"schema": 1}), "damaged"),
        (lambda data: json.dumps(data | {"policy": data["policy"] | {"kind": "magic"}}), "damaged"),
        (lambda data: json.dumps(data | {"policy": data["policy"] | {"thresholds": ["x"]}}), "damaged"),
        (lambda data: json.dumps(data | {"policy": data["policy"] | {"tree": {"depth": -1}}}), "depth"),
        (lambda data: json.dumps(data | {"policy": None}), "damaged"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_in_one_line(tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "profile.json"
    Profile("target", "draft", POLICIES[2], exact=True).write(path)
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(OptionError, match=message):
        Profile.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.json cannot be read"):
        Profile.read(tmp_path / "none.json")


def test_priors_of_another_number_of_exits_are_refused() -> None:
    Adaptive(priors=PRIORS).check((6, 9, 12))
    with pytest.raises(OptionError, match="2 exits"):
        Adaptive(priors=PRIORS).check((6, 12))

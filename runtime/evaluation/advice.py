"""What a million tokens cost at each setting, which settings nothing beats, and what to change next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from s2d_trt.errors import OptionError


@dataclass(frozen=True, slots=True)
class Setting:
    """A combination, and how many tokens a second it is predicted to give. Only the target decides the text."""

    target: str
    draft: str
    policy: str
    device: str
    threads: int
    lanes: int
    tokens_per_second: float

    @property
    def ms_per_token(self) -> float:
        """Milliseconds between the tokens of one text."""
        return 1e3 * self.lanes / self.tokens_per_second

    def cost(self, price: float) -> float:
        """Of a million tokens, at ``price`` an hour of the machine."""
        return price / 3600.0 / self.tokens_per_second * 1e6

    def differences(self, other: Setting) -> list[str]:
        """The choices in which two settings differ."""
        chosen = [field.name for field in fields(self) if field.name != "tokens_per_second"]
        return [name for name in chosen if getattr(self, name) != getattr(other, name)]

    def __str__(self) -> str:
        draft = f" + {self.draft}" if self.policy != "plain" else ""
        return f"{self.target}{draft}, {self.policy}, {self.device}, {self.threads} threads, {self.lanes} at a time"


def pareto(settings: Sequence[Setting]) -> list[Setting]:
    """Settings that no other beats in both tokens a second and milliseconds a token, the fastest reply first."""
    front: list[Setting] = []
    for setting in sorted(settings, key=lambda each: (each.ms_per_token, -each.tokens_per_second)):
        if not front or setting.tokens_per_second > front[-1].tokens_per_second:
            front.append(setting)
    return front


def cheapest(settings: Sequence[Setting], most_ms: float | None = None) -> Setting:
    """The setting of the most tokens a second whose texts take at most ``most_ms`` a token.

    Raises OptionError where there is none.
    """
    allowed = [each for each in settings if most_ms is None or each.ms_per_token <= most_ms]
    if not allowed:
        best = min(each.ms_per_token for each in settings)
        raise OptionError(f"no setting takes {most_ms:g} ms a token or less; the fastest takes {best:.2f}")
    return max(allowed, key=lambda each: each.tokens_per_second)


@dataclass(frozen=True, slots=True)
class Change:
    """One choice changed, and what that saves."""

    setting: Setting
    choice: str
    saving: float

    @property
    def same_text(self) -> bool:
        """Whether the tokens stay the same: only the target writes them."""
        return self.choice != "target"

    def __str__(self) -> str:
        value = getattr(self.setting, self.choice)
        text = "same text" if self.same_text else "another target, another text"
        return f"{self.choice} {value}: {-self.saving:+.0%} cost, {text}"


def next_changes(current: Setting, settings: Sequence[Setting]) -> list[Change]:
    """What one change of ``current`` saves, the largest saving first; only changes that save."""
    changes = [
        Change(each, differences[0], 1.0 - current.tokens_per_second / each.tokens_per_second)
        for each in settings
        if len(differences := current.differences(each)) == 1
    ]
    return sorted((each for each in changes if each.saving > 0), key=lambda each: -each.saving)

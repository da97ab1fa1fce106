"""The noise that a draft sees of a text under rules: banned tokens at -inf, bias and penalties added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.sampling.noise import Noise, Path, Paths
from runtime.sampling.rules import Rule


class RuledNoise:
    """``noise`` under those of a text's ``rules`` that only add to scores: added to the draft's logits, it makes the
    draft choose as the target does under these rules.

    ``rules`` are where the text is. Below its end, each path of the tree has rules of its own.
    """

    def __init__(self, noise: Noise, rules: Sequence[Rule]) -> None:
        self._noise, self._rules = noise, rules
        self._states: dict[Path, list[Rule]] = {}
        self._rows: list[np.ndarray | None] = []

    def row(self, position: int, paths: Paths) -> np.ndarray | None:
        """A token has the largest of its values below the ``paths``."""
        noise, states = self._noise.row(position), self._at(paths())
        self._rows = [None if any(rule.ended for rule in state) else _ruled(noise, state) for state in states]
        possible = [row for row in self._rows if row is not None]
        if len(possible) < 2:
            return possible[0] if possible else None
        union: np.ndarray = np.maximum.reduce(possible)
        return union

    def restrict(self, tokens: np.ndarray, logprobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of several paths each has its own bans."""
        if len(self._rows) == 1:
            return tokens, logprobs
        pairs = zip(self._rows, tokens, strict=True)
        banned = np.array([np.full(len(ids), True) if row is None else row[ids] == -np.inf for row, ids in pairs])
        order = banned.argsort(axis=1, kind="stable")
        possible = np.where(banned, np.float32(-np.inf), logprobs)
        return np.take_along_axis(tokens, order, 1), np.take_along_axis(possible, order, 1)

    def admitted(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` the rules allow at the end of the text."""
        return min((rule.admitted(tokens) for rule in self._rules), default=len(tokens))

    def forced(self, paths: Paths) -> Sequence[int]:
        """Of the rule that forces most."""
        level = paths()
        return max((rule.forced() for rule in self._at(level)[0]), key=len, default=()) if len(level) == 1 else ()

    def _at(self, level: Sequence[Path]) -> list[list[Rule]]:
        """The rules behind each path."""
        if level == [()]:  # of a new step
            self._states = {(): [rule.fork() for rule in self._rules]}
        return [self._state(path) for path in level]

    def _state(self, path: Path) -> list[Rule]:
        if path not in self._states:
            self._states[path] = [rule.fork() for rule in self._state(path[:-1])]
            for rule in self._states[path]:
                rule.follow(path[-1])
        return self._states[path]


def _ruled(noise: np.ndarray, rules: Sequence[Rule]) -> np.ndarray:
    for rule in rules:
        noise = rule.apply(noise)
    return noise

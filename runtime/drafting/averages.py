"""Means in which old observations fade."""

from __future__ import annotations


class FadingMean:
    """An exponentially fading mean that starts as ``value`` with the weight of ``prior`` observations.

    ``memory`` is the number of observations after which one has lost about two thirds of its weight.
    """

    def __init__(self, value: float, prior: float, memory: float) -> None:
        self._sum, self._weight, self._keep = value * prior, prior, 1.0 - 1.0 / memory

    @property
    def value(self) -> float:
        """The mean so far."""
        return self._sum / self._weight

    def observe(self, amount: float, weight: float = 1.0) -> None:
        """Add ``amount``, a sum over ``weight`` observations; less than one where several texts share one."""
        keep = self._keep if weight >= 1.0 else self._keep**weight
        self._sum = self._sum * keep + amount
        self._weight = self._weight * keep + weight

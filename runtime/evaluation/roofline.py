"""Costs on other hardware: a roofline for each call, with the overhead that small calls are made of.

A call takes ``launch`` milliseconds, and the longer of moving the weights and computing the rows. What this machine
takes beyond its own roofline is taken to grow alike on the other one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runtime.drafting.costs import WIDTHS, Costs
from runtime.evaluation.replay.prices import Prices
from s2d_trt.bundle import Bundle
from s2d_trt.errors import OptionError
from s2d_trt.reading import read_object


@dataclass(frozen=True, slots=True)
class Hardware:
    """``bandwidth`` in bytes a millisecond, ``peak`` in multiply-adds a millisecond, ``launch`` in milliseconds a call,
    and ``host``, the time of the host's work over this machine's.
    """

    bandwidth: float
    peak: float
    launch: float
    host: float = 1.0

    def call_ms(self, size: float, work: float, rows: int) -> float:
        """Milliseconds of a call that moves ``size`` bytes and has ``work`` multiply-adds a row."""
        return self.launch + max(size / self.bandwidth, rows * work / self.peak)

    @classmethod
    def fitted(cls, one_row: float, many_rows: float, small: float, size: float, work: float) -> Hardware:
        """From three probes: milliseconds of a call of a large model with one row and with the most rows (64), and of a
        call so small that it is all launch. ``size`` and ``work`` are the large model's.
        """
        launch = min(small, 0.9 * one_row)
        return cls(size / max(one_row - launch, 1e-6), WIDTHS[-1] * work / max(many_rows - launch, 1e-6), launch)

    @classmethod
    def read(cls, path: Path) -> Hardware:
        """From a JSON file of its fields. Raises OptionError."""
        data = read_object(path, OptionError, "write it with --write-hardware")
        try:
            hardware = cls(**{name: float(value) for name, value in data.items()})
        except (ValueError, TypeError, OverflowError) as cause:
            raise OptionError(f"{path} describes no hardware ({cause}); write it with --write-hardware") from cause
        if min(hardware.bandwidth, hardware.peak, hardware.host) <= 0 or hardware.launch < 0:
            raise OptionError(f"{path} describes no hardware (numbers must be above 0); write it with --write-hardware")
        return hardware

    def to_json(self) -> str:
        """The text of such a file."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the target's weights, of each segment's and of the head's, and their multiply-adds a row."""

    target: tuple[float, float]
    segments: tuple[tuple[float, float], ...]
    head: tuple[float, float]

    @classmethod
    def of(cls, target: Bundle, draft: Bundle) -> Sizes:
        """From the shapes of two bundles' models."""
        layer, head, element = _parameters(draft)
        exits = draft.manifest.exits
        counts = [stop - start for start, stop in zip((0, *exits), exits, strict=False)]
        their_layer, their_head, their_element = _parameters(target)
        whole = target.manifest.model.num_hidden_layers * their_layer + their_head
        return cls(
            (whole * their_element, whole),
            tuple((count * layer * element, count * layer) for count in counts),
            (head * element, head),
        )


def _parameters(bundle: Bundle) -> tuple[float, float, float]:
    """Weights of a layer and of the head, and bytes of each."""
    model = bundle.manifest.model
    attention = 2 * model.hidden_size * (model.num_attention_heads * model.head_dim + model.kv_width)
    layer = attention + 3 * model.hidden_size * model.intermediate_size
    narrow = {"int8": 1.0, "int7": 1.0, "int4": 0.5}
    element = narrow.get(bundle.manifest.weight_format, 2.0 if bundle.manifest.precision in ("fp16", "bf16") else 4.0)
    return layer, model.hidden_size * model.vocab_size, element


def here(costs: Costs, sizes: Sizes) -> Hardware:
    """This machine, from three of its measured costs: the head's one row is the small call."""
    return Hardware.fitted(costs.verify[0], costs.verify[-1], costs.head[0], *sizes.target)


def elsewhere(prices: Prices, sizes: Sizes, other: Hardware) -> Prices:
    """Prices on ``other`` hardware."""
    costs, ours = prices.costs, here(prices.costs, sizes)

    def moved(times: tuple[float, ...], size: float, work: float) -> tuple[float, ...]:
        return tuple(
            time * other.call_ms(size, work, rows) / ours.call_ms(size, work, rows)
            for rows, time in zip(WIDTHS, times, strict=True)
        )

    scale = other.call_ms(*sizes.target, 1) / ours.call_ms(*sizes.target, 1)
    moved_costs = replace(
        costs,
        verify=moved(costs.verify, *sizes.target),
        segments=tuple(moved(times, *size) for times, size in zip(costs.segments, sizes.segments, strict=True)),
        head=moved(costs.head, *sizes.head),
        verify_lanes=tuple((lanes, extra * scale) for lanes, extra in costs.verify_lanes),
        segment_lanes=tuple((lanes, extra * scale) for lanes, extra in costs.segment_lanes),
        token=costs.token * scale,
        segment_tokens=tuple(token * scale for token in costs.segment_tokens),
    )
    overheads = [
        replace(
            each,
            host_step_ms=each.host_step_ms * other.host,
            host_draft_ms=each.host_draft_ms * other.host,
            host_exit_ms=each.host_exit_ms * other.host,
            host_token_ms=each.host_token_ms * other.host,
        )
        for each in prices.overheads
    ]
    return Prices(moved_costs, tuple(overheads))

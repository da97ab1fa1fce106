"""The held-out figures of a draft as a plot: loss by exit, and agreement with each target."""

from __future__ import annotations

import io

from s2d_trt.svg import drawing
from s2d_trt.training.evaluate import Evaluation


def draw(result: Evaluation) -> str:
    """The plot as SVG text; the same figures give the same text."""
    text = io.StringIO()
    with drawing(text) as figure:
        panels = figure.subplots(1, 2 if result.agreement else 1, squeeze=False)[0]
        panels[0].plot(result.exits, result.loss, marker="o")
        panels[0].set_title("held-out loss")
        panels[0].set_ylabel("nats per token")
        if result.agreement:
            for name, shares in result.agreement.items():
                panels[1].plot(result.exits, [100 * share for share in shares], marker="o", label=name)
            panels[1].set_title("top token is the target's")
            panels[1].set_ylabel("% of positions")
            panels[1].legend()
        for panel in panels:
            panel.set_xlabel("exit (layers)")
            panel.set_xticks(result.exits)
            panel.grid(alpha=0.3)
    return text.getvalue()

"""What the dashboard shows: rows of panels, each with its expressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OF = '{model=~"$model", instance=~"$instance"}'
PROCESS = '{instance=~"$instance"}'
SPAN = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Panel:
    """``queries`` maps legends to expressions. ``unit`` is Grafana's name of a unit; ``width`` counts 24ths."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8


def rate(metric: str, by: str = "model", labels: str = OF) -> str:
    """The sum of a counter's rates."""
    return f"sum by ({by}) (rate({metric}{labels}{SPAN}))"


def ratio(above: str, below: str, by: str = "model") -> str:
    """The ratio of two counters' rates; nothing while the lower one stands still."""
    return f"{rate(above, by)} / ({rate(below, by)} > 0)"


def share(metric: str, by: str) -> str:
    """The share of each value of the label ``by`` in the whole."""
    return f"{rate(metric, f'model, {by}')} / on (model) group_left () ({rate(metric)} > 0)"


def quantiles(metric: str) -> dict[str, str]:
    """The median, the 90th and the 99th percentile of a histogram."""
    return {
        f"{{{{model}}}} p{percent}": f"histogram_quantile({percent / 100}, {rate(f'{metric}_bucket', 'model, le')})"
        for percent in (50, 90, 99)
    }


def stat(title: str, description: str, unit: str, expression: str) -> Panel:
    """A number."""
    return Panel(title, description, unit, {"{{model}}": expression}, "stat", width=4)


SPEEDUP = ratio("s2d_plain_seconds_total", "s2d_decode_seconds_total")
ACCEPTANCE = ratio("s2d_accepted_tokens_total", "s2d_draft_tokens_total")

ROWS: dict[str, list[Panel]] = {
    "Now": [
        stat("Tokens", "Tokens that texts gain in a second.", "short", rate("s2d_generated_tokens_total")),
        stat("Speed-up", "Estimated, over the same texts without drafting.", "none", SPEEDUP),
        stat("Acceptance", "Share of the verified draft tokens that the target accepts.", "percentunit", ACCEPTANCE),
        stat("Running", "Texts that are generated.", "short", f"sum by (model) (s2d_requests_running{OF})"),
        stat("Waiting", "Texts in the queue.", "short", f"sum by (model) (s2d_requests_waiting{OF})"),
        stat(
            "Memory", "Resident memory, as a share of what the process may use.", "percentunit",
            f"s2d_memory_bytes{PROCESS} / on (instance, job) s2d_memory_limit_bytes{PROCESS}",
        ),
    ],
    "Requests": [
        Panel(
            "Texts running and waiting",
            "A long queue with few running texts means that memory or --sequences is short.",
            "short",
            {
                "{{model}} running": f"sum by (model) (s2d_requests_running{OF})",
                "{{model}} waiting": f"sum by (model) (s2d_requests_waiting{OF})",
            },
        ),
        Panel(
            "Texts ended", "By the reason of their end.", "reqps",
            {"{{model}} {{finish_reason}}": rate("s2d_requests_total", "model, finish_reason")},
        ),
        Panel(
            "Requests refused", "By status; they never reached the queue.", "reqps",
            {"{{status}}": rate("s2d_requests_refused_total", "status", PROCESS)},
        ),
        Panel("To the first token", "From a request's arrival.", "s", quantiles("s2d_time_to_first_token_seconds")),
        Panel(
            "Between tokens", "Tokens of one step share its time evenly.", "s",
            quantiles("s2d_inter_token_latency_seconds"),
        ),
        Panel("Whole requests", "From arrival to the end.", "s", quantiles("s2d_request_duration_seconds")),
        Panel("In the queue", "Until a text's prompt is computed.", "s", quantiles("s2d_queue_time_seconds")),
        Panel(
            "Time per output token", "A text's mean time between tokens.", "s",
            quantiles("s2d_time_per_output_token_seconds"),
        ),
        Panel(
            "Tokens", "Of prompts, of these taken from earlier texts, and generated.", "short",
            {
                "{{model}} prompt": rate("s2d_prompt_tokens_total"),
                "{{model}} restored": rate("s2d_prompt_tokens_restored_total"),
                "{{model}} generated": rate("s2d_generated_tokens_total"),
            },
        ),
    ],
    "Drafting": [
        Panel("Acceptance", "Share of the verified draft tokens that the target accepts.", "percentunit",
              {"{{model}}": ACCEPTANCE}),
        Panel(
            "Acceptance by position", "Of the drafts that reach a position, the share that is accepted up to it.",
            "percentunit",
            {
                "{{model}} {{position}}": ratio(
                    "s2d_accepted_tokens_per_position_total", "s2d_drafts_per_position_total", "model, position"
                )
            },
        ),
        Panel("Answers per exit", "Which layer's exit drafted, as a share.", "percentunit",
              {"{{model}} layer {{exit}}": share("s2d_exit_answers_total", "exit")}),
        Panel(
            "Draft tokens", "Verified and accepted, in a second.", "short",
            {
                "{{model}} verified": rate("s2d_draft_tokens_total"),
                "{{model}} accepted": rate("s2d_accepted_tokens_total"),
            },
        ),
        Panel("Draft tokens a draft", "How far the policy drafts.", "short",
              {"{{model}}": ratio("s2d_draft_tokens_total", "s2d_drafts_total")}),
        Panel("Tokens a call", "Tokens that all texts of a call gain together.", "short",
              {"{{model}}": ratio("s2d_generated_tokens_total", "s2d_steps_total")}),
    ],
    "Speed and cost": [
        Panel("Speed-up", "Estimated, over the same texts without drafting; 1 where nothing is drafted.", "none",
              {"{{model}}": SPEEDUP, "{{model}}, latest steps": f"s2d_speedup_ratio{OF}"}),
        Panel("Time by part", "Of steps: the draft's calls, the target's calls, and the host.", "percentunit",
              {"{{model}} {{part}}": share("s2d_step_seconds_total", "part")}),
        Panel(
            "Milliseconds a step", "By part.", "ms",
            {
                "{{model}} {{part}}": f"1000 * {rate('s2d_step_seconds_total', 'model, part')}"
                f" / on (model) group_left () ({rate('s2d_steps_total')} > 0)"
            },
        ),
        Panel(
            "Measured over predicted cost", "1 where calls take what was measured at the start.", "none",
            {"{{model}} {{part}}": ratio(
                "s2d_cost_measured_seconds_total", "s2d_cost_predicted_seconds_total", "model, part")},
        ),
        Panel("Cost disagreement", "Of the draft's costs over the target's; from 1.5 on the next start measures again.",
              "none", {"{{model}}": f"s2d_cost_disagreement_ratio{OF}"}),
    ],
    "Memory and identity": [
        Panel(
            "Memory", "Resident, and the limit.", "bytes",
            {
                "{{instance}} resident": f"s2d_memory_bytes{PROCESS} and on (instance, job)"
                f" s2d_memory_limit_bytes{PROCESS}",
                "{{instance}} limit": f"s2d_memory_limit_bytes{PROCESS}",
            },
        ),
        Panel(
            "Caches", "Rows of running texts, their limit, and rows kept of earlier texts.", "bytes",
            {
                "{{model}}": f"s2d_cache_bytes{OF}",
                "{{instance}} limit": f"s2d_cache_limit_bytes{PROCESS}",
                "{{instance}} prefixes": f"s2d_prefix_cache_bytes{PROCESS}",
            },
        ),
        Panel("Identity checks", "Texts generated again without drafting: all must be identical.", "short",
              {"{{model}} {{result}}": f"sum by (model, result) (s2d_identity_checks_total{OF})"}),
    ],
}  # fmt: skip

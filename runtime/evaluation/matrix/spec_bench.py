"""Spec-Bench's answer files, which its own ``speed.py`` and ``equal.py`` read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from runtime.evaluation.matrix.figures import by_question
from runtime.evaluation.matrix.runs import Run


def answer_lines(run: Run, side: str) -> Iterator[str]:
    """A line for each question of a run with one text at a time, drafted or ``alone``.

    Every round is a choice, as Spec-Bench has it for repeated runs. Prompts that are not Spec-Bench's are numbered.
    """
    for number, group in enumerate(by_question(run.units), 1):
        rounds: dict[str, list[dict[str, Any]]] = {}
        for unit in group:
            rounds.setdefault(unit["key"].split("/")[0], []).append(unit)
        question = group[0]["question_id"] if group[0]["question_id"] is not None else number
        choices = [_choice(index, turns, side) for index, turns in enumerate(rounds.values())]
        yield json.dumps(
            {
                "question_id": question,
                "category": group[0]["category"],
                "answer_id": sha256(f"{run.title} {question} {side}".encode()).hexdigest()[:22],
                "model_id": f"{run.title}, {side}",
                "choices": choices,
                "tstamp": run.environment["time"],
            }
        )


def _choice(index: int, turns: list[dict[str, Any]], side: str) -> dict[str, Any]:
    answers = [turn[side] for turn in turns]
    return {
        "index": index,
        "turns": [answer["text"] for answer in answers],
        "decoding_steps": [len(answer["accept_lengths"]) for answer in answers],
        "new_tokens": [answer["new_tokens"] for answer in answers],
        "wall_time": [answer["seconds"] for answer in answers],
        "accept_lengths": [length for answer in answers for length in answer["accept_lengths"]],
    }

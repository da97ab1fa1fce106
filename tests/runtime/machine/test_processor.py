"""The processor's identity distinguishes machines, and does not change while one runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.machine.processor import processor_identity

INTEL = "processor : 0\nmodel name : Xeon A\ncpu MHz : 2000\nflags : fpu avx2\n\nprocessor : 1\nmodel name : Xeon A\n"
ARM = "processor : 0\nFeatures : asimd\nCPU implementer : 0x41\nCPU part : 0xd40\n"


def identity(text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    return processor_identity.__wrapped__()


@pytest.mark.parametrize(
    ("text", "part", "other"), [(INTEL, "avx2", "avx512f"), (INTEL, "Xeon A", "Xeon B"), (ARM, "0xd40", "0xd0c")]
)
def test_another_model_or_instruction_set_is_another_identity(text, part, other, monkeypatch) -> None:
    assert identity(text, monkeypatch) != identity(text.replace(part, other), monkeypatch)


def test_the_clock_and_the_number_of_cores_do_not_count(monkeypatch) -> None:
    changed = INTEL.replace("2000", "2100") + INTEL
    assert identity(INTEL, monkeypatch) == identity(changed, monkeypatch)


def test_a_machine_that_says_nothing_still_has_an_identity(monkeypatch) -> None:
    assert identity("", monkeypatch)

"""Programs in C and C++ over the library: the same texts as Python's, and no mistake that goes unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.sampling.constraint import Constraint
from runtime.sampling.options import Sampling
from tests.faults.mutations import MANY
from tests.runtime.embedding.programs import Run

PROMPT = "the draft proposes"
FINISH = {"stop": 1, "length": 2, "capacity": 3, "cancelled": 4}


def sampling(temperature: float = 1.0, **changes: object) -> Sampling:
    return Sampling(temperature=temperature, **({"seed": 7} | changes))  # type: ignore[arg-type]


OPTIONS = [
    Options(40, sampling(0.0)),
    Options(40, sampling()),
    Options(
        40,
        sampling(
            top_k=40,
            top_p=0.9,
            min_p=0.01,
            repetition_penalty=1.1,
            frequency_penalty=0.5,
            presence_penalty=0.25,
            logit_bias={101: 3.5, 105: -100.0},
            bad_words=("tree",),
        ),
        min_tokens=5,
    ),
    Options(40, sampling(seed=2**64 - 1), stop=("zz", "sed"), stop_token_ids=(120,), ignore_eos=True),
    Options(40, sampling(), draft=False, exact=True),
    Options(40, sampling(), constraint=Constraint("regex", "[ab]{3,8}")),
]
"""As ``programs/generate.c`` chooses them; the prompt of the one that does not draft has no special tokens."""


def test_texts_of_c_requests_that_run_together_equal_pythons(
    run: Run, draft_bundle: Path, target_bundle: Path, decoder: Decoder
) -> None:
    expected = ""
    for options in OPTIONS:
        request = decoder.request(decoder.encode(PROMPT, special_tokens=options.draft), options)
        for _ in decoder.run(request):
            pass
        facts = (len(request.prompt), len(request.tokens), FINISH[str(request.finish_reason)], int(request.exact))
        expected += f"{request.text}\n{' '.join(map(str, facts))}\n"
    assert run("generate.c", draft_bundle, target_bundle, PROMPT) == expected


def test_steps_tell_tokens_text_drafted_flags_and_log_probabilities(
    run: Run, draft_bundle: Path, target_bundle: Path
) -> None:
    run("steps.c", draft_bundle, target_bundle, PROMPT)


def test_mistakes_are_errors_that_say_what_to_do(
    run: Run, draft_bundle: Path, target_bundle: Path, foreign_draft_bundle: Path
) -> None:
    run("refusals.c", draft_bundle, target_bundle, foreign_draft_bundle)


@pytest.mark.parametrize(
    ("case", "code"), [("twice", 0), ("forked", 0), ("signals", 0), ("unfinished", 5), ("waiting", 0)]
)
def test_the_library_begins_and_ends(run: Run, draft_bundle: Path, target_bundle: Path, case: str, code: int) -> None:
    run("life.c", case, draft_bundle, target_bundle, code=code)


def test_a_host_that_loads_the_library_at_run_time_can_use_it(
    run: Run, dist: Path, draft_bundle: Path, target_bundle: Path
) -> None:
    run("plugin.c", dist / "libs2d.so", draft_bundle, target_bundle)


def test_the_wrapper_for_cpp_closes_handles_and_throws(run: Run, draft_bundle: Path, target_bundle: Path) -> None:
    run("wrapper.cpp", draft_bundle, target_bundle)


def test_requests_of_several_threads_are_cancelled_by_others(
    run: Run, draft_bundle: Path, target_bundle: Path, other_target_bundle: Path
) -> None:
    storm = Path(__file__).parents[2] / "benchmarks" / "embedding" / "storm.c"
    lines = run(storm, draft_bundle, target_bundle, other_target_bundle, 120, 1).splitlines()
    last = json.loads(lines[-1])
    assert last["ended"] == 120
    assert last["cancelled"] > 0
    assert last["errors"] == 0


def test_calls_with_arguments_at_random_return_in_time_and_say_what_is_wrong(
    run: Run, draft_bundle: Path, target_bundle: Path
) -> None:
    refused, _, cases, *_ = run("fuzz.c", draft_bundle, target_bundle, 2000 * MANY, 1).split()
    assert 0 < int(refused) < int(cases)

"""Generate under the schemas of the JSON-Schema-Test-Suite: does every output validate, and is it the target's own?

The suite is part of jsonschema's source archive (pip download --no-deps --no-binary :all: jsonschema). Each schema is
answered with the draft and by the target alone. Texts that end with stop are parsed and validated by jsonschema-rs, a
library of its own; texts that reach the limit of tokens are counted apart. Schemas that say what llguidance cannot hold
to are refused; the reasons are listed.

  python -m tests.benchmarks.schemas --target target-17m --draft draft --suite jsonschema-4.26.0.tar.gz
  python -m tests.benchmarks.schemas --target target-17m --draft draft --suite jsonschema-4.26.0.tar.gz --temperature 1
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs

from runtime import Constraint, Decoder, Options, Sampling
from s2d_trt.cli import ArgumentParser, comma_floats, positive_int, run_command
from s2d_trt.errors import OptionError, S2DError
from tests.benchmarks.internals import generate, same_bits
from tests.benchmarks.tables import Row, table_lines, write_report

PROG = "python -m tests.benchmarks.schemas"
PROMPT = "import json\n\n# An example of a document that the schema allows.\nDOCUMENT = "
MEMBER = re.compile(r"/tests/(draft2020-12|draft7)/[^/]+\.json$")
DIALECTS = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}


def schemas(archive: Path) -> Iterator[Any]:
    """The different schemas of drafts 7 and 2020-12, each with its dialect; those that are only true or false left out.

    Raises:
        OptionError: the archive cannot be read, or has no suite.
    """
    seen: set[str] = set()
    try:
        with tarfile.open(archive) as files:
            for member in sorted(files.getmembers(), key=lambda member: member.name):
                found, source = MEMBER.search(member.name), files.extractfile(member)
                for group in json.load(source) if found and source else []:
                    schema = group["schema"]
                    if isinstance(schema, dict) and found:
                        schema = {"$schema": DIALECTS[found[1]], **schema}
                        if (key := json.dumps({**schema, "$schema": ""}, sort_keys=True)) not in seen:
                            seen.add(key)
                            yield schema
    except (OSError, tarfile.TarError) as cause:
        raise OptionError(f"{archive} cannot be read ({cause}); name a source archive of jsonschema") from cause
    if not seen:
        raise OptionError(f"{archive} holds no JSON-Schema-Test-Suite; name a source archive of jsonschema")


def is_valid(schema: Any, text: str) -> bool:
    """Whether ``text`` is JSON that ``schema`` allows."""
    try:
        # A number may be larger than any float.
        return bool(jsonschema_rs.validator_for(schema).is_valid(json.loads(text, parse_float=Decimal)))
    except ValueError:
        return False


def run(decoder: Decoder, archive: Path, options: Options, limit: int) -> tuple[Row, list[Row], Counter[str]]:
    """Answer up to ``limit`` schemas that are not refused: the figures, what was wrong, and why others were refused."""
    counts, refused, wrong = Counter[str](), Counter[str](), list[Row]()
    seconds = {"S2D": 0.0, "alone": 0.0}
    for schema in schemas(archive):
        asked = replace(options, constraint=Constraint.json_schema(schema))
        try:
            prompt = decoder.request(PROMPT, asked).prompt
        except S2DError as error:
            refused[str(error).partition("cannot be used: ")[2] or str(error)] += 1
            continue
        drafted, alone = (generate(decoder, prompt, replace(asked, draft=draft)) for draft in (True, False))
        counts["schemas"] += 1
        counts["identical"] += same_bits(drafted, alone)
        counts["tokens"] += len(drafted.tokens)
        counts["steps"] += drafted.stats.steps
        seconds["S2D"] += drafted.stats.total
        seconds["alone"] += alone.stats.total
        counts["complete"] += drafted.finish_reason == "stop"
        if drafted.finish_reason == "stop":
            valid = is_valid(schema, drafted.text)
            counts["valid"] += valid
            wrong += [] if valid else [{"schema": schema, "text": drafted.text}]
        if sys.stderr.isatty():
            print(f"\r{counts['schemas']}/{limit} schemas", end="", file=sys.stderr, flush=True)
        if counts["schemas"] == limit:
            break
    row: Row = {
        "target": decoder.target.name,
        "temperature": options.sampling.temperature,
        **{name: counts[name] for name in ("schemas", "identical", "complete", "valid", "tokens", "steps")},
        "speed-up": seconds["alone"] / max(seconds["S2D"], 1e-9),
        "refused": refused.total(),
    }
    return row, wrong, refused


def main(argv: Sequence[str]) -> None:
    """Answer, validate, report."""
    parser = ArgumentParser(__doc__ or "", PROG)
    parser.add_argument("--target", required=True, help="target bundle")
    parser.add_argument("--draft", default="draft", help="draft bundle (%(default)s)")
    parser.add_argument("--suite", required=True, type=Path, metavar="FILE", help="jsonschema-VERSION.tar.gz")
    parser.add_argument("--limit", type=positive_int, default=200, help="schemas to answer (%(default)s)")
    parser.add_argument("--temperature", type=comma_floats, default=(0.0, 1.0), help="like 0,1 (the default)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=200, help="of one text (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the report there")
    arguments = parser.parse_args(argv)
    decoder = Decoder.open(arguments.target, arguments.draft)
    decoder.prepare()
    rows, problems = list[Row](), list[Row]()
    for temperature in arguments.temperature:
        options = Options(arguments.max_new_tokens, Sampling(temperature, seed=1))
        row, wrong, refused = run(decoder, arguments.suite, options, arguments.limit)
        rows.append(row)
        problems += wrong
    lines = table_lines("Texts under the schemas of a test suite", rows)
    lines += ["", "Refused:", *(f"- {count}: {reason}" for reason, count in refused.most_common())]
    lines += [f"invalid: {json.dumps(problem)}" for problem in problems]
    print("\n".join(lines))
    if arguments.out is not None:
        write_report(arguments.out, lines, {"rows": rows, "invalid": problems, "refused": refused})


if __name__ == "__main__":
    run_command(PROG, main)

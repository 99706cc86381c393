"""Whether constrained answers keep their promise: for every JSON schema of tests/data/json_schema, answers of a real model at
temperature 1, parsed and validated with `jsonschema`. Prints a table by keyword, then what masks cost.

    python scripts/check_structured.py [--model NAME] [--answers N] [--max-tokens N] [--seed N] [--folder DIR]

Ends with 1 if an answer was not whole or not valid.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped,unused-ignore]

from cactus_py import Client
from cactus_py.errors import InvalidRequestError
from cactus_py.prompting import structured

FOLDER = Path(__file__).parent.parent / "tests" / "data" / "json_schema"
VALIDATORS = {"draft7": jsonschema.Draft7Validator, "draft2020-12": jsonschema.Draft202012Validator}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--answers", type=int, default=1, help="answers to each schema")
    parser.add_argument("--max-tokens", type=int, default=200, help="most tokens of an answer; 0: until the context is full")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args()
    rows: dict[tuple[str, str], Counter[str]] = {}
    mask_us: list[float] = []
    watch_masks(mask_us)
    with Client(model=given.model) as client:
        client.warm_up()
        for file in sorted(given.folder.glob("*/*.json")):
            row = rows.setdefault((file.parent.name, file.stem), Counter())
            for case in json.loads(file.read_text(encoding="utf-8")):
                check(client, case, VALIDATORS[file.parent.name], row, given)
    report(rows, mask_us)
    return int(any(row["cut"] or row["invalid"] for row in rows.values()))


def check(client: Client, case: dict[str, Any], validator: Any, row: Counter[str], given: argparse.Namespace) -> None:
    """Asks for answers by one schema and counts what came of them."""
    schema = case["schema"]
    row["schemas"] += 1
    try:
        reply = client.chat(
            f"Give an example of JSON for: {case['description']}.",
            response_format={"type": "json_schema", "json_schema": {"name": "case", "schema": schema}},
            max_tokens=given.max_tokens or None,
            seed=given.seed,
            n=given.answers,
        )
    except InvalidRequestError as error:
        row["refused"] += 1
        print(f"refused: {case['description']}: {error}")
        return
    row["supported"] += 1
    for choice in reply.choices:
        text = choice.message.content or ""
        row["answers"] += 1
        try:
            validator(schema).validate(json.loads(text))
            row["valid"] += 1
        except (ValueError, jsonschema.ValidationError) as error:
            row["cut" if choice.finish_reason == "length" else "invalid"] += 1
            print(f"NOT VALID: {json.dumps(schema)}: {text[-200:]!r}: {str(error).splitlines()[0]}")


def watch_masks(mask_us: list[float]) -> None:
    """Takes the time of every mask from here on."""
    plain = structured.Constraint.mask

    def mask(self: structured.Constraint) -> Any:
        begin = time.perf_counter()
        found = plain(self)
        mask_us.append((time.perf_counter() - begin) * 1e6)
        return found

    structured.Constraint.mask = mask  # type: ignore[method-assign]


def report(rows: dict[tuple[str, str], Counter[str]], mask_us: list[float]) -> None:
    heads = ("schemas", "supported", "refused", "answers", "valid", "cut", "invalid")
    print("\n| draft | keyword | " + " | ".join(heads) + " |\n|---|---|" + "---:|" * len(heads))
    for (draft, keyword), row in rows.items():
        print(f"| {draft} | {keyword} | " + " | ".join(str(row[head]) for head in heads) + " |")
    total: Counter[str] = sum(rows.values(), Counter())
    print("| all | | " + " | ".join(str(total[head]) for head in heads) + " |")
    if len(mask_us) > 1:
        cuts = statistics.quantiles(mask_us, n=100)
        print(f"\nmasks: {len(mask_us)}, median {cuts[49]:.0f} us, 90 % below {cuts[89]:.0f} us, 99 % below {cuts[98]:.0f} us")


if __name__ == "__main__":
    sys.exit(main())

"""What speculation by lookup gains: decoding with and without drafts from the text itself, in alternating rounds.

    python scripts/bench/lookup.py MODEL.gguf [--rounds 7] [--tokens 128] [--threads N] [--speculation 16] [--temperature 0]

Three kinds of requests, each with several prompts: to repeat a paragraph with one change, to summarise one, to write freely.
Reported per kind: tokens per second of decoding (all prompts of the kind together, without reading them), median over the
rounds, the ratio of the medians, and how many tokens were drafted and stood. A token that differs with and without is an error.
"""

from __future__ import annotations

import argparse
import re
import statistics
from pathlib import Path

from cactus_py.engine import Model
from cactus_py.prompting.encode import PromptEncoder
from cactus_py.prompting.template import ChatTemplate

TEXTS = Path(__file__).resolve().parent.parent.parent / "tests" / "data" / "text"
FREE = (
    "Write a short story about a lighthouse keeper.",
    "Explain how a bicycle stays upright.",
    "What should I cook for dinner tonight?",
    "Write an essay on the importance of sleep.",
)


def prompts() -> dict[str, list[str]]:
    """The requests of each kind."""
    edits, summaries = [], []
    for name in ("alice", "workshop"):
        text = (TEXTS / f"{name}.txt").read_text(encoding="utf-8")
        paragraphs = [" ".join(p.split())[:900] for p in text.split("\n\n") if len(p) > 400]
        for paragraph in paragraphs[2:6:2]:
            word = re.findall(r"[a-z]{5,}", paragraph)[3]
            change = f'but write "{word.upper()}" instead of "{word}"'
            edits.append(f"Repeat the following text word for word, {change}:\n\n{paragraph}")
            summaries.append(f"Summarise the following text in a few sentences:\n\n{paragraph}")
    return {"edit": edits, "summarise": summaries, "free": list(FREE)}


def encode(model: Model, request: str) -> list[int]:
    """The request in the model's chat template."""
    info = model.tokenizer.info
    ids = {"bos_token": info.bos_id, "eos_token": info.eos_id}
    tokens = {key: model.detokenize([i], show_special=True) for key, i in ids.items() if i is not None}
    template = ChatTemplate.from_metadata(model.metadata, tokens=tokens, add_bos=info.add_bos)
    return PromptEncoder(template, model.tokenizer).encode([{"role": "user", "content": request}])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--speculation", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--only", choices=("edit", "summarise", "free"))
    options = parser.parse_args()
    for name, least, most in (("rounds", 1, None), ("tokens", 2, None), ("speculation", 1, 16)):  # the first token is not timed
        value = getattr(options, name)
        if value < least or (most is not None and value > most):
            parser.error(f"--{name} is {value}; it must be at least {least}" + (f" and at most {most}" if most else ""))
    sampling = {"temperature": options.temperature, "seed": 1}

    with Model.load(options.model, threads=options.threads, share_prefixes=False) as model:
        for kind, requests in prompts().items():
            if options.only not in (None, kind):
                continue
            encoded = [encode(model, request) for request in requests]
            speeds: dict[int, list[float]] = {0: [], options.speculation: []}
            drafted = accepted = 0
            answers: dict[int, list[list[int]]] = {}
            for _ in range(options.rounds):
                for speculation, measured in speeds.items():
                    n, milliseconds, drafted, accepted, texts = 0, 0.0, 0, 0, []
                    for ids in encoded:
                        generation = model.generate(ids, max_tokens=options.tokens, sampling=sampling, speculation=speculation)
                        texts.append([token.id for token in generation])
                        stats = generation.stats
                        n += stats.generated_tokens - 1
                        milliseconds += stats.decode_ms
                        drafted += stats.drafted_tokens
                        accepted += stats.accepted_tokens
                    measured.append(1e3 * n / milliseconds)
                    answers[speculation] = texts
                if answers[0] != answers[options.speculation]:
                    raise SystemExit(f"{kind}: speculation changed the tokens")
            off, on = (statistics.median(measured) for measured in speeds.values())
            paired = [b / a for a, b in zip(*speeds.values(), strict=True)]
            print(
                f"{kind:9}  off {off:6.1f} tok/s  on {on:6.1f} tok/s  ratio {on / off:4.2f}"
                f" (rounds {min(paired):4.2f} to {max(paired):4.2f})  drafted {drafted}, stood {accepted} of {n} tokens"
            )


if __name__ == "__main__":
    main()

"""English passages of log-normal length, cut at run time from Python's own documentation texts.

    python benchmarks/text_workload.py --count 4000 --seed 0 --out texts.jsonl

Each line is {"text": ..., "tokens": ...}. Token counts include the two special tokens, as the text encoder counts them.
Needs the extra `text` for its tokenizer. May be loaded by its path, from wherever the repository lies.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics

from batchd_server.models.text_encoder.folder import bundled_path

MEDIAN_TOKENS = 24
SIGMA = 1.0
MAX_TOKENS = 256
MIN_TOKENS = 3  # two special tokens and one of the text
_SPECIAL_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Passage:
    """A text and its size."""

    text: str
    tokens: int


def token_count(rng: random.Random, *, median: int = MEDIAN_TOKENS, sigma: float = SIGMA, cap: int = MAX_TOKENS) -> int:
    """Draw one log-normal token count, at most `cap`."""
    drawn = round(median * rng.lognormvariate(0.0, sigma))
    return min(cap, max(MIN_TOKENS, drawn))


def draw_passages(count: int, seed: int) -> list[Passage]:
    """Return `count` passages; the same seed gives the same ones under the same Python version.

    A passage starts and ends between words, at the end nearest to the length drawn; its count is that of the text as it
    is.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundled_path() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    words = " ".join(topics[name] for name in sorted(topics)).split()
    # Tokens before each word: where a passage of so many tokens ends is then a search, not a trial.
    sizes = [len(encoding.ids) for encoding in tokenizer.encode_batch(words, add_special_tokens=False)]
    rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
    passages: list[Passage] = []
    while len(passages) < count:
        wanted = token_count(rng) - _SPECIAL_TOKENS
        start = rng.randrange(len(words))
        end, tokens = start, 0
        while end < len(words) and tokens < wanted:
            tokens += sizes[end]
            end += 1
        surplus = tokens - wanted
        if end - start > 1 and (2 * surplus > sizes[end - 1] or tokens + _SPECIAL_TOKENS > MAX_TOKENS):
            end -= 1
        text = " ".join(words[start:end])
        passage = Passage(text, len(tokenizer.encode(text).ids))
        if MIN_TOKENS <= passage.tokens <= MAX_TOKENS:
            passages.append(passage)
    return passages


def main() -> None:
    """Write a draw as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="default: standard output")
    arguments = parser.parse_args()
    lines = [json.dumps(asdict(passage)) for passage in draw_passages(arguments.count, arguments.seed)]
    text = "\n".join(lines) + "\n"
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

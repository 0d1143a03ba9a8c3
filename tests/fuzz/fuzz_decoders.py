"""A coverage-guided fuzzer of every decoder: `python tests/fuzz/fuzz_decoders.py -runs=1000000 [FOLDER]`.

Takes libFuzzer's options. FOLDER keeps what reached new code, for the next run; without one, each begins with the seeds
alone. A defect ends the run with the case in a file `crash-...`, which `tests/support/fuzz_targets.py` runs alone.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris
import msgspec

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
sys.path[:0] = [str(SUPPORT)]
with atheris.instrument_imports(
    include=["batchd_server.front", "batchd_server.link", "batchd_server.models", "batchd_server.errors"]
):
    import fuzz_targets

MAX_BYTES = 4096
MOST_MEMORY = 256 * 2**20
"""What a case of `MAX_BYTES` may allocate at once: a declared shape of many elements must be refused before."""
WORDS = (
    *("inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "id", "binary_data_size", "binary_data"),
    *("classification", "timeout", "priority", "sequence_id", "shared_memory_region", "binary_data_output", "input"),
    *(
        "bytes",
        "<f4",
        "<i8",
        "offer",
        "answers",
        "BYTES",
        "BOOL",
        "FP16",
        "FP32",
        "FP64",
        "INT8",
        "INT64",
        "UINT64",
        "x",
        "y",
        "a",
        "b",
        "text",
        "model",
    ),
)
FRESH_STARTS = 0.3
SEEDS_BY_DECODER = fuzz_targets.seeds_by_decoder()
VALUES = (0, 1, -1, 2, 3, 4, 255, 256, 2**31, 2**32, 2**40, 2**63, 2**64 - 1, 1e308, -0.5, True, None, "", [], {}, [[]])


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change a case: one place of its document, with the lengths kept true; only the bytes behind it; or any bytes.

    Some begin with a seed of any decoder: left alone, the fuzzer spends its time where most code is.
    """
    rng = random.Random(seed)
    if rng.random() < FRESH_STARTS:
        data = rng.choice(rng.choice(SEEDS_BY_DECODER))
    way = rng.random()
    if len(data) > fuzz_targets.HEAD.size and way < 0.7:
        chosen, encoding, length = fuzz_targets.HEAD.unpack_from(data)
        body = data[fuzz_targets.HEAD.size :]
        document, rest = (body, b"") if length >= len(body) else (body[:length], body[length:])
        room = max_size - fuzz_targets.HEAD.size - len(document)
        if way < 0.4:
            document = _rewritten(document, rng, msgspec.msgpack if fuzz_targets.is_message(chosen) else msgspec.json)
        elif rest and room > 0:
            rest = atheris.Mutate(rest, room)
        if length != fuzz_targets.NO_LENGTH:
            length = min(len(document), fuzz_targets.NO_LENGTH - 1)
        mutated = fuzz_targets.HEAD.pack(chosen, encoding, length) + document + rest
        if mutated != data and len(mutated) <= max_size:
            return mutated
    changed: bytes = atheris.Mutate(data, max_size)
    return changed


def _rewritten(document: bytes, rng: random.Random, form: Any) -> bytes:
    """Return a JSON or msgpack document with one place changed; what is none comes back as it is."""
    try:
        tree = form.decode(document)
        rewritten: bytes = form.encode(_changed(tree, rng))
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        return document
    return rewritten


def _changed(tree: Any, rng: random.Random) -> Any:
    """Return `tree` with one place of it replaced, removed, doubled or descended into."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = rng.choice(list(tree))
        match rng.randrange(8):
            case 0:
                return {name: value for name, value in tree.items() if name != key}
            case 1:
                return {**tree, rng.choice(WORDS): rng.choice(VALUES)}
            case _:
                return {**tree, key: _changed(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        index = rng.randrange(len(tree))
        match rng.randrange(6):
            case 0:
                return tree[:index] + tree[index + 1 :]
            case 1:
                return [*tree, tree[index]]
            case _:
                return [*tree[:index], _changed(tree[index], rng), *tree[index + 1 :]]
    if isinstance(tree, int) and not isinstance(tree, bool) and rng.random() < 0.5:
        return max(-(2**63), min(tree + rng.choice((-8, -4, -1, 1, 4, 8)), 2**64 - 1))
    return rng.choice(WORDS) if rng.random() < 0.4 else rng.choice(VALUES)


def main() -> None:
    """Run until `-runs` or `-max_total_time` is reached, or a defect is found."""
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    with tempfile.TemporaryDirectory() as scratch:
        beginning = Path(scratch)
        for seed in fuzz_targets.seeds():
            (beginning / seed.name).write_bytes(seed.data)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        arguments = [
            sys.argv[0],
            f"-max_len={MAX_BYTES}",
            "-timeout=10",
            "-mutate_depth=1",
            "-print_final_stats=1",
            *options,
        ]
        atheris.Setup([*arguments, *folders, scratch], fuzz_targets.run_case, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Ten thousand requests to a server on loopback that misbehaves on purpose.

``python benchmarks/bench_llm.py [--requests N] [--share 0.2]`` asks twice: a server that behaves,
then one where the given share of all exchanges goes wrong (429, 500, a hang, malformed JSON, a cut
connection). It prints how every request ended, how many a second, and the client's peak memory.
The check that must pass: every request has exactly one outcome, and every answer is the right one.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from sagittal_core.llm import Message, OpenAIChat, Request, answer_many, read_answers
from sagittal_core.results import Cell, write_results

SERVER = Path(__file__).resolve().parents[1] / "tests" / "core" / "faulty_server.py"


def measure(share: float, args: argparse.Namespace) -> list[Cell]:
    """One run; a row of the table."""
    command = [sys.executable, str(SERVER), "--share", str(share), "--seed", "0"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
            # A hang costs its timeout; on loopback every answer is there within milliseconds.
            model = OpenAIChat(url, "faulty", timeout=1.0, attempts=8, backoff=0.05)
            requests = (
                (f"record-{n}", Request((Message("user", f"repeat {n}"),), max_tokens=8))
                for n in range(args.requests)
            )
            tally = answer_many(model, requests, folder, concurrency=args.concurrency)
            model.close()
            answers = list(read_answers(folder))
        finally:
            process.kill()
    if len(answers) != args.requests or sum(tally.outcomes.values()) != args.requests:
        raise SystemExit(f"{args.requests} requests, {len(answers)} outcomes")
    wrong = [key for key, r in answers if r.ok and r.text != key.removeprefix("record-")]
    if wrong:
        raise SystemExit(f"{len(wrong)} answers belong to another request")
    kinds = Counter(reply.outcome for _, reply in answers)
    print(tally)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        f"{100 * share:.0f} %",
        f"{args.requests:,}",
        f"{kinds['ok']:,}",
        f"{kinds['transport']:,}",
        f"{len(answers) - kinds['ok'] - kinds['transport']:,}",
        f"{args.requests / tally.seconds:.0f}",
        f"{peak:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--share", type=float, default=0.2, help="of exchanges that go wrong")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--results", type=Path, help="also write the table to this result file")
    args = parser.parse_args()
    columns = ["faults", "requests", "ok", "transport", "other", "requests/s", "peak MB"]
    rows = [measure(share, args) for share in (0.0, args.share)]
    print(*(" | ".join(map(str, row)) for row in [columns, *rows]), sep="\n")
    if args.results is not None:
        command = f"python benchmarks/bench_llm.py --requests {args.requests} --share {args.share}"
        n = {"requests": args.requests}
        write_results(
            args.results, command=command, seeds=[0], n=n, tables={"runs": (columns, rows)}
        )


if __name__ == "__main__":
    main()

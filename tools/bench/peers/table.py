#!/usr/bin/env python3
"""Writes the README's table of measurements from the raw results.   table.py RESULTS.json [README.md [--check]]

Without a README it prints the table. In the README the table stands between the lines
<!-- bench:begin --> and <!-- bench:end -->; with --check a difference is an error and nothing is written.
"""
import json
import sys

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
ROWS = [
    ("decode_1", "decode, 1 stream", "llama-bench"),
    ("streams_16", "16 streams, 128 tokens in, 64 out", "llama-server -np 16"),
]


# The budget: a coordinator, and a rank above its shard and its KV cache, both of which may be exceeded by a tenth.
COORDINATOR_BUDGET, RANK_BUDGET, RANK_SLACK = 150e6, 100e6, 1.1


def size_of(row):
    """Bytes of a process; the weights and KV cache that a rank shares with its agent are the rank's."""
    if "rest_bytes" not in row:
        return row["pss_bytes"]
    return row["rest_bytes"] + (row["weights_bytes"] + row["kv_bytes"] if verb_of(row) == "rank" else 0)


def verb_of(row):
    words = row["command"].split()
    return words[1] if len(words) > 1 else words[0]


def largest_processes(runs):
    """The largest process by what it is: the server's processes are told apart by their verb."""
    best = {}
    for row in (row for run in runs for row in run.get("memory", [])):
        verb = verb_of(row)
        if verb not in best or size_of(row) > size_of(best[verb]):
            best[verb] = row
    return best


def memory_text(verb, row):
    text = f"{verb} {size_of(row) / 1e6:.0f} MB"
    if verb == "coordinator":
        return f"{text} (budget {COORDINATOR_BUDGET / 1e6:.0f})"
    if verb != "rank" or "rest_bytes" not in row:
        return text
    weights, kv = row["weights_bytes"], row["kv_bytes"]
    budget = RANK_SLACK * (weights + kv + RANK_BUDGET)
    return (f"{text} (weights {weights / 1e6:.0f} + KV {kv / 1e6:.0f} + rest {row['rest_bytes'] / 1e6:.0f}; "
            f"budget {budget / 1e6:.0f})")


def table(results):
    machine = results["machine"]
    lines = [
        f"{results['model']}, one process group with {results['threads']} threads, tokens/s, median of {results['repeats']} runs "
        f"in turn; {machine['cpu']}, {machine['cores']} cores; {results['made']}, commit {results['commit']}.",
        "",
        "| what | Shoal | llama.cpp | ratio |",
        "|---|---|---|---|",
    ]
    for key, name, peer in ROWS:
        median = results[key]["median"]
        lines.append(f"| {name} | {median['shoal']:.0f} | {median['llama.cpp']:.0f} ({peer}) | "
                     f"{median['shoal'] / median['llama.cpp']:.2f} |")
    memory = largest_processes(results["streams_16"]["runs"]["shoal"])
    if memory:
        parts = ", ".join(memory_text(verb, row) for verb, row in sorted(memory.items()))
        lines += ["", f"Memory under that load (proportional set size, largest process of each kind): {parts}."]
    return "\n".join(lines)


def replaced(text, new):
    """The README with the table exchanged; ValueError when it has no place for one."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise ValueError(f"needs one {BEGIN} before one {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{new}\n{END}{rest.split(END)[1]}"


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        new = table(json.load(f))
    if len(sys.argv) == 2:
        print(new)
        return 0
    with open(sys.argv[2], encoding="utf-8") as f:
        text = f.read()
    changed = replaced(text, new)
    if "--check" in sys.argv:
        if changed != text:
            print(f"{sys.argv[2]}: the table differs from {sys.argv[1]}; run tools/bench/peers/table.py")
            return 1
        return 0
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        f.write(changed)
    return 0


if __name__ == "__main__":
    sys.exit(main())

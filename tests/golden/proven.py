#!/usr/bin/env python3
"""The tables of README.md that say which models and formats are proven, from what the tests have just proven.

  proven.py BUILD            fails where README.md says something else than BUILD/proven/*.json
  proven.py BUILD --write    puts it there

Each file is a list of [row, column, layout]: what a test program passed for that row, in that format, at that layout.
"""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = pathlib.Path(__file__).parent / "families"
LAYOUTS = ["1x1", "3x1", "2x2"]
NAMES = {
    "llama": "Llama 2, 3.x (with its rope scaling), SmolLM2, TinyLlama", "mistral": "Mistral, Zephyr",
    "qwen2": "Qwen2, Qwen2.5", "qwen3": "Qwen3", "gemma2": "Gemma-2", "gemma3": "Gemma-3 (text)", "phi3": "Phi-3",
    "phi3_longrope": "Phi-3 128k, Phi-4-mini (long rope)", "mixtral": "Mixtral", "qwen3_moe": "Qwen3-MoE",
    "qwen3_moe_mixed": "Qwen3-MoE with layers that have no experts", "gpt2": "GPT-2", "bert": "BERT encoders (vectors)",
    "grok1": "Grok-1",
}


def cell(found):
    if not found:
        return "-"
    return ", ".join(sorted(found, key=LAYOUTS.index))


def families(proven):
    columns = ["safetensors", "GGUF"]
    lines = ["| family | architecture | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for name, title in NAMES.items():
        config = json.loads((FOLDER / name / "config.json").read_text(encoding="utf-8"))
        cells = [cell([layout for row, column, layout in proven if (row, column) == (name, c)]) for c in columns]
        lines.append(f"| {title} | {config['architectures'][0]} | " + " | ".join(cells) + " |")
    return lines


TABLES = {"families": families}


def updated(readme, build):
    for name, table in TABLES.items():
        proven = json.loads((build / "proven" / f"{name}.json").read_text(encoding="utf-8"))
        begin, end = f"<!-- proven:{name} -->\n", f"<!-- proven:{name}:end -->\n"
        before, _, rest = readme.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            sys.exit(f"README.md has no place for the table: {begin.strip()} to {end.strip()}")
        readme = before + begin + "\n".join(table(proven)) + "\n" + end + after
    return readme


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--write"]):
        sys.exit(__doc__)
    path = ROOT / "README.md"
    readme = path.read_text(encoding="utf-8")
    wanted = updated(readme, pathlib.Path(sys.argv[1]))
    if sys.argv[2:]:
        path.write_text(wanted, encoding="utf-8")
    elif readme != wanted:
        sys.exit("README.md does not say what the tests have proven; `tests/golden/proven.py build --write` puts it there:\n"
                 + "\n".join(sorted(set(wanted.splitlines()) - set(readme.splitlines()))))


if __name__ == "__main__":
    main()

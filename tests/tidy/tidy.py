#!/usr/bin/env python3
"""Checks the rules of the tree (tests/tidy/rules.py) and prints what breaks them.

  tests/tidy/tidy.py [--root DIR] [--build BUILD_DIR]     with a build tree, also: sources that are in no target
"""
import argparse
import os
import sys

import rules
from tree import Tree


def main():
    parser = argparse.ArgumentParser(description="rules of the source tree")
    parser.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    parser.add_argument("--build", help="build tree with compile_commands.json")
    parser.add_argument("paths", nargs="*", help="report only files under these paths")
    args = parser.parse_args()
    tree = Tree.read(args.root)
    compiled = rules.compiled_sources(tree, args.build) if args.build else None
    problems = rules.check(tree, compiled)
    if args.paths:
        wanted = tuple(os.path.relpath(p, args.root) for p in args.paths)
        problems = [p for p in problems if p.path.startswith(wanted)]
    for problem in problems:
        print(problem)
    print(f"tidy: {len(tree.paths)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

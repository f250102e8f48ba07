"""Applies each mutant to a copy of the committed tree, builds, and runs its tests until one fails: that test kills it.

    run.py [NAME...] [--build DIR] [--keep-going]

A mutant is a patch, NAME.patch, whose first lines say in words what is wrong with it and where to look:
    What: a stale answer is taken for a new one
    Tests: core_serving_test core_recovery_test
Exit code 1: a mutant survived, does not apply, or does not build.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def read(patch):
    """(what, tests) from a patch's first lines."""
    head = {}
    for line in patch.read_text().splitlines():
        if line.startswith("diff --git"):
            break
        key, _, value = line.partition(": ")
        head[key] = value
    return head["What"], head["Tests"].split()


def run(args, cwd, **more):
    return subprocess.run([str(a) for a in args], cwd=cwd, text=True, capture_output=True, check=False, **more)


class Tree:
    """A worktree of HEAD that is built again and again."""

    def __init__(self, path):
        self.path = path
        if not (path / ".git").exists():
            run(["git", "worktree", "prune"], ROOT).check_returncode()
            run(["git", "worktree", "add", "--detach", path, "HEAD"], ROOT).check_returncode()
        for name in ("models", ".venv"):
            if not (path / name).exists():
                (path / name).symlink_to(ROOT / name)
        self.reset()

    def reset(self):
        head = run(["git", "rev-parse", "HEAD"], ROOT).stdout.strip()
        run(["git", "checkout", "--force", "--detach", head], self.path).check_returncode()

    def build(self, tests):
        env = {**os.environ, "CCACHE_BASEDIR": str(self.path), "CCACHE_NOHASHDIR": "1",
               "CCACHE_DIR": os.environ.get("CCACHE_DIR", str(ROOT / ".cache/ccache"))}
        targets = ["shoal", *[t for t in tests if not t.startswith(("e2e_", "nemesis"))]]
        return run(["tools/dev/build", "release", *targets], self.path, env=env)

    def test(self, name):
        return run(["ctest", "--test-dir", "build", "-R", f"^{name}$", "--output-on-failure", "--no-tests=error"], self.path)


def try_one(tree, patch):
    """How it ended: (killed, words)."""
    what, tests = read(patch)
    tree.reset()
    applied = run(["git", "apply", patch], tree.path)
    if applied.returncode != 0:
        return False, f"does not apply: {applied.stderr.strip()}"
    built = tree.build(tests)
    if built.returncode != 0:
        return False, f"does not build:\n{built.stdout[-2000:]}{built.stderr[-2000:]}"
    for name in tests:
        tested = tree.test(name)
        if "No tests were found" in tested.stdout + tested.stderr:
            return False, f"there is no test {name}"
        if tested.returncode != 0:
            failed = [line.strip() for line in tested.stdout.splitlines() if "[  FAILED  ]" in line or line.startswith("FAILED")]
            return True, f"{what} | killed by {name}{': ' + failed[0].split(']')[-1].strip() if failed else ''}"
    return False, f"{what} | SURVIVED {' '.join(tests)}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--tree", type=pathlib.Path, default=ROOT / "build/mutants/tree")
    options = parser.parse_args()
    patches = sorted(HERE.glob("*.patch"))
    if options.names:
        patches = [p for p in patches if p.stem in options.names]
    tree, survivors = Tree(options.tree), 0
    for patch in patches:
        began = time.monotonic()
        killed, words = try_one(tree, patch)
        survivors += not killed
        print(f"| {patch.stem} | {words} | {time.monotonic() - began:.0f} s |", flush=True)
    tree.reset()
    print(f"{len(patches)} mutants, {survivors} left alive")
    return 1 if survivors or not patches else 0


if __name__ == "__main__":
    sys.exit(main())

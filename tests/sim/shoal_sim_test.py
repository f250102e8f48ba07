#!/usr/bin/env python3
"""The program shoal_sim, and tools/dev/sim, which goes on where it stopped."""
import os
import re
import subprocess
import sys
import tempfile
import unittest

BUILD = os.environ["SHOAL_BUILD_DIR"]
SOURCE = os.environ["SHOAL_SOURCE_DIR"]
PROGRAM = os.path.join(BUILD, "tools", "sim", "shoal_sim")


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


class ShoalSim(unittest.TestCase):
    def test_a_range(self):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out")
            done = run(PROGRAM, "--seeds", "1..20", "--jobs", "2", "--twice-every", "5", "--out", out)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("figure: simulation: 20 seeds", done.stdout)
            with open(out, encoding="utf-8") as f:
                self.assertRegex(f.read(), r"^runs=20;.*failures=0;.*kill rank=\d+")

    def test_one_seed_and_its_timeline(self):
        plain, trace = run(PROGRAM, "--seed", "7"), run(PROGRAM, "--seed", "7", "--trace")
        self.assertEqual(plain.returncode, 0, plain.stdout)
        self.assertEqual(plain.stdout.splitlines()[-1], trace.stdout.splitlines()[-1])
        self.assertRegex(trace.stdout, r"-> agent registered")
        self.assertRegex(trace.stdout, r"\*\* all is well from now on")

    def test_bad_arguments(self):
        for seeds in ("7", "5..1", "a..b"):
            self.assertEqual(run(PROGRAM, "--seeds", seeds).returncode, 2, seeds)
        self.assertEqual(run(PROGRAM).returncode, 2)
        self.assertEqual(run(PROGRAM, "--seeds", "1..2", "--out", "/nowhere/at/all").returncode, 2)


class MakeSim(unittest.TestCase):
    def sim(self, folder, seeds, commit, program=PROGRAM):
        return run(sys.executable, os.path.join(SOURCE, "tools", "dev", "sim"), "--seeds", str(seeds), "--jobs", "2",
                   "--chunk", "10", "--program", program, "--state", folder, "--commit", commit)

    def test_goes_on_where_it_stopped_and_starts_a_row_for_another_commit(self):
        with tempfile.TemporaryDirectory() as folder:
            first = self.sim(folder, 15, "aaa")
            self.assertEqual(first.returncode, 0, first.stdout + first.stderr)
            self.assertRegex(first.stdout, r"\| aaa \| 15 \|")
            again = self.sim(folder, 25, "aaa")
            self.assertRegex(again.stdout, r"\| aaa \| 25 \|")
            self.assertEqual(re.findall(r"seeds (\d+\.\.\d+)", again.stdout), ["16..25"])
            other = self.sim(folder, 5, "bbb")
            self.assertRegex(other.stdout, r"\| aaa \| 25 \|")
            self.assertRegex(other.stdout, r"\| bbb \| 5 \|")
            self.assertRegex(other.stdout, r"kill rank \d+")

    def test_failures_are_counted_and_kept(self):
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "broken")
            with open(program, "w", encoding="utf-8") as f:
                f.write("#!/bin/sh\nfor last; do :; done\n"
                        "echo 'FAILED --seed 3 --trace: 1 problems, first: bad' >> \"$last\"\n"
                        "echo 'runs=5;requests=1;answered=1;events=1;failures=1;seconds=1;kill rank=2' >> \"$last\"\n"
                        "exit 1\n")
            os.chmod(program, 0o755)
            done = self.sim(folder, 5, "ccc", program)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn("FAILED --seed 3 --trace", done.stdout)
            self.assertRegex(done.stdout, r"\| ccc \| 5 \|.*\| 1 \|")
            again = self.sim(folder, 5, "ccc", program)  # nothing left to run, and not forgotten
            self.assertEqual(again.returncode, 1)
            self.assertIn("FAILED --seed 3 --trace", again.stdout)


if __name__ == "__main__":
    unittest.main()

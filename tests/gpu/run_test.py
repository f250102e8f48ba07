"""tests/gpu/run over programs that are scripts: what it makes of how they end."""

import importlib.machinery
import importlib.util
import json
import pathlib
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent


def load_run():
    loader = importlib.machinery.SourceFileLoader("gpu_run", str(HERE / "run"))
    spec = importlib.util.spec_from_loader("gpu_run", loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_run"] = module
    loader.exec_module(module)
    return module


RUN = load_run()

SCRIPTS = {
    "passes": "echo 'figure: 8B bf16 qkv 32 1234.5 GB/s'; echo '[  PASSED  ] 7 tests.'",
    "fails": "echo '[  FAILED  ] A.B, where x = 1 (3 ms)'; echo '[  FAILED  ] A.C (1 ms)'; exit 1",
    "has_none": "echo 'no device: the driver shows none' >&2; exit 3",
    "hangs": "sleep 1000 & wait",
    "crashes": "kill -SEGV $$",
    "lacks_something": "echo 'skipped: there is no torch'; exit 4",
    "shows_path": "echo \"figure: path ${#LD_LIBRARY_PATH} bytes\"",
    "shows_device": "echo '  0  NVIDIA H200  compute capability 9.0'",
}


class RunTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tree = pathlib.Path(folder.name)
        (self.tree / "tests/gpu").mkdir(parents=True)
        for name, script in SCRIPTS.items():
            path = self.tree / "tests/gpu" / name
            path.write_text(f"#!/bin/bash\n{script}\n")
            path.chmod(0o755)
        self.out = self.tree / "out"
        self.programs = RUN.Programs(True, self.tree, self.tree / "none")

    def outcome(self, name, limit_s=60, left_s=60):
        return RUN.run_part(RUN.Part(name, [name], limit_s), self.programs, False, left_s, self.tree / "log")

    def test_figures_are_read_from_the_output(self):
        outcome = self.outcome("passes")
        self.assertEqual(outcome.result, "passed")
        self.assertEqual(outcome.figures, [("8B bf16 qkv 32", 1234.5, "GB/s"), ("passes", 7.0, "tests")])

    def test_what_failed_is_named(self):
        outcome = self.outcome("fails")
        self.assertEqual((outcome.result, outcome.note), ("failed", "exit code 1: 2 failed: A.B, A.C"))
        self.assertIn("signal 11", self.outcome("crashes").note)
        self.assertEqual(self.outcome("is_not_there").result, "failed")

    def test_no_device_is_no_failure(self):
        outcome = self.outcome("has_none")
        self.assertEqual((outcome.result, outcome.note), ("no device", "the driver shows none"))

    def test_what_cannot_run_here_is_skipped_with_its_reason(self):
        outcome = self.outcome("lacks_something")
        self.assertEqual((outcome.result, outcome.note), ("skipped", "there is no torch"))
        self.assertEqual(self.run_all(("a", "passes"), ("b", "lacks_something")), 0)
        self.assertIn("| b | skipped | there is no torch |", (self.out / "results.md").read_text())

    def test_parts_may_be_scripts_beside_run(self):
        command = self.programs.command(["sanitizer.py", "--tool", "memcheck"])
        self.assertEqual(command, [sys.executable, str(HERE / "sanitizer.py"), "--tool", "memcheck"])
        outcome = RUN.run_part(RUN.Part("sanitizer", ["sanitizer.py"], 60), self.programs, False, 60, self.tree / "log")
        self.assertEqual(outcome.result, "skipped")
        self.assertIn("emulated", outcome.note)

    def test_another_program_has_its_own_libraries(self):
        self.programs.plain_env.pop("LD_LIBRARY_PATH", None)
        for ours in (True, False):
            part = RUN.Part("a", ["shows_path"], 60, ours=ours)
            outcome = RUN.run_part(part, self.programs, False, 60, self.tree / "log")
            self.assertEqual(outcome.figures[0][1] > 0, ours)

    def test_figures_of_another_program_are_set_beside_ours(self):
        ours = [("8B decode 1", 300.0, "tokens/s"), ("8B decode 8", 900.0, "tokens/s"), ("8B decode 1", 3.3, "ms")]
        others = [("8B decode 1 transformers", 150.0, "tokens/s")]
        outcomes = [RUN.Outcome("steps", "passed", 1, ours), RUN.Outcome("transformers", "passed", 1, others)]
        self.assertEqual(RUN.beside(outcomes), [("8B decode 1", 2.0, "of-transformers")])

    def test_a_part_ends_at_its_limit_and_when_the_time_is_used_up(self):
        outcome = self.outcome("hangs", limit_s=0.2)
        self.assertEqual((outcome.result, outcome.note), ("failed", "stopped after 0.2 s"))
        self.assertIn("not run", self.outcome("passes", left_s=0).note)

    def run_all(self, *names):
        RUN.PARTS = tuple(RUN.Part(name, [program], 60) for name, program in names)
        return RUN.main(["--emulated", "--build", str(self.tree), "--out", str(self.out)])

    def test_the_exit_code_says_whether_all_passed(self):
        self.assertEqual(self.run_all(("device", "shows_device"), ("a", "passes")), 0)
        self.assertEqual(self.run_all(("a", "passes"), ("b", "has_none")), RUN.NO_DEVICE)
        self.assertEqual(self.run_all(("a", "fails"), ("b", "has_none")), 1)

    def test_results_have_the_device_and_every_part(self):
        self.run_all(("device", "shows_device"), ("a", "passes"), ("b", "fails"))
        lines = [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]
        self.assertEqual([line["name"] for line in lines], ["device", "a", "b"])
        self.assertEqual({line["device"] for line in lines}, {"NVIDIA H200"})
        self.assertIn("| b | failed | exit code 1: 2 failed: A.B, A.C |", (self.out / "results.md").read_text())

    def test_nothing_is_recorded_that_was_not_run_on_a_device(self):
        with self.assertRaises(SystemExit):
            RUN.main(["--record", "--emulated"])


if __name__ == "__main__":
    unittest.main()

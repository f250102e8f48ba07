"""tests/gpu/run over programs that are scripts: what it makes of how they end."""

import contextlib
import importlib.machinery
import importlib.util
import json
import pathlib
import subprocess
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
    "passes": "echo 'figure: 8B bf16 qkv 32 1234.5 GB/s';"
    "echo '[       OK ] A.B (3 ms)'",
    "fails": "echo '[  FAILED  ] A.B, where x = 1 (3 ms)'; echo '[  FAILED  ] A.C (1 ms)';"
    "echo '[  FAILED  ] 2 tests, listed below:'; exit 1",
    "has_none": "echo 'no device: the driver shows none' >&2; exit 3",
    "hangs": "setsid sleep 1000 & echo '[ RUN      ] A.B'; wait",
    "stops": "echo \"out of time: after $SHOAL_GPU_SECONDS s\"; exit 5",
    "hung_test": """case "$*" in *-*A.1*) ;; *) echo "[ RUN      ] A.1"; sleep 1000;; esac
      echo "[ RUN      ] A.2"; echo "[       OK ] A.2 (3 ms)"; echo "[==========] 1 test from 1 test suite ran. (9 ms total)"
    """,
    # Tests A.1 to A.4 of which the second crashes, the third hangs and the last fails.
    "some_test": """for t in 1 2 3 4; do
      case "$*" in *-*A.$t*) continue;; esac
      echo "[ RUN      ] A.$t"
      [ $t != 2 ] || kill -SEGV $$
      [ $t != 3 ] || sleep 1000
      [ $t = 4 ] && echo "[  FAILED  ] A.$t, where x = 1 (3 ms)" || echo "[       OK ] A.$t (3 ms)"
    done
    echo "[==========] 4 tests from 1 test suite ran. (9 ms total)"; exit 1""",
    "crashes": "kill -SEGV $$",
    "lacks_something": "echo 'skipped: there is no torch'; exit 4",
    "shows_path": "echo \"figure: path ${#LD_LIBRARY_PATH} bytes\"",
    "leaves_out": "cat <<'END'\n"
    "[ RUN      ] A.Whole\n[       OK ] A.Whole (2 ms)\n"
    "[ RUN      ] A.B/c\n/x/y.cc:21: Skipped\ncuBLASLt cannot be loaded: libcublasLt.so.13\n\n"
    "[  SKIPPED ] A.B/c (0 ms)\n"
    "[ RUN      ] A.C\n/x/y.cc:21: Skipped\ncuBLASLt cannot be loaded: libcublasLt.so.13\n\n"
    "[  SKIPPED ] A.C (0 ms)\n"
    "[ RUN      ] B.D\n/x/z.cc:1: Skipped\nthere is one device\n\n[  SKIPPED ] B.D (10 ms)\n"
    "[  PASSED  ] 1 test.\n[  SKIPPED ] 3 tests, listed below:\n[  SKIPPED ] A.B/c\nEND",
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
        self.assertEqual(outcome.figures, [
            ("8B bf16 qkv 32", 1234.5, "GB/s"),
            ("passes", 1.0, "tests"),
        ])

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

    def test_tests_that_a_part_left_out_are_counted_with_their_reasons(self):
        told = "2 skipped: cuBLASLt cannot be loaded: libcublasLt.so.13; 1 skipped: there is one device"
        outcome = self.outcome("leaves_out")
        self.assertEqual((outcome.result, outcome.skipped), ("passed", told))
        self.assertEqual(self.outcome("passes").skipped, "")
        self.assertEqual(self.run_all(("a", "leaves_out")), 0)
        self.assertIn(f"| a | passed | 1 tests; {told} |", (self.out / "results.md").read_text())
        self.assertEqual(json.loads((self.out / "results.jsonl").read_text())["skipped"], told)

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

    def test_a_part_ends_at_its_limit_with_all_that_it_has_started(self):
        outcome = self.outcome("hangs", limit_s=0.5)
        self.assertEqual(outcome.result, "out of time")
        self.assertRegex(outcome.note, r"stopped after [\d.]+ s, in A\.B$")
        self.assertEqual(self.left_behind(), [])
        outcome = self.outcome("stops", limit_s=20, left_s=7)
        self.assertEqual((outcome.result, outcome.note), ("out of time", "after 7.000 s"))

    def left_behind(self):
        mark = f"{RUN.MARK}={self.programs.env[RUN.MARK]}".encode()
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                found += [path] if mark in path.read_bytes().split(b"\0") else []
        return found

    def test_what_there_is_no_time_for_is_not_run(self):
        outcome = self.outcome("passes", left_s=0)
        self.assertEqual((outcome.result, outcome.note), ("not run", "the time of all parts was used up"))
        self.assertEqual(outcome.figures, [])

    def test_a_test_that_ends_its_program_leaves_the_others_theirs(self):
        outcome = self.outcome("some_test", limit_s=2)
        self.assertEqual(outcome.result, "failed")
        self.assertEqual(outcome.note, "signal 11: 3 failed: A.2, A.3, A.4")
        self.assertEqual(outcome.figures, [("some_test", 1.0, "tests")])
        self.assertIn("[  FAILED  ] A.3, it hung", (self.tree / "log").read_text())
        outcome = self.outcome("hung_test", limit_s=1)
        self.assertEqual((outcome.result, outcome.note), ("failed", "exit code 1: 1 failed: A.1"))
        self.assertEqual(outcome.figures, [("hung_test", 1.0, "tests")])

    def test_all_ends_with_a_run_that_is_ended(self):
        command = [sys.executable, str(HERE / "run"), "--emulated", "--build", str(self.tree), "--out", str(self.out)]
        (self.tree / "tests/gpu/kernels_gpu_test").write_text("#!/bin/bash\nsetsid sleep 1000 & echo $!; wait\n")
        (self.tree / "tests/gpu/kernels_gpu_test").chmod(0o755)
        log = self.out / "device.log"
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as run:
            while not (log.exists() and log.read_text()):
                self.assertIsNone(run.poll())
            run.terminate()
            self.assertEqual(run.wait(60), 1)
        with contextlib.suppress(OSError):  # gone, or nobody has asked how it ended
            self.assertEqual(pathlib.Path("/proc", log.read_text().strip(), "environ").read_bytes(), b"")

    def run_all(self, *names, options=("--emulated",)):
        RUN.PARTS = tuple(RUN.Part(name, [program], 60) for name, program in names)
        return RUN.main([*options, "--build", str(self.tree), "--out", str(self.out)])

    def results(self):
        return [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]

    def test_the_exit_code_says_whether_all_passed(self):
        self.assertEqual(self.run_all(("device", "shows_device"), ("a", "passes")), 0)
        self.assertEqual(self.run_all(("a", "passes"), ("b", "has_none")), RUN.NO_DEVICE)
        self.assertEqual(self.run_all(("a", "fails"), ("b", "has_none")), 1)

    def test_results_have_the_device_and_every_part(self):
        self.run_all(("device", "shows_device"), ("a", "passes"), ("b", "fails"))
        lines = self.results()
        self.assertEqual([line["name"] for line in lines], ["device", "a", "b"])
        self.assertEqual({line["device"] for line in lines}, {"NVIDIA H200"})
        self.assertIn("| b | failed | exit code 1: 2 failed: A.B, A.C |", (self.out / "results.md").read_text())

    def test_results_are_there_when_the_next_part_begins(self):
        (self.tree / "tests/gpu/fails").write_text(f"#!/bin/bash\ncat {self.out}/results.md\n")
        self.run_all(("a", "passes"), ("b", "fails"))
        self.assertIn("| a | passed |", (self.out / "b.log").read_text())

    def test_a_second_run_goes_on_with_what_the_first_had_no_time_for(self):
        parts = (("device", "shows_device"), ("a", "fails"), ("b", "stops"), ("c", "passes"))
        self.assertEqual(self.run_all(*parts), 1)
        (self.tree / "tests/gpu/stops").write_text("#!/bin/bash\necho 'figure: b 7 us'\n")
        (self.tree / "tests/gpu/passes").write_text("#!/bin/bash\nexit 1\n")
        self.assertEqual(self.run_all(*parts, options=("--emulated", "--continue")), 1)
        found = {line["name"]: (line["result"], line["device"]) for line in self.results()}
        results = {"device": "passed", "a": "failed", "b": "passed", "c": "passed"}
        self.assertEqual(found, {name: (result, "NVIDIA H200") for name, result in results.items()})

    def test_nothing_is_recorded_that_was_not_run_on_a_device(self):
        with self.assertRaises(SystemExit):
            RUN.main(["--record", "--emulated"])
        RUN.ROOT = self.tree / "source"
        (RUN.ROOT / "tests/gpu").mkdir(parents=True)
        self.addCleanup(setattr, RUN, "ROOT", HERE.parents[1])
        for part, recorded in (("fails", False), ("shows_device", True)):
            self.run_all(("a", part), options=("--record",))
            self.assertEqual((RUN.ROOT / "tests/gpu/RESULTS.md").exists(), recorded, part)


if __name__ == "__main__":
    unittest.main()

"""tests/gpu/sanitizer.py over a compute-sanitizer that is a script: what it makes of how it ends."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SANITIZER = pathlib.Path(__file__).resolve().parent / "sanitizer.py"


class SanitizerTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = pathlib.Path(folder.name)

    def outcome(self, script, *arguments, **env):
        tool = self.home / "bin/compute-sanitizer"
        tool.parent.mkdir(exist_ok=True)
        if script is not None:
            tool.write_text(f"#!/bin/bash\n{script}\n")
            tool.chmod(0o755)
        full = {name: value for name, value in os.environ.items() if name != "SHOAL_EMULATED"}
        full.update({"CUDA_HOME": str(self.home), "SHOAL_GPU_PROGRAMS": "/programs", "PATH": "/nowhere", **env})
        done = subprocess.run(
            [sys.executable, str(SANITIZER), *arguments], capture_output=True, text=True, env=full, check=False
        )
        return done.returncode, done.stdout

    def test_every_tool_runs_the_small_cases_and_gives_figures(self):
        code, said = self.outcome('echo "$@ $SHOAL_GPU_SIZES"; echo "[  PASSED  ] 12 tests."')
        self.assertEqual(code, 0, said)
        for tool in ("memcheck", "racecheck", "synccheck"):
            self.assertIn(f"--tool {tool} ", said)
            self.assertIn(f"figure: {tool} 12 tests", said)
        self.assertIn("/programs/kernels_gpu_test --gtest_filter=GpuOps.*", said)
        self.assertIn(" small\n", said)

    def test_what_a_tool_finds_is_a_failure(self):
        script = 'echo "[  PASSED  ] 12 tests."; [ $2 != racecheck ] || exit 77'
        code, said = self.outcome(script)
        self.assertEqual(code, 1, said)
        self.assertIn("racecheck: exit code 77", said.splitlines()[-1])
        self.assertIn("figure: synccheck 12 tests", said)

    def test_what_there_was_no_time_for_is_said(self):
        script = 'echo "[  PASSED  ] 12 tests."; [ $2 = memcheck ] || sleep 100'
        code, said = self.outcome(script, SHOAL_GPU_SECONDS="1.5", PATH=os.environ["PATH"])
        self.assertEqual((code, said.splitlines()[-1]), (5, "out of time: synccheck, racecheck"), said)
        self.assertIn("figure: memcheck 12 tests", said)
        script = 'echo "========= Invalid __global__ read of size 4 bytes"; sleep 100'
        code, said = self.outcome(script, "--tool", "memcheck", SHOAL_GPU_SECONDS="1", PATH=os.environ["PATH"])
        self.assertEqual((code, said.splitlines()[-1]), (1, "memcheck: stopped"), said)

    def test_tests_that_did_not_run_are_no_success(self):
        code, said = self.outcome("exit 0", "--tool", "memcheck")
        self.assertEqual(code, 1, said)

    def test_no_device_and_no_tool_are_said(self):
        code, said = self.outcome("echo 'no device: the driver shows none'; exit 1")
        self.assertEqual(code, 3, said)
        code, said = self.outcome("echo '========= Error: Device not supported'; exit 1")
        self.assertEqual((code, "skipped: compute-sanitizer: Device not supported" in said), (4, True), said)
        code, said = self.outcome("exit 0", SHOAL_EMULATED="1")
        self.assertEqual((code, "skipped: an emulated device" in said), (4, True), said)

    @unittest.skipIf(os.path.exists("/usr/local/cuda"), "a toolkit is installed here")
    def test_without_the_tool_it_is_skipped(self):
        code, said = self.outcome(None)
        self.assertEqual((code, "skipped: there is no compute-sanitizer" in said), (4, True), said)


if __name__ == "__main__":
    unittest.main()

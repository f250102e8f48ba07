#!/usr/bin/env python3
"""The set-up scripts, as far as they can be tried without installing anything."""
import hashlib
import os
import stat
import subprocess
import tempfile
import unittest

SOURCE = os.environ.get("SHOAL_SOURCE_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DEV = os.path.join(SOURCE, "tools", "dev")


def run(*command, **environment):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=SOURCE,
                          env={**os.environ, **environment})


class CargoPath(unittest.TestCase):
    def cargo(self, version, minimum):
        """cargo_path with a cargo of that version first on PATH and none of Debian's taken into account."""
        with tempfile.TemporaryDirectory() as folder:
            fake = os.path.join(folder, "cargo")
            with open(fake, "w", encoding="utf-8") as f:
                f.write(f"#!/bin/sh\necho 'cargo {version} (abc 2025-01-01)'\n")
            os.chmod(fake, os.stat(fake).st_mode | stat.S_IXUSR)
            result = run(os.path.join(DEV, "cargo_path"), minimum, PATH=folder + ":" + os.environ["PATH"])
            return result.stdout.strip() == fake

    def test_versions_are_compared_as_numbers(self):
        for version, good in [("1.85.0", True), ("1.95.0", True), ("1.100.1", True), ("2.0.0", True),
                              ("1.84.9", False), ("1.9.0", False), ("0.66.0", False)]:
            with self.subTest(version=version):
                self.assertEqual(self.cargo(version, "1.85.0"), good)


class CudaHome(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = folder.name

    def toolkit(self, version, *headers):
        """cuda_home with a toolkit of that version and those headers in CUDA_HOME."""
        os.makedirs(os.path.join(self.home, "bin"), exist_ok=True)
        os.makedirs(os.path.join(self.home, "include"), exist_ok=True)
        nvcc = os.path.join(self.home, "bin", "nvcc")
        with open(nvcc, "w", encoding="utf-8") as f:
            f.write(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.88'\n")
        os.chmod(nvcc, 0o755)
        for header in headers:
            with open(os.path.join(self.home, "include", header), "w", encoding="utf-8"):
                pass
        return run(os.path.join(DEV, "cuda_home"), CUDA_HOME=self.home)

    def expect_refused(self, result, reason):
        self.assertNotEqual(result.stdout.strip(), self.home)
        self.assertIn(f"the CUDA toolkit at {self.home} is not used: {reason}", result.stderr)

    def test_an_installed_one_is_taken(self):
        result = self.toolkit("13.10", "cuda_runtime_api.h", "cublasLt.h", "nccl.h")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, self.home + "\n", ""))

    def test_why_one_is_not_used(self):
        self.expect_refused(run(os.path.join(DEV, "cuda_home"), CUDA_HOME=self.home), "it has no bin/nvcc")
        self.expect_refused(self.toolkit("9.2"), "it is CUDA 9.2, and 13.0 or later is needed")
        self.expect_refused(self.toolkit("12.9"), "it is CUDA 12.9, and 13.0 or later is needed")
        self.expect_refused(self.toolkit("13.0"), "it has no include/cuda_runtime_api.h")
        self.expect_refused(self.toolkit("13.0", "cuda_runtime_api.h"), "it has no include/cublasLt.h")

    def test_the_prefix_follows_the_list(self):
        with open(os.path.join(DEV, "cuda-requirements.txt"), "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()[:16]
        result = run(os.path.join(DEV, "cuda_home"), "--prefix")
        self.assertTrue(result.stdout.strip().endswith("/.cache/cuda/" + digest), result.stdout)


class Setup(unittest.TestCase):
    def test_unknown_part_is_refused(self):
        result = run(os.path.join(DEV, "setup"), "everything")
        self.assertEqual(result.returncode, 1)
        self.assertIn("unknown part 'everything'", result.stderr)

    def test_does_nothing_when_nothing_is_missing(self):
        # A build that reaches this test has been set up.
        result = run(os.path.join(DEV, "setup"), "build", "test", SHOAL_SKIP_APT="1")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))

    def test_model_digest_is_checked(self):
        model = os.path.join(SOURCE, "models", "SmolLM2-135M-Instruct-Q4_1.gguf")
        self.assertTrue(os.path.exists(model), "run `make model` first")
        before = os.stat(model).st_mtime_ns
        result = run(os.path.join(DEV, "get_model"), model)
        self.assertEqual((result.returncode, os.stat(model).st_mtime_ns), (0, before), result.stderr)

    def test_package_lists_hold_one_name_per_line_once(self):
        for name in ("apt-packages.txt", "apt-packages-dev.txt"):
            with open(os.path.join(DEV, name), encoding="utf-8") as f:
                packages = [line.strip() for line in f if line.strip() and not line.startswith("#")]
            self.assertEqual(len(packages), len(set(packages)), name)
            self.assertTrue(all(" " not in p for p in packages), name)


class Figures(unittest.TestCase):
    def test_shows_what_tests_printed_and_nothing_else(self):
        with tempfile.TemporaryDirectory() as build:
            os.makedirs(os.path.join(build, "Testing", "Temporary"))
            with open(os.path.join(build, "Testing", "Temporary", "LastTest.log"), "w", encoding="utf-8") as f:
                f.write("1/2 Testing: a\n[ RUN ] A.B\nfigure: mean KL 0.002\nnot a figure: 3\n")
            result = run(os.path.join(DEV, "figures"), build)
            self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "  mean KL 0.002\n", ""))

    def test_a_run_without_a_log_has_none(self):
        with tempfile.TemporaryDirectory() as build:
            result = run(os.path.join(DEV, "figures"), build)
            self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))


if __name__ == "__main__":
    unittest.main()

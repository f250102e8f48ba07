#!/usr/bin/env python3
"""tools/dev/ptxas_report reads what ptxas writes and fails on spills; tools/dev/keep_ptxas keeps it."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

SOURCE = os.environ.get("SHOAL_SOURCE_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
PROGRAM = os.path.join(SOURCE, "tools", "dev", "ptxas_report")
KEEP = os.path.join(SOURCE, "tools", "dev", "keep_ptxas")

# Recorded from nvcc 13.0.88: a kernel template in an anonymous namespace that spills, and a function that it calls.
SPILLING = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN5shoal4cuda36_GLOBAL__N__09780e65_4_s_cu_198e21c25SpillILi64EEEvPf' for 'sm_80'
ptxas info    : Function properties for _ZN5shoal4cuda36_GLOBAL__N__09780e65_4_s_cu_198e21c25SpillILi64EEEvPf
    2576 bytes stack frame, 3968 bytes spill stores, 5156 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 2576 bytes cumulative stack size, 1024 bytes smem, 360 bytes cmem[0]
ptxas info    : Compile time = 7855.836 ms
ptxas info    : Function properties for _ZN34_INTERNAL_09780e65_4_s_cu_198e21c25shoal4cuda36_GLOBAL__N__09780e65_4_s_cu_198e21c26HelperEPKfi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""
CLEAN = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5ScalePffi' for 'sm_80'
ptxas info    : Function properties for _Z5ScalePffi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 368 bytes cmem[0]
ptxas info    : Compile time = 196.251 ms
"""
WAIVER = "shoal::cuda::Spill sm_80: the test wants it\n"


class Report(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.build = folder.name

    def write(self, name, text):
        path = os.path.join(self.build, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def report(self, texts, waivers=""):
        """Exit status and output for a build tree with one .cu file per report; None: a file without one."""
        entries = [{"directory": self.build, "file": "/s/a.cc", "command": "c++ -c a.cc -o a.cc.o"}]
        for i, text in enumerate(texts):
            entries.append({"directory": self.build, "file": f"/s/{i}.cu", "command": f"nvcc -c {i}.cu -o {i}.cu.o"})
            if text is not None:
                self.write(f"{i}.cu.o.ptxas", text)
        self.write("compile_commands.json", json.dumps(entries))
        result = subprocess.run([sys.executable, PROGRAM, self.build, "--waivers", self.write("waivers", waivers)],
                                capture_output=True, text=True, timeout=60, check=False)
        return result.returncode, result.stdout + result.stderr

    def test_a_clean_kernel_is_shown(self):
        code, output = self.report([CLEAN])
        self.assertEqual(code, 0, output)
        self.assertRegex(output, r"(?m)^ +8 +0 +0 +0  sm_80   Scale\(float\*, float, int\)$")
        self.assertIn("1 files, 1 functions, 0 problems", output)

    def test_a_spill_fails_and_is_named(self):
        code, output = self.report([CLEAN, SPILLING])
        self.assertEqual(code, 1, output)
        self.assertRegex(output, r"(?m)^ +32 +1024 +2576 +9124  sm_80   void shoal::cuda::\(anonymous namespace\)::Spill<64>")
        self.assertRegex(output, r"Spill<64>\(float\*\) spills on sm_80: 3968 bytes stored, 5156 loaded")
        self.assertRegex(output, r"(?m)^ +- +- +0 +0  sm_80   shoal::cuda::\(anonymous namespace\)::Helper\(float const\*, int\)$")

    def test_a_waiver_with_a_reason_lets_it_pass_on_its_architecture_only(self):
        code, output = self.report([SPILLING], WAIVER)
        self.assertEqual(code, 0, output)
        code, output = self.report([SPILLING], WAIVER.replace("sm_80", "sm_90a"))
        self.assertEqual(code, 1, output)

    def test_a_waiver_that_nothing_needs_fails(self):
        code, output = self.report([CLEAN], "# comment\n\n" + WAIVER)
        self.assertEqual(code, 1, output)
        self.assertIn("waiver for shoal::cuda::Spill sm_80: it does not spill", output)

    def test_a_waiver_without_a_reason_is_refused(self):
        code, output = self.report([SPILLING], "shoal::cuda::Spill sm_80:\n")
        self.assertEqual(code, 1, output)
        self.assertIn("not of the form", output)

    def test_a_file_without_a_report_fails(self):
        code, output = self.report([CLEAN, None])
        self.assertEqual(code, 1, output)
        self.assertIn("no report of /s/1.cu", output)

    def test_what_is_out_of_the_ordinary_is_shown(self):
        note = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized"
        code, output = self.report([CLEAN + note + "\n"])
        self.assertEqual(code, 0, output)
        self.assertIn("note: " + note, output)


class Keep(unittest.TestCase):
    def keep(self, status):
        """Runs keep_ptxas on a compiler that writes a report and a warning; returns the result and the report kept."""
        with tempfile.TemporaryDirectory() as folder:
            compiler, out = os.path.join(folder, "nvcc"), os.path.join(folder, "a.o")
            with open(compiler, "w", encoding="utf-8") as f:
                f.write(f"#!/bin/sh\ncat >&2 <<'END'\n{CLEAN}a.cu(1): warning: text\nEND\necho out\nexit {status}\n")
            os.chmod(compiler, 0o755)
            result = subprocess.run([sys.executable, KEEP, compiler, "-c", "a.cu", "-o", out], capture_output=True,
                                    text=True, timeout=60, check=False)
            report = None
            if os.path.exists(out + ".ptxas"):
                with open(out + ".ptxas", encoding="utf-8") as f:
                    report = f.read()
            return result, report

    def test_the_report_goes_to_its_file_and_the_rest_on(self):
        result, report = self.keep(0)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "out\n", "a.cu(1): warning: text\n"))
        self.assertEqual(report, CLEAN)

    def test_a_failure_is_passed_on_and_leaves_no_report(self):
        result, report = self.keep(3)
        self.assertEqual((result.returncode, report), (3, None))


if __name__ == "__main__":
    unittest.main()

"""Every mutant still applies to the tree, says what it is, and names tests that exist."""

import os
import pathlib
import re
import subprocess
import unittest

import run

SOURCE = pathlib.Path(os.environ["SHOAL_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["SHOAL_BUILD_DIR"])


class MutantsTest(unittest.TestCase):
    def test_all_apply_and_name_tests(self):
        patches = sorted(run.HERE.glob("*.patch"))
        self.assertGreaterEqual(len(patches), 12)
        # From ctest's own files: a ctest inside ctest writes its log anew, and the figures of all tests before are gone.
        listed = {name for file in BUILD.rglob("CTestTestfile.cmake")
                  for name in re.findall(r"^add_test\(\[=\[(.+?)\]=\]", file.read_text(), re.MULTILINE)}
        for patch in patches:
            with self.subTest(patch.stem):
                what, tests = run.read(patch)
                self.assertTrue(what and tests)
                for name in tests:
                    self.assertIn(name, listed)
                applied = subprocess.run(["git", "apply", "--check", patch], cwd=SOURCE, capture_output=True, text=True,
                                         check=False)
                self.assertEqual(applied.returncode, 0, applied.stderr)


if __name__ == "__main__":
    unittest.main()

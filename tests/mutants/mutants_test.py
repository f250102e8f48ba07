"""Every mutant still applies to the tree, says what it is, and names tests that exist."""

import os
import pathlib
import subprocess
import unittest

import run

SOURCE = pathlib.Path(os.environ["SHOAL_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["SHOAL_BUILD_DIR"])


class MutantsTest(unittest.TestCase):
    def test_all_apply_and_name_tests(self):
        patches = sorted(run.HERE.glob("*.patch"))
        self.assertGreaterEqual(len(patches), 12)
        listed = subprocess.run(["ctest", "--test-dir", BUILD, "-N"], check=True, capture_output=True, text=True).stdout
        for patch in patches:
            with self.subTest(patch.stem):
                what, tests = run.read(patch)
                self.assertTrue(what and tests)
                for name in tests:
                    self.assertIn(f": {name}\n", listed)
                applied = subprocess.run(["git", "apply", "--check", patch], cwd=SOURCE, capture_output=True, text=True,
                                         check=False)
                self.assertEqual(applied.returncode, 0, applied.stderr)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""tools/dev/readme_check runs what is marked, as written, and fails when a block or a server does."""
import os
import socket
import subprocess
import sys
import tempfile
import unittest

SOURCE = os.environ.get("SHOAL_SOURCE_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
PROGRAM = os.path.join(SOURCE, "tools", "dev", "readme_check")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def block(kind, code, expect=None):
    marks = f"<!-- check: {kind} -->\n" + (f"<!-- expect: {expect} -->\n" if expect else "")
    return f"text\n\n{marks}```sh\n{code}\n```\n"


class ReadmeCheck(unittest.TestCase):
    def check(self, text, *args):
        with tempfile.NamedTemporaryFile("w", suffix=".md") as f:
            f.write(text)
            f.flush()
            result = subprocess.run([sys.executable, PROGRAM, "--file", f.name, "--timeout", "20", *args],
                                    capture_output=True, text=True, timeout=60, check=False)
        return result.returncode, result.stdout + result.stderr

    def test_good_block(self):
        code, output = self.check(block("run", "echo one\necho two", "one\\ntwo"))
        self.assertEqual(code, 0, output)

    def test_failing_line_in_the_middle(self):
        code, output = self.check(block("run", "echo one\nfalse\necho two"))
        self.assertEqual(code, 1)
        self.assertIn("exit status 1", output)
        self.assertNotIn("two", output)

    def test_missing_output(self):
        code, output = self.check(block("run", "echo one", "three"))
        self.assertEqual(code, 1)
        self.assertIn("does not contain", output)

    def test_later_blocks_do_not_run_after_a_failure(self):
        code, output = self.check(block("run", "false") + block("run", "echo later"))
        self.assertEqual(code, 1)
        self.assertNotIn("later", output)

    def test_skip_and_unmarked(self):
        code, output = self.check(block("test", "false") + "```sh\nfalse\n```\n" + block("run", "true"), "--skip", "test")
        self.assertEqual(code, 0, output)

    def test_nothing_marked(self):
        code, _ = self.check("```sh\ntrue\n```\n")
        self.assertEqual(code, 1)

    def test_unknown_mark(self):
        code, output = self.check(block("maybe", "true"))
        self.assertNotEqual(code, 0)
        self.assertIn("maybe", output)

    def server(self, port, ending="sys.exit(0)"):
        return ("exec python3 -c '\n"
                "import http.server, signal, sys\n"
                f"def end(*_): {ending}\n"
                "signal.signal(signal.SIGINT, end)\n"
                "class H(http.server.BaseHTTPRequestHandler):\n"
                "    def do_GET(self):\n"
                "        self.send_response(200); self.end_headers(); self.wfile.write(b\"hello\")\n"
                f"http.server.HTTPServer((\"127.0.0.1\", {port}), H).serve_forever()'")

    def test_server_runs_while_later_blocks_do_and_ends(self):
        port = free_port()
        ask = f"python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:{port}/\").read())'"
        code, output = self.check(block("serve", self.server(port)) + block("run", ask, "hello"),
                                  "--ready-url", f"http://127.0.0.1:{port}/readyz")
        self.assertEqual(code, 0, output)
        with socket.socket() as s:
            self.assertNotEqual(s.connect_ex(("127.0.0.1", port)), 0, "the server still listens")

    def test_server_prints_what_is_expected(self):
        # The words come after it is ready: printed by the first request, which is the one that asks whether it is.
        port = free_port()
        server = self.server(port).replace("self.wfile.write(b\"hello\")",
                                           "self.wfile.write(b\"hello\"); print(\"up and ready\", flush=True)")
        ready = ("--ready-url", f"http://127.0.0.1:{port}/readyz")
        code, output = self.check(block("serve", server, "up and ready"), *ready)
        self.assertEqual(code, 0, output)
        code, output = self.check(block("serve", server, "down"), *ready, "--settle", "0")
        self.assertEqual(code, 1)
        self.assertIn("does not contain /down/", output)

    def test_server_that_ends_early(self):
        code, output = self.check(block("serve", "exit 3"), "--ready-url", f"http://127.0.0.1:{free_port()}/")
        self.assertEqual(code, 1)
        self.assertIn("before it was ready", output)


if __name__ == "__main__":
    unittest.main()

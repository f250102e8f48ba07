"""`shoal chat` in a terminal of its own: an answer streams, Ctrl-C stops the answer and not the program, the next
question is answered. Once against the real server, and against one that stalls where the test wants it."""

import contextlib
import http.server
import json
import os
import pty
import signal
import subprocess
import threading

import pytest

import harness

CTRL_C, CTRL_D = b"\x03", b"\x04"


class Terminal:
    """`shoal chat` on a pseudo-terminal. What it shows is collected in `shown`."""

    def __init__(self, *args):
        self.shown = ""
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execv(harness.BINARY, [harness.BINARY, "chat", *map(str, args)])
        self.pid = pid
        self.code = None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(self.fd, 4096):
                self.shown += data.decode(errors="replace")

    def type(self, keys):
        os.write(self.fd, keys)

    def ask(self, question):
        """Types a question at the prompt; where in `shown` its answer begins."""
        before = len(self.shown)
        self.type(question.encode() + b"\n")
        echo = question + "\r\n"
        harness.until(lambda: echo in self.shown[before:], 30, f"the echo of {question}: {self.shown!r}")
        return self.shown.index(echo, before) + len(echo)

    def wait(self):
        """The exit code; 128 + signal when one ended it."""
        def ended():
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == 0:
                return False
            code = os.waitstatus_to_exitcode(status)
            self.code = code if code >= 0 else 128 - code
            return True
        harness.until(ended, 30, f"the end of chat: {self.shown!r}")
        self.reader.join(10)
        return self.code


@contextlib.contextmanager
def chat(*args):
    terminal = Terminal(*args)
    try:
        harness.until(lambda: "> " in terminal.shown, 30, f"the prompt: {terminal.shown!r}")
        yield terminal
    finally:
        if terminal.code is None:
            os.kill(terminal.pid, signal.SIGKILL)
            os.waitpid(terminal.pid, 0)
        os.close(terminal.fd)


def until_prompt(terminal, begin):
    harness.until(lambda: "\n> " in terminal.shown[begin:], 60, f"the next prompt: {terminal.shown[begin:]!r}")


class Stub:
    """A server whose answers are told: for each question, the pieces it streams and whether it then stalls. Keeps the
    requests, and how many connections the client has ended."""

    def __init__(self, *answers, status=200):
        self.answers = list(answers)
        self.requests = []
        self.left = 0
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def reply(self, status, body, kind="application/json"):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                if status != 200:
                    self.reply(status, json.dumps({"error": {"message": "this key opens nothing"}}).encode())
                else:
                    self.reply(200, json.dumps({"data": [{"id": "stub"}]}).encode())

            def do_POST(self):
                stub.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                pieces, stalls = stub.answers.pop(0)
                if pieces or not stalls:
                    self.send_response(200)
                    self.send_header("Content-Type", "text/event-stream")
                    self.end_headers()
                for piece in pieces:
                    event = {"choices": [{"delta": {"content": piece}}]}
                    self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                    self.wfile.flush()
                if stalls:
                    self.connection.settimeout(60)
                    assert self.connection.recv(1) == b""
                    stub.left += 1
                else:
                    self.wfile.write(b"data: [DONE]\n\n")
                self.close_connection = True

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("pieces", [["one ", "two"], []], ids=["mid-stream", "before-the-first-byte"])
def test_ctrl_c_stops_the_answer_and_not_the_program(pieces):
    with Stub((pieces, True), (["three"], False)) as stub, chat("--url", stub.url) as terminal:
        begin = terminal.ask("Count.")
        harness.until(lambda: stub.requests and "".join(pieces) in terminal.shown[begin:], 30, "the answer's start")
        terminal.type(CTRL_C)
        harness.until(lambda: stub.left == 1, 30, "the connection is ended")
        until_prompt(terminal, begin)
        assert "[stopped]" in terminal.shown[begin:]
        begin = terminal.ask("Go on.")
        until_prompt(terminal, begin)
        assert terminal.shown[begin:].startswith("three\r\n"), terminal.shown
        assert [m["content"] for m in stub.requests[1]["messages"]] == ["Count.", "".join(pieces), "Go on."]
        terminal.type(CTRL_D)
        assert terminal.wait() == 0


def test_a_refused_key_is_said_to_be_one():
    with Stub(status=401) as stub:
        code, output = harness.run("chat", "--url", stub.url)
    assert code == 1
    assert "401" in output and "this key opens nothing" in output
    assert "no server" not in output


def test_without_a_server_it_says_how_to_start_one():
    code, output = harness.run("chat", "--url", f"http://127.0.0.1:{harness.free_port()}")
    assert code == 1 and "no server at" in output and "shoal serve" in output


def test_the_real_server_goes_on_after_a_stopped_answer():
    with harness.serve(harness.GGUF) as server, chat("--url", server.url, "--temperature", 0) as terminal:
        begin = terminal.ask("Write down the numbers from one to ten thousand, one after the other.")
        harness.until(lambda: terminal.shown[begin:].strip(), 60, "the answer's first words")
        terminal.type(CTRL_C)
        until_prompt(terminal, begin)
        assert "[stopped]" in terminal.shown[begin:], terminal.shown[begin:]
        harness.until(lambda: server.cluster()["running"] == 0, 30, "the server drops the request")
        begin = terminal.ask("Name the largest ocean on Earth.")
        until_prompt(terminal, begin)
        answer = terminal.shown[begin:]
        assert answer.strip("> \r\n") and "[stopped]" not in answer and "shoal:" not in answer, answer
        terminal.type(CTRL_D)
        assert terminal.wait() == 0


def test_questions_from_a_pipe():
    with Stub((["Pacific"], False), (["Nile"], False)) as stub:
        chatting = subprocess.run([harness.BINARY, "chat", "--url", stub.url, "--system", "Be brief."],
                                  input="Ocean?\n\nRiver?\n", capture_output=True, text=True, timeout=60, check=False)
    assert chatting.returncode == 0 and chatting.stdout == "Pacific\nNile\n", chatting
    assert [m["role"] for m in stub.requests[1]["messages"]] == ["system", "user", "assistant", "user"]


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))

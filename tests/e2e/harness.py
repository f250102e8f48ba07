"""Starts the real program for tests: servers, agents, and what they leave behind. Standard library and httpx only."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import threading

import httpx

from processes import descendants, free_port, until

SOURCE = pathlib.Path(os.environ["SHOAL_SOURCE_DIR"])
BINARY = os.environ["SHOAL_BINARY"]
GGUF = SOURCE / "models/SmolLM2-135M-Instruct-Q4_1.gguf"
SAFETENSORS = SOURCE / "models/SmolLM2-135M-Instruct-bf16"
STATE = tempfile.TemporaryDirectory(prefix="shoal-state-")  # what programs keep for their user
READY_SECONDS = 120  # generous: several tests may share two cores


def alive(pid):
    try:
        state = pathlib.Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()[0]
        return state != "Z"
    except OSError:
        return False


class Process:
    """One started program; its output is collected. `prefix`: a program that becomes it."""

    def __init__(self, *args, env=None, prefix=()):
        self.args = [str(a) for a in args]
        self.output = ""
        self.process = subprocess.Popen(
            [*prefix, BINARY, *self.args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**os.environ, "XDG_STATE_HOME": STATE.name, "SHOAL_DEVICE": "cpu", **(env or {})},
            start_new_session=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.output += line

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process.poll() is None

    def wait(self, seconds=60):
        code = self.process.wait(seconds)
        self.reader.join(10)
        return code

    def stop(self, sig=signal.SIGTERM, seconds=60):
        """Signals, waits, and returns the exit code; nothing of it may be left."""
        below = descendants(self.pid)
        if self.running():
            self.process.send_signal(sig)
        code = self.wait(seconds)
        until(lambda: not [p for p in below if alive(p)], 20, f"processes left behind by {self.args}: {self.output}")
        return code

    def kill_all(self):
        for pid in [self.pid, *descendants(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()


class Server(Process):
    """`shoal serve` on a free port."""

    def __init__(self, model, *args, env=None):
        self.port = free_port()
        super().__init__("serve", model, "--port", self.port, *args, env=env)
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=300)

    def wait_ready(self, seconds=READY_SECONDS):
        def ready():
            assert self.running(), f"ended with {self.process.returncode}:\n{self.output}"
            with contextlib.suppress(httpx.TransportError):
                return self.http.get("/readyz").status_code == 200
        until(ready, seconds, f"ready:\n{self.output}")
        return self

    def cluster(self):
        return self.http.get("/v1/cluster").raise_for_status().json()

    def complete(self, prompt, **parameters):
        """One non-streaming completion; the response."""
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 32, **parameters}
        return self.http.post("/v1/completions", json=body)

    def text(self, prompt, **parameters):
        return self.complete(prompt, **parameters).raise_for_status().json()["choices"][0]["text"]

    def chat(self, content, **parameters):
        body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 48, **parameters}
        return self.http.post("/v1/chat/completions", json=body).raise_for_status().json()

    def chat_stream(self, content, **parameters):
        """The text of a streamed answer."""
        body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 48, "stream": True,
                **parameters}
        text = ""
        with self.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            assert reply.status_code == 200, reply.read()
            for line in reply.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    for choice in json.loads(line[6:])["choices"]:
                        text += choice["delta"].get("content", "")
        return text


@contextlib.contextmanager
def serve(model, *args, env=None):
    """A ready server; afterwards it must end with 0 and leave nothing."""
    server = Server(model, *args, env=env)
    try:
        yield server.wait_ready()
        assert server.stop() == 0, server.output
    finally:
        if server.running():
            server.kill_all()


def run(*args, env=None, seconds=60):
    """A program that ends by itself: (exit code, output)."""
    process = Process(*args, env=env)
    try:
        return process.wait(seconds), process.output
    finally:
        if process.running():
            process.kill_all()

"""`shoal serve` and its clients for the suite: the standard library only."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from processes import descendants, free_port, until

NO_DEVICE = 3  # exit code of a part that found none (gpu_plugin.h)
FAULT = {"SHOAL_FAULT_ON_SIGUSR1": "illegal-access"}


class NoDevice(Exception):
    """There is none to serve with."""


class Server:
    """A server on a free port, in a process group of its own; `with` ends it and all below."""

    def __init__(self, model, *args, ready_s=120):
        self.port = free_port()
        self.ready_s = ready_s
        self.state = tempfile.TemporaryDirectory(prefix="shoal-gpu-")
        self.log = pathlib.Path(self.state.name) / "log"
        command = [os.environ["SHOAL_BINARY"], "serve", str(model), "--port", str(self.port), *map(str, args)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **FAULT, "XDG_STATE_HOME": self.state.name},
                start_new_session=True,
            )

    @property
    def output(self):
        return self.log.read_text(errors="replace")

    def __enter__(self):
        try:
            self.await_ready()
        except BaseException:
            self.end(signal.SIGKILL)
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print(self.output[-6000:], flush=True)
        code = self.end(signal.SIGTERM if kind is None else signal.SIGKILL)
        assert kind is not None or code == 0, f"ended with {code}"

    def await_ready(self):
        def ready():
            if self.process.poll() is not None:
                # What else may be wrong with the plug-in is a failure.
                why = re.search(r"--device cuda: (CUDA \d.*)", self.output)
                if why:
                    raise NoDevice(why.group(1))
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.output}")
            with contextlib.suppress(OSError):
                return self.get("/readyz")[0] == 200

        until(ready, self.ready_s, lambda: f"ready:\n{self.output}")

    def end(self, how):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        try:
            return self.process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.state.cleanup()

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()

    def cluster(self):
        status, body = self.get("/v1/cluster")
        assert status == 200, body
        return json.loads(body)

    def complete(self, **request):
        """The text of a completion, greedy unless told."""
        stream = Stream(self, request)
        stream.join()
        return stream.text()

    def awaits_fault(self, rank, before):
        """The process of this rank that came after `before`, once a signal makes it fail."""
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                words = pathlib.Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
                if words[1:4] != [b"rank", b"--reader", str(rank).encode()] or pid == before:
                    continue
                status = pathlib.Path("/proc", str(pid), "status").read_text()
                caught = int(status.split("SigCgt:")[1].split()[0], 16)
                if caught >> (signal.SIGUSR1 - 1) & 1:
                    return pid
        return None

    def present_ranks(self, seconds=60):
        """The ranks, once all are alive and heartbeats have told of them."""

        def told():
            ranks = self.cluster()["ranks"]
            good = all(r["state"] in ("ready", "running") and os.path.exists(f"/proc/{r['pid']}") for r in ranks)
            return ranks if ranks and good else None

        return until(told, seconds, lambda: f"all ranks present: {self.cluster()['ranks']}")


class Stream(threading.Thread):
    """A streamed completion that takes down when each piece of text came."""

    def __init__(self, server, request):
        super().__init__(daemon=True)
        self.pieces = []  # of (time, text), changed by this thread only
        self.finish = []
        self.error = None
        self.server = server
        self.request = {"temperature": 0, "ignore_eos": True, "stream": True, **request}
        self.start()

    def run(self):
        try:
            self.read()
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            self.error = repr(error)

    def read(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps(self.request))
        reply = connection.getresponse()
        if reply.status != 200:
            raise ValueError(reply.read())
        last = None
        for line in reply:
            if not line.startswith(b"data: "):
                continue
            last = line[6:].strip()
            if last == b"[DONE]":
                continue
            event = json.loads(last)
            if "error" in event:
                raise ValueError(event["error"])
            choice = event["choices"][0]
            if choice["text"]:
                self.pieces.append((time.monotonic(), choice["text"]))
            if choice["finish_reason"]:
                self.finish.append(choice["finish_reason"])
        if last != b"[DONE]":
            raise ValueError("the stream was cut")

    def text(self):
        assert self.error is None, self.error
        assert self.finish == ["length"], f"terminal events: {self.finish}"
        return "".join(text for _, text in self.pieces)

    def pause_after(self, moment):
        """The longest time without text since then, when it went on; nothing where it had ended before."""
        times = [moment, *(at for at, _ in self.pieces if at > moment)]
        return max((b - a for a, b in zip(times, times[1:])), default=None)


def figure(name, value, unit):
    print(f"figure: {name} {value:.4g} {unit}", flush=True)

"""The clusters that faults are done to: real processes, tp 2 x pp 2, in one agent or over two."""

import contextlib
import os
import pathlib
import signal

import harness

SHAPE = ["--tensor-parallel-size", 2, "--pipeline-parallel-size", 2, "--max-num-seqs", 16]


def command(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def below(pid, verb):
    """Living processes below `pid` whose verb it is."""
    return [p for p in harness.descendants(pid) if command(p)[1:2] == [verb] and harness.alive(p)]


def figures(pid):
    """(file descriptors, threads, private memory in KiB) of a process."""
    status = pathlib.Path("/proc", str(pid), "status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines())
    return {"fds": len(os.listdir(f"/proc/{pid}/fd")), "threads": int(values["Threads"]),
            "memory_kib": int(values["RssAnon"].split()[0])}


class One:
    """`shoal serve` with its local agent."""
    name = "one agent"

    def __init__(self, model, *args):
        self.server = harness.Server(model, *SHAPE, *args)
        self.server.wait_ready()

    def coordinator(self):
        return (below(self.server.pid, "coordinator") or [None])[0]

    def agents(self):
        return below(self.server.pid, "worker")

    def revive(self, _agent):
        """The launcher does it."""

    def ranks(self):
        return sorted(p for agent in self.agents() for p in below(agent, "rank"))

    def all_processes(self):
        return [self.server]

    def stop(self):
        """Ends everything in order; what is wrong with how it ended, or None."""
        server, *workers = self.all_processes()
        try:
            code = server.stop()
            if code != 0:
                return f"the server ended with {code}: {server.output[-2000:]}"
            for worker in workers:
                worker.stop()
        finally:
            for process in [server, *workers]:
                if process.running():
                    process.kill_all()
        return None


class Two(One):
    """A coordinator and two agents of two ranks each; `args` of the server choose the transport."""
    name = "two agents"

    def __init__(self, model, *args):
        self.port = harness.free_port()
        self.workers = [self._worker(), self._worker()]
        super().__init__(model, "--workers", "external", "--master-port", self.port, *args)

    def _worker(self):
        return harness.Process("worker", "--master-port", self.port, "--slots", 2)

    def agents(self):
        return [w.pid for w in self.workers if w.running()]

    def revive(self, agent):
        """As a supervisor of the host would."""
        for i, worker in enumerate(self.workers):
            if worker.pid == agent:
                worker.wait()
                self.workers[i] = self._worker()

    def all_processes(self):
        return [self.server, *self.workers]


def send(pid, sig):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sig)


KILL, STOP, CONT = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT

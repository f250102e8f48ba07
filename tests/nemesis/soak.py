"""Mixed load for long, with a fault every 20 s: does anything grow?

    soak.py --minutes N [--mode one|two|apart] [--every SECONDS]

Streams as in nemesis.py, and beside them requests that are refused, cut short or not streamed. The coordinator lives
through all of it; agents are killed in the first third of the run and live through the rest. Their private memory is sampled
every 10 s; the slope of its least-squares line, without its first tenth, is printed. Exit code 1: a wrong answer, as for nemesis.py, or a slope of 1 MiB per minute or more.
"""

import argparse
import json
import sys
import threading
import time

import httpx

import cluster as clusters
import nemesis

LIMIT_MIB_PER_MINUTE = 1.0
OF_COORDINATOR = ["coordinator_kill", "coordinator_stop"]
OF_AGENTS = ["agent_kill", "agent_and_spare_kill", "drain"]  # what ends an agent
BAD = [b"{", b'{"prompt": "x", "max_tokens": -1}', b'{"prompt": 5}', json.dumps({"prompt": "x " * 9000}).encode()]


def slope(samples):
    """Of (x, y) pairs, by least squares."""
    n = len(samples)
    mean_x, mean_y = sum(x for x, _ in samples) / n, sum(y for _, y in samples) / n
    below = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / below if below else 0.0


class Noise(threading.Thread):
    """Requests beside the streams: refused ones, given up ones, whole answers."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.over, self.sent, self.unexpected = url, threading.Event(), 0, []

    def run(self):
        turn = 0
        while not self.over.wait(0.3):
            turn += 1
            try:
                if turn % 3 == 0:
                    code = httpx.post(f"{self.url}/v1/completions", content=BAD[turn // 3 % len(BAD)], timeout=60).status_code
                    if not 400 <= code < 500:
                        self.unexpected.append(f"a bad request got {code}")
                elif turn % 3 == 1:
                    httpx.post(f"{self.url}/v1/completions", json={"prompt": "One two", "max_tokens": 500}, timeout=0.2)
                else:
                    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
                    httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)
            except httpx.TransportError:
                pass
            self.sent += 1


class Memory(threading.Thread):
    """Private memory of the processes that live through all faults."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.over, self.samples = cluster, threading.Event(), {}

    def run(self):
        start = time.monotonic()
        while not self.over.wait(10):
            pids = [("coordinator", self.cluster.coordinator()), *[("agent", p) for p in self.cluster.agents()]]
            for name, pid in pids:
                try:
                    mib = clusters.figures(pid)["memory_kib"] / 1024
                except (OSError, KeyError):
                    continue
                self.samples.setdefault(f"{name} {pid}", []).append(((time.monotonic() - start) / 60, mib))

    def slopes(self):
        """MiB per minute, of processes that were there for half of the time."""
        longest = max((len(s) for s in self.samples.values()), default=0)
        return {name: slope(s[len(s) // 10:]) for name, s in self.samples.items() if len(s) >= max(longest // 2, 6)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--mode", choices=["one", "two", "apart"], default="one")
    parser.add_argument("--every", type=float, default=20)
    own = parser.parse_args()
    nemesis.end_on_sigterm()
    found = nemesis.Nemesis(nemesis.parse(["--mode", own.mode, "--faults", "0", "--without", ",".join(OF_COORDINATOR)]))
    noise, memory = Noise(found.server.url), Memory(found.cluster)
    try:
        noise.start()
        memory.start()
        end = time.monotonic() + 60 * own.minutes
        index = 0
        while time.monotonic() < end and not found.wrong:
            began = time.monotonic()
            if began > end - 60 * own.minutes * 2 / 3:
                found.options.without = ",".join(OF_COORDINATOR + OF_AGENTS)
            found.rows.append(found.one(index))
            found.settle()
            index += 1
            while time.monotonic() < min(began + own.every, end):
                time.sleep(0.2)
                found.settle()
        noise.over.set()
        memory.over.set()
        noise.join(90)
        found.check_baseline()
        found.load.stop()
        if (trouble := found.cluster.stop()) is not None:
            found.say(trouble)
    finally:
        found.cluster.kill()
    for what in noise.unexpected:
        found.say(what)
    for name, mib in memory.slopes().items():
        print(f"{name}: {mib:+.3f} MiB/min over {len(memory.samples[name])} samples, "
              f"{memory.samples[name][0][1]:.1f} -> {memory.samples[name][-1][1]:.1f} MiB")
        if mib >= LIMIT_MIB_PER_MINUTE:
            found.say(f"{name} grows by {mib:.2f} MiB per minute")
    print(f"{noise.sent} requests beside the streams")
    print(nemesis.summary(own.mode, found))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Faults under load, on real processes; every stream is compared with what it gives undisturbed.

    nemesis.py --faults N [--mode one|two|apart] [--seed S] [--width W] [--state FILE] [--only KIND] [--args "..."]

A fault counts when at least four streams were between their first and last token. With --state it goes on where it
stopped, and faults add up; the table of all of them is printed at the end. Exit code 1: an answer was lost, came twice or
differs, a group was lost for no reason, or something did not return to its baseline; 77: the mode cannot be had here.
"""

import argparse
import json
import pathlib
import random
import shlex
import signal
import statistics
import subprocess
import sys
import time

import cluster as clusters
import faults
import harness
import load as loads

LIVE = 4           # streams that a fault must hit
BATCH = 10         # faults between two looks at the baseline
KEYED = 2          # requests with a key that a fault of the coordinator must hit
NOT_HERE = 77      # exit code
IDLE_SECONDS = 5   # within which everything is back at its baseline
# gRPC keeps a few threads more or fewer, malloc some memory; what leaks with each fault is more than that after a few batches.
SLACK = {"fds": 0, "threads": 4, "memory_kib": 16 << 10}
SUMS = ["live", "cut", "keyed", "recomputed"]  # columns of the table


def pause_of(stream, since):
    """From `since` to the end of the longest pause of a stream after it, in seconds; None: it had ended by then."""
    times = [since, *[t for t in stream.times if t > since]]
    if len(times) < 2:
        return None
    gaps = [(b - a, b) for a, b in zip(times, times[1:])]
    return max(gaps)[1] - since


class Nemesis:
    def __init__(self, options):
        self.options = options
        kind = {"one": clusters.One, "two": clusters.Two, "apart": clusters.Apart}[options.mode]
        self.cluster = kind(harness.GGUF, *shlex.split(options.args))
        self.server = self.cluster.server
        try:
            self.load = loads.Load(self.server.url, options.width, options.max_tokens)
        except BaseException:
            self.cluster.kill()
            raise
        self.wrong, self.requests, self.cut, self.rows = [], 0, 0, []
        self.baseline = None

    def state(self):
        end = time.monotonic() + 30
        while True:  # it may be on its way back
            try:
                return self.server.cluster()
            except Exception as trouble:  # noqa: BLE001
                if time.monotonic() > end:
                    raise AssertionError(f"no answer from the coordinator: {trouble!r}") from trouble
                time.sleep(0.05)

    def say(self, what):
        self.wrong.append(what)
        print(f"WRONG {what}", flush=True)

    def settle(self):
        """Judges the requests that ended."""
        for request in self.load.take_ended():
            if (wrong := self.load.judge(request)) is not None:
                self.say(f"request {request.number}: {wrong}")
            if request.error is None:
                self.requests += 1
            else:
                self.cut += 1

    def wait_live(self, seconds=60):
        """Until every agent is there and enough requests are open: (streams between their first and last token, keyed
        requests, what the cluster says)."""
        self.load.open.set()
        end = time.monotonic() + seconds
        while True:
            live, keyed = self.load.live(), self.load.unanswered()
            if len(live) >= LIVE and len(keyed) >= KEYED:
                state = self.state()
                if state["phase"] == "ready" and self.cluster.whole(state):
                    return live, keyed, state
            assert time.monotonic() < end, f"{len(live)} streams, {len(keyed)} keyed requests, {seconds} s: " \
                                           f"{self.state()}\n{self.server.output[-3000:]}"
            time.sleep(0.01)

    def wait_flowing(self, live, since, before, done):
        """Until the group is back and every stream has gone on or ended; whether that was in time."""
        while time.monotonic() < since + done.seconds:
            state = self.state()
            back = state["phase"] == "ready" and state["groups_formed"] >= before["groups_formed"] + done.losses[0]
            ready_at = time.monotonic()
            if back:
                while time.monotonic() < since + done.seconds:
                    if all(s.ended is not None or s.times[-1] > ready_at for s in live):
                        return True
                    time.sleep(0.005)
            time.sleep(0.005)
        return False

    def wait_served_again(self, live, keyed, since, old, done):
        """Until another coordinator serves: new streams flow, what was streamed has ended, every keyed request is
        answered. Whether that was in time, and the first token's."""
        first = None
        while time.monotonic() < since + done.seconds:
            if self.cluster.coordinator() not in (old, None) and self.state()["phase"] == "ready":
                if first is None:
                    self.load.outages.end()
                new = [s.times[0] for s in self.load.now(loads.Stream) if s.began > since and s.times]
                first = first or min(new, default=None)
                if len(new) >= LIVE and all(s.ended is not None for s in live) and all(k.bodies for k in keyed):
                    return True, first
            time.sleep(0.005)
        return False, first

    def one(self, index):
        rng = random.Random(f"{self.options.seed}/{self.options.mode}/{index}")
        time.sleep(rng.uniform(0, 0.3))
        fault = faults.choose(index, rng, self.options.mode, self.options.without.split(","))
        if self.options.only:
            fault = getattr(faults, self.options.only)
        live, keyed, before = self.wait_live()
        old = self.cluster.coordinator()
        since = time.monotonic()
        done = fault(self.cluster, self.load, rng)
        first = None
        if done.outage:
            before = {**before, "groups_formed": 0, "recomputed_tokens": 0}
            flowing, first = self.wait_served_again(live, keyed, since, old, done)
        else:
            flowing = self.wait_flowing(live, since, before, done)
        trouble = done.after() if done.after is not None else None
        after = self.state()
        lost = after["groups_formed"] - before["groups_formed"]
        pauses = [p for p in (pause_of(s, since) for s in live) if p is not None]
        seconds = first - since if first is not None else max(pauses, default=None)
        row = {"kind": fault.__name__, "detail": done.detail, "live": len(live), "losses": lost,
               "recovery_s": round(seconds, 3) if seconds is not None and done.losses[1] > 0 else None,
               "keyed": len(keyed), "cut": sum(s.error is not None for s in live),
               "recomputed": after["recomputed_tokens"] - before["recomputed_tokens"],
               "read": after["load_bytes_read"]}
        print(f"{index:5} {row['kind']:20} {row['recovery_s']} s, {row['live']} streams, {row['keyed']} keyed, {row['cut']} "
              f"cut, {lost} losses, {row['recomputed']} tokens again: {done.detail}", flush=True)
        if not flowing:
            self.say(f"fault {index}: not flowing within {done.seconds} s: {done.detail}: {after['phase']} "
                     f"{after['detail']}\n{self.server.output[-3000:]}")
        if trouble is not None:
            self.say(f"fault {index}: {done.detail}: {trouble}")
        if not done.losses[0] <= lost <= done.losses[1]:
            self.say(f"fault {index}: {lost} losses of the group: {done.detail}\n{self.server.output[-3000:]}")
        if lost and not done.reads and row["read"] != 0:  # it is of the last time that the group was formed
            self.say(f"fault {index}: weights were read again: {row['read']} bytes: {done.detail}")
        if after["canary_failures"] or after["hidden_state_mismatches"]:
            self.say(f"fault {index}: ranks compute wrongly: {after}")
        return row

    def look(self):
        """The most that a process of each kind holds: agents and ranks change places, and an idle spare holds less."""
        agents = self.cluster.agents()
        kinds = {"coordinator": [self.cluster.coordinator()], "agent": agents, "rank": self.cluster.ranks(agents)}
        most = {}
        for kind, pids in kinds.items():
            held = [clusters.figures(pid) for pid in pids]
            most[kind] = {key: max(h[key] for h in held) for key in SLACK}
        return most

    def check_baseline(self):
        for request in self.load.pause(120):
            self.say(f"request {request.number} never ended: {request}")
        self.settle()
        end, why = time.monotonic() + IDLE_SECONDS, "?"
        while why and time.monotonic() < end:
            time.sleep(0.1)
            why = self.differs()
        if why:
            self.say(f"not back at the baseline after {IDLE_SECONDS} s: {why}")
        elif self.baseline is None:
            self.baseline = self.look()

    def differs(self):
        state = self.state()
        if (state["running"], state["waiting"]) != (0, 0) or state["kv_blocks_free"] != state["kv_blocks"]:
            return f"{state['running']} running, {state['waiting']} waiting, {state['kv_blocks_free']} blocks free of " \
                   f"{state['kv_blocks']}"
        if self.baseline is None:
            return None
        try:
            now = self.look()
        except (OSError, ValueError) as trouble:  # one has gone
            return repr(trouble)
        for kind, was in self.baseline.items():
            for key, slack in SLACK.items():
                if (kind, key) == ("coordinator", "fds"):
                    slack = self.cluster.agent_count - 1  # it connects to an agent when it first has something for it
                if now[kind][key] > was[key] + slack:
                    return f"{kind}: {key} {was[key]} -> {now[kind][key]}"
        return None

    def run(self, first, count):
        self.wait_live()
        self.check_baseline()
        for index in range(first, first + count):
            row = self.one(index)
            self.settle()
            self.rows.append(row)
            if (index + 1) % BATCH == 0:
                self.check_baseline()
            if len(self.wrong) >= 5:
                break
        self.wait_live()
        while self.requests < self.options.requests and not self.wrong:
            time.sleep(0.1)
            self.settle()
        self.check_baseline()
        self.load.stop()
        if (trouble := self.cluster.stop()) is not None:
            self.say(trouble)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(rows):
    """Markdown, a row for each commit, mode and kind of fault."""
    lines = ["| commit | cluster | fault | times | median s | p99 s | longest s | streams hit | of them cut | keyed requests hit "
             "| tokens computed again |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    groups = {}
    for row in rows:
        groups.setdefault((row["commit"], row["mode"], row["kind"]), []).append(row)
    for (commit, mode, kind), of in groups.items():
        times = [r["recovery_s"] for r in of if r["recovery_s"] is not None]
        shown = [f"{statistics.median(times):.2f}", f"{percentile(times, 0.99):.2f}", f"{max(times):.2f}"] if times else \
            ["-"] * 3
        lines.append(f"| {commit} | {mode} | {kind} | {len(of)} | {' | '.join(shown)} | "
                     f"{' | '.join(str(sum(r.get(key, 0) for r in of)) for key in SUMS)} |")
    return "\n".join(lines)


def summary(mode, found):
    """One line about a campaign."""
    of_ranks = {fault.__name__ for fault in faults.OF_RANKS}
    times = [r["recovery_s"] for r in found.rows if r["recovery_s"] is not None and r["kind"] in of_ranks]
    line = f"{mode}: {len(found.rows)} faults, {found.requests} requests answered, {found.cut} cut or turned away for want of a " \
           f"coordinator, {len(found.wrong)} wrong"
    if times:
        line += f"; streams went on after a fault of ranks within {statistics.median(times):.2f} s (median), " \
                f"{percentile(times, 0.99):.2f} s (p99)"
    return line


def parse(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, required=True)
    parser.add_argument("--requests", type=int, default=0, help="at least so many answers")
    parser.add_argument("--mode", choices=["one", "two", "apart"], default="one")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--width", type=int, default=9)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--only", default="", help="a function of faults.py")
    parser.add_argument("--without", default="", help="kinds of faults that do not come, with commas")
    parser.add_argument("--args", default="", help="more arguments of shoal serve")
    parser.add_argument("--state", type=pathlib.Path, help="file that keeps the faults of all runs")
    return parser.parse_args(arguments)


def end_on_sigterm():
    """As on Ctrl-C: what was started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def campaign(options, first=0):
    """Runs the faults `first` to options.faults - 1."""
    nemesis = Nemesis(options)
    try:
        nemesis.run(first, options.faults - first)
    finally:
        nemesis.cluster.kill()
    return nemesis


def main(options):
    rows = []
    if options.state is not None and options.state.exists():
        rows = [json.loads(line) for line in options.state.read_text().splitlines()]
    first = sum(r["mode"] == options.mode for r in rows)
    end_on_sigterm()
    wrong = []
    if first < options.faults:
        commit = subprocess.run(["git", "-C", harness.SOURCE, "describe", "--always", "--dirty"], check=True,
                                capture_output=True, text=True).stdout.strip()
        try:
            found = campaign(options, first)
        except clusters.NoHosts as trouble:
            print(f"--mode {options.mode} cannot be had here: {trouble}")
            return NOT_HERE
        wrong = found.wrong
        made = [{"commit": commit, "mode": options.mode, **row} for row in found.rows]
        rows += made
        if options.state is not None:
            options.state.parent.mkdir(parents=True, exist_ok=True)
            with options.state.open("a") as out:
                out.writelines(json.dumps(row) + "\n" for row in made)
        print(summary(options.mode, found))
    print(table(rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(parse()))

"""Load without any fault on a machine that is too busy: a loss of the group, or of an agent, is a false detection.

    calm.py --minutes N [--mode one|two|apart] [--busy PER_CORE]

Streams as in nemesis.py, beside busy loops that take every core (none with --busy 0, as for a binary that a sanitizer has
made slow). Exit code 1: a false detection, or a wrong answer.
"""

import argparse
import contextlib
import multiprocessing
import os
import sys
import time

import nemesis


def spin():
    while True:
        pass


@contextlib.contextmanager
def busy(per_core):
    """Busy loops, each kept on its core."""
    start = multiprocessing.get_context("spawn").Process
    loops = [(core, start(target=spin, daemon=True)) for core in sorted(os.sched_getaffinity(0)) for _ in range(per_core)]
    try:
        for core, loop in loops:
            loop.start()
            os.sched_setaffinity(loop.pid, {core})
        yield
        assert all(loop.is_alive() for _, loop in loops), "a busy loop has ended"
    finally:
        for _, loop in loops:
            loop.kill()


def alarms(before, now):
    """What the coordinator took for a fault, by what it said of itself before and says now."""
    said = []
    if now["groups_formed"] != before["groups_formed"]:
        said.append(f"the group was lost {now['groups_formed'] - before['groups_formed']} times")
    agents = [sorted((a["id"], a["pid"], a["state"]) for a in state["agents"]) for state in (before, now)]
    if agents[0] != agents[1]:
        said.append(f"agents were {agents[0]} and are {agents[1]}")
    if now["phase"] != "ready":
        said.append(f"the cluster is {now['phase']}: {now['detail']}")
    for counter in ("canary_failures", "hidden_state_mismatches"):
        if now[counter] != before[counter]:
            said.append(f"{counter}: {now[counter] - before[counter]}")
    return said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--mode", choices=["one", "two", "apart"], default="one")
    parser.add_argument("--busy", type=int, default=1)
    own = parser.parse_args()
    nemesis.end_on_sigterm()
    found = nemesis.Nemesis(nemesis.parse(["--mode", own.mode, "--faults", "0"]))
    try:
        found.wait_live(300)
        before, coordinator = found.state(), found.cluster.coordinator()
        end = time.monotonic() + 60 * own.minutes
        with busy(own.busy):
            while time.monotonic() < end and not found.wrong:
                time.sleep(1)
                found.settle()
                for what in alarms(before, found.state()):
                    found.say(f"false detection: {what}\n{found.server.output[-3000:]}")
                if found.cluster.coordinator() != coordinator:
                    found.say(f"false detection: another coordinator\n{found.server.output[-3000:]}")
        found.check_baseline()
        found.load.stop()
        if (trouble := found.cluster.stop()) is not None:
            found.say(trouble)
    finally:
        found.cluster.kill()
    print(f"{own.mode}: {own.minutes:g} minutes, {own.busy} busy loops on each core, {found.requests} requests answered, "
          f"{len(found.wrong)} wrong")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

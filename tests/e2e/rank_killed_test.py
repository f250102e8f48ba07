"""Ranks killed with -9, or frozen, under a running stream: the stream pauses and continues, and no byte of it changes.
A report says who it was. Busy loops on every core bring no rank under suspicion."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

import harness

LONG = {"prompt": "The history of the lighthouse begins", "max_tokens": 300, "ignore_eos": True}
SAMPLINGS = [{"temperature": 0}, {"temperature": 0.8, "top_k": 50, "seed": 11}]


def rank_pids(server):
    """Rank processes that live, from /proc: also those that no heartbeat has told of yet."""
    found = []
    for pid in harness.descendants(server.pid):
        with contextlib.suppress(OSError):
            words = pathlib.Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
            if b"rank" in words and harness.alive(pid):
                found.append(pid)
    return sorted(found)


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def stream(server, sampling, at, trouble):
    """The text of a streamed completion; `trouble` is called once, when `at` events have come."""
    text, count = "", 0
    with server.http.stream("POST", "/v1/completions", json={**LONG, **sampling, "stream": True}) as reply:
        assert reply.status_code == 200, reply.read()
        last = None
        for line in reply.iter_lines():
            if not line.startswith("data: "):
                continue
            last = line[6:]
            if last == "[DONE]":
                continue
            text += json.loads(last)["choices"][0]["text"]
            count += 1
            if count == at:
                trouble()
        assert last == "[DONE]"
    return text


# Told to, holds the first thread of a process, its engine, as a debugger would: alive, killable, and nobody's child is
# stopped. Ends with the process. The numbers are those of linux/ptrace.h and wait.h.
FREEZE = """
import ctypes, os, sys
PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
print("ready", flush=True)
sys.stdin.readline()
for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
    if libc.ptrace(request, pid, None, None) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
print("held", flush=True)
while not os.WIFSIGNALED(os.waitpid(pid, WALL)[1]):
    pass
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Where the server writes its reports; a call gives those of losses that it has not given before."""
    directory = tmp_path_factory.mktemp("state") / "reports"
    seen = set()

    def new():
        found = sorted(set(directory.glob("stall-*.json")) - seen)
        seen.update(found)
        told = [json.loads(path.read_text()) for path in found]
        return [report for report in told if report["detection"] != "straggler"]  # a slow machine is no loss
    new.directory = directory
    return new


@pytest.fixture(scope="module")
def server(reports):
    with harness.serve(harness.GGUF, "--tensor-parallel-size", 2, "--pipeline-parallel-size", 2,
                       "--report-dir", reports.directory) as running:
        yield running


def present_pids(server):
    """The pids of all ranks, by rank, once a heartbeat has told them."""
    def told():
        pids = [r["pid"] for r in server.cluster()["ranks"]]
        return pids if sorted(pids) == rank_pids(server) else None
    return harness.until(told, 10, "a heartbeat with the present pids")


def check_report(reports, server, detection, victim, pid):
    report = harness.until(reports, 20, "a report")[0]
    assert report["detection"] == detection and report["culprit"]["rank"] == victim, report
    assert [r["rank"] for r in report["ranks"]] == [0, 1, 2, 3]
    assert report["ranks"][victim]["pid"] == pid
    assert report["counters"]["running"] == 1 and report["plans"] and report["unanswered"]
    assert "lighthouse" not in json.dumps(report)  # what requests say is nobody's business
    assert "epoch" in report["next"]
    line = f"to blame: rank {victim}, {detection}: {report['reason']}; next: {report['next']}; report: "
    harness.until(lambda: line in server.output, 20, line)
    return report


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "seeded"])
@pytest.mark.parametrize("victim", [0, 3])
def test_a_rank_killed_mid_stream_changes_nothing(server, reports, sampling, victim):
    undisturbed = server.text(**LONG, **sampling)
    before = server.cluster()
    pids = present_pids(server)
    assert stream(server, sampling, 20, lambda: kill(pids[victim])) == undisturbed
    after = server.cluster()
    assert after["groups_formed"] == before["groups_formed"] + 1 and after["epoch"] > before["epoch"]
    assert pids[victim] not in rank_pids(server)
    assert after["load_bytes_read"] == 0  # weights are owned by the agent
    # So is the KV cache: the stream went on with it, and nothing was computed again.
    assert after["resumed"] == before["resumed"] + 1
    assert after["recomputed_tokens"] == before["recomputed_tokens"]
    check_report(reports, server, "exited", victim, pids[victim])


@pytest.mark.parametrize("victim", [1, 2])
def test_a_rank_that_stands_still_is_found_and_replaced(server, reports, victim):
    undisturbed = server.text(**LONG, **SAMPLINGS[0])
    before = server.cluster()
    pids = present_pids(server)
    freezer = subprocess.Popen([sys.executable, "-c", FREEZE, str(pids[victim])], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert freezer.stdout.readline() == "ready\n"

    def freeze():
        freezer.stdin.write("now\n")
        freezer.stdin.flush()
        assert freezer.stdout.readline() == "held\n"

    with freezer:
        assert stream(server, SAMPLINGS[0], 20, freeze) == undisturbed
        assert freezer.wait(20) == 0
    after = server.cluster()
    assert after["groups_formed"] == before["groups_formed"] + 1
    assert pids[victim] not in rank_pids(server)
    report = check_report(reports, server, "stuck", victim, pids[victim])
    assert "stuck in " in report["reason"] and " at step " in report["reason"]


def test_busy_loops_on_every_core_bring_no_rank_under_suspicion(server, reports):
    undisturbed = server.text(**LONG, **SAMPLINGS[1])
    before = server.cluster()
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        for _ in range(2):
            assert server.text(**LONG, **SAMPLINGS[1]) == undisturbed
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    after = server.cluster()
    assert after["groups_formed"] == before["groups_formed"] and after["epoch"] == before["epoch"]
    assert not reports()


def test_ranks_killed_again_while_they_start_are_started_again(server):
    undisturbed = server.text(**LONG, **SAMPLINGS[0])
    before = server.cluster()

    def massacre():
        """Every rank that is seen, as soon as it is seen, until three generations have gone."""
        for _ in range(3):
            for pid in (pids := harness.until(lambda: rank_pids(server), 20, "ranks")):
                kill(pid)
            harness.until(lambda: not set(pids) & set(rank_pids(server)), 20, "their end")

    assert stream(server, SAMPLINGS[0], 20, massacre) == undisturbed
    assert server.running() and server.cluster()["epoch"] > before["epoch"] + 1


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))

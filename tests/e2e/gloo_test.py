"""Two agents as two hosts would be: ranks over TCP answer as over shared memory, to the byte, also when one is killed."""

import contextlib
import re

import pytest

import harness
import rank_killed_test

LAYOUT = ["--tensor-parallel-size", 2, "--pipeline-parallel-size", 2, "--nnodes", 2, "--workers", "external"]
PROMPTS = ["Once upon a time", "The three laws of robotics are", "등대의 역사"]
SAMPLINGS = [{"temperature": 0}, {"temperature": 0.9, "top_k": 40, "seed": 5}]


@contextlib.contextmanager
def two_agents(transport):
    port = harness.free_port()
    server = harness.Server(harness.GGUF, *LAYOUT, "--master-port", port, "--transport", transport)
    # Addresses of their own: what a rank binds is its agent's.
    workers = [harness.Process("worker", "--master-port", port, "--slots", 2, "--listen", f"127.0.0.{n}:0") for n in (1, 2)]
    try:
        yield server.wait_ready()
        assert server.stop() == 0, server.output
        for worker in workers:
            assert worker.stop() == 0, worker.output
    finally:
        for process in [server, *workers]:
            if process.running():
                process.kill_all()


def answers(server):
    return [server.text(prompt, **sampling) for prompt in PROMPTS for sampling in SAMPLINGS]


@pytest.fixture(scope="module")
def over_shm():
    with two_agents("shm") as server:
        assert server.cluster()["transport"] == "shm"
        yield {"answers": answers(server), "long": server.text(**rank_killed_test.LONG, **SAMPLINGS[0]),
               "numerics": server.cluster()["numerics_id"]}


def test_ranks_over_gloo_answer_as_over_shared_memory(over_shm):
    with two_agents("gloo") as server:
        assert answers(server) == over_shm["answers"]

        def moved():
            counts = [r["comm_bytes"] for r in server.cluster()["ranks"]]
            return counts if all(c["gloo"] > 0 for c in counts) else None
        for counts in harness.until(moved, 10, "bytes over gloo on every rank"):
            assert counts["local"] == counts["shm"] == 0, counts
        cluster = server.cluster()
        assert cluster["transport"] == "gloo" and cluster["numerics_id"] == over_shm["numerics"]
        assert len({r["agent"] for r in cluster["ranks"]}) == 2
        code, output = harness.run("status", "--url", server.url)
        assert code == 0 and re.search(r"transport gloo$", output, re.MULTILINE), output

        # A rank dies under a stream: its agent says so, and nobody else is blamed.
        def told():
            pids = [r["pid"] for r in server.cluster()["ranks"]]
            return pids if all(pids) else None
        pids = harness.until(told, 10, "a heartbeat with the ranks' pids")
        text = rank_killed_test.stream(server, SAMPLINGS[0], 20, lambda: rank_killed_test.kill(pids[3]))
        assert text == over_shm["long"]
        after = server.cluster()
        assert after["groups_formed"] == cluster["groups_formed"] + 1 and after["load_bytes_read"] == 0


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))

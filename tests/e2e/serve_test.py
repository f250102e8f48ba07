"""First light: the real program, the real model, several layouts, one and two agents."""

import json
import os
import re
import signal

import pytest

import harness

QUESTION = "Name the largest ocean on Earth."


@pytest.fixture(scope="module")
def square():
    with harness.serve(harness.GGUF, "--tensor-parallel-size", 2, "--pipeline-parallel-size", 2) as server:
        yield server


def test_four_ranks_are_in_the_table(square):
    harness.until(lambda: all(r["pid"] for r in square.cluster()["ranks"]), 10, "a heartbeat with the ranks' pids")
    cluster = square.cluster()
    assert cluster["transport"] == "shm"
    assert [(r["rank"], r["tp"], r["pp"]) for r in cluster["ranks"]] == [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1)]
    pids = [r["pid"] for r in cluster["ranks"]]
    assert len(set(pids)) == 4 and all(harness.alive(p) for p in pids)
    assert cluster["epoch"] >= 1


def test_it_answers_streaming_and_not(square):
    answer = square.chat(QUESTION)["choices"][0]["message"]["content"]
    assert "Pacific" in answer
    assert square.chat_stream(QUESTION) == answer


def test_activations_travel_over_the_named_transport_only(square):
    square.chat(QUESTION)

    def moved():
        counts = [r["comm_bytes"] for r in square.cluster()["ranks"]]
        return counts if all(c.get("shm", 0) > 0 for c in counts) else None
    for counts in harness.until(moved, 10, "bytes over shm on every rank"):
        others = {"local": 0, "gloo": 0, "nccl": 0, "peer": 0}
        assert counts == {"shm": counts["shm"], **others}, counts


def test_plans_are_ahead_of_execution(square):
    # Each rank counts for itself, for every step with a decode row: right after its last operation of the step it looks
    # whether its own reader of the plan ring already holds the next plan. The last step of a stream, after which none
    # comes, counts against it. One stream is the hardest case: the next plan can be no other sequence's.
    before = square.cluster()["ranks"]
    square.text("Once upon a time", max_tokens=300, ignore_eos=False)

    def counted():
        ranks = square.cluster()["ranks"]
        steps = [r["decode_steps"] - b["decode_steps"] for r, b in zip(ranks, before)]
        return ranks if min(steps) > 100 else None
    for rank, b in zip(harness.until(counted, 10, "decode steps"), before):
        steps = rank["decode_steps"] - b["decode_steps"]
        planned = rank["decode_steps_planned"] - b["decode_steps_planned"]
        assert planned >= 0.95 * steps, rank


def test_status_shows_the_cluster(square):
    code, output = harness.run("status", "--url", square.url)
    assert code == 0 and output.count("\n") >= 7, output
    assert re.search(r"ready  epoch \d+ ", output) and re.search(r"running \d+  waiting \d+  KV blocks free \d+ of \d+", output)
    code, output = harness.run("status", "--url", square.url, "--json")
    assert code == 0 and '"ranks"' in output


def test_startup_shows_plan_progress_and_curl(square):
    assert "kv heads" in square.output
    assert f"ready at {square.url}" in square.output
    assert "curl " in square.output


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_everything(sig):
    segments = set(os.listdir("/dev/shm"))
    server = harness.Server(harness.GGUF, "--tensor-parallel-size", 2).wait_ready()
    assert server.stop(sig) == 0, server.output
    assert set(os.listdir("/dev/shm")) <= segments


def test_a_killed_launcher_leaves_no_process():
    server = harness.Server(harness.GGUF, "--tensor-parallel-size", 2).wait_ready()
    below = harness.descendants(server.pid)
    assert len(below) == 4  # coordinator, agent, two ranks
    os.kill(server.pid, signal.SIGKILL)
    harness.until(lambda: not [p for p in below if harness.alive(p)], 60, "children end after the launcher's death")


@pytest.mark.parametrize("model", [harness.GGUF, harness.SAFETENSORS], ids=["gguf", "safetensors"])
def test_three_by_two(model):
    with harness.serve(model, "--tensor-parallel-size", 3, "--pipeline-parallel-size", 2) as server:
        assert len(server.cluster()["ranks"]) == 6
        assert "Pacific" in server.chat(QUESTION)["choices"][0]["message"]["content"]


def external_workers(port, slots):
    return [harness.Process("worker", "--master-port", port, "--slots", n) for n in slots]


@pytest.mark.parametrize("workers_first", [True, False])
@pytest.mark.parametrize("model", [harness.GGUF, harness.SAFETENSORS], ids=["gguf", "safetensors"])
def test_two_external_agents_in_any_order(model, workers_first):
    port = harness.free_port()
    workers = external_workers(port, [3, 3]) if workers_first else []
    server = harness.Server(model, "--tensor-parallel-size", 3, "--pipeline-parallel-size", 2, "--workers", "external",
                            "--master-port", port)
    try:
        if not workers_first:
            harness.until(lambda: "waiting for agents" in server.output, 30, "the coordinator waits")
            workers = external_workers(port, [3, 3])
        server.wait_ready()
        cluster = server.cluster()
        assert len({r["agent"] for r in cluster["ranks"]}) == 2
        assert "Pacific" in server.chat(QUESTION)["choices"][0]["message"]["content"]
        assert server.stop() == 0, server.output
        for worker in workers:
            assert worker.stop() == 0, worker.output
    finally:
        for process in [server, *workers]:
            if process.running():
                process.kill_all()


def test_agents_may_come_over_any_address_when_told_so():
    with harness.serve(harness.GGUF, "--master-addr", "0.0.0.0", "--insecure") as server:
        assert len(server.cluster()["ranks"]) == 1


def read_by_two(matrix, table, norm):
    """What two ranks read each at tp 2 x pp 2, from the model's shape alone; arguments: bytes of one value."""
    hidden, head, layers, vocab = 576, 64, 30, 49152
    return {
        "embedding": vocab * hidden * table,  # tied: first and last stage
        "final_norm": hidden * norm,
        "layers.*.attn.norm": layers * hidden * norm,
        "layers.*.ffn.norm": layers * hidden * norm,
        # 9 query heads are cut at the 4th; the middle one of 3 KV heads serves the 3rd to the 5th.
        "layers.*.attn.k": layers * head * hidden * matrix,
        "layers.*.attn.v": layers * head * hidden * matrix,
    }


Q4_1, Q8_0, F32, BF16 = 20 / 32, 34 / 32, 4, 2


@pytest.mark.parametrize("model,files,shared", [
    (harness.GGUF, [harness.GGUF], read_by_two(Q4_1, Q8_0, F32)),
    (harness.SAFETENSORS, sorted(harness.SAFETENSORS.glob("*.safetensors")), read_by_two(BF16, BF16, BF16)),
], ids=["gguf", "safetensors"])
def test_each_rank_reads_only_its_bytes(model, files, shared):
    layout = ["--tensor-parallel-size", 2, "--pipeline-parallel-size", 2]
    code, output = harness.run("inspect", model, *layout, "--json")
    assert code == 0, output
    assert {name: t["extra_bytes"] for name, t in json.loads(output)["shared"].items()} == shared
    size = sum(f.stat().st_size for f in files)
    assert size > 50_000_000, files
    with harness.serve(model, *layout) as server:
        read = server.cluster()["load_bytes_read"]
    assert 0.9 * size + sum(shared.values()) < read <= 1.02 * (size + sum(shared.values()))


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))

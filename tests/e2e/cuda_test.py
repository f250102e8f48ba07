"""`--device cuda` from the command line down to the ranks, on emulated devices: the plug-in of the tests runs the real
kernels on the host, in processes of their own as on a GPU."""

import concurrent.futures
import os
import pathlib
import re
import subprocess

import pytest

import harness
import rank_killed_test as killing

BUILD = pathlib.Path(os.environ["SHOAL_BUILD_DIR"])
EMULATED = {"SHOAL_CUDA_PLUGIN": str(BUILD / "tests/libshoal_cuda_emulated.so"), "SHOAL_EMULATED_DEVICES": "4",
            "SHOAL_DEVICE": "auto"}
NONE = {"SHOAL_CUDA_PLUGIN": "/no/such/plugin.so", "SHOAL_DEVICE": "auto"}
PROMPT = {"prompt": "The lighthouse", "max_tokens": 200, "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run([BUILD / "tests/write_tiny_model", folder], check=True)
    return folder


def sent(server):
    """What each rank has put on which way, once a heartbeat has told."""
    def told():
        counts = [rank["comm_bytes"] for rank in server.cluster()["ranks"]]
        return counts if all(any(c.values()) for c in counts) else None
    return harness.until(told, 10, "a heartbeat with the bytes that ranks have sent")


def serve(model, *args, env=EMULATED):
    return harness.serve(model, "--max-model-len", 256, "--max-num-seqs", 8, *args, env=env)


@pytest.fixture(scope="module")
def texts(model):
    """What one CUDA rank answers."""
    with serve(model, "--device", "cuda") as server:
        assert [slot["kind"] for agent in server.cluster()["agents"] for slot in agent["slots"]] == ["cuda"]
        line = r"device memory: (\d+) MiB in use, (\d+) MiB planned \((.*) %\)"
        harness.until(lambda: re.search(line, server.output), 30, "what the plan of the memory came to")
        assert abs(float(re.search(line, server.output)[3])) <= 5, re.search(line, server.output)[0]
        fingerprint = server.complete(**PROMPT).json()["system_fingerprint"]
        assert "/cuda-" in fingerprint and "Emulated_device-9.0/driver13000" in fingerprint
        return [server.text(**PROMPT), server.text(**PROMPT, temperature=0.8, seed=11)]


@pytest.mark.parametrize("tp, pp, transport", [(1, 1, "shm"), (2, 2, "shm"), (2, 2, "nccl")])
def test_a_rank_killed_mid_stream_reads_no_weights_again(model, texts, tp, pp, transport, monkeypatch):
    monkeypatch.setattr(killing, "LONG", PROMPT)
    flags = [] if transport == "nccl" else ["--transport", transport]  # what several devices take by themselves
    with serve(model, "--device", "cuda", "-t", tp, "-p", pp, *flags) as server:
        assert server.cluster()["transport"] == transport
        assert server.cluster()["load_bytes_read"] > 0
        undisturbed = server.text(**PROMPT)
        if tp == 1:
            assert undisturbed == texts[0]
        if tp > 1:
            assert all((counts["peer"] > 0) == (transport == "nccl") for counts in sent(server))
        before = server.cluster()
        pids = killing.present_pids(server)
        assert len(pids) == tp * pp
        assert killing.stream(server, {"temperature": 0}, 5, lambda: killing.kill(pids[-1])) == undisturbed
        after = server.cluster()
        assert after["groups_formed"] == before["groups_formed"] + 1
        assert after["load_bytes_read"] == 0
        assert after["resumed"] == before["resumed"] + 1
        assert after["recomputed_tokens"] == before["recomputed_tokens"]


SUMS = {
    "peer": ([], {}, "all-reduce up to 1024 KiB in one shot over peer memory"),
    "told": (["--all-reduce", "nccl"], {}, "all-reduce over NCCL, no peer memory: as told"),
    "apart": ([], {"SHOAL_EMULATED_PEERS": "0"}, "all-reduce over NCCL, no peer memory: tensor rank 1: device 0 does not"),
}


@pytest.fixture(scope="module")
def sums():
    """What two ranks answer, however they sum up."""
    return {}


@pytest.mark.parametrize("way", SUMS)
def test_small_sums_go_over_peer_memory_where_there_is_some_with_the_same_bits(model, sums, way):
    flags, settings, words = SUMS[way]
    with serve(model, "--device", "cuda", "-t", 2, *flags, env={**EMULATED, **settings}) as server:
        text = server.text(**PROMPT)
        assert text == sums.setdefault("text", text)
        for counts in sent(server):
            assert (counts["peer"] > 0) == (way == "peer"), counts
        assert words in server.output


def test_peer_memory_that_is_wanted_and_not_to_be_had_ends_the_start(model):
    code, output = harness.run("serve", model, "--port", harness.free_port(), "--device", "cuda", "-t", 2,
                               "--all-reduce", "one-shot", env={**EMULATED, "SHOAL_EMULATED_PEERS": "0"})
    assert code == 1, output
    assert "--all-reduce one-shot: no peer memory: " in output and "; --all-reduce auto does without it" in output
    assert "again after" not in output, "another try would end alike"


def test_ranks_on_one_device_answer_like_those_on_two(model, sums):
    with serve(model, "--device", "cuda", "-t", 2, "--device-ids", "1,1") as server:
        text = server.text(**PROMPT)
        assert text == sums.setdefault("text", text)
        assert all(counts["peer"] > 0 for counts in sent(server))
        assert "CUDA device 1 is for 2 ranks" in server.output


def test_fast_numerics_multiply_long_prompts_with_the_library(model, texts):
    with serve(model, "--device", "cuda", "--numerics", "fast") as server:
        assert "/cuda-sm80-fast/" in server.complete(**PROMPT).json()["system_fingerprint"]
        assert server.text(**PROMPT) == texts[0], "no product of so few tokens is one for a library"
        assert len(server.text(**{**PROMPT, "prompt": "a long prompt " * 12, "max_tokens": 8})) > 0


def test_auto_takes_the_devices_and_dummy_weights_are_made_there(model):
    with serve(model, "--load-format", "dummy", "--seed", 3) as server:
        assert server.cluster()["agents"][0]["slots"][0]["kind"] == "cuda"
        answer = server.text(**PROMPT)
        assert answer and server.text(**PROMPT) == answer


def test_requests_at_once_are_answered_like_those_alone(model, texts):
    with serve(model, "--device", "cuda") as server:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            prompts = [PROMPT["prompt"], "x", PROMPT["prompt"], "a longer one"]
            answers = list(pool.map(lambda p: server.text(**{**PROMPT, "prompt": p}), prompts))
        assert answers[0] == answers[2] == texts[0] and len(set(answers)) == 3


def test_without_a_plugin_cuda_is_refused_and_auto_is_the_cpu(model):
    for words in (["serve", model, "--port", harness.free_port()], ["worker", "--master-port", harness.free_port()]):
        code, output = harness.run(*words, "--device", "cuda", env=NONE)
        assert code == 1, output
        assert "--device cuda: there is no CUDA plug-in at /no/such/plugin.so" in output and "make cuda" in output
    with serve(model, env=NONE) as server:
        assert server.cluster()["agents"][0]["slots"][0]["kind"] == "cpu"
        assert server.text(**PROMPT)
        assert "--device auto: the CPU. there is no CUDA plug-in at /no/such/plugin.so" in server.output


def test_more_ranks_than_devices_are_refused(model):
    code, output = harness.run("serve", model, "--port", harness.free_port(), "--device", "cuda", "-t", 2,
                               env={**EMULATED, "SHOAL_EMULATED_DEVICES": "1"})
    assert code == 1 and "2 slots, one for each CUDA device, and 1 can be used here" in output, output


def test_a_device_without_room_says_so_with_numbers(model):
    code, output = harness.run("serve", model, "--port", harness.free_port(), "--device", "cuda",
                               env={**EMULATED, "SHOAL_EMULATED_MEMORY": "1000000"})
    assert code != 0 and "CUDA device 0" in output and "1000000" in output, output


def test_what_a_device_cannot_compute_is_refused_with_words(model):
    for flag, value, word in (("--kv-cache-dtype", "f16", "f16"), ("--compute-dtype", "f32", "f32")):
        code, output = harness.run("serve", model, "--port", harness.free_port(), "--device", "cuda", flag, value,
                                   env=EMULATED)
        assert code != 0 and f"{word} on a CUDA device" in output, output


def test_groups_and_agents_of_different_devices_do_not_mix(model):
    port = harness.free_port()
    server = harness.Server(model, "--workers", "external", "--master-port", port, "--device", "cpu")
    worker = harness.Process("worker", "--master-port", port, "--device", "cuda", env=EMULATED)
    try:
        harness.until(lambda: "give --device cuda to both" in server.output + worker.output, 30, "a refusal")
        assert "the group computes on cpu" in server.output + worker.output
    finally:
        worker.kill_all()
        server.kill_all()


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))

"""What the server asks itself: canaries with a known answer while it is idle, hidden states compared between ranks."""

import re

import pytest

import harness


def counter(server, name):
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", server.http.get("/metrics").text,
                                                    re.M))


def test_canaries_pass_while_idle_and_no_clients_figure_moves():
    with harness.serve(harness.GGUF, "--tensor-parallel-size", 2, "--pipeline-parallel-size", 2,
                       "--canary-interval", 0.1) as server:
        first = server.cluster()
        assert first["proven"] and first["canary_passes"] >= 1  # ready means so
        idle = harness.until(lambda: (c := server.cluster())["canary_passes"] >= first["canary_passes"] + 3 and c, 30,
                             "three more canaries")
        assert idle["canary_failures"] == 0 and idle["groups_formed"] == 1
        # Each of its plans asks for checksums, and both stages agree.
        assert idle["checksums_agreed"] >= 2 * 4 * 3 and idle["hidden_state_mismatches"] == {}
        assert idle["running"] == idle["waiting"] == idle["prompt_tokens"] == idle["output_tokens"] == 0
        for name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total",
                     "vllm:time_to_first_token_seconds_count", "shoal:canary_failures_total"):
            assert counter(server, name) == 0, name
        # It keeps no block: between two of them all are free.
        harness.until(lambda: (c := server.cluster())["kv_blocks_free"] == c["kv_blocks"], 30, "free blocks")


def test_clients_are_answered_alike_with_canaries_and_checksums_in_every_step_and_without():
    texts = []
    for flags in (["--canary-interval", 0.02, "--checksum-interval", 1], ["--canary-interval", 0,
                                                                          "--checksum-interval", 0]):
        with harness.serve(harness.GGUF, "--tensor-parallel-size", 2, *flags) as server:
            texts.append([server.text(f"{n} green bottles", max_tokens=24) for n in range(6)])
            state = server.cluster()
            assert state["proven"] and state["groups_formed"] == 1 and state["canary_failures"] == 0
            if flags[1] == 0:
                assert state["checksums_agreed"] == state["canary_passes"] == 0
            else:
                harness.until(lambda: server.cluster()["checksums_agreed"] >= 6 * 24, 30, "every step compared")
    assert texts[0] == texts[1]


def test_what_was_learned_is_compared_with_after_a_restart(tmp_path):
    args = [harness.GGUF, "--state-dir", tmp_path, "--canary-interval", 0.1]
    known = tmp_path / "canaries"
    with harness.serve(*args) as server:
        harness.until(known.exists, 30, "what it learned is kept")
        assert server.cluster()["canary_failures"] == 0
    kept = known.read_text()
    assert kept.startswith("shoal canaries 1\n") and len(kept.splitlines()) == 2, kept
    with harness.serve(*args) as server:
        harness.until(lambda: server.cluster()["canary_passes"] >= 3, 30, "it passes")
        assert server.cluster()["canary_failures"] == 0
        assert "canaries are compared with 1 known answers" in server.output, server.output
    assert known.read_text() == kept, "it learned nothing new"
    known.write_text(kept.replace(",", ";", 1))
    with harness.serve(*args) as server:
        assert "canaries is ignored, canaries are learned anew" in server.output, server.output
        harness.until(lambda: known.read_text() == kept, 30, "it is whole again")
        assert server.cluster()["canary_failures"] == 0


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))

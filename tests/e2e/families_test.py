"""Every family through the whole program: real processes, tensor and pipeline ranks, a rank killed under load. The tokens
are those of the reference, and the same bytes alone, side by side, and while a rank is replaced."""

import concurrent.futures
import json
import os
import pathlib
import signal

import pytest

import harness

KEPT = pathlib.Path(__file__).parents[1] / "golden/families"
FOLDER = pathlib.Path(os.environ["SHOAL_BUILD_DIR"]) / "families"  # written by families_weights.py, which CTest runs first
REQUESTS = 24


def generating():
    expected = {p.name: json.loads((p / "expected.json").read_text(encoding="utf-8")) for p in sorted(KEPT.iterdir())}
    return {name: e["cases"] for name, e in expected.items() if "greedy" in e["cases"][0]}


CASES = generating()


def bodies(cases):
    """Requests of different lengths and samplings, all with log-probabilities: their bits are compared, too."""
    for i in range(REQUESTS):
        ids = cases[i % 2]["ids"]
        yield {"prompt": ids[i % 5:], "max_tokens": 12 + i % 8, "ignore_eos": True, "temperature": 0.9 if i % 3 else 0, "seed": i,
               "logprobs": 2, "return_tokens_as_token_ids": True, **({"n": 2} if i % 6 == 5 else {})}


def ask(server, body):
    reply = server.http.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    return [(c["index"], c["text"], c["finish_reason"], c["logprobs"]) for c in reply.json()["choices"]]


@pytest.mark.parametrize("name", CASES)
def test_family(name):
    cases = CASES[name]
    with harness.serve(FOLDER / name, "--tensor-parallel-size", 2, "--pipeline-parallel-size", 2, "--max-model-len", 64) as server:
        greedy = {"prompt": cases[0]["ids"], "max_tokens": 8, "ignore_eos": True, "temperature": 0, "logprobs": 0,
                  "return_tokens_as_token_ids": True}
        tokens = ask(server, greedy)[0][3]["tokens"]
        assert tokens == [f"token_id:{t}" for t in cases[0]["greedy"]]

        alone = [ask(server, body) for body in bodies(cases)]
        before = server.cluster()["epoch"]
        victims = [rank["pid"] for rank in server.cluster()["ranks"]]
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            answers = [clients.submit(ask, server, body) for body in bodies(cases)]
            answers[3].result()
            os.kill(victims[len(name) % len(victims)], signal.SIGKILL)
            assert [a.result() for a in answers] == alone
        assert [ask(server, body) for body in list(bodies(cases))[:3]] == alone[:3]
        assert server.cluster()["epoch"] > before


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))

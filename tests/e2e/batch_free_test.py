"""A request's bytes do not depend on its company: alone, and among 32 others with a cache so small that most of them
are preempted. Greedy and seeded, on one rank and on four."""

import concurrent.futures
import random

import pytest

import harness

PROMPTS = [
    "The history of the lighthouse begins", "def fibonacci(n):", "오늘 서울의 날씨는", "A recipe for lentil soup:",
    "In the year 2150, humanity", "The quick brown fox", "SELECT name FROM users WHERE", "Dear Sir or Madam,",
    "Once upon a time in a small village", "The three laws of thermodynamics are", "import numpy as np\n",
    "My favourite colour is", "To be, or not to be", "The capital of Spain is", "Water boils at", "🙂 means",
]
COUNT = 32


def requests():
    rng = random.Random(17)
    made = []
    for i in range(COUNT):
        prompt = " ".join(rng.choices(PROMPTS, k=rng.randint(1, 2)))
        sampling = {"temperature": 0} if i % 2 == 0 else {
            "temperature": 0.8, "top_p": 0.95, "top_k": 50, "seed": 1000 + i}
        made.append({"prompt": prompt, "max_tokens": rng.randint(70, 100), "ignore_eos": True, **sampling})
    return made


def answer(server, request):
    reply = server.http.post("/v1/completions", json=request)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["text"], int(reply.headers["x-shoal-preemptions"])


@pytest.mark.parametrize("tp,pp", [(1, 1), (2, 2)])
def test_alone_and_in_company(tp, pp):
    layout = ["--tensor-parallel-size", tp, "--pipeline-parallel-size", pp]
    with harness.serve(harness.GGUF, *layout) as server:
        alone = [answer(server, r)[0] for r in requests()]
    # About 14 fit as they start (one block or two each); at their ends, with about 7 each, only two.
    small = ["--kv-cache-blocks", 18, "--max-model-len", 256, "--max-num-seqs", 33]
    with harness.serve(harness.GGUF, *layout, *small) as server:
        rng = random.Random(5)
        order = list(range(COUNT))
        rng.shuffle(order)
        with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
            futures = {i: pool.submit(answer, server, requests()[i]) for i in order}
            crowded = [futures[i].result() for i in range(COUNT)]
    preempted = sum(1 for _, n in crowded if n > 0)
    assert preempted >= 24, f"only {preempted} were preempted: the test does not test"
    for request, one, (many, n) in zip(requests(), alone, crowded):
        assert one == many, f"differs after {n} preemptions: {request}"


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))

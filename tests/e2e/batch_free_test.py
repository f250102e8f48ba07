"""A request's bytes do not depend on its company: alone, and among 32 others that arrive at random, with a cache so
small that most of them are preempted. Greedy and seeded, on one rank and on four."""

import concurrent.futures
import random
import time

import pytest

import harness

PROMPTS = [
    "The history of the lighthouse begins", "def fibonacci(n):", "오늘 서울의 날씨는", "A recipe for lentil soup:",
    "In the year 2150, humanity", "The quick brown fox", "SELECT name FROM users WHERE", "Dear Sir or Madam,",
    "Once upon a time in a small village", "The three laws of thermodynamics are", "import numpy as np\n",
    "My favourite colour is", "To be, or not to be", "The capital of Spain is", "Water boils at", "🙂 means",
]
COUNT = 33  # each has 32 others


def requests():
    rng = random.Random(17)
    made = []
    for i in range(COUNT):
        prompt = " ".join(rng.choices(PROMPTS, k=rng.randint(1, 2)))
        sampling = {"temperature": 0} if i % 2 == 0 else {
            "temperature": 0.8, "top_p": 0.95, "top_k": 50, "seed": 1000 + i}
        made.append({"prompt": prompt, "max_tokens": rng.randint(90, 120), "ignore_eos": True, **sampling})
    return made


def answer(server, request):
    reply = server.http.post("/v1/completions", json=request)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["text"], int(reply.headers["x-shoal-preemptions"])


def arrive(server, request, delay):
    time.sleep(delay)  # only the arrival: nothing waits for it, and the answer must be the same whenever it comes
    return answer(server, request)


@pytest.mark.parametrize("tp,pp", [(1, 1), (2, 2)])
def test_alone_and_in_company(tp, pp):
    layout = ["--tensor-parallel-size", tp, "--pipeline-parallel-size", pp]
    with harness.serve(harness.GGUF, *layout) as server:
        begin = time.monotonic()
        alone = [answer(server, r)[0] for r in requests()]
        one = (time.monotonic() - begin) / COUNT
    # About 14 fit as they start (one block or two each); at their ends, with about 8 each, only two.
    small = ["--kv-cache-blocks", 18, "--max-model-len", 256, "--max-num-seqs", COUNT]
    with harness.serve(harness.GGUF, *layout, *small) as server:
        rng = random.Random(5)
        # Spread over what one request takes alone, so that they begin, run and end among each other.
        delays = [rng.uniform(0, one) for _ in range(COUNT)]
        with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
            crowded = list(pool.map(arrive, [server] * COUNT, requests(), delays))
    preempted = sum(1 for _, n in crowded if n > 0)
    times = sum(n for _, n in crowded)
    print(f"\nfigure: tp {tp} pp {pp}: {preempted} of {COUNT} requests preempted, {times} times in all")
    assert preempted >= 24, f"only {preempted} were preempted: the test does not test"
    for request, expected, (many, n) in zip(requests(), alone, crowded):
        assert expected == many, f"differs after {n} preemptions: {request}"


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-s", "-p", "no:cacheprovider"]))

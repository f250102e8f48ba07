"""Penalties, biases, several choices and log-probabilities, through OpenAI's own client, from the real model; and that a
rank's death changes nothing of them."""

import json
import math

import openai
import pytest

import harness
from rank_killed_test import kill, present_pids

PROMPT = "The lighthouse keeper opened the door and"
SEEDED = {"temperature": 0.9, "seed": 5, "max_tokens": 24}


@pytest.fixture(scope="module")
def server():
    with harness.serve(harness.GGUF, "--tensor-parallel-size", 2, "--max-num-seqs", 8) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def complete(client, **parameters):
    body = {"model": "", "prompt": PROMPT, "temperature": 0, "max_tokens": 24, **parameters}
    extra = {k: body.pop(k) for k in list(body) if k in ("repetition_penalty", "min_tokens", "bad_words", "ignore_eos",
                                                         "allowed_token_ids", "prompt_logprobs", "stop_token_ids")}
    return client.completions.create(**body, extra_body=extra)


def streamed(server, at=0, trouble=None, **parameters):
    """The texts of a stream, by choice; `trouble` is called once, when `at` events have come."""
    texts, count, last = {}, 0, None
    body = {"prompt": PROMPT, "temperature": 0, "stream": True, **parameters}
    with server.http.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.status_code == 200, reply.read()
        for line in reply.iter_lines():
            if not line.startswith("data: "):
                continue
            last = line[6:]
            if last == "[DONE]":
                continue
            for choice in json.loads(last)["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
            count += 1
            if trouble is not None and count == at:
                trouble()
    assert last == "[DONE]"
    return [texts[i] for i in sorted(texts)]


def test_four_choices_differ_and_are_the_same_again(server, client):
    answer = complete(client, n=4, **SEEDED)
    texts = [c.text for c in answer.choices]
    assert [c.index for c in answer.choices] == [0, 1, 2, 3] and len(set(texts)) == 4
    assert [c.text for c in complete(client, n=4, **SEEDED).choices] == texts
    assert answer.usage.completion_tokens <= 4 * 24 and answer.usage.prompt_tokens < 20
    # The first ones of them do not depend on how many there are, nor on how they come.
    assert [c.text for c in complete(client, n=2, **SEEDED).choices] == texts[:2]
    assert complete(client, **SEEDED).choices[0].text == texts[0]
    assert streamed(server, n=4, **SEEDED) == texts


def test_choices_of_chat_stream_side_by_side(client):
    parameters = {"model": "", "messages": [{"role": "user", "content": "Name a colour."}], "n": 3, "temperature": 1.0,
                  "seed": 3, "max_tokens": 16}
    whole = client.chat.completions.create(**parameters)
    texts, ends = [""] * 3, [None] * 3
    for chunk in client.chat.completions.create(**parameters, stream=True):
        for choice in chunk.choices:
            assert ends[choice.index] is None
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason
    assert texts == [c.message.content for c in whole.choices]
    assert ends == [c.finish_reason for c in whole.choices]


def test_log_probabilities_of_what_was_chosen(client):
    answer = complete(client, logprobs=5).choices[0]
    scores = answer.logprobs
    assert "".join(scores.tokens) == answer.text
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) == len(scores.text_offset)
    for token, logprob, top, offset in zip(scores.tokens, scores.token_logprobs, scores.top_logprobs,
                                           scores.text_offset):
        assert len(top) == 5 and logprob == max(top.values()) == top[token]  # greedy
        assert sum(map(math.exp, top.values())) <= 1 + 1e-5
        assert answer.text[offset:].startswith(token)


def test_chat_has_bytes_and_tops(client):
    answer = client.chat.completions.create(model="", messages=[{"role": "user", "content": "Say: é 한"}], temperature=0,
                                            max_tokens=24, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert content and all(len(t.top_logprobs) == 3 and t.logprob == t.top_logprobs[0].logprob for t in content)
    assert b"".join(bytes(t.bytes) for t in content).decode() == answer.choices[0].message.content


def test_a_prompt_is_worth_what_it_was_when_it_was_generated(server, client):
    first = complete(client, logprobs=2, max_tokens=40)
    tokens = server.http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    whole = complete(client, echo=True, max_tokens=0, logprobs=2, prompt=PROMPT + first.choices[0].text)
    scores, generated = whole.choices[0].logprobs, first.choices[0].logprobs
    assert whole.choices[0].text == PROMPT + first.choices[0].text and whole.usage.completion_tokens == 0
    assert scores.token_logprobs[0] is None and scores.top_logprobs[0] is None
    assert scores.tokens[len(tokens):] == generated.tokens
    assert scores.token_logprobs[len(tokens):] == generated.token_logprobs
    assert scores.top_logprobs[len(tokens):] == generated.top_logprobs

    told = complete(client, prompt_logprobs=1).choices[0].model_extra["prompt_logprobs"]
    assert told[0] is None and len(told) == len(tokens)
    for token, of in zip(tokens[1:], told[1:]):
        assert 1 <= len(of) <= 2 and of[str(token)]["rank"] >= 1
        assert any(e["rank"] == 1 for e in of.values())
    echoed = complete(client, echo=True, max_tokens=0, logprobs=0).choices[0].logprobs.token_logprobs
    assert echoed[1:] == [of[str(token)]["logprob"] for token, of in zip(tokens[1:], told[1:])]


def test_penalties_biases_and_words_change_what_is_chosen(server, client):
    plain = complete(client, logprobs=1, max_tokens=64).choices[0]
    penalised = complete(client, max_tokens=64, repetition_penalty=1.3, frequency_penalty=0.8, logprobs=1).choices[0]
    assert len(set(penalised.logprobs.tokens)) > len(set(plain.logprobs.tokens))
    first = plain.logprobs.tokens[0]
    token = server.http.post("/tokenize", json={"prompt": first}).json()["tokens"][0]
    assert complete(client, logit_bias={str(token): -100}, logprobs=1).choices[0].logprobs.tokens[0] != first
    assert set(complete(client, logit_bias={str(token): 100}, logprobs=1).choices[0].logprobs.tokens) == {first}
    words = [w for w in plain.text.split() if w.isalpha()][:3]
    assert not set(words) & set(complete(client, bad_words=words, max_tokens=64).choices[0].text.split())
    only = server.http.post("/tokenize", json={"prompt": " sea land"}).json()["tokens"]
    allowed = complete(client, allowed_token_ids=only, logprobs=0).choices[0]
    assert set(allowed.logprobs.tokens) <= {" sea", " land"}


def test_an_answer_has_its_least_of_tokens(client):
    ends_at_once = {"prompt": "a", "logit_bias": {"2": 100}, "max_tokens": 8}  # 2 ends this model's answers
    assert complete(client, **ends_at_once).usage.completion_tokens == 0
    assert complete(client, **ends_at_once, min_tokens=5).usage.completion_tokens == 5


@pytest.mark.parametrize("n", [1, 4])
def test_a_rank_that_dies_changes_nothing(server, n):
    parameters = {"max_tokens": 120, "ignore_eos": True, "temperature": 0.8, "seed": 11, "n": n, "repetition_penalty": 1.2,
                  "presence_penalty": 0.5, "frequency_penalty": 0.3, "logprobs": 1}
    whole = server.complete(PROMPT, **parameters).raise_for_status().json()
    undisturbed = [c["text"] for c in whole["choices"]]
    before = server.cluster()
    for victim in (0, 1):
        pids = present_pids(server)
        assert streamed(server, 30, lambda: kill(pids[victim]), **parameters) == undisturbed
    assert server.cluster()["groups_formed"] == before["groups_formed"] + 2


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-x", "-p", "no:cacheprovider"]))

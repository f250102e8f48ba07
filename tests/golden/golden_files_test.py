#!/usr/bin/env python3
"""The golden files are whole, and the safetensors twin of the model holds the GGUF file's weights."""
import json
import os
import sys
import unittest

import numpy as np
import safetensors

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get("SHOAL_SOURCE_DIR") or os.path.join(HERE, "..", "..")
sys.path.insert(0, os.path.join(SOURCE, "tools", "dev", "fixtures"))
from checkpoint import Checkpoint  # noqa: E402

GGUF = os.path.join(SOURCE, "models", "SmolLM2-135M-Instruct-Q4_1.gguf")
TWIN = os.path.join(SOURCE, "models", "SmolLM2-135M-Instruct-bf16")
VOCABULARY = 49152


def load(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as f:
        return json.load(f)


class Golden(unittest.TestCase):
    def test_greedy(self):
        golden = load("greedy.json")
        self.assertEqual(len(golden["cases"]), 24)
        for case in golden["cases"]:
            for key in ("tokens", "second", "margin"):
                self.assertEqual(len(case[key]), golden["steps"], case["name"])
            self.assertTrue(all(0 <= t < VOCABULARY for t in case["prompt"] + case["tokens"]))
            self.assertTrue(all(m >= 0 for m in case["margin"]))
            self.assertTrue(all(a != b for a, b in zip(case["tokens"], case["second"])))

    def test_logits(self):
        golden = load("logits.json")
        data = np.fromfile(os.path.join(HERE, "logits.f32"), "<f4").reshape(golden["rows"], golden["columns"] + 1)
        rows = sum(len(case["ids"]) // case["stride"] for case in golden["cases"])
        self.assertEqual(rows, golden["rows"])
        self.assertTrue(all(len(c["best"]) == len(c["ids"]) // c["stride"] for c in golden["cases"]))
        # No single logit exceeds the logarithm of the sum of all.
        self.assertTrue((data[:, :-1] <= data[:, -1:]).all())
        self.assertGreater(float(data[:, :-1].std()), 0.5)

    def test_text(self):
        golden = load("text2000.json")
        self.assertEqual((len(golden["ids"]), len(golden["best"]), len(golden["next_log_prob"])), (2000, 2000, 1999))
        self.assertTrue(all(p <= 0 for p in golden["next_log_prob"]))
        # Where the best token is the next one, its probability is that of a likely token.
        hits = [p for b, t, p in zip(golden["best"], golden["ids"][1:], golden["next_log_prob"]) if b == t]
        self.assertGreater(len(hits), 600)

    def test_peer(self):
        peer = load("llama_cpp.json")
        self.assertTrue(0 < peer["mean_kl_nats"] < 0.1 and 0.9 < peer["top1_agreement"] < 1, peer)


class Twin(unittest.TestCase):
    def setUp(self):
        self.assertTrue(os.path.exists(TWIN), "run `make test-models` first")

    def test_weights_are_the_gguf_files_rounded_to_bf16(self):
        with open(os.path.join(TWIN, "model.safetensors.index.json"), encoding="utf-8") as f:
            weight_map = json.load(f)["weight_map"]
        self.assertEqual(len(set(weight_map.values())), 2)
        seen = set()
        for name, want in Checkpoint(GGUF).tensors():
            seen.add(name)
            if ".layers." in name and ".layers.7." not in name:
                continue
            got = bf16(os.path.join(TWIN, weight_map[name]), name)
            self.assertEqual(got.shape, want.shape, name)
            # bf16 keeps 8 bits of the significand: half a unit in the last place is 2^-8 of the value at most.
            self.assertTrue((np.abs(got - want) <= np.abs(want) * 2.0**-8).all(), name)
        self.assertEqual(seen, set(weight_map))

    def test_tokenizer_has_every_token_of_the_gguf_file(self):
        with open(os.path.join(TWIN, "tokenizer.json"), encoding="utf-8") as f:
            tokenizer = json.load(f)
        tokens = Checkpoint(GGUF).get("tokenizer.ggml.tokens")
        self.assertEqual(tokenizer["model"]["vocab"], {t: i for i, t in enumerate(tokens)})
        self.assertEqual([t["content"] for t in tokenizer["added_tokens"]][:3], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def bf16(path, name):
    """A bf16 tensor as f32, located by the library's own reading of the header."""
    with safetensors.safe_open(path, "numpy") as f:
        shape, dtype = f.get_slice(name).get_shape(), f.get_slice(name).get_dtype()
    assert dtype == "BF16", dtype
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        begin, end = json.loads(f.read(length))[name]["data_offsets"]
        f.seek(8 + length + begin)
        bits = np.frombuffer(f.read(end - begin), "<u2").astype(np.uint32)
    return (bits << 16).view(np.float32).reshape(shape)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""The families' files are whole and fit together: shapes, sizes, digests, and what make_families.py promises of them."""
import hashlib
import json
import math
import os
import pathlib
import re
import unittest

import gguf
import numpy as np
import safetensors

# Written by families_weights.py, which CTest runs first.
FOLDER = pathlib.Path(os.environ["SHOAL_BUILD_DIR"]) / "families"
KEPT = pathlib.Path(__file__).parent / "families"
NAMES = sorted(p.name for p in FOLDER.iterdir())
ARCHITECTURES = {"BertModel", "GPT2LMHeadModel", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Grok1ModelForCausalLM",
                 "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Phi3ForCausalLM", "Qwen2ForCausalLM",
                 "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"}
LARGEST = 1_500_000  # bytes: fixtures are cloned with the sources, and travel with them


def load(name, file):
    return json.loads((FOLDER / name / file).read_text(encoding="utf-8"))


def stored_tensors(name):
    """Name -> (dtype, shape), and all values of the bf16 ones as one f32 array each."""
    path = FOLDER / name / "model.safetensors"
    with safetensors.safe_open(path, "numpy") as f:
        slices = {key: f.get_slice(key) for key in f.keys()}
        header = {key: (s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()}
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    values = {}
    for key, entry in json.loads(data[8:begin]).items():
        if entry.get("dtype") == "BF16":
            bits = np.frombuffer(data, "<u2", math.prod(entry["shape"]), begin + entry["data_offsets"][0]).astype(np.uint32)
            values[key] = (bits << 16).view(np.float32)
    return header, values


def layer_shapes(config):
    """Of one layer of an ordinary decoder: what its tensors' names end with -> shape. Experts are not among them."""
    hidden, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    kv = config["num_key_value_heads"] * head
    return {"q_proj.weight": (heads * head, hidden), "k_proj.weight": (kv, hidden), "v_proj.weight": (kv, hidden),
            "q_proj.bias": (heads * head,), "k_proj.bias": (kv,), "v_proj.bias": (kv,),
            "o_proj.weight": (hidden, heads * head), "qkv_proj.weight": (heads * head + 2 * kv, hidden),
            "gate_up_proj.weight": (2 * ffn, hidden), "mlp.gate_proj.weight": (ffn, hidden), "mlp.up_proj.weight": (ffn, hidden),
            "mlp.down_proj.weight": (hidden, ffn), "q_norm.weight": (head,), "k_norm.weight": (head,),
            "embed_tokens.weight": (config["vocab_size"], hidden), "lm_head.weight": (config["vocab_size"], hidden)}


def expert_shape(config, last):
    hidden, ffn = config["hidden_size"], config.get("moe_intermediate_size", config["intermediate_size"])
    return (hidden, ffn) if last in ("w2", "down_proj", "linear_1") else (ffn, hidden)


class Families(unittest.TestCase):
    def test_every_family_is_there(self):
        self.assertEqual({load(n, "config.json")["architectures"][0] for n in NAMES}, ARCHITECTURES)

    def test_digests(self):
        for name in NAMES:
            paths = [p for p in (FOLDER / name).rglob("*") if p.is_file() and p.name != "expected.json"]
            found = {p.relative_to(FOLDER / name).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
            self.assertEqual(found, load(name, "expected.json")["sha256"], name)

    def test_size(self):
        self.assertEqual(sorted(p.name for p in KEPT.iterdir()), NAMES)
        self.assertLess(sum(p.stat().st_size for p in KEPT.rglob("*") if p.is_file()), LARGEST)

    def test_expected_values(self):
        for name in NAMES:
            expected = load(name, "expected.json")
            data = np.fromfile(FOLDER / name / "expected.f32", "<f4").reshape(expected["rows"], expected["columns"])
            self.assertTrue(np.isfinite(data).all(), name)
            self.assertAlmostEqual(float(data.std()), expected["std"], 3, name)
            if "pooled" in expected["cases"][0]:
                np.testing.assert_allclose(np.linalg.norm(data, axis=1), 1, atol=1e-6)
            else:
                self.assertGreater(expected["std"], 1, name)
            # What f32 rounds is far below what any feature is seen by.
            self.assertLess(10 * expected["f32_error"], min([*expected["features"].values(), 1e-2]), name)
            self.assertGreater(expected.get("router_gap", 1), 1e-3, name)

    def test_cases(self):
        for name in NAMES:
            config, expected = load(name, "config.json"), load(name, "expected.json")
            data = np.fromfile(FOLDER / name / "expected.f32", "<f4").reshape(expected["rows"], expected["columns"])
            row = 0
            for case in expected["cases"]:
                self.assertEqual(case["first_row"], row, name)
                row += case["rows"]
                self.assertTrue(all(0 <= t < config["vocab_size"] for t in case["ids"]), name)
                if "pooled" in case:
                    self.assertEqual((case["rows"], case["pooled"], expected["columns"]),
                                     (2, ["mean", "cls"], config["hidden_size"]))
                    continue
                self.assertEqual((case["rows"], expected["columns"]), (len(case["ids"]), config["vocab_size"]), name)
                self.assertEqual(len(case["greedy"]), 8)
                self.assertGreater(min(case["margin"]), 0.05)
                # The first greedy token and its lead are in the logits of the last position.
                last = np.sort(data[row - 1])
                self.assertEqual(int(data[row - 1].argmax()), case["greedy"][0])
                self.assertAlmostEqual(float(last[-1] - last[-2]), case["margin"][0], 3)
            self.assertEqual(row, expected["rows"])

    def test_long_prompts_are_longer_than_what_they_must_exceed(self):
        for name in NAMES:
            config, case = load(name, "config.json"), load(name, "expected.json")["cases"][0]
            self.assertEqual(case["name"], "long")
            window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
            if window and name != "phi3_longrope":
                self.assertGreater(len(case["ids"]), 2 * window, name)
            if name == "phi3_longrope":
                self.assertGreater(len(case["ids"]), config["original_max_position_embeddings"])


class Checkpoints(unittest.TestCase):
    def test_shapes(self):
        for name in NAMES:
            config, (header, _) = load(name, "config.json"), stored_tensors(name)
            if config["model_type"] in ("gpt2", "bert"):
                continue
            known = layer_shapes(config)
            layers = set()
            for key, (dtype, shape) in header.items():
                self.assertEqual(dtype, "BF16", key)
                layers |= set(map(int, re.findall(r"layers\.(\d+)\.", key)))
                last = key.rsplit(".", 2)[-2]
                want = [s for end, s in known.items() if key.endswith("." + end) or key == end]
                if ".experts." in key:
                    self.assertEqual(shape, expert_shape(config, last), (name, key))
                elif re.search(r"\.(mlp|moe_block|block_sparse_moe)\.gate\.weight$", key):
                    experts = config.get("num_experts") or config["num_local_experts"]
                    self.assertEqual(shape, (experts, config["hidden_size"]), (name, key))
                elif want:
                    self.assertEqual(shape, want[0], (name, key))
                else:
                    self.assertTrue("norm" in key and shape == (config["hidden_size"],), (name, key, shape))
            self.assertEqual(layers, set(range(config["num_hidden_layers"])), name)
            self.assertEqual("lm_head.weight" in header, not config.get("tie_word_embeddings", True), name)

    def test_shapes_of_gpt2(self):
        config, (header, _) = load("gpt2", "config.json"), stored_tensors("gpt2")
        n = config["n_embd"]
        for layer in range(config["n_layer"]):
            # Conv1D keeps [inputs, outputs].
            for key, shape in (("attn.c_attn", (n, 3 * n)), ("attn.c_proj", (n, n)), ("mlp.c_fc", (n, 4 * n)),
                               ("mlp.c_proj", (4 * n, n))):
                self.assertEqual(header[f"h.{layer}.{key}.weight"], ("BF16", shape))
                self.assertEqual(header[f"h.{layer}.{key}.bias"], ("BF16", shape[1:]))
        self.assertEqual(header["wpe.weight"], ("BF16", (config["n_positions"], n)))

    def test_shapes_of_bert(self):
        config, (header, _) = load("bert", "config.json"), stored_tensors("bert")
        n, ffn = config["hidden_size"], config["intermediate_size"]
        for layer in range(config["num_hidden_layers"]):
            for key, shape in (("attention.self.query", (n, n)), ("attention.output.dense", (n, n)),
                               ("intermediate.dense", (ffn, n)), ("output.dense", (n, ffn))):
                self.assertEqual(header[f"encoder.layer.{layer}.{key}.weight"], ("BF16", shape))
        self.assertEqual(header["embeddings.token_type_embeddings.weight"], ("BF16", (config["type_vocab_size"], n)))

    def test_no_parameter_is_trivial(self):
        for name in NAMES:
            for key, values in stored_tensors(name)[1].items():
                self.assertTrue(np.isfinite(values).all(), (name, key))
                self.assertGreater(float(values.std()), 0.02, (name, key))

    def test_widths_can_be_cut(self):
        for name in NAMES:
            config = load(name, "config.json")
            heads = config.get("num_attention_heads") or config["n_head"]
            hidden = config.get("hidden_size") or config["n_embd"]
            columns = heads * (config.get("head_dim") or hidden // heads)
            # Ranks own whole heads and whole blocks of 32 columns: three ranks need three such units.
            self.assertGreaterEqual(columns // math.lcm(columns // heads, 32), 3, name)
            self.assertEqual(columns % 32, 0, name)
            for width in (hidden, config.get("intermediate_size") or 4 * hidden, config.get("moe_intermediate_size", 96)):
                self.assertEqual(width % 32, 0, name)
            self.assertGreaterEqual(config.get("intermediate_size") or 4 * hidden, 96)

    def test_vocabularies(self):
        for name in NAMES:
            tokenizer = load(name, "tokenizer.json")
            ids = set(tokenizer["model"]["vocab"].values()) | {t["id"] for t in tokenizer["added_tokens"]}
            self.assertEqual(ids, set(range(load(name, "config.json")["vocab_size"])), name)


class Twins(unittest.TestCase):
    def twins(self):
        return [n for n in NAMES if (FOLDER / n / "model.gguf").exists()]

    def test_twins_name_the_cases_they_are_equal_to(self):
        for name in NAMES:
            expected = load(name, "expected.json")
            self.assertEqual(expected.get("gguf", {}).get("file"), "model.gguf" if name in self.twins() else None, name)
            if "gguf" in expected:
                self.assertLessEqual(set(expected["gguf"]["cases"]), {c["name"] for c in expected["cases"]}, name)
                self.assertLess(expected["gguf"]["llama_cpp_f32"], expected["gguf"]["tolerance"], name)

    def test_twins_hold_the_same_numbers(self):
        """Names, order of rows and what is fused differ; the multiset of matrices' elements does not."""
        for name in self.twins():
            vectors = re.compile(r"norm|ln_|bias|LayerNorm|pooler")
            want = [v for k, v in stored_tensors(name)[1].items() if not vectors.search(k)]
            reader = gguf.GGUFReader(FOLDER / name / "model.gguf")
            kept = [t for t in reader.tensors if not re.search(r"norm|bias|rope_f", t.name)]
            got = np.sort(np.concatenate([gguf.quants.dequantize(t.data, t.tensor_type).ravel() for t in kept]))
            np.testing.assert_array_equal(got, np.sort(np.concatenate(want)), name)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""Makes families/*/model.gguf.delta with llama.cpp's own converter, and compares what llama.cpp computes with expected.f32.

  VENV/bin/python tests/golden/make_families_gguf.py --llama-cpp SOURCE --lib DIR_OF_LIBLLAMA --bindings DIR [NAME ...]

VENV is that of make_families.py with tqdm, pyyaml, sentencepiece 0.2.3 and diskcache 5.6.3. SOURCE is vendor/llama.cpp in
llama-cpp-python's source package 0.3.36 (`pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36`),
DIR its root, DIR_OF_LIBLLAMA where it was built:
  cmake -S SOURCE -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF && cmake --build build --target llama

The converter is run as it is, but for the vocabulary: it knows pre-tokenizers by what they make of a test text, and some
families only with SentencePiece, so it is handed the tokens of tokenizer.json (pre-tokenizer "gpt-2"). Twins are bf16, as the
checkpoints are. llama.cpp is asked with an f32 file of the same converter, an f32 cache and no flash attention, so that what
differs is arithmetic; and with the twin itself, of which it multiplies bf16 by activations that it rounds to bf16.
"""
import argparse
import ctypes
import json
import os
import pathlib
import shutil
import sys
import tempfile
import traceback

import numpy as np
import safetensors.torch

from families_specs import FAMILIES
from families_weights import FOLDER, delta_source, make_delta, write
from make_families import keep, write_expected

# llama.cpp looks GELU up in a table of f16, and takes the tanh form for BERT, too; without GELU it is 6e-5 at most.
TOLERANCE, TOLERANCES = 1e-4, {"gpt2": 1e-2, "gemma2": 1e-2, "gemma3": 1e-2, "grok1": 1e-2, "bert": 1e-2}
POOLING = {"mean": 1, "cls": 2}  # LLAMA_POOLING_TYPE_*


# ---- conversion ----


def vocabulary_of(folder, gguf):
    """Tokens and their kinds by id, as the converter's own get_vocab_base gives them."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    kinds = {i: gguf.TokenType.NORMAL for i in tokenizer["model"]["vocab"].values()}
    tokens = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], gguf.TokenType.CONTROL
    return [tokens[i] for i in range(len(tokens))], [kinds[i] for i in range(len(tokens))], "gpt-2"


def as_the_converter_knows_grok(folder):
    """It reads the names of another port to torch."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["Grok1ForCausalLM"], "num_local_experts": config["num_experts"],
               "attn_logit_softcapping": config["max_attn_value"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    names = {"model.embed_tokens.weight": "transformer.in_out_embed.weight",
             "model.norm.scale": "transformer.rms_norm.weight"}
    parts = {".attn.q_proj.": ".multi_head_attention.query.", ".attn.k_proj.": ".multi_head_attention.key.",
             ".attn.v_proj.": ".multi_head_attention.value.", ".attn.o_proj.": ".multi_head_attention.linear.",
             ".moe_block.gate.": ".router.", ".moe_block.experts.": ".moe.", "model.layers.": "transformer.decoder_layer.",
             ".pre_attn_norm.scale": ".rms_norm.weight", ".post_attn_norm.scale": ".rms_norm_1.weight",
             ".pre_moe_norm.scale": ".rms_norm_2.weight", ".post_moe_norm.scale": ".rms_norm_3.weight"}
    renamed = {}
    for name, tensor in safetensors.torch.load_file(folder / "model.safetensors").items():
        for old, new in parts.items():
            name = name.replace(old, new)
        renamed[names.get(name, name)] = tensor
    safetensors.torch.save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def without_masks(folder):
    """The converter stumbles over the constant masks of GPT-2's published files."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if not n.endswith(".attn.bias")}
    safetensors.torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def convert(source, family, outtype, target):
    import convert_hf_to_gguf as converter
    from conversion import base
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "tiny"  # becomes the model's name; one with "phi3" in it must have "</s>"
        shutil.copytree(source, folder)
        if family == "grok1":
            as_the_converter_knows_grok(folder)
        if family == "gpt2":
            without_masks(folder)
        architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
        model = converter.get_model_class(architecture)
        base.TextModel.get_vocab_base = lambda self: vocabulary_of(self.dir_model, base.gguf)
        if family != "bert":
            model.set_vocab = base.TextModel._set_vocab_gpt2
        sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outtype", outtype, "--outfile", str(target)]
        converter.main()


# ---- llama.cpp ----


class LlamaCpp:
    def __init__(self, library, path, pooled):
        self.library = library
        self.model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
        assert self.model, path
        self.pooled = pooled

    def context(self, pooling):
        params = self.library.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 128, 128, 128
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = 0  # GGML_TYPE_F32
        params.flash_attn_type = 0         # LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.swa_full = True
        if pooling is not None:
            params.embeddings, params.pooling_type = True, pooling
        context = self.library.llama_init_from_model(self.model, params)
        assert context
        return context

    def run(self, ids, pooling=None):
        context = self.context(pooling)
        batch = self.library.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert self.library.llama_decode(context, batch) == 0
        if pooling is None:
            shape = len(ids), self.library.llama_vocab_n_tokens(self.library.llama_model_get_vocab(self.model))
            pointer = self.library.llama_get_logits(context)
        else:
            shape = 1, self.library.llama_model_n_embd(self.model)
            pointer = self.library.llama_get_embeddings_seq(context, 0)
        out = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape).copy()
        self.library.llama_batch_free(batch)
        self.library.llama_free(context)
        return out if pooling is None else out / np.linalg.norm(out)

    def rows(self, case):
        if not self.pooled:
            return self.run(case["ids"])
        return np.concatenate([self.run(case["ids"], POOLING[kind]) for kind in case["pooled"]])


def difference(library, path, folder, expected, cases):
    data = np.fromfile(folder / "expected.f32", "<f4").reshape(expected["rows"], expected["columns"])
    model = LlamaCpp(library, path, "pooled" in cases[0])
    return max(float(np.abs(model.rows(c) - data[c["first_row"]:c["first_row"] + c["rows"]]).max()) for c in cases)


def make(family, spec, library):
    with tempfile.TemporaryDirectory() as temporary:
        write(family, pathlib.Path(temporary), with_twin=False)
        folder = pathlib.Path(temporary) / family
        expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        for key in ("gguf", "sha256"):
            expected.pop(key, None)
        cases = [c for c in expected["cases"] if c["name"].partition("/")[2] == spec["twin"]]
        full, twin = (pathlib.Path(temporary) / f"{kind}.gguf" for kind in ("f32", "bf16"))
        for kind, target in (("f32", full), ("bf16", twin)):
            convert(folder, family, kind, target)
        found = {"llama_cpp_f32": difference(library, full, folder, expected, cases),
                 "llama_cpp_bf16": difference(library, twin, folder, expected, cases)}
        assert found["llama_cpp_f32"] < TOLERANCES.get(family, TOLERANCE), found
        kept = "model.gguf" if spec.get("twin_kept", True) else None
        expected["gguf"] = {"file": kept, "cases": [c["name"] for c in cases], "converter": "llama-cpp-python 0.3.36",
                            "tolerance": TOLERANCES.get(family, TOLERANCE), **{k: round(v, 6) for k, v in found.items()}}
        if kept:
            shutil.copyfile(twin, folder / kept)
        write_expected(folder, expected)
        keep(folder, FOLDER / family)
        if kept:
            delta = make_delta(delta_source(folder / "model.safetensors"), twin.read_bytes())
            (FOLDER / family / "model.gguf.delta").write_bytes(delta)
            print(f"{family}: {expected['gguf']}, a delta of {len(delta)} bytes", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--llama-cpp", "--lib", "--bindings"):
        parser.add_argument(name, required=True, type=os.path.abspath)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    os.environ["LLAMA_CPP_LIB_PATH"] = args.lib
    sys.path[1:1] = [args.llama_cpp, args.bindings]
    from llama_cpp import llama_cpp as library
    errors = library.llama_log_callback(lambda level, text, _: print(text.decode(), end="") if level == 4 else None)
    library.llama_log_set(errors, None)
    library.llama_backend_init()
    failed = []
    for family in args.names or FAMILIES:
        try:
            if "twin" in FAMILIES[family]:
                make(family, FAMILIES[family], library)
        except Exception:  # the converter's or llama.cpp's: the other families are made all the same
            traceback.print_exc()
            failed.append(family)
    sys.exit(f"no twins of {failed}" if failed else 0)


if __name__ == "__main__":
    main()

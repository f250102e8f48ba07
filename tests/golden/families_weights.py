#!/usr/bin/env python3
"""Writes the checkpoints of the families, which are too large to be kept with the sources, as make_families.py made them.

  families_weights.py OUT      OUT/NAME for each folder of families/, whole: config, tokenizer, model.safetensors, model.gguf

Weights are drawn again from the family's seed; a GGUF twin, llama.cpp's own converter's work, is put together from the
parts of model.safetensors that model.gguf.delta names, and what only it has. expected.json has the digests of both: what
is written is what the reference computed with, or this fails.
"""
import hashlib
import json
import lzma
import math
import pathlib
import re
import shutil
import sys

import numpy as np
import safetensors

from families_specs import FAMILIES

FOLDER = pathlib.Path(__file__).parent / "families"
GAIN = {"q": 1.6, "k": 1.6, "embed": 2.0, "head": 2.5, "router": 2.0, "down": 1.3, "other": 1.3}
MATCH = 32  # bytes: what a delta copies at least


def random(*key):
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))


# ---- model.safetensors ----


def is_encoder(config):
    return config["model_type"] == "bert"


def role(name):
    """Which weights may have a spread of their own."""
    last = name.split(".")[-2]
    if last in ("q_proj", "query"):
        return "q"
    if last in ("k_proj", "key"):
        return "k"
    if last in ("qkv_proj", "c_attn"):
        return "k"
    if last in ("embed_tokens", "wte", "word_embeddings"):
        return "embed"
    if re.search(r"mlp\.c_proj|\d\.output\.dense", name):
        return "down"
    return {"lm_head": "head", "gate": "router"}.get(last, "other")


def values(name, shape, spec, rng):
    config, normal = spec["config"], rng.standard_normal(shape)
    if name.endswith("bias"):
        return 0.4 * normal + (spec.get("gelu_bias", 0.0) if re.search(r"(c_fc|intermediate\.dense)\.bias", name) else 0.0)
    if len(shape) == 1:  # a norm's weight; Gemma keeps what it differs from 1
        return 0.3 * normal + (0.0 if config["model_type"].startswith("gemma") else 1.0)
    gain = {**GAIN, **spec.get("gain", {})}[role(name)]
    if role(name) == "embed":
        return normal * gain / math.sqrt(shape[1])
    if re.search(r"wpe|(position|token_type)_embeddings", name):
        return normal * 0.3
    inputs = shape[0] if re.search(r"c_(attn|proj|fc)\.", name) else shape[1]  # GPT-2's Conv1D is [inputs, outputs]
    return normal * gain / math.sqrt(inputs)


def constant_tensors(config):
    """What the published files hold beside parameters."""
    if config["model_type"] == "gpt2":
        n = config["n_ctx"]
        mask = np.tril(np.ones((n, n), "<f4")).reshape(1, 1, n, n)
        return {f"h.{layer}.attn.bias": mask for layer in range(config["n_layer"])}
    if is_encoder(config):
        return {"embeddings.position_ids": np.arange(config["max_position_embeddings"], dtype="<i8")[None]}
    return {}


def as_bf16(array):
    """f64 -> the bits of bf16 by way of f32, both rounded to the nearest, ties to even."""
    bits = array.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_safetensors(family, spec, seed, shapes, path):
    """`shapes`: of the parameters, by name."""
    tensors = {name: ("bfloat16", as_bf16(values(name, shape, spec, random(family, seed, name))))
               for name, shape in shapes.items()}
    tensors |= {name: (array.dtype.name, array) for name, array in constant_tensors(spec["config"]).items()}
    safetensors.serialize_file(
        {name: safetensors.TensorSpec(dtype=dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
         for name, (dtype, array) in tensors.items()}, path, {"format": "pt"})


# ---- model.gguf ----


def delta_source(path):
    """What a delta copies from: the file, then its bf16 matrices once more, transposed."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    turned = []
    for name in sorted(header):
        entry = header[name]
        if entry.get("dtype") == "BF16" and len(entry["shape"]) == 2:
            matrix = np.frombuffer(data, "<u2", math.prod(entry["shape"]), begin + entry["data_offsets"][0])
            turned.append(matrix.reshape(entry["shape"]).T.tobytes())
    return b"".join([data, *turned])


def make_delta(source, target):
    """`target` as copies out of `source` and, where there are none, its own bytes."""
    known = {}
    for at in range(len(source) - MATCH, -1, -2):
        known[source[at:at + MATCH]] = at
    copies, own, at = [], bytearray(), 0
    while at < len(target):
        begin = known.get(target[at:at + MATCH])
        if begin is None:
            own.append(target[at])
            at += 1
            continue
        length = MATCH
        while at + length < len(target) and source[begin + length:begin + length + 1] == target[at + length:at + length + 1]:
            length += 1
        copies.append((len(own), begin, length))
        at += length
    head = np.array([(len(copies), 0, 0), *copies], "<u4")
    return lzma.compress(head.tobytes() + bytes(own), preset=9)


def apply_delta(source, delta):
    data = lzma.decompress(delta)
    count = int.from_bytes(data[:4], "little")
    copies = np.frombuffer(data, "<u4", 3 * count, 12).reshape(count, 3).tolist()
    own, out, used = data[12 * (count + 1):], [], 0
    for before, begin, length in copies:
        out += [own[used:before], source[begin:begin + length]]
        used = before
    return b"".join([*out, own[used:]])


# ---- all ----


def write(name, out, with_twin=True):
    folder, target = FOLDER / name, out / name
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.delta"))
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    write_safetensors(name, FAMILIES[name], expected["seed"], expected["shapes"], target / "model.safetensors")
    delta = folder / "model.gguf.delta"
    if delta.exists() and with_twin:
        source = delta_source(target / "model.safetensors")
        (target / "model.gguf").write_bytes(apply_delta(source, delta.read_bytes()))
    for file in ("model.safetensors", "model.gguf"):
        if (target / file).exists():
            found = hashlib.sha256((target / file).read_bytes()).hexdigest()
            if found != expected["sha256"][file]:
                sys.exit(f"{name}/{file} is not what the reference computed with: sha256 {found}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for folder in sorted(FOLDER.iterdir()):
        write(folder.name, out)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes tests/golden/families: tiny checkpoints of every model family, and what transformers computes from them.

  python3 -m venv VENV && VENV/bin/pip install torch==2.9.1 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
  VENV/bin/python tests/golden/make_families.py [NAME ...]      all families, or those named; see README.md

Weights are random, from a counter keyed by (family, seed, tensor), rounded to bf16; they are not kept, families_weights.py
draws them again. The reference computes with these values
in f32 on the CPU, with eager attention. A seed is taken only if the result is fit for tests: logits spread by more than 1,
every feature of the family moves them by more than 1e-2 when it is switched off (or by what families_specs.py says), no
expert is chosen by less than 1e-3 of its logit, and no greedy token by less than 0.05.
"""
import copy
import hashlib
import json
import math
import pathlib
import re
import shutil
import sys
import tempfile

import numpy as np
import safetensors
import safetensors.torch
import torch
import transformers

import families_tokenizers
import grok_reference
from families_specs import FAMILIES
from families_weights import FOLDER, is_encoder, random, write_safetensors

STEPS = 8
PROMPTS = {"long": 40, "short": 7}
LEAST_CHANGE, LEAST_SPREAD, LEAST_GAP, LEAST_MARGIN = 1e-2, 1.0, 1e-3, 0.05


class Unfit(Exception):
    """This seed's model is not fit for tests."""


# ---- the checkpoint ----


def published_shapes(config):
    """Tensor name -> shape, as transformers saves such a model, but for a prefix that the published files lack."""
    if config["model_type"] == "grok-1":
        return grok_reference.shapes(config)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        parsed = transformers.AutoConfig.from_pretrained(folder)
        architecture(config)(parsed).save_pretrained(folder)
        with safetensors.safe_open(path / "model.safetensors", "pt") as f:
            shapes = {name: tuple(f.get_slice(name).get_shape()) for name in f.keys()}
    return {name.removeprefix("transformer."): shape for name, shape in shapes.items()}


def architecture(config):
    return getattr(transformers, config["architectures"][0])


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_checkpoint(family, spec, seed, folder):
    config = spec["config"]
    write_json(folder / "config.json", config)
    if "generation" in spec:
        write_json(folder / "generation_config.json", spec["generation"])
    families_tokenizers.write(folder, is_encoder(config))
    if is_encoder(config):
        write_sentence_transformers(folder, config)
    shapes = published_shapes(config)
    write_safetensors(family, spec, seed, shapes, folder / "model.safetensors")
    return {name: list(shape) for name, shape in sorted(shapes.items())}


def write_sentence_transformers(folder, config):
    kinds = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    write_json(folder / "modules.json",
               [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (kind, path) in enumerate(kinds)])
    write_json(folder / "sentence_bert_config.json",
               {"max_seq_length": config["max_position_embeddings"], "do_lower_case": False})
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json",
               {"word_embedding_dimension": config["hidden_size"], "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False})


# ---- the reference ----


class Reference:
    """A model of the checkpoint in `folder` with some configuration keys overridden; f32, or f64 to see what f32 rounds."""

    def __init__(self, folder, config, overrides=None, dtype=torch.float32):
        self.config = {**config, **(overrides or {})}
        self.grok = self.config["model_type"] == "grok-1"
        self.router_gap = math.inf
        if self.grok:
            stored = safetensors.torch.load_file(folder / "model.safetensors")
            self.model = grok_reference.Grok1(self.config, {n: t.to(dtype) for n, t in stored.items()})
            return
        with tempfile.TemporaryDirectory() as changed:
            (pathlib.Path(changed) / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
            parsed = transformers.AutoConfig.from_pretrained(changed)
        self.model, info = architecture(config).from_pretrained(
            folder, config=parsed, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
            output_loading_info=True)
        assert not (info["missing_keys"] or info["mismatched_keys"]), info
        self.model.eval().to(dtype)
        for name, module in self.model.named_modules():
            if name.endswith(".gate"):
                module.register_forward_hook(self._see_router)

    def _see_router(self, module, inputs, _):
        logits = inputs[0].reshape(-1, inputs[0].shape[-1]) @ module.weight.T
        best = logits.sort(-1, descending=True).values
        taken = self.config["num_experts_per_tok"]
        self.router_gap = min(self.router_gap, float((best[:, taken - 1] - best[:, taken]).min()))

    def switch_off(self, switch):
        """Does to the loaded model what a switch of families_specs.py says, other than "config"."""
        if self.grok:
            self.model.skipped = tuple(switch.get("identity", "").split("|"))
            return
        changed = 0
        if "identity" in switch:
            for name, _ in [m for m in self.model.named_modules() if re.search(switch["identity"] + "$", m[0])]:
                parent, last = name.rsplit(".", 1)
                setattr(self.model.get_submodule(parent), last, torch.nn.Identity())
                changed += 1
        for kind, value in (("zero", 0.0), ("one", 1.0)):
            parameters = [*self.model.named_parameters(), *self.model.named_buffers()]
            for name, parameter in parameters if kind in switch else []:
                if re.search(switch[kind], name):
                    parameter.data.fill_(value - (kind == "one" and "norm" in name and "gemma" in self.config["model_type"]))
                    changed += 1
        assert changed or "config" in switch, switch

    def rows(self, ids):
        """Logits of every position, [tokens, vocabulary]; of an encoder [2, hidden]: pooled by mean, by the first token."""
        with torch.no_grad():
            if self.grok:
                out = self.model.logits(ids)
                self.router_gap = self.model.router_gap
                return out
            if not is_encoder(self.config):
                return self.model(torch.tensor([ids]), use_cache=False).logits[0]
            states = self.model(torch.tensor([ids])).last_hidden_state[0]
            return torch.nn.functional.normalize(torch.stack([states.mean(0), states[0]]), dim=-1)

    def greedy(self, ids):
        tokens, margins = [], []
        for _ in range(STEPS):
            best = self.rows([*ids, *tokens])[-1].topk(2)
            tokens.append(int(best.indices[0]))
            margins.append(round(float(best.values[0] - best.values[1]), 4))
        return {"greedy": tokens, "margin": margins}


def prompts(family, config):
    out = {}
    for name, length in PROMPTS.items():
        if is_encoder(config):
            out[name] = [2, *random(family, name).integers(5, 143, length - 2).tolist(), 3]
        else:
            out[name] = random(family, name).integers(0, 256, length).tolist()
    return out


def largest_difference(a, b):
    return float((a.double() - b.double()).abs().max())


# ---- one family ----


def measured_features(folder, spec, ids, plain):
    """Label -> how far the logits of the long prompt move when that feature is off."""
    moved = {}
    for label, switch in spec["switches"].items():
        other = Reference(folder, spec["config"], switch.get("config"))
        other.switch_off(switch)
        moved[label] = round(largest_difference(other.rows(ids), plain), 4)
        if not moved[label] > switch.get("least", LEAST_CHANGE):
            raise Unfit(f"{label} moves the logits by {moved[label]} only")
    return moved


def make_cases(folder, spec, inputs):
    """The cases of expected.json, their rows, and the least gap of the router."""
    cases, rows, gap = [], [], math.inf
    for variant, overrides in {"": {}, **spec["variants"]}.items():
        reference = Reference(folder, spec["config"], overrides)
        for name, ids in inputs.items():
            out = reference.rows(ids)
            case = {"name": f"{name}/{variant}" if variant else name, "ids": ids, "overrides": overrides,
                    "first_row": sum(map(len, rows)), "rows": len(out)}
            if is_encoder(spec["config"]):
                case["pooled"] = ["mean", "cls"]
            else:
                case |= reference.greedy(ids)
                if min(case["margin"]) < LEAST_MARGIN:
                    raise Unfit(f"{case['name']}: a greedy token leads by {min(case['margin'])} only")
                if float(out.std()) < LEAST_SPREAD:
                    raise Unfit(f"{case['name']}: logits spread by {float(out.std())} only")
            cases.append(case)
            rows.append(out)
        gap = min(gap, reference.router_gap)
    if gap < LEAST_GAP:
        raise Unfit(f"an expert is chosen by {gap} only")
    return cases, torch.cat(rows), gap


def make(family, spec, seed, folder):
    shapes = write_checkpoint(family, spec, seed, folder)
    inputs = prompts(family, spec["config"])
    cases, rows, gap = make_cases(folder, spec, inputs)
    moved = measured_features(folder, spec, inputs["long"], rows[:cases[0]["rows"]])
    exact = torch.cat([Reference(folder, spec["config"], c["overrides"], torch.float64).rows(c["ids"]) for c in cases])
    rows.numpy().astype("<f4").tofile(folder / "expected.f32")
    own = spec["config"]["model_type"] == "grok-1"
    expected = {"family": family, "seed": seed,
                "reference": {"torch": torch.__version__.split("+")[0], "dtype": "f32",
                              **({"model": "grok_reference.py"} if own else
                                 {"transformers": transformers.__version__, "attention": "eager"})},
                "columns": rows.shape[1], "rows": rows.shape[0], "std": round(float(rows.std()), 4),
                "f32_error": float(f"{largest_difference(rows, exact):.2g}"), "features": moved, "cases": cases, "shapes": shapes}
    if gap < math.inf:
        expected["router_gap"] = round(gap, 6)
    return expected


def write_expected(folder, expected):
    """Of the whole checkpoint in `folder`; lists of numbers on one line; the digests of all other files last."""
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != "expected.json")
    digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    text = json.dumps({**expected, "sha256": digests}, indent=1)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]).replace("[ ", "[").replace(" ]", "]"), text)
    (folder / "expected.json").write_text(text + "\n", encoding="utf-8")


def keep(folder, kept):
    """All of `folder` but what families_weights.py makes again."""
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("model.safetensors", "model.gguf"))


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    names = sys.argv[1:] or list(FAMILIES)
    for family in names:
        spec = copy.deepcopy(FAMILIES[family])
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            for seed in range(200):
                try:
                    expected = make(family, spec, seed, folder)
                    break
                except Unfit as why:
                    print(f"{family}: seed {seed}: {why}")
            else:
                sys.exit(f"{family}: no seed is fit")
            write_expected(folder, expected)
            keep(folder, FOLDER / family)  # without a twin, which would be another model's
        print(f"{family}: seed {seed}, std {expected['std']}, f32 error {expected['f32_error']}, {expected['features']}",
              flush=True)


if __name__ == "__main__":
    main()

"""Grok-1 in torch, in the few lines that its arithmetic takes; transformers has no such family. One sequence at a time.

The architecture is what xAI published with the weights (github.com/xai-org/grok-1, model.py): four RMS norms a layer, two of
them on what attention and the experts give before it is added; scores cap * tanh(q.k * attn_output_multiplier / cap);
the two best of all experts, weighted by their softmax over all of them, which is not normalised again (the norm behind takes
out any common factor); experts down(gelu(gate(x)) * up(x)) with jax.nn.gelu, which is the tanh form; rotary halves
(i, i + d/2), theta 1e4; embeddings times embedding_multiplier_scale, logits times output_multiplier_scale. Names of
tensors and configuration keys are those of the port to torch in Hugging Face's layout (hpcai-tech/grok-1).
"""
import math

import torch


class Grok1:
    def __init__(self, config, tensors):
        self.config, self.tensors = config, tensors
        self.skipped = ()     # norms that do nothing, by the last part of their names
        self.router_gap = math.inf  # the least gap between the logits of the last expert taken and the first one not

    def weight(self, name):
        return self.tensors[name + ".weight"]

    def norm(self, x, name):
        if name.rsplit(".", 1)[-1] in self.skipped:
            return x
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return x * scale * self.tensors[name + ".scale"]

    def rotate(self, x):
        """x: [tokens, heads, head_dim], positions from 0."""
        tokens, _, dim = x.shape
        theta = self.config.get("rope_theta", 1e4)
        frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles = (torch.arange(tokens, dtype=torch.float64)[:, None] * frequencies)[:, None, :]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def attention(self, x, prefix):
        c, tokens = self.config, x.shape[0]
        heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        q = self.rotate((x @ self.weight(prefix + "q_proj").T).view(tokens, heads, -1))
        k = self.rotate((x @ self.weight(prefix + "k_proj").T).view(tokens, kv_heads, -1))
        v = (x @ self.weight(prefix + "v_proj").T).view(tokens, kv_heads, -1)
        k, v = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * c["attn_output_multiplier"]
        scores = c["max_attn_value"] * torch.tanh(scores / c["max_attn_value"])
        future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, v).reshape(tokens, -1) @ self.weight(prefix + "o_proj").T

    def experts(self, x, prefix):
        c = self.config
        logits = x @ self.weight(prefix + "gate").T
        best = logits.sort(-1, descending=True).values
        taken = c["num_experts_per_tok"]
        self.router_gap = min(self.router_gap, float((best[:, taken - 1] - best[:, taken]).min()))
        share, chosen = logits.softmax(-1).topk(taken, -1)
        out = torch.zeros_like(x)
        for token in range(x.shape[0]):
            for expert, part in zip(chosen[token].tolist(), share[token]):
                names = [f"{prefix}experts.{expert}.{n}" for n in ("linear", "linear_v", "linear_1")]
                gate, up, down = (self.weight(n) for n in names)
                hidden = torch.nn.functional.gelu(gate @ x[token], approximate="tanh") * (up @ x[token])
                out[token] += part * (down @ hidden)
        return out

    def logits(self, ids):
        """[tokens, vocabulary]"""
        c = self.config
        x = self.weight("model.embed_tokens")[torch.tensor(ids)] * c["embedding_multiplier_scale"]
        for layer in range(c["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            x = x + self.norm(self.attention(self.norm(x, at + "pre_attn_norm"), at + "attn."), at + "post_attn_norm")
            x = x + self.norm(self.experts(self.norm(x, at + "pre_moe_norm"), at + "moe_block."), at + "post_moe_norm")
        x = self.norm(x, "model.norm")
        head = "model.embed_tokens" if c["tie_word_embeddings"] else "lm_head"
        return x @ self.weight(head).T * c["output_multiplier_scale"]


def shapes(c):
    """Name -> shape of every tensor of a checkpoint."""
    hidden, ffn, head = c["hidden_size"], c["intermediate_size"], c["hidden_size"] // c["num_attention_heads"]
    out = {"model.embed_tokens.weight": (c["vocab_size"], hidden), "model.norm.scale": (hidden,)}
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads"), ("v", "num_key_value_heads")):
            out[f"{at}attn.{name}_proj.weight"] = (c[heads] * head, hidden)
        out[at + "attn.o_proj.weight"] = (hidden, c["num_attention_heads"] * head)
        out[at + "moe_block.gate.weight"] = (c["num_experts"], hidden)
        for expert in range(c["num_experts"]):
            for name, shape in (("linear", (ffn, hidden)), ("linear_v", (ffn, hidden)), ("linear_1", (hidden, ffn))):
                out[f"{at}moe_block.experts.{expert}.{name}.weight"] = shape
        for name in ("pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm"):
            out[f"{at}{name}.scale"] = (hidden,)
    return out

"""Decode of an 8B model by `transformers` on a GPU, compiled, with a static cache: what `steps` is to be beside.

  transformers_decode.py [--device cpu]      cpu: a tiny model, to see that it runs; it has no figures

LlamaForCausalLM of the shape of `bench_gpu` (bench.cc) with random bf16 weights, a context of 1k, and a loop over one
compiled step. Larger batches only while there is time to compile for them. Ends with 3 where there is no device and
with 4 where a package is missing, with the reason.
"""

import argparse
import os
import sys
import time

BEGIN = time.monotonic()
# Of what run gives: a batch is begun only where it should end in that.
BUDGET_S = 0.9 * float(os.environ.get("SHOAL_GPU_SECONDS", "90"))
CONTEXT, STEPS, WARM_UP = 1024, 100, 10
NO_DEVICE, SKIPPED = 3, 4  # as tests/gpu/run has them


def give_up(code, why):
    print(f"{'no device' if code == NO_DEVICE else 'skipped'}: {why}", flush=True)
    sys.exit(code)


def packages():
    try:
        import torch
        import transformers
    except ImportError as error:
        give_up(SKIPPED, f"{error}")
    return torch, transformers


def make_model(torch, transformers, device):
    # config.json of meta-llama/Llama-3.1-8B; but for its rope_scaling, which costs nothing in a step.
    shape = dict(
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=14336,
        vocab_size=128256,
    )
    if device == "cpu":
        shape = dict(shape, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
        shape = dict(shape, head_dim=16, intermediate_size=96, vocab_size=320)
    config = transformers.LlamaConfig(max_position_embeddings=131072, rms_norm_eps=1e-5, **shape)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = transformers.LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


class Decode:
    """A batch whose context is in the cache."""

    def __init__(self, torch, transformers, model, batch):
        self.torch = torch
        device = model.device
        length = CONTEXT + STEPS + WARM_UP
        self.cache = transformers.StaticCache(config=model.config, max_cache_len=length)
        prompt = torch.randint(model.config.vocab_size, (batch, CONTEXT - 1), device=device)
        model(input_ids=prompt, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.ids = torch.randint(model.config.vocab_size, (batch, 1), device=device)

        def step(ids, cache):
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
            return logits[:, -1].argmax(-1, keepdim=True)

        self.step = torch.compile(step, mode="reduce-overhead", dynamic=False)

    def run(self, steps):
        for _ in range(steps):
            # The graph writes its result over that of its last run.
            self.ids = self.step(self.ids, self.cache).clone()

    def seconds(self):
        """Of a step."""
        self.run(WARM_UP)  # compiles, and records the graph
        self.synchronise()
        begin = time.perf_counter()
        self.run(STEPS)
        self.synchronise()
        return (time.perf_counter() - begin) / STEPS

    def synchronise(self):
        if self.ids.device.type == "cuda":
            self.torch.cuda.synchronize()


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batch", type=int, action="append", help="1, 8 and 32 unless told")
    args = parser.parse_args(arguments)
    if os.environ.get("SHOAL_EMULATED"):
        give_up(SKIPPED, "torch runs on no emulated device")
    torch, transformers = packages()
    if args.device == "cuda" and not torch.cuda.is_available():
        give_up(NO_DEVICE, "torch sees none")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}", flush=True)
    torch.manual_seed(1)
    longest = 0.0
    with torch.no_grad():
        model = make_model(torch, transformers, args.device)
        print(f"model after {time.monotonic() - BEGIN:.1f} s", flush=True)
        for batch in args.batch or [1, 8, 32]:
            begin = time.monotonic()
            if longest > 0 and begin - BEGIN + longest > BUDGET_S:
                print(f"batch {batch}: no time left to compile for it", flush=True)
                continue
            torch._dynamo.reset()
            decode = Decode(torch, transformers, model, batch)
            seconds = decode.seconds()
            tokens = decode.ids.flatten().tolist()
            assert all(0 <= token < model.config.vocab_size for token in tokens), tokens
            del decode
            longest = max(longest, time.monotonic() - begin)
            print(f"batch {batch}: {time.monotonic() - begin:.1f} s with its compilation", flush=True)
            if args.device == "cuda":
                print(f"figure: 8B bf16 decode {batch} transformers {batch / seconds:.4g} tokens/s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The families of make_families.py: what config.json says, and what is switched off to see that it matters.

config       config.json in the form in which checkpoints of the family are published (not as transformers 5 would save it)
generation   generation_config.json, if such checkpoints have one
switches     label -> what is changed so that one feature is off: {"config": overrides}, {"identity": pattern of modules
             that then do nothing}, {"zero": pattern of parameters} or {"one": ...}; logits must then differ, by more than
             1e-2 or by more than "least"
variants     label -> config overrides; the logits under them are kept, too: what is computed when a reader of the GGUF
             twin, in which these values have no place, does what it can
twin         the variant ("" is the plain config) that the GGUF twin is equal to; absent: there is none
twin_kept    False: the twin is compared with llama.cpp, but not kept
gain         standard deviations of weights, in units of 1 / sqrt(inputs), where they are not the default's
gelu_bias    added to the biases before GELU, so that its two forms, erf and tanh, are far enough apart to be told apart:
             they differ most, in proportion, where GELU is nearly 0. "down" then makes up for it
"""

PAD, BOS, EOS = 285, 286, 287  # families_tokenizers.py

# Ranks own whole query heads and whole blocks of 32 columns: these are three units (6 heads of 16), those of SMALL four.
DENSE = {"vocab_size": 288, "hidden_size": 96, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6,
         "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.02, "use_cache": True,
         "bos_token_id": BOS, "eos_token_id": EOS, "torch_dtype": "bfloat16", "attention_dropout": 0.0}
SMALL = {**DENSE, "hidden_size": 32, "num_attention_heads": 4, "head_dim": 32}
GENERATION = {"_from_model_config": True, "bos_token_id": BOS, "eos_token_id": EOS}
CHAT_GENERATION = {"bos_token_id": BOS, "eos_token_id": [EOS, PAD], "pad_token_id": PAD, "do_sample": True}

NO_ROPE = {"config": {"rope_theta": 1e30}}  # all but the first pair of each head stand nearly still
LARGE_EPS = 1e-3  # larger than any published, so that a decoder which takes another is found out

LLAMA = {
    "config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SMALL, "attention_bias": False,
               "mlp_bias": False, "hidden_act": "silu", "pretraining_tp": 1, "rms_norm_eps": LARGE_EPS,
               "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False},
    "generation": GENERATION,
    "switches": {"rope": NO_ROPE, "norm_eps": {"config": {"rms_norm_eps": 1e-6}},
                 "activation": {"config": {"hidden_act": "gelu_pytorch_tanh"}}},
    "variants": {}, "twin": "",
}

MISTRAL = {
    "config": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **SMALL,
               "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 12,
               "tie_word_embeddings": False},
    "generation": GENERATION,
    "switches": {"rope": NO_ROPE, "sliding_window": {"config": {"sliding_window": None}},
                 "sliding_window_of_one_more": {"config": {"sliding_window": 13}}},
    # GGUF has Mistral as "llama", which has no window.
    "variants": {"no_window": {"sliding_window": None}}, "twin": "no_window",
}

QWEN2 = {
    "config": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **DENSE, "hidden_act": "silu",
               "max_window_layers": 3, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 32,
               "tie_word_embeddings": True, "use_mrope": False, "use_sliding_window": False},
    "generation": CHAT_GENERATION,
    "switches": {"rope": NO_ROPE, "rope_theta": {"config": {"rope_theta": 10000.0}},
                 "q_bias": {"zero": r"q_proj\.bias"}, "k_bias": {"zero": r"k_proj\.bias"},
                 "v_bias": {"zero": r"v_proj\.bias"}},
    "variants": {}, "twin": "",
}

QWEN3 = {
    "config": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **SMALL, "attention_bias": False,
               "hidden_act": "silu", "max_window_layers": 3, "rms_norm_eps": 1e-6, "rope_scaling": None,
               "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False},
    "generation": CHAT_GENERATION,
    "switches": {"rope": NO_ROPE, "q_norm": {"identity": r"self_attn\.q_norm"}, "k_norm": {"identity": r"self_attn\.k_norm"},
                 "q_norm_weight": {"one": r"q_norm\.weight"}, "k_norm_weight": {"one": r"k_norm\.weight"}},
    "variants": {}, "twin": "",
}

SANDWICH = {"post_attention_norm": {"identity": r"post_attention_layernorm"},
            "post_feedforward_norm": {"identity": r"post_feedforward_layernorm"},
            "embedding_scale": {"one": r"embed_tokens\.embed_scale"},
            "activation": {"config": {"hidden_activation": "silu"}},
            "gelu_by_erf": {"config": {"hidden_activation": "gelu"}, "least": 2e-3}}

GEMMA2 = {
    "config": {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", **SMALL, "attention_bias": False,
               "num_hidden_layers": 4, "attn_logit_softcapping": 50.0,
               "final_logit_softcapping": 30.0, "cache_implementation": "hybrid", "hidden_act": "gelu_pytorch_tanh",
               "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": PAD, "query_pre_attn_scalar": 24,
               "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "sliding_window": 12, "sliding_window_size": 12},
    "generation": {**GENERATION, "cache_implementation": "hybrid", "pad_token_id": PAD},
    "switches": {"rope": NO_ROPE, **SANDWICH, "attention_soft_cap": {"config": {"attn_logit_softcapping": None}},
                 "final_soft_cap": {"config": {"final_logit_softcapping": None}},
                 "sliding_window": {"config": {"sliding_window": 128}},
                 "window_in_the_other_layers": {"config": {"layer_types": ["full_attention", "sliding_attention"] * 2}},
                 "attention_scale": {"config": {"query_pre_attn_scalar": 32}}},
    # GGUF does not hold query_pre_attn_scalar; readers take the head size.
    "variants": {"scale_of_head_size": {"query_pre_attn_scalar": 32}}, "twin": "scale_of_head_size",
    # Scores and logits near their caps.
    "gain": {"q": 5.0, "k": 5.0, "embed": 3.0},
}

GEMMA3 = {
    "config": {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", **SMALL, "attention_bias": False,
               "num_hidden_layers": 6, "attn_logit_softcapping": None,
               "cache_implementation": "hybrid", "final_logit_softcapping": None, "hidden_activation": "gelu_pytorch_tanh",
               "pad_token_id": PAD, "query_pre_attn_scalar": 24, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000,
               "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1000000, "sliding_window": 12,
               "sliding_window_pattern": 6},
    "generation": {**CHAT_GENERATION, "cache_implementation": "hybrid", "top_k": 64, "top_p": 0.95},
    "switches": {"global_rope_theta": {"config": {"rope_theta": 10000}},
                 "local_rope_theta": {"config": {"rope_local_base_freq": 1000000}},
                 "global_rope_scaling": {"config": {"rope_scaling": None}}, **SANDWICH,
                 "q_norm": {"identity": r"self_attn\.q_norm"}, "k_norm": {"identity": r"self_attn\.k_norm"},
                 "sliding_window": {"config": {"sliding_window": 128}},
                 "window_in_the_last_layer_too": {"config": {"layer_types": ["sliding_attention"] * 6}},
                 "attention_scale": {"config": {"query_pre_attn_scalar": 32}}},
    "variants": {"scale_of_head_size": {"query_pre_attn_scalar": 32}}, "twin": "scale_of_head_size",
}

PHI3 = {
    "config": {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", **DENSE, "num_hidden_layers": 2,
               "attention_bias": False, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "hidden_act": "silu",
               "original_max_position_embeddings": 128, "pad_token_id": PAD,
               "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": None,
               "tie_word_embeddings": False},
    "generation": {**GENERATION, "eos_token_id": [PAD, EOS]},
    "switches": {"rope": NO_ROPE},
    "variants": {}, "twin": "",
}

# As Phi-4-mini: rotary embedding of a part of each head, tied, grouped. 16 * 0.75 / 2 = 6 factors.
LONG = [1.0, 1.4, 2.1, 3.3, 5.2, 8.0]
PHI3_LONGROPE = {
    "config": {**PHI3["config"], "num_hidden_layers": 3, "original_max_position_embeddings": 32,
               "partial_rotary_factor": 0.75,
               "rope_scaling": {"long_factor": LONG, "short_factor": [1.0, 1.05, 1.15, 1.3, 1.5, 1.8], "type": "longrope"},
               "sliding_window": 262144, "tie_word_embeddings": True},
    "generation": {**GENERATION, "eos_token_id": [PAD, EOS]},
    "switches": {"rope": NO_ROPE,
                 "factors": {"config": {"rope_scaling": {"long_factor": [1.0] * 6, "short_factor": [1.0] * 6,
                                                         "type": "longrope"}}},
                 "attention_factor": {"config": {"max_position_embeddings": 32}}},
    # transformers takes the short factors for a sequence within the original context; servers that must not change
    # their mind in the middle of one (llama.cpp, vLLM) take the long ones whenever the context they serve is longer.
    "variants": {"always_long": {"rope_scaling": {"long_factor": LONG, "short_factor": LONG, "type": "longrope"}}},
    "twin": "always_long",
}

MIXTRAL = {
    "config": {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", **SMALL,
               "hidden_act": "silu", "num_experts_per_tok": 2, "num_local_experts": 4, "output_router_logits": False,
               "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None,
               "tie_word_embeddings": False},
    "generation": GENERATION,
    "switches": {"rope": NO_ROPE, "second_expert": {"config": {"num_experts_per_tok": 1}}},
    "variants": {}, "twin": "",
}

QWEN3_MOE = {
    "config": {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", **SMALL, "attention_bias": False,
               "decoder_sparse_step": 1, "hidden_act": "silu", "max_window_layers": 3,
               "intermediate_size": 128, "mlp_only_layers": [], "moe_intermediate_size": 96, "norm_topk_prob": True,
               "num_experts": 4, "num_experts_per_tok": 2, "output_router_logits": False, "rms_norm_eps": 1e-6,
               "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": None,
               "tie_word_embeddings": False, "use_sliding_window": False},
    "generation": CHAT_GENERATION,
    "switches": {"rope": NO_ROPE, "q_norm": {"identity": r"self_attn\.q_norm"}, "k_norm": {"identity": r"self_attn\.k_norm"},
                 "norm_topk_prob": {"config": {"norm_topk_prob": False}},
                 "second_expert": {"config": {"num_experts_per_tok": 1}}},
    "variants": {}, "twin": "",
}

# A layer without experts before one with; llama.cpp has no such models.
QWEN3_MOE_MIXED = {
    "config": {**QWEN3_MOE["config"], "mlp_only_layers": [0], "num_hidden_layers": 2},
    "generation": CHAT_GENERATION,
    "switches": QWEN3_MOE["switches"],
    "variants": {},
}

GPT2 = {
    "config": {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
               "attn_pdrop": 0.1, "bos_token_id": PAD, "embd_pdrop": 0.1, "eos_token_id": PAD, "initializer_range": 0.02,
               "layer_norm_epsilon": 1e-5, "n_ctx": 64, "n_embd": 96, "n_head": 6, "n_layer": 2, "n_positions": 64,
               "resid_pdrop": 0.1, "vocab_size": 288},
    "generation": {"_from_model_config": True, "bos_token_id": PAD, "eos_token_id": PAD},
    "switches": {"positions": {"zero": r"wpe\.weight"}, "attention_biases": {"zero": r"c_attn\.bias"},
                 "other_biases": {"zero": r"(c_proj|c_fc)\.bias"}, "norm_biases": {"zero": r"ln_\w+\.bias"},
                 "gelu_by_erf": {"config": {"activation_function": "gelu"}}},
    "variants": {}, "twin": "",
    "gain": {"down": 8 * 1.3}, "gelu_bias": -2.0,
}

BERT = {
    "config": {"architectures": ["BertModel"], "model_type": "bert", "attention_probs_dropout_prob": 0.1,
               "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 96,
               "initializer_range": 0.02, "intermediate_size": 96, "layer_norm_eps": 1e-12, "max_position_embeddings": 64,
               "num_attention_heads": 6, "num_hidden_layers": 3, "pad_token_id": 0, "position_embedding_type": "absolute",
               "type_vocab_size": 2, "use_cache": True, "vocab_size": 288},
    "switches": {"positions": {"zero": r"position_embeddings\.weight"},
                 "token_types": {"zero": r"token_type_embeddings\.weight"},
                 "attention_biases": {"zero": r"(query|key|value)\.bias"}, "other_biases": {"zero": r"dense\.bias"},
                 "norm_biases": {"zero": r"LayerNorm\.bias"},
                 # Vectors have length 1: their 96 numbers are some 0.1 each.
                 "gelu_by_tanh": {"config": {"hidden_act": "gelu_new"}, "least": 1e-3}},
    "variants": {}, "twin": "",
    "gain": {"down": 20 * 1.3}, "gelu_bias": -2.0,
}

# The keys and tensor names of the port to torch that hpcai-tech published; the arithmetic is that of grok_reference.py.
GROK1 = {
    "config": {"architectures": ["Grok1ModelForCausalLM"], "model_type": "grok-1", "attn_output_multiplier": 0.35,
               "bos_token_id": BOS, "embedding_multiplier_scale": 7.5, "eos_token_id": EOS, "hidden_size": 96,
               "intermediate_size": 96, "max_attn_value": 30.0, "max_position_embeddings": 128, "num_attention_heads": 6,
               "num_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_key_value_heads": 3,
               "output_multiplier_scale": 0.5773502691896257, "output_router_logits": False, "pad_token_id": PAD,
               "rms_norm_eps": 1e-5, "router_aux_loss_coef": 0.001, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
               "use_cache": True, "vocab_size": 288},
    "switches": {"rope": {"config": {"rope_theta": 1e30}}, "attention_soft_cap": {"config": {"max_attn_value": 1e9}},
                 "attention_scale": {"config": {"attn_output_multiplier": 0.25}},
                 "embedding_scale": {"config": {"embedding_multiplier_scale": 1.0}},
                 "output_scale": {"config": {"output_multiplier_scale": 1.0}},
                 "second_expert": {"config": {"num_experts_per_tok": 1}},
                 "post_attention_norm": {"identity": r"post_attn_norm"},
                 "post_experts_norm": {"identity": r"post_moe_norm"}},
    "variants": {}, "twin": "", "twin_kept": False,  # 1 MB
    "gain": {"q": 3.0, "k": 3.0, "embed": 2.5},
}

FAMILIES = {"llama": LLAMA, "mistral": MISTRAL, "qwen2": QWEN2, "qwen3": QWEN3, "gemma2": GEMMA2, "gemma3": GEMMA3,
            "phi3": PHI3, "phi3_longrope": PHI3_LONGROPE, "mixtral": MIXTRAL, "qwen3_moe": QWEN3_MOE, "qwen3_moe_mixed": QWEN3_MOE_MIXED,
            "gpt2": GPT2, "bert": BERT, "grok1": GROK1}

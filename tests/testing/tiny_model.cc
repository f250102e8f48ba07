#include "tests/testing/tiny_model.h"

#include <algorithm>
#include <cmath>

#include "boost/json.hpp"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "tests/testing/quantise.h"
#include "tests/testing/temp_dir.h"

namespace shoal::testing {
namespace {

namespace json = boost::json;

constexpr const char* kChatTemplate =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// UTF-8 of a code point below 0x800.
std::string Utf8(int c) {
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
}

// GPT-2's spelling of a byte: printable Latin-1 characters stand for themselves, the others for 256, 257, ... in order.
std::vector<std::string> ByteSpellings() {
  std::vector<std::string> out;
  int next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    out.push_back(Utf8(printable ? b : next++));
  }
  return out;
}

std::vector<std::string> Vocabulary(int size) {
  SHOAL_CHECK(size >= kTinyVocab);
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (std::string& s : ByteSpellings()) tokens.push_back(std::move(s));
  tokens.insert(tokens.end(), {"he", "ll"});
  while (static_cast<int>(tokens.size()) < size) tokens.push_back("[PAD" + std::to_string(tokens.size()) + "]");
  return tokens;
}
const std::vector<std::string> kMerges = {"h e", "l l"};

// Sum of four uniform numbers, centred: near enough to normal, and the same everywhere.
float Value(uint64_t seed, uint64_t stream, uint64_t index, float deviation) {
  const uint64_t bits = RandomBits(seed, stream, index);
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>(bits >> (16 * i) & 0xFFFF) / 65536.0f - 0.5f;
  return sum * std::sqrt(3.0f) * deviation;  // the sum has variance 4 / 12
}

uint32_t GgmlType(DType t) {
  switch (t) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kBF16:
      return 30;
    case DType::kQ8_0:
      return 8;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kF8E4M3:
    case DType::kI8:
    case DType::kI4:
      break;
  }
  SHOAL_CHECK(!IsByte(t) && t != DType::kI4);  // no GGUF has them
  return 0;
}

const char* SafetensorsType(DType t) {
  switch (t) {
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kF8E4M3:
      return "F8_E4M3";
    case DType::kI8:
      return "I8";
    default:
      return "F32";
  }
}

DType TypeOf(const TinyModel& m, const TinyTensor& t) {
  if (t.shape.size() == 1) return DType::kF32;
  return t.shape[0] == m.vocab ? m.embedding : m.matrices;
}

// HF's row (head, half j, i) becomes GGUF's row (head, i, j).
std::vector<float> Permuted(const TinyTensor& t, int head_dim) {
  const int64_t rows = t.shape[0], columns = t.shape[1];
  std::vector<float> out(t.values.size());
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t within = r % head_dim, j = within / (head_dim / 2), i = within % (head_dim / 2);
    std::copy_n(t.values.data() + r * columns, columns, out.data() + (r - within + 2 * i + j) * columns);
  }
  return out;
}

bool EndsWith(const std::string& s, const std::string& end) {
  return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0;
}

std::string TokenizerJson(int vocab_size) {
  const std::vector<std::string> tokens = Vocabulary(vocab_size);
  json::object vocab;
  for (size_t i = 0; i < tokens.size(); ++i) vocab[tokens[i]] = i;
  json::array added;
  for (int i = 0; i < 3; ++i) {
    added.push_back({{"id", i},
                     {"content", tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const json::object digits = {{"type", "Digits"}, {"individual_digits", true}};
  const json::object bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  json::object root;
  root["version"] = "1.0";
  root["truncation"] = nullptr;
  root["padding"] = nullptr;
  root["added_tokens"] = added;
  root["normalizer"] = nullptr;
  root["pre_tokenizer"] = json::object{{"type", "Sequence"}, {"pretokenizers", json::array{digits, bytes}}};
  root["post_processor"] = nullptr;
  root["decoder"] = bytes;
  root["model"] = json::object{{"type", "BPE"},
                               {"dropout", nullptr},
                               {"unk_token", nullptr},
                               {"continuing_subword_prefix", nullptr},
                               {"end_of_word_suffix", nullptr},
                               {"fuse_unk", false},
                               {"byte_fallback", false},
                               {"vocab", vocab},
                               {"merges", json::array(kMerges.begin(), kMerges.end())}};
  return json::serialize(root);
}

}  // namespace

std::vector<TinyTensor> TinyTensors(const TinyModel& m) {
  const int64_t q = m.heads * m.head_dim, kv = m.kv_heads * m.head_dim;
  std::vector<TinyTensor> out;
  const auto add = [&](const std::string& name, const std::string& hf, const std::string& gguf,
                       std::vector<int64_t> shape) {
    TinyTensor t = {name, hf, gguf, std::move(shape), {}};
    const bool norm = t.shape.size() == 1;
    const size_t count = static_cast<size_t>(norm ? t.shape[0] : t.shape[0] * t.shape[1]);
    // Activations keep their size from layer to layer when a matrix has deviation 1 / sqrt(inputs).
    const float deviation = norm ? 0.1f : 1.0f / std::sqrt(static_cast<float>(t.shape[1]));
    for (size_t i = 0; i < count; ++i)
      t.values.push_back((norm ? 1.0f : 0.0f) + Value(m.seed, out.size(), i, deviation));
    out.push_back(std::move(t));
  };
  add("embedding", "model.embed_tokens.weight", "token_embd.weight", {m.vocab, m.hidden});
  for (int l = 0; l < m.layers; ++l) {
    const std::string own = "layers." + std::to_string(l) + ".";
    const std::string hf = "model." + own, gguf = "blk." + std::to_string(l) + ".";
    add(own + "attn.norm", hf + "input_layernorm.weight", gguf + "attn_norm.weight", {m.hidden});
    add(own + "attn.q", hf + "self_attn.q_proj.weight", gguf + "attn_q.weight", {q, m.hidden});
    add(own + "attn.k", hf + "self_attn.k_proj.weight", gguf + "attn_k.weight", {kv, m.hidden});
    add(own + "attn.v", hf + "self_attn.v_proj.weight", gguf + "attn_v.weight", {kv, m.hidden});
    add(own + "attn.o", hf + "self_attn.o_proj.weight", gguf + "attn_output.weight", {m.hidden, q});
    add(own + "ffn.norm", hf + "post_attention_layernorm.weight", gguf + "ffn_norm.weight", {m.hidden});
    add(own + "ffn.gate", hf + "mlp.gate_proj.weight", gguf + "ffn_gate.weight", {m.ffn, m.hidden});
    add(own + "ffn.up", hf + "mlp.up_proj.weight", gguf + "ffn_up.weight", {m.ffn, m.hidden});
    add(own + "ffn.down", hf + "mlp.down_proj.weight", gguf + "ffn_down.weight", {m.hidden, m.ffn});
  }
  add("final_norm", "model.norm.weight", "output_norm.weight", {m.hidden});
  if (!m.tied) add("head", "lm_head.weight", "output.weight", {m.vocab, m.hidden});
  return out;
}

GgufWriter TinyGguf(const TinyModel& m) {
  GgufWriter w;
  w.String("general.architecture", "llama");
  w.String("general.name", "tiny");
  const std::pair<const char*, int> sizes[] = {{"llama.block_count", m.layers},
                                               {"llama.context_length", m.max_position},
                                               {"llama.embedding_length", m.hidden},
                                               {"llama.feed_forward_length", m.ffn},
                                               {"llama.attention.head_count", m.heads},
                                               {"llama.attention.head_count_kv", m.kv_heads},
                                               {"llama.attention.key_length", m.head_dim},
                                               {"llama.attention.value_length", m.head_dim},
                                               {"llama.rope.dimension_count", m.head_dim},
                                               {"llama.vocab_size", m.vocab}};
  for (const auto& [key, value] : sizes) w.Uint32(key, static_cast<uint32_t>(value));
  w.Float32("llama.rope.freq_base", m.rope_theta);
  w.Float32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  w.String("tokenizer.ggml.model", "gpt2");
  w.String("tokenizer.ggml.pre", "smollm");
  w.Strings("tokenizer.ggml.tokens", Vocabulary(m.vocab));
  std::vector<int32_t> types(static_cast<size_t>(m.vocab), 5);  // unused
  std::fill_n(types.begin(), kTinyVocab, 1);
  std::fill_n(types.begin(), 3, 3);
  w.Int32s("tokenizer.ggml.token_type", types);
  w.Strings("tokenizer.ggml.merges", kMerges);
  w.Uint32("tokenizer.ggml.bos_token_id", kTinyImStart);
  w.Uint32("tokenizer.ggml.eos_token_id", kTinyImEnd);
  w.Bool("tokenizer.ggml.add_bos_token", false);
  w.String("tokenizer.chat_template", kChatTemplate);
  for (const TinyTensor& t : TinyTensors(m)) {
    const DType type = TypeOf(m, t);
    const bool rotated = EndsWith(t.gguf_name, "attn_q.weight") || EndsWith(t.gguf_name, "attn_k.weight");
    w.Tensor(t.gguf_name, t.shape, GgmlType(type), Stored(type, rotated ? Permuted(t, m.head_dim) : t.values));
  }
  return w;
}

void WriteTinyGguf(const TinyModel& model, const std::string& path) { WriteFile(path, TinyGguf(model).Build().bytes); }

TinyModel BeforeInt4(TinyModel model) {
  for (DType* const type : {&model.matrices, &model.embedding}) {
    if (*type == DType::kI4) *type = DType::kBF16;
  }
  return model;
}

std::string TinyConfigJson(const TinyModel& m) {
  json::object config{{"architectures", json::array{"LlamaForCausalLM"}},
                      {"model_type", "llama"},
                      {"attention_bias", false},
                      {"hidden_act", "silu"},
                      {"num_hidden_layers", m.layers},
                      {"hidden_size", m.hidden},
                      {"num_attention_heads", m.heads},
                      {"num_key_value_heads", m.kv_heads},
                      {"head_dim", m.head_dim},
                      {"intermediate_size", m.ffn},
                      {"vocab_size", m.vocab},
                      {"max_position_embeddings", m.max_position},
                      {"rms_norm_eps", 1e-5},
                      {"rope_theta", m.rope_theta},
                      {"rope_scaling", nullptr},
                      {"tie_word_embeddings", m.tied},
                      {"bos_token_id", kTinyImStart},
                      {"eos_token_id", kTinyImEnd}};
  if (m.matrices == DType::kF8E4M3) config["quantization_config"] = json::object{{"quant_method", "fp8"}};
  if (m.matrices == DType::kI8) {
    const json::object weights{{"num_bits", 8}, {"type", "int"}, {"strategy", "channel"}, {"symmetric", true}};
    config["quantization_config"] =
        json::object{{"quant_method", "compressed-tensors"},
                     {"format", "int-quantized"},
                     {"config_groups", json::object{{"group_0", json::object{{"weights", weights}}}}}};
  }
  return json::serialize(config);
}

std::string SafetensorsFile(const std::map<std::string, RawTensor>& tensors) {
  json::object header;
  header["__metadata__"] = json::object{{"format", "pt"}};
  std::string data;
  for (const auto& [name, t] : tensors) {
    header[name] = json::object{{"dtype", t.dtype},
                                {"shape", json::array(t.shape.begin(), t.shape.end())},
                                {"data_offsets", json::array{data.size(), data.size() + t.bytes.size()}}};
    data += t.bytes;
  }
  std::string text = json::serialize(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text + data;
}

void WriteTinyDirectory(const TinyModel& m, const std::string& directory, int files) {
  SHOAL_CHECK(!IsQuantised(m.matrices) && !IsQuantised(m.embedding) && files >= 1);
  WriteFile(directory + "/config.json", TinyConfigJson(m));
  WriteFile(directory + "/generation_config.json",
            json::serialize(json::object{{"eos_token_id", json::array{kTinyImEnd, kTinyEndOfText}}}));
  WriteFile(directory + "/tokenizer.json", TokenizerJson(m.vocab));
  WriteFile(directory + "/tokenizer_config.json",
            json::serialize(json::object{{"add_bos_token", false},
                                         {"bos_token", "<|im_start|>"},
                                         {"eos_token", json::object{{"content", "<|im_end|>"}}},
                                         {"chat_template", kChatTemplate}}));
  std::vector<std::map<std::string, RawTensor>> parts(static_cast<size_t>(files));
  json::object weight_map;
  const auto part_name = [&](size_t i) {
    char name[64];
    std::snprintf(name, sizeof(name), "model-%05zu-of-%05d.safetensors", i + 1, files);
    return files == 1 ? std::string("model.safetensors") : std::string(name);
  };
  size_t count = 0;
  for (const TinyTensor& t : TinyTensors(m)) {
    const DType type = TypeOf(m, t);
    const size_t part = count++ % parts.size();
    weight_map[t.hf_name] = part_name(part);
    if (IsByte(type)) {
      const StoredRows stored = StoredByRows(type, t.values, t.shape[1]);
      const size_t other = count++ % parts.size();  // a scale may lie in another file than its matrix
      parts[part][t.hf_name] = {SafetensorsType(type), t.shape, stored.codes};
      parts[other][t.hf_name + "_scale"] = {"F32", {t.shape[0], 1}, Stored(DType::kF32, stored.scales)};
      weight_map[t.hf_name + "_scale"] = part_name(other);
      continue;
    }
    parts[part][t.hf_name] = {SafetensorsType(type), t.shape, Stored(type, t.values)};
  }
  for (size_t i = 0; i < parts.size(); ++i) WriteFile(directory + "/" + part_name(i), SafetensorsFile(parts[i]));
  if (files > 1) {
    WriteFile(directory + "/model.safetensors.index.json",
              json::serialize(json::object{{"metadata", json::object()}, {"weight_map", weight_map}}));
  }
}

}  // namespace shoal::testing

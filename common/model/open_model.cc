#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "boost/json.hpp"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/model/arrange.h"
#include "common/model/checkpoint.h"
#include "common/model/families.h"
#include "common/model/file.h"
#include "common/model/gguf.h"
#include "common/model/hf_cache.h"
#include "common/model/json_util.h"
#include "common/model/pooling.h"
#include "common/model/quantization.h"
#include "common/model/safetensors.h"

namespace shoal::model {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = 4 << 20, kMaxTemplateBytes = 1 << 20, kMaxTokenizerBytes = 256 << 20;

// An error that says which model it belongs to.
absl::Status In(const std::string& path, const absl::Status& status) {
  if (status.ok() || absl::StrContains(status.message(), path)) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

// Empty when there is no such file.
absl::StatusOr<std::string> ReadOptional(const std::string& path, int64_t limit) {
  absl::StatusOr<std::string> text = ReadText(path, limit);
  if (!text.ok() && absl::IsNotFound(text.status())) return std::string();
  return text;
}

// Headers alone do not tell two fine-tunings of one model apart: a few values of every tensor do. Every tensor, since a
// fine-tuning may have touched only one kind of them; at places that differ from one to the next.
absl::StatusOr<uint64_t> SampleDigest(const Checkpoint& checkpoint) {
  constexpr int64_t kBytes = 32;                // a model has hundreds of tensors, and each is a read
  constexpr uint64_t kPlaces = 0x73616d706c65;  // stream of RandomBits
  uint64_t digest = kFnvBasis, index = 0;
  for (const TensorEntry& tensor : checkpoint.tensors()) {
    char bytes[kBytes];
    const int64_t count = std::min(kBytes, tensor.bytes);
    const auto places = static_cast<uint64_t>(tensor.bytes - count + 1);
    const auto place = static_cast<int64_t>(RandomBits(0, kPlaces, index++) % places);
    const auto dst = std::as_writable_bytes(std::span(bytes, static_cast<size_t>(count)));
    SHOAL_RETURN_IF_ERROR(checkpoint.Read(tensor, place, dst));
    digest = Fnv1a({bytes, static_cast<size_t>(count)}, digest);
  }
  return digest;
}

// `config` covers what the files say beyond the headers. `stored`: as it lies in the files; null: it is not looked at.
absl::Status SetRevision(std::string_view config, const Checkpoint* stored, ModelFiles* files) {
  uint64_t sample = 0;
  if (stored != nullptr) {
    SHOAL_ASSIGN_OR_RETURN(sample, SampleDigest(*stored));
  }
  const uint64_t headers = Fnv1a(config, files->checkpoint->header_digest());
  const auto size = static_cast<uint64_t>(files->checkpoint->file_bytes());
  files->revision = absl::StrFormat("%016x%016x", headers, RandomBits(sample, headers, size));
  return absl::OkStatus();
}

// ---- GGUF ----

std::string Spelling(const GgufFile& file, const char* key) {
  const absl::StatusOr<int64_t> id = file.GetInt(key);
  const auto it = file.metadata().find("tokenizer.ggml.tokens");
  const auto* tokens = it == file.metadata().end() ? nullptr : std::get_if<std::vector<std::string>>(&it->second);
  if (!id.ok() || tokens == nullptr || *id < 0 || *id >= static_cast<int64_t>(tokens->size())) return "";
  return (*tokens)[static_cast<size_t>(*id)];
}

// Absent in files from before the key existed: the tokenizer then knows by its pre-tokenizer.
std::optional<bool> GgufAddsBos(const GgufFile& file) {
  const absl::StatusOr<bool> adds = file.GetBool("tokenizer.ggml.add_bos_token");
  return adds.ok() ? std::optional<bool>(*adds) : std::nullopt;
}

absl::StatusOr<ModelFiles> OpenGguf(ModelFiles files, WeightSource weights) {
  files.format = ModelFiles::Format::kGguf;
  SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<const GgufFile> file, GgufFile::Open(files.path));
  files.gguf = file;
  if (file->GetInt("split.count").value_or(1) > 1) {
    return absl::InvalidArgumentError(
        "this is one part of a split GGUF; put them together with: llama-gguf-split --merge");
  }
  SHOAL_ASSIGN_OR_RETURN(files.config, ConfigFromGguf(*file));
  files.chat_template = std::string(file->GetString("tokenizer.chat_template").value_or(""));
  files.bos_spelling = Spelling(*file, "tokenizer.ggml.bos_token_id");
  files.eos_spelling = Spelling(*file, "tokenizer.ggml.eos_token_id");
  files.add_bos = GgufAddsBos(*file).value_or(true);
  SHOAL_ASSIGN_OR_RETURN(files.checkpoint, Arrange(files.config, NamesOf(files.config.architecture), file));
  SHOAL_RETURN_IF_ERROR(SetRevision("", weights == WeightSource::kFiles ? file.get() : nullptr, &files));
  return files;
}

// Views into the file's metadata; valid while it is open.
absl::StatusOr<std::shared_ptr<const text::Tokenizer>> GgufTokenizer(const ModelFiles& files) {
  std::shared_ptr<const GgufFile> file = files.gguf;
  if (file == nullptr) {
    SHOAL_ASSIGN_OR_RETURN(file, GgufFile::Open(files.path));
  }
  const auto list = [&](const char* key) -> const GgufValue* {
    const auto it = file->metadata().find(key);
    return it == file->metadata().end() ? nullptr : &it->second;
  };
  text::GgufVocab vocab;
  SHOAL_ASSIGN_OR_RETURN(vocab.model, file->GetString("tokenizer.ggml.model"));
  vocab.pre = file->GetString("tokenizer.ggml.pre").value_or("default");
  const GgufValue* tokens = list("tokenizer.ggml.tokens");
  const GgufValue* merges = list("tokenizer.ggml.merges");
  const GgufValue* types = list("tokenizer.ggml.token_type");
  if (tokens == nullptr || !std::holds_alternative<std::vector<std::string>>(*tokens)) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.path, ": tokenizer.ggml.tokens is missing or not a list of strings"));
  }
  for (const std::string& t : std::get<std::vector<std::string>>(*tokens)) vocab.tokens.push_back(t);
  if (merges != nullptr && std::holds_alternative<std::vector<std::string>>(*merges)) {
    for (const std::string& m : std::get<std::vector<std::string>>(*merges)) vocab.merges.push_back(m);
  }
  if (types != nullptr && std::holds_alternative<std::vector<int64_t>>(*types)) {
    for (const int64_t t : std::get<std::vector<int64_t>>(*types)) {
      vocab.token_types.push_back(t >= 1 && t <= 6 ? static_cast<int32_t>(t) : 0);
    }
  } else {
    vocab.token_types.assign(vocab.tokens.size(), 1);
  }
  if (vocab.token_types.size() != vocab.tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.path, ": ", vocab.tokens.size(), " tokens, but ", vocab.token_types.size(), " token types"));
  }
  const auto id = [&](const char* key) {
    const int64_t value = file->GetInt(key).value_or(-1);
    return value >= 0 && value < static_cast<int64_t>(vocab.tokens.size()) ? static_cast<int32_t>(value) : -1;
  };
  vocab.add_bos = GgufAddsBos(*file);
  vocab.bos = id("tokenizer.ggml.bos_token_id");
  vocab.eos = id("tokenizer.ggml.eos_token_id");
  vocab.unk = id("tokenizer.ggml.unknown_token_id");
  return text::Tokenizer::FromGguf(vocab);
}

// ---- Hugging Face directory ----

// bos_token and eos_token: a string, or an object with "content".
std::string TokenSpelling(const json::object& config, std::string_view key) {
  const json::value* value = FindValue(config, key);
  if (value != nullptr && value->is_object()) value = FindValue(value->get_object(), "content");
  if (value == nullptr || !value->is_string()) return "";
  return {value->get_string().data(), value->get_string().size()};
}

// chat_template: a string, or a list of {"name", "template"} of which the one called "default" counts.
std::string TemplateOf(const json::object& config) {
  const json::value* value = FindValue(config, "chat_template");
  if (value == nullptr) return "";
  if (value->is_string()) return {value->get_string().data(), value->get_string().size()};
  if (!value->is_array()) return "";
  for (const json::value& entry : value->get_array()) {
    if (!entry.is_object()) continue;
    const absl::StatusOr<std::string> name = JsonString(entry.get_object(), "name");
    const absl::StatusOr<std::string> text = JsonString(entry.get_object(), "template");
    if (name.ok() && text.ok() && *name == "default") return *text;
  }
  return "";
}

// Whether tokenizer.json's post-processor (a TemplateProcessing, maybe inside a Sequence) puts `bos` before a text.
bool PostProcessorAddsBos(const json::value* processor, const std::string& bos) {
  if (processor == nullptr || !processor->is_object() || bos.empty()) return false;
  const json::object& p = processor->get_object();
  if (const json::value* parts = FindValue(p, "processors"); parts != nullptr && parts->is_array()) {
    return std::any_of(parts->get_array().begin(), parts->get_array().end(),
                       [&](const json::value& part) { return PostProcessorAddsBos(&part, bos); });
  }
  const json::value* single = FindValue(p, "single");
  if (single == nullptr || !single->is_array() || single->get_array().empty() || !single->get_array()[0].is_object())
    return false;
  const json::value* special = FindValue(single->get_array()[0].get_object(), "SpecialToken");
  if (special == nullptr || !special->is_object()) return false;
  return JsonString(special->get_object(), "id").value_or("") == bos;
}

absl::Status ReadTokenizerConfig(ModelFiles* files) {
  const std::string path = files->path + "/tokenizer_config.json";
  SHOAL_ASSIGN_OR_RETURN(const std::string text, ReadOptional(path, kMaxTokenizerBytes));
  json::object config;
  if (!text.empty()) {
    SHOAL_ASSIGN_OR_RETURN(config, ParseObject(text, path));
  }
  files->bos_spelling = TokenSpelling(config, "bos_token");
  files->eos_spelling = TokenSpelling(config, "eos_token");
  SHOAL_ASSIGN_OR_RETURN(files->chat_template, ReadOptional(files->path + "/chat_template.jinja", kMaxTemplateBytes));
  if (files->chat_template.empty()) files->chat_template = TemplateOf(config);
  const json::value* add_bos = FindValue(config, "add_bos_token");
  if (add_bos != nullptr && add_bos->is_bool()) {
    files->add_bos = add_bos->get_bool();
    return absl::OkStatus();
  }
  const std::string tokenizer = files->path + "/tokenizer.json";
  SHOAL_ASSIGN_OR_RETURN(const std::string tokenizer_json, ReadOptional(tokenizer, kMaxTokenizerBytes));
  if (tokenizer_json.empty()) return absl::OkStatus();
  SHOAL_ASSIGN_OR_RETURN(const json::object object, ParseObject(tokenizer_json, tokenizer));
  files->add_bos = PostProcessorAddsBos(FindValue(object, "post_processor"), files->bos_spelling);
  return absl::OkStatus();
}

// The type that config.json names for the weights; "dtype" since transformers 5.
absl::StatusOr<DType> TorchType(const json::object& config) {
  const char* key = FindValue(config, "torch_dtype") != nullptr ? "torch_dtype" : "dtype";
  if (FindValue(config, key) == nullptr) return DType::kBF16;
  SHOAL_ASSIGN_OR_RETURN(const std::string name, JsonString(config, key));
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float16") return DType::kF16;
  if (name == "float32") return DType::kF32;
  return absl::InvalidArgumentError(
      absl::StrCat("torch_dtype ", name, ": dummy weights are bfloat16, float16 or float32"));
}

absl::StatusOr<std::shared_ptr<const Checkpoint>> ListTensors(const ModelConfig& model, std::string_view config_json) {
  SHOAL_ASSIGN_OR_RETURN(const json::object config, ParseObject(config_json, "config.json"));
  SHOAL_ASSIGN_OR_RETURN(const DType dtype, TorchType(config));
  SHOAL_ASSIGN_OR_RETURN(const std::optional<DType> matrices, MatrixType(config));
  return TensorsWithoutValues(model, dtype, matrices.value_or(dtype));
}

absl::StatusOr<ModelFiles> OpenDirectory(ModelFiles files, WeightSource weights) {
  files.format = ModelFiles::Format::kSafetensors;
  absl::StatusOr<std::string> config = ReadText(files.path + "/config.json", kMaxConfigBytes);
  if (!config.ok() && absl::IsNotFound(config.status())) {
    return absl::NotFoundError(absl::StrCat(files.path,
                                            " has no config.json: a model is a .gguf file, a directory with "
                                            "config.json and safetensors, or org/name in the Hugging Face cache"));
  }
  SHOAL_RETURN_IF_ERROR(config.status());
  SHOAL_ASSIGN_OR_RETURN(const std::string generation,
                         ReadOptional(files.path + "/generation_config.json", kMaxConfigBytes));
  SHOAL_ASSIGN_OR_RETURN(files.config, ConfigFromJson(*config, generation));
  std::string pooling;
  if (files.config.task == Task::kEmbed) {
    SHOAL_ASSIGN_OR_RETURN(pooling, ReadPooling(files.path, &files.config));
  }
  std::shared_ptr<const Checkpoint> stored;
  if (weights == WeightSource::kDummy) {
    SHOAL_ASSIGN_OR_RETURN(files.checkpoint, ListTensors(files.config, *config));
  } else {
    const StoredNames names = NamesOf(files.config.architecture);
    const auto is_unused = [&](std::string_view name) { return names.IsUnused(name); };
    SHOAL_ASSIGN_OR_RETURN(stored, OpenSafetensors(files.path, is_unused));
    SHOAL_ASSIGN_OR_RETURN(files.checkpoint, Arrange(files.config, names, stored));
  }
  SHOAL_RETURN_IF_ERROR(ReadTokenizerConfig(&files));
  SHOAL_RETURN_IF_ERROR(SetRevision(*config + pooling, stored.get(), &files));
  return files;
}

// What a model is called when nobody says: as the path names it, not as what the path links to (files of the Hugging
// Face cache are links to blobs that are named by their hash).
std::string NameOf(const std::string& path, bool is_directory) {
  std::error_code error;
  fs::path named = fs::absolute(path, error).lexically_normal();
  if (!named.has_filename()) named = named.parent_path();  // "dir/"
  return is_directory ? named.filename().string() : named.stem().string();
}

}  // namespace

absl::StatusOr<ModelFiles> OpenModel(std::string_view spec, WeightSource weights) {
  ModelFiles files;
  files.path = std::string(spec);
  std::string name;
  struct stat st = {};
  if (files.path.empty()) return absl::InvalidArgumentError("no model is named");
  if (::stat(files.path.c_str(), &st) != 0) {
    if (!IsRepositoryName(spec)) {
      return absl::NotFoundError(absl::StrCat(files.path,
                                              " does not exist: a model is a .gguf file, a directory with "
                                              "config.json and safetensors, or org/name in the Hugging Face cache"));
    }
    SHOAL_ASSIGN_OR_RETURN(files.path, FindInHubCache(spec, &name));
    if (::stat(files.path.c_str(), &st) != 0) return absl::NotFoundError(absl::StrCat(files.path, " does not exist"));
  }
  if (name.empty()) name = NameOf(files.path, S_ISDIR(st.st_mode));
  std::error_code error;
  const fs::path absolute = fs::canonical(files.path, error);
  if (error) return absl::NotFoundError(absl::StrCat(files.path, ": ", error.message()));
  files.path = absolute.string();
  files.name = name;
  const std::string path = files.path;
  absl::StatusOr<ModelFiles> opened =
      S_ISDIR(st.st_mode) ? OpenDirectory(std::move(files), weights) : OpenGguf(std::move(files), weights);
  if (!opened.ok()) return In(path, opened.status());
  return opened;
}

absl::StatusOr<std::shared_ptr<const text::Tokenizer>> OpenTokenizer(const ModelFiles& files) {
  absl::StatusOr<std::shared_ptr<const text::Tokenizer>> tokenizer = [&] {
    if (files.format == ModelFiles::Format::kGguf) return GgufTokenizer(files);
    const absl::StatusOr<std::string> text = ReadText(files.path + "/tokenizer.json", kMaxTokenizerBytes);
    if (!text.ok()) return absl::StatusOr<std::shared_ptr<const text::Tokenizer>>(text.status());
    return text::Tokenizer::FromJson(*text);
  }();
  if (!tokenizer.ok()) return In(files.path, tokenizer.status());
  return tokenizer;
}

}  // namespace shoal::model

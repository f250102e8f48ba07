#include "common/model/pooling.h"

#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "boost/json.hpp"
#include "common/base/status_macros.h"
#include "common/model/file.h"
#include "common/model/json_util.h"

namespace shoal::model {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxBytes = 1 << 20;

// Each way has a switch of its own; newer files have the names of those that are on in one string.
struct Mode {
  const char* key;
  const char* name;
  std::optional<Pooling> pooling;
};
constexpr Mode kModes[] = {{"pooling_mode_cls_token", "cls", Pooling::kFirst},
                           {"pooling_mode_mean_tokens", "mean", Pooling::kMean},
                           {"pooling_mode_lasttoken", "lasttoken", Pooling::kLast},
                           {"pooling_mode_max_tokens", "max", std::nullopt},
                           {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", std::nullopt},
                           {"pooling_mode_weightedmean_tokens", "weightedmean", std::nullopt}};

absl::StatusOr<Pooling> PoolingOf(const json::object& config) {
  const std::string named = JsonString(config, "pooling_mode").value_or("");
  std::optional<Pooling> found;
  int on = 0;
  for (const Mode& mode : kModes) {
    const json::value* value = FindValue(config, mode.key);
    if (named != mode.name && (value == nullptr || *value != true)) continue;
    ++on;
    found = mode.pooling;
  }
  if (on == 1 && found.has_value()) return *found;
  return absl::InvalidArgumentError(
      absl::StrCat("\"pooling_mode\": exactly one of cls, mean and lasttoken is supported: ",
                   json::serialize(config).substr(0, 400)));
}

}  // namespace

absl::StatusOr<std::string> ReadPooling(const std::string& directory, ModelConfig* config) {
  const std::string path = directory + "/modules.json";
  absl::StatusOr<std::string> text = ReadText(path, kMaxBytes);
  if (!text.ok()) return absl::IsNotFound(text.status()) ? absl::StatusOr<std::string>(std::string()) : text.status();
  // A list: as the one value of an object, so that it is read with the same care.
  SHOAL_ASSIGN_OR_RETURN(const json::object modules, ParseObject(absl::StrCat("{\"modules\":", *text, "}"), path));
  const json::value* list = FindValue(modules, "modules");
  if (list == nullptr || !list->is_array()) return absl::InvalidArgumentError(absl::StrCat(path, " is not a list"));
  std::optional<Pooling> pooling;
  bool normalise = false;
  std::string texts = *text;
  for (const json::value& module : list->get_array()) {
    const json::object step = module.is_object() ? module.get_object() : json::object();
    const std::string type = JsonString(step, "type").value_or("");
    const std::string folder = JsonString(step, "path").value_or("");
    if (absl::EndsWith(type, ".Transformer")) continue;
    if (absl::EndsWith(type, ".Normalize")) {
      normalise = true;
    } else if (absl::EndsWith(type, ".Pooling") && !pooling.has_value() && !normalise) {
      if (folder.empty() || folder[0] == '.' || absl::StrContains(folder, "/")) {
        return absl::InvalidArgumentError(absl::StrCat(path, ": \"path\" of the pooling step is no plain folder"));
      }
      const std::string pooling_path = absl::StrCat(directory, "/", folder, "/config.json");
      SHOAL_ASSIGN_OR_RETURN(const std::string pooling_text, ReadText(pooling_path, kMaxBytes));
      SHOAL_ASSIGN_OR_RETURN(const json::object object, ParseObject(pooling_text, pooling_path));
      SHOAL_ASSIGN_OR_RETURN(pooling, PoolingOf(object));
      texts += pooling_text;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": a step of type \"", type.substr(0, 60),
                       "\" is not supported; Transformer, then Pooling, then Normalize are"));
    }
  }
  if (!pooling.has_value()) return absl::InvalidArgumentError(absl::StrCat(path, " has no pooling step"));
  config->pooling = *pooling;
  config->normalise = normalise;
  return texts;
}

}  // namespace shoal::model

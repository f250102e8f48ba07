// Renders a conversation with a model's own Jinja template. Immutable; thread-safe. Bounded in steps, output and depth.
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal::text {

class ChatTemplate {
 public:
  // `source`: Jinja as in tokenizer_config.json / chat_template.jinja / tokenizer.chat_template. InvalidArgument, with
  // the line, when it does not parse. `control_spellings`: Tokenizer::control_spellings(), used to tell user text
  // apart. `wall_time`: what strftime_now shows; empty: the machine's. Called from the threads that render.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Create(std::string_view source, std::string_view bos_token,
                                                                    std::string_view eos_token,
                                                                    std::vector<std::string> control_spellings,
                                                                    std::function<std::time_t()> wall_time = {});
  virtual ~ChatTemplate() = default;

  // `context_json`: an object with "messages" (a list of {role, content, ...}), "add_generation_prompt", optionally
  // "tools" and other template variables; key order is kept. Errors: InvalidArgument with the template's own words when
  // it calls raise_exception; ResourceExhausted past its limits (10^6 steps, 1 MiB of output).
  //
  // The result is cut into pieces: wherever a string of the context spells a control token, that spelling is a piece of
  // its own with `plain` set, to be encoded as plain text. All else is one piece, encoded as a whole, so that ordinary
  // conversations encode exactly as the rendered string would.
  struct Piece {
    std::string text;
    bool plain;
  };
  virtual absl::StatusOr<std::vector<Piece>> Render(std::string_view context_json) const = 0;
};

}  // namespace shoal::text

// Server-sent events from pieces of a stream, in any cut.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace shoal::cli {

class SseParser {
 public:
  // `on_data` gets the data of each whole event.
  explicit SseParser(std::function<void(std::string_view)> on_data) : on_data_(std::move(on_data)) {}
  void Push(std::string_view piece);

 private:
  std::function<void(std::string_view)> on_data_;
  std::string held_;
};

}  // namespace shoal::cli

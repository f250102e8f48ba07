// What an agent and its maker say to each other, in packets of a unix socket: one request, then answers of which the
// last is kDone or kFailed. Both ends are of one build.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/ops/numerics.h"

namespace shoal::maker {

struct Request {
  enum class Kind : uint32_t { kProbe, kMeasure, kKvCache, kWeights };
  Kind kind = Kind::kProbe;
  int32_t device = 0;                                  // index in the probe
  int64_t bytes = 0;                                   // kMeasure: of working memory; kKvCache; kWeights: of the region
  ops::Numerics numerics = ops::Numerics::kInvariant;  // kMeasure, kWeights: of the rank
  int32_t threads = 1;                                 // kWeights: that read and pack
  // kWeights: plan::EncodeSetup of the rank, and the files as its agent has opened them.
  std::string setup = {}, model = {}, revision = {};
};

struct Answer {
  enum class Kind : uint32_t { kProgress, kDone, kFailed };
  Kind kind = Kind::kDone;
  int64_t bytes = 0;       // kDone: of the memory made; kMeasure: free
  int64_t total = 0;       // kMeasure: of the device
  int64_t bytes_read = 0;  // from the checkpoint, so far
  int64_t load_ns = 0;     // kWeights: from the first byte read to the last one on the device
  int32_t code = 0;        // kFailed: absl::StatusCode
  std::string text;        // kFailed: why; kProbe: a CudaProbe
  int fd = -1;             // of the memory made; who receives it closes it
};

std::string Encode(const Request& request);
std::string Encode(const Answer& answer);  // without the descriptor
// DataLoss: not what Encode makes.
absl::StatusOr<Request> DecodeRequest(std::string_view bytes);
absl::StatusOr<Answer> DecodeAnswer(std::string_view bytes);

// One packet, with the descriptor unless it is -1 (it stays the caller's). Unavailable: the other end is gone.
absl::Status Send(int socket, const std::string& packet, int fd);
// The next packet and its descriptor (-1: none), close-on-exec. Waits. Unavailable: the other end is gone.
absl::StatusOr<std::string> Receive(int socket, int* fd);

}  // namespace shoal::maker

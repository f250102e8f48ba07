// Every limit of the public edge, in one place.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/clock.h"

namespace shoal::http {

struct Limits {
  // Time. A connection that misses one is answered with 408 when it sent part of a request, and closed.
  DurationNs header_timeout =
      5 * kSecond;                         // from the first byte of a request (or the accept) to the end of its headers
  DurationNs body_timeout = 10 * kSecond;  // from there to the end of the body
  DurationNs idle_timeout = 75 * kSecond;  // between requests of one connection; above the 60 s of common proxies
  DurationNs write_timeout = 30 * kSecond;      // a peer that takes no byte for so long is gone
  DurationNs stream_keep_alive = 15 * kSecond;  // a stream without an event for so long gets a comment
  DurationNs linger_timeout = 2 * kSecond;      // after a refusal, unread input is drained so that the answer arrives

  // Size.
  size_t header_bytes = 16 << 10;
  size_t body_bytes = 1 << 20;
  size_t pipelined_bytes = 64 << 10;  // read ahead of the request being answered; past it the connection is closed
  size_t stream_queue_bytes =
      64 << 10;  // unsent bytes of one stream; who is behind by more, or by any with a larger event, is cut off
  int socket_send_bytes = 0;  // SO_SNDBUF; 0: the system's default
  size_t connections = 4096;

  // Content.
  int json_depth = 32;
  size_t stops = 16;  // OpenAI allows 4; vLLM clients send more
  size_t stop_bytes = 64;
  size_t stop_token_ids = 64;
  size_t bad_words = 128;
  size_t messages = 4096;
  size_t model_name_bytes = 256;
  size_t request_id_bytes = 128;
  size_t queued_text_jobs = 1024;  // requests waiting for tokenisation; past it 429
};

}  // namespace shoal::http

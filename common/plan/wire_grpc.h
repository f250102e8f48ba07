// What both ends of a control connection must agree on: message limits, keepalive, and how a Status crosses it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"

namespace grpc {
class Channel;
class ServerBuilder;
class Status;
}  // namespace grpc

namespace shoal::plan {

// The largest message: a plan that starts many long sequences.
inline constexpr int kMaxMessageBytes = 64 << 20;

// A plain-text connection of its own (no state shared with earlier ones, no HTTP proxy). Connects in the background.
std::shared_ptr<grpc::Channel> Connect(const std::string& address);

// The same limits for a server; a port that is in use is an error, never shared. `port`: filled by BuildAndStart, 0
// when the address could not be bound.
void ConfigureServer(const std::string& address, grpc::ServerBuilder& builder, int* port);

// Long messages are cut: a status travels in a header of limited size.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

// "host:port" -> the host, without the brackets of an IPv6 address. Whether it can only be reached from this machine.
std::string HostOf(const std::string& address);
bool IsLoopback(const std::string& address);

}  // namespace shoal::plan

// The wires between the coordinator and the agents. Messages of one stream stay in order; streams overtake each other.
// A cut holds what has not arrived (as TCP does, which sends it again) until it is healed. Not thread-safe.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "tools/sim/world.h"

namespace shoal::sim {

enum class Way : uint8_t { kToAgent, kToCoordinator };

class Network {
 public:
  struct Times {
    DurationNs min = 50 * kMicrosecond, max = 200 * kMicrosecond;  // one message between two processes
    int spike_permille = 0;                                        // of the messages are late, by up to `spike`
    DurationNs spike = 0;
  };
  struct Stream {
    std::deque<std::function<void()>> pending;  // sent, not yet arrived
    TimeNs last = 0;                            // when the last of them is due
    bool open = true;                           // else what is pending never arrives
  };
  using StreamPtr = std::shared_ptr<Stream>;
  static StreamPtr NewStream() { return std::make_shared<Stream>(); }

  Network(World* world, const Times& times) : world_(world), times_(times) {}
  ~Network();  // what is under way never arrives; messages may own the streams that they are in

  void Send(const std::string& host, Way way, const StreamPtr& stream, std::function<void()> arrive);

  // What goes that way between the coordinator and this host stops; what is on its way too.
  void Cut(const std::string& host, Way way) { hosts_[host].cut[Index(way)] = true; }
  void Heal(const std::string& host);
  bool cut(const std::string& host, Way way) const;
  bool whole(const std::string& host) const { return !cut(host, Way::kToAgent) && !cut(host, Way::kToCoordinator); }

  // All messages take so many times as long.
  void Slow(int times) { slow_ = times; }

 private:
  struct Host {
    bool cut[2] = {false, false};
    std::deque<StreamPtr> held[2];  // one entry for each message that would have arrived
  };
  static size_t Index(Way way) { return static_cast<size_t>(way); }
  void Schedule(const std::string& host, Way way, const StreamPtr& stream);

  World* const world_;
  const Times times_;
  int slow_ = 1;
  std::map<std::string, Host> hosts_;
  std::set<StreamPtr> busy_;  // with something pending
};

}  // namespace shoal::sim

#include "tools/sim/network.h"

#include <algorithm>
#include <utility>

namespace shoal::sim {

Network::~Network() {
  for (const StreamPtr& stream : busy_) stream->pending.clear();
}

void Network::Send(const std::string& host, Way way, const StreamPtr& stream, std::function<void()> arrive) {
  stream->pending.push_back(std::move(arrive));
  busy_.insert(stream);
  Schedule(host, way, stream);
}

void Network::Schedule(const std::string& host, Way way, const StreamPtr& stream) {
  DurationNs takes = world_->Between(times_.min, times_.max) * slow_;
  if (times_.spike_permille > 0 && world_->Draw() % 1000 < static_cast<uint64_t>(times_.spike_permille)) {
    takes += world_->Between(0, times_.spike);
  }
  stream->last = std::max(stream->last, world_->now() + takes);
  world_->At(stream->last, [this, host, way, stream] {
    if (!stream->open) stream->pending.clear();
    if (stream->pending.empty()) return void(busy_.erase(stream));
    Host& h = hosts_[host];
    if (h.cut[Index(way)]) return h.held[Index(way)].push_back(stream);
    const auto arrive = std::move(stream->pending.front());
    stream->pending.pop_front();
    if (stream->pending.empty()) busy_.erase(stream);
    arrive();
  });
}

void Network::Heal(const std::string& host) {
  Host& h = hosts_[host];
  for (const Way way : {Way::kToAgent, Way::kToCoordinator}) {
    h.cut[Index(way)] = false;
    for (const StreamPtr& stream : std::exchange(h.held[Index(way)], {})) Schedule(host, way, stream);
  }
}

bool Network::cut(const std::string& host, Way way) const {
  const auto it = hosts_.find(host);
  return it != hosts_.end() && it->second.cut[Index(way)];
}

}  // namespace shoal::sim

#include "worker/comm/gloo.h"

#include <gloo/common/error.h>
#include <gloo/common/logging.h>
#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/gloo_address.h"
#include "worker/comm/gloo_channels.h"
#include "worker/comm/group_shape.h"

namespace shoal::comm {
namespace {

constexpr uint64_t kGreeting = 0x4f4f4c474c414f48;  // "HOALGLOO"

// The first message on each connection, both ways. A port may have been taken by somebody else since it was published,
// or be found by a stranger. The length is the same for all.
std::string Greeting(int from, const GlooAddress& to) {
  const uint64_t words[] = {
      kGreeting, to.generation, to.shape, to.nonce, static_cast<uint64_t>(from), static_cast<uint64_t>(to.rank)};
  return std::string(reinterpret_cast<const char*>(words), sizeof words);
}

absl::StatusOr<uint64_t> Nonce() {
  uint64_t word = 0;
  if (::getrandom(&word, sizeof word, 0) == sizeof word) return word;
  return absl::UnavailableError("the system gives no random numbers");
}

class ListenerImpl final : public GlooListener {
 public:
  ListenerImpl(std::shared_ptr<GlooRank> rank, GlooAddress self)
      : rank_(std::move(rank)), self_(std::move(self)), address_(EncodeAddress(self_)) {}

  const std::string& address() const override { return address_; }

  absl::StatusOr<RankComm> Connect(std::span<const std::string> addresses, DurationNs timeout) override {
    if (rank_ == nullptr) return absl::FailedPreconditionError("the rank has connected before");
    const std::shared_ptr<GlooRank> rank = std::move(rank_);
    SHOAL_ASSIGN_OR_RETURN(const std::vector<GlooAddress> peers, PeerAddresses(*rank, addresses));
    GlooMesh& mesh = *rank->mesh;
    mesh.StartConnecting(RealClock().Now() + timeout);
    for (const GlooAddress& peer : peers) {
      SHOAL_RETURN_IF_ERROR(mesh.Connect(peer.rank, peer.host, peer.ports.at(self_.rank)));
    }
    RankComm comm;
    SHOAL_ASSIGN_OR_RETURN(comm.tensor, MakeGlooTensor(rank));
    if (rank->stage + 1 < rank->shape.pp) {
      SHOAL_ASSIGN_OR_RETURN(comm.next, MakeGlooSender(rank));
    }
    if (rank->stage > 0) {
      SHOAL_ASSIGN_OR_RETURN(comm.previous, MakeGlooReceiver(rank));
    }
    SHOAL_ASSIGN_OR_RETURN(GlooMailboxes mailboxes, MakeGlooMailboxes(rank));
    comm.mailbox_out = std::move(mailboxes.out);
    comm.mailbox_in = std::move(mailboxes.in);
    SHOAL_RETURN_IF_ERROR(Greet(mesh, peers));
    mesh.Connected();
    rank->stats.waited = 0;  // for others to come up: no wait of a step
    comm.stats = &rank->stats;
    comm.keep_alive = rank;
    return comm;
  }

 private:
  // Those of the mesh's peers, checked.
  absl::StatusOr<std::vector<GlooAddress>> PeerAddresses(const GlooRank& rank,
                                                         std::span<const std::string> addresses) const {
    const int ranks = rank.shape.tp * rank.shape.pp;
    if (addresses.size() != static_cast<size_t>(ranks)) {
      return absl::InvalidArgumentError(absl::StrCat(addresses.size(), " addresses for ", ranks, " ranks"));
    }
    std::vector<GlooAddress> found;
    for (const int peer : rank.mesh->peers()) {
      absl::StatusOr<GlooAddress> decoded = DecodeAddress(addresses[peer], ranks);
      if (!decoded.ok())
        return absl::InvalidArgumentError(absl::StrCat("rank ", peer, ": ", decoded.status().message()));
      const GlooAddress& a = found.emplace_back(*std::move(decoded));
      if (a.generation != self_.generation || a.shape != self_.shape || a.rank != peer) {
        return absl::FailedPreconditionError(
            absl::StrCat("the address of rank ", peer, " is of another rank, generation or shape"));
      }
      if (!a.ports.contains(self_.rank)) {
        return absl::InvalidArgumentError(absl::StrCat("rank ", peer, " does not expect rank ", self_.rank));
      }
    }
    return found;
  }

  absl::Status Greet(GlooMesh& mesh, const std::vector<GlooAddress>& peers) const {
    std::vector<std::string> mine;
    for (const GlooAddress& peer : peers) mine.push_back(Greeting(self_.rank, peer));
    SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> theirs, mesh.Greet(mine));
    for (size_t i = 0; i < peers.size(); ++i) {
      if (theirs[i] == Greeting(peers[i].rank, self_)) continue;
      return absl::UnavailableError(absl::StrCat("who has connected as rank ", peers[i].rank, " is another one"));
    }
    return absl::OkStatus();
  }

  std::shared_ptr<GlooRank> rank_;  // null: connected
  const GlooAddress self_;
  const std::string address_;
};

// Gloo's own exceptions; anything else is not its fault.
bool IsGlooFault(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const ::gloo::EnforceNotMet&) {
    return true;
  } catch (const ::gloo::Exception&) {
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

std::vector<int> GlooRank::Peers() const {
  std::set<int> peers;
  for (int t = 0; t < shape.tp; ++t) peers.insert(stage * shape.tp + t);
  if (stage > 0) peers.insert(rank - shape.tp);
  if (stage + 1 < shape.pp) peers.insert(rank + shape.tp);
  if (stage == 0) peers.insert(sampling_rank());
  if (rank == sampling_rank()) {
    for (int t = 0; t < shape.tp; ++t) peers.insert(t);
  }
  peers.erase(rank);
  return {peers.begin(), peers.end()};
}

absl::StatusOr<std::unique_ptr<GlooListener>> GlooListener::Listen(const GroupShape& shape, int rank,
                                                                   uint64_t generation, const std::string& host,
                                                                   const AbortFlag* abort, WaitNote* note) {
  SHOAL_RETURN_IF_ERROR(CheckShape(shape, rank));
  auto state = std::make_shared<GlooRank>(shape, rank);
  GlooAddress self;
  self.generation = generation;
  self.shape = ShapeHash(shape);
  self.rank = rank;
  SHOAL_ASSIGN_OR_RETURN(self.nonce, Nonce());
  SHOAL_ASSIGN_OR_RETURN(self.host, NumericHost(host));
  SHOAL_ASSIGN_OR_RETURN(
      state->mesh, GlooMesh::Listen(rank, shape.tp * shape.pp, state->Peers(), self.host, abort, &state->stats, note));
  for (const int peer : state->mesh->peers()) self.ports[peer] = state->mesh->Port(peer);
  auto listener = std::make_unique<ListenerImpl>(std::move(state), std::move(self));
  if (listener->address().size() <= kMaxAddressBytes) return listener;
  return absl::InvalidArgumentError(absl::StrCat("a group of ", shape.tp, " x ", shape.pp, " is too large"));
}

void EndOnGlooFault(int exit_code) {
  static int code = 0;
  code = exit_code;
  static const std::terminate_handler before = std::set_terminate([] {
    const std::exception_ptr thrown = std::current_exception();
    if (thrown == nullptr || !IsGlooFault(thrown)) return before();
    std::fputs("a connection between ranks broke in a way that the transport cannot mend\n", stderr);
    ::_exit(code);
  });
}

}  // namespace shoal::comm

// What a rank does right now, where others see it, and what its present step has done so far: an error of its device,
// which comes when it will, tells neither. While operations are checked the device is waited for after each of them, so
// that the one that fails is known. One thread.
#pragma once

#include <atomic>
#include <bitset>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "kernels/ops/stream.h"
#include "worker/graph/operation.h"

namespace shoal::graph {

using OperationSet = std::bitset<kOperations>;
std::string OperationNames(const OperationSet& operations);  // in order, with commas between

class OperationLog {
 public:
  // `shown`: for whoever watches. `stream`: of the device; counts progress. Both outlive this.
  OperationLog(std::atomic<uint32_t>* shown, ops::Stream* stream) : shown_(shown), stream_(stream) {}

  // `op` is what is enqueued, or done, from now on.
  void Begin(Operation op);
  // Shown from now on; what was begun last goes on.
  void Show(Operation op) { shown_->store(static_cast<uint32_t>(op), std::memory_order_relaxed); }
  // Begun since the last call.
  OperationSet Take();
  // Begun without Begin(): recorded before, and launched now.
  void Add(const OperationSet& operations) { begun_ |= operations; }

  // Until Check(null), Begin() first calls this. It waits until everything enqueued is done; Internal: the device
  // failed.
  using Await = std::function<absl::Status()>;
  void Check(Await await) { await_ = std::move(await); }
  bool checked() const { return await_ != nullptr; }
  // While they are checked, after the last one: in which the device has failed. None: in none, or that is not known.
  std::optional<Operation> Failed();

 private:
  void CheckPresent();

  std::atomic<uint32_t>* const shown_;
  ops::Stream* const stream_;
  Operation present_ = Operation::kIdle;
  OperationSet begun_;
  Await await_;
  std::optional<Operation> failed_;
};

}  // namespace shoal::graph

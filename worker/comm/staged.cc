// Tested by: tests/comm/staged_test.cc
#include "worker/comm/staged.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/base/check.h"
#include "common/base/dtype.h"
#include "common/base/status_macros.h"

namespace shoal::comm {
namespace {

class StagedTensor final : public TensorChannel {
 public:
  StagedTensor(std::unique_ptr<TensorChannel> host, device::Device* device) : host_(std::move(host)), device_(device) {}

  int size() const override { return host_->size(); }
  int index() const override { return host_->index(); }

  absl::Status AllReduceSum(ops::Acts data, int64_t count) override {
    if (size() == 1) return absl::OkStatus();
    const auto values = static_cast<size_t>(count);
    half_.resize(values);
    part_.resize(values);
    SHOAL_RETURN_IF_ERROR(device_->Download(half_.data(), data.data(), values * sizeof(uint16_t)));
    std::transform(half_.begin(), half_.end(), part_.begin(), BF16ToF32);
    SHOAL_RETURN_IF_ERROR(host_->AllReduceSum(ops::Acts(part_.data()), count));
    std::transform(part_.begin(), part_.end(), half_.begin(), F32ToBF16);
    return device_->Upload(data.data(), half_.data(), values * sizeof(uint16_t));
  }

  absl::Status GatherColumns(std::span<const float> part, int rows, std::span<const int32_t> widths, float* dst,
                             int64_t stride) override {
    part_.resize(part.size());
    SHOAL_RETURN_IF_ERROR(device_->Download(part_.data(), part.data(), part.size_bytes()));
    const auto width = static_cast<size_t>(std::accumulate(widths.begin(), widths.end(), int64_t{0}));
    whole_.resize(index() == 0 ? static_cast<size_t>(rows) * width : 0);
    SHOAL_RETURN_IF_ERROR(host_->GatherColumns(part_, rows, widths, whole_.data(), static_cast<int64_t>(width)));
    for (int row = 0; row < rows && index() == 0; ++row) {
      SHOAL_RETURN_IF_ERROR(device_->Upload(dst + row * stride, &whole_[row * width], width * sizeof(float)));
    }
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<TensorChannel> host_;
  device::Device* const device_;
  std::vector<uint16_t> half_;  // bf16
  std::vector<float> part_, whole_;
};

class StagedSender final : public StageSender {
 public:
  StagedSender(std::unique_ptr<StageSender> host, device::Device* device) : host_(std::move(host)), device_(device) {}

  absl::Status Send(std::span<const std::byte> data) override {
    bytes_.resize(data.size());
    SHOAL_RETURN_IF_ERROR(device_->Download(bytes_.data(), data.data(), data.size()));
    return host_->Send(bytes_);
  }

 private:
  const std::unique_ptr<StageSender> host_;
  device::Device* const device_;
  std::vector<std::byte> bytes_;
};

class StagedReceiver final : public StageReceiver {
 public:
  StagedReceiver(std::unique_ptr<StageReceiver> host, device::Device* device)
      : host_(std::move(host)), device_(device) {}

  absl::Status Receive(std::span<std::byte> data) override {
    bytes_.resize(data.size());
    SHOAL_RETURN_IF_ERROR(host_->Receive(bytes_));
    return device_->Upload(data.data(), bytes_.data(), bytes_.size());
  }

 private:
  const std::unique_ptr<StageReceiver> host_;
  device::Device* const device_;
  std::vector<std::byte> bytes_;
};

class StagedMailbox final : public TokenMailbox {
 public:
  StagedMailbox(std::unique_ptr<TokenMailbox> host, device::Device* device) : host_(std::move(host)), device_(device) {}

  absl::Status Post(uint64_t step, std::span<const int32_t> tokens) override {
    tokens_.resize(tokens.size());
    SHOAL_RETURN_IF_ERROR(device_->Download(tokens_.data(), tokens.data(), tokens.size_bytes()));
    return host_->Post(step, tokens_);
  }
  absl::Status Take(uint64_t step, std::span<int32_t> tokens) override {
    tokens_.resize(tokens.size());
    SHOAL_RETURN_IF_ERROR(host_->Take(step, tokens_));
    return device_->Upload(tokens.data(), tokens_.data(), tokens.size_bytes());
  }

 private:
  const std::unique_ptr<TokenMailbox> host_;
  device::Device* const device_;
  std::vector<int32_t> tokens_;
};

template <typename Staged, typename T>
void Wrap(std::unique_ptr<T>& channel, device::Device* device) {
  if (channel != nullptr) channel = std::make_unique<Staged>(std::move(channel), device);
}

}  // namespace

RankComm MakeStaged(RankComm host, device::Device* device) {
  SHOAL_CHECK(!device->is_host());
  Wrap<StagedTensor>(host.tensor, device);
  Wrap<StagedSender>(host.next, device);
  Wrap<StagedReceiver>(host.previous, device);
  Wrap<StagedMailbox>(host.mailbox_out, device);
  Wrap<StagedMailbox>(host.mailbox_in, device);
  return host;
}

}  // namespace shoal::comm

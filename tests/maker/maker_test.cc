// `shoal maker` on emulated devices: what it answers, and what it leaves in memory that outlives it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "common/plan/wire_setup.h"
#include "kernels/cuda/table.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "worker/maker/client.h"
#include "worker/weights/open_weights.h"
#include "worker/weights/weights.h"

namespace shoal::maker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Memory of an emulated device is a memory file.
class Mapped {
 public:
  explicit Mapped(const device::SharedMemory& memory)
      : size_(memory.size()), data_(::mmap(nullptr, size_, PROT_READ, MAP_SHARED, memory.fd(), 0)) {
    EXPECT_NE(MAP_FAILED, data_);
  }
  ~Mapped() { ::munmap(data_, size_); }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  const size_t size_;
  void* const data_;
};

class MakerTest : public ::testing::Test {
 protected:
  MakerTest() {
    ::setenv("SHOAL_CUDA_PLUGIN", EMULATED_PLUGIN, 1);
    ::setenv("SHOAL_EMULATED_DEVICES", "2", 1);
    ::setenv("SHOAL_EMULATED_MEMORY", "100000000", 1);
  }

  // The request for rank 1 of 2, of a tiny model on disk.
  Request Weights(const testing::TinyModel& tiny, const std::string& load_format = "auto") {
    const std::string path = dir_ / "m.gguf";
    testing::WriteTinyGguf(tiny, path);
    plan::RankSetup setup;
    setup.engine.device = "cuda";
    setup.engine.load_format = load_format;
    setup.engine.dummy_seed = 3;
    const auto source = load_format == "dummy" ? model::WeightSource::kDummy : model::WeightSource::kFiles;
    opened_ = weights::OpenWeights(path, model::OpenModel(path, source)->revision, setup.engine).value();
    setup.rank = 1;
    setup.tp = 2;
    setup.model = opened_.files.config;
    setup.limits = {1, 16, 4, 64, 128, tiny.vocab};
    shard_ = plan::MakeShardPlan(setup.model, 2, 1)->ranks[1];
    layout_ = weights::MakeLayout(setup.model, *opened_.checkpoint, shard_, cuda::Table(), false).value();
    return {.kind = Request::Kind::kWeights,
            .device = 1,
            .bytes = layout_.region_bytes,
            .threads = 3,
            .setup = plan::EncodeSetup(setup),
            .model = path,
            .revision = opened_.files.revision};
  }

  testing::TempDir dir_;
  weights::OpenedWeights opened_;
  plan::RankShard shard_;
  weights::WeightLayout layout_;
  const Makers makers_{std::getenv("SHOAL_BINARY"), nullptr};
};

TEST_F(MakerTest, Probes) {
  const auto probe = makers_.Probe();
  ASSERT_TRUE(probe.ok()) << probe.status();
  EXPECT_EQ(ops::CudaState::kReady, (*probe)->state);
  EXPECT_EQ(2, (*probe)->device_count);
  EXPECT_EQ(100000000u, (*probe)->devices[1].memory_bytes);
  EXPECT_GE((*probe)->devices[1].multiprocessors, 1);
}

TEST_F(MakerTest, WithoutAPluginItSaysWhere) {
  ::setenv("SHOAL_CUDA_PLUGIN", "/no/such/plugin.so", 1);
  const absl::Status status = makers_.Probe().status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("/no/such/plugin.so"), HasSubstr("make cuda")));
}

TEST_F(MakerTest, MeasuresWhatWorkingMemoryLeaves) {
  const auto empty = makers_.Measure(0, 0);
  const auto less = makers_.Measure(0, 40000000);
  ASSERT_TRUE(empty.ok() && less.ok()) << empty.status() << less.status();
  EXPECT_EQ(100000000, empty->total);
  EXPECT_GE(empty->free - less->free, 40000000);
  EXPECT_LE(empty->free - less->free, 45000000);
}

TEST_F(MakerTest, TooMuchIsRefusedWithTheNumbers) {
  for (const absl::Status& status : {makers_.Measure(0, 200000000).status(), makers_.KvCache(0, 200000000).status()}) {
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("200"), HasSubstr("100"))) << status;
  }
}

TEST_F(MakerTest, ADeviceThatIsNotThereIsNamed) {
  const absl::Status status = makers_.KvCache(2, 100).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("2"));
}

TEST_F(MakerTest, AKvCacheIsZeroedAndOutlivesIt) {
  const auto memory = makers_.KvCache(1, 1000000);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(1, memory->device());
  EXPECT_EQ(nullptr, memory->data());
  ASSERT_GE(memory->size(), 1000000u);
  const Mapped mapped(*memory);
  EXPECT_TRUE(std::all_of(mapped.bytes().begin(), mapped.bytes().end(), [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(MakerTest, WeightsAreThoseOfALoadOnTheHost) {
  using Case = std::pair<DType, std::string>;
  for (const auto& [type, format] : {Case{DType::kBF16, "auto"}, Case{DType::kQ8_0, "auto"},
                                     Case{DType::kBF16, "dummy"}, Case{DType::kQ4_1, "dummy"}}) {
    const Request request = Weights({.matrices = type, .embedding = type}, format);
    std::atomic<int64_t> bytes_read{0};
    const auto made = makers_.LoadWeights(request, &bytes_read, nullptr);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(layout_.read_bytes, made->bytes_read);
    EXPECT_EQ(made->bytes_read, bytes_read.load());
    EXPECT_EQ(1, made->memory.device());
    EXPECT_GT(made->load_time, 0);
    EXPECT_EQ(opened_.checkpoint->Dummy(opened_.checkpoint->tensors()[0]).has_value(), format == "dummy");
    const Mapped mapped(made->memory);
    const auto bound = weights::Bind(mapped.bytes(), opened_.files.config, shard_, cuda::Table());
    ASSERT_TRUE(bound.ok()) << bound.status();
    std::vector<std::byte> host(static_cast<size_t>(layout_.region_bytes) + 64);
    std::byte* const region = host.data() + (64 - reinterpret_cast<uintptr_t>(host.data()) % 64) % 64;
    ASSERT_TRUE(weights::LoadShard(*opened_.checkpoint, layout_, cuda::Table(),
                                   std::span(region, static_cast<size_t>(layout_.region_bytes)), 2, nullptr, nullptr)
                    .ok());
    for (const weights::WeightLayout::Item& item : layout_.items) {
      EXPECT_EQ(0,
                std::memcmp(region + item.offset, mapped.bytes().data() + item.offset, static_cast<size_t>(item.bytes)))
          << item.spec.name;
    }
  }
}

TEST_F(MakerTest, OtherFilesThanTheAgentsAreRefused) {
  Request request = Weights({.matrices = DType::kBF16, .embedding = DType::kBF16});
  std::atomic<int64_t> bytes_read{0};
  request.bytes += 64;
  EXPECT_TRUE(absl::IsFailedPrecondition(makers_.LoadWeights(request, &bytes_read, nullptr).status()));
  request.bytes -= 64;
  request.revision = "another";
  EXPECT_TRUE(absl::IsFailedPrecondition(makers_.LoadWeights(request, &bytes_read, nullptr).status()));
  request.model = "/no/such/model.gguf";
  EXPECT_THAT(std::string(makers_.LoadWeights(request, &bytes_read, nullptr).status().message()),
              HasSubstr("/no/such/model.gguf"));
}

}  // namespace
}  // namespace shoal::maker

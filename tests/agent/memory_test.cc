// What outlives ranks: the shelf; and what connects agents of one host: the channels.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "worker/agent/channels.h"
#include "worker/agent/shelf.h"

namespace shoal::agent {
namespace {

device::SharedMemory Make(size_t bytes) { return *device::SharedMemory::Create("test", bytes); }

TEST(Shelf, HoldsWeightsUnderTheirKey) {
  Shelf shelf;
  EXPECT_EQ(nullptr, shelf.Weights("k", 0));
  EXPECT_TRUE(shelf.Held().ranks.empty());
  shelf.PutWeights("k", 2, Make(100));
  shelf.PutWeights("k", 1, Make(200));
  ASSERT_NE(nullptr, shelf.Weights("k", 1));
  EXPECT_EQ(200u, shelf.Weights("k", 1)->size());
  EXPECT_EQ(nullptr, shelf.Weights("other", 1));
  EXPECT_EQ(nullptr, shelf.Weights("k", 0));
  EXPECT_EQ("k", shelf.Held().key);
  EXPECT_EQ((std::vector<int32_t>{1, 2}), shelf.Held().ranks);
}

TEST(Shelf, KeepsOnlyWhatIsWanted) {
  Shelf shelf;
  shelf.PutWeights("k", 0, Make(100));
  shelf.PutWeights("k", 1, Make(100));
  ASSERT_TRUE(shelf.Kv(0, 64, 1).ok());
  shelf.KeepOnly("k", {{1}, {2}});
  EXPECT_EQ((std::vector<int32_t>{1}), shelf.Held().ranks);
  shelf.KeepOnly("other", {{1}});
  EXPECT_TRUE(shelf.Held().ranks.empty());
  EXPECT_EQ("", shelf.Held().key);
}

TEST(Shelf, AnotherKeyReplacesTheFormer) {
  Shelf shelf;
  shelf.PutWeights("a", 0, Make(100));
  shelf.PutWeights("b", 1, Make(100));
  EXPECT_EQ(nullptr, shelf.Weights("a", 0));
  EXPECT_EQ((std::vector<int32_t>{1}), shelf.Held().ranks);
}

// Memory of a device, of which no more than the descriptor is held.
device::SharedMemory OnDevice(int device, size_t bytes) {
  return device::SharedMemory::Hold(::open("/dev/null", O_RDONLY | O_CLOEXEC), bytes, device);
}

TEST(Shelf, WeightsOnADeviceAreThoseOfThatDevice) {
  Shelf shelf;
  shelf.PutWeights("k", 0, OnDevice(2, 1000));
  shelf.PutWeights("k", 1, OnDevice(3, 100));
  ASSERT_NE(nullptr, shelf.Weights("k", 0, 2));
  EXPECT_EQ(nullptr, shelf.Weights("k", 0, 2)->data());
  EXPECT_EQ(nullptr, shelf.Weights("k", 0, 3));
  EXPECT_EQ(nullptr, shelf.Weights("k", 0));
  EXPECT_EQ(1000, shelf.BytesOn(2));
  EXPECT_EQ(0, shelf.BytesOn(0));
  shelf.KeepOnly("k", {{0, 3}, {1, 3}});
  EXPECT_EQ((std::vector<int32_t>{1}), shelf.Held().ranks) << "rank 0 is on another device now";
}

TEST(Shelf, CacheOnADeviceIsMadeOnceForEachSizeAndPlace) {
  Shelf shelf;
  int made = 0;
  int at = 0;
  const auto make = [&](size_t bytes) -> absl::StatusOr<device::SharedMemory> {
    ++made;
    EXPECT_EQ(0, shelf.BytesOn(at)) << "the former one is gone first";
    return OnDevice(at, bytes + 50);  // rounded up
  };
  const auto first = shelf.Kv({7, 0}, 1000, 1, make);
  ASSERT_TRUE(first.ok());
  const uint64_t id = (*first)->id;
  EXPECT_EQ(id, (*shelf.Kv({7, 0}, 1000, 1, make))->id);
  EXPECT_NE(id, (*shelf.Kv({7, 0}, 1000, 2, make))->id) << "another coordinator";
  EXPECT_EQ(1, made);
  EXPECT_EQ(1050, shelf.BytesOn(0));
  ASSERT_TRUE(shelf.Kv({7, 0}, 2000, 2, make).ok());
  EXPECT_EQ(2, made);
  at = 1;
  ASSERT_TRUE(shelf.Kv({7, 1}, 2000, 2, make).ok());
  EXPECT_EQ(3, made);
  EXPECT_EQ(0, shelf.BytesOn(0));
  const auto fails = [](size_t) -> absl::StatusOr<device::SharedMemory> {
    return absl::ResourceExhaustedError("full");
  };
  EXPECT_TRUE(absl::IsResourceExhausted(shelf.Kv({7, 1}, 3000, 2, fails).status()));
}

TEST(Shelf, CacheOfTheSameSizeKeepsItsContentsAndItsId) {
  Shelf shelf;
  const auto first = shelf.Kv(3, 4096, 1);
  ASSERT_TRUE(first.ok());
  const uint64_t id = (*first)->id;
  EXPECT_NE(0u, id);
  std::memset((*first)->memory.data(), 7, 4096);
  const auto again = shelf.Kv(3, 4096, 1);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(std::byte{7}, (*again)->memory.data()[100]);
  EXPECT_EQ(id, (*again)->id);
  const auto larger = shelf.Kv(3, 8192, 1);
  ASSERT_TRUE(larger.ok());
  EXPECT_EQ(std::byte{0}, (*larger)->memory.data()[100]);
  EXPECT_NE(id, (*larger)->id);
}

TEST(Shelf, CacheThatAnotherCoordinatorUsedHasAnotherId) {
  Shelf shelf;
  const uint64_t first = (*shelf.Kv(3, 4096, 1))->id;
  const uint64_t second = (*shelf.Kv(3, 4096, 2))->id;
  EXPECT_NE(first, second);
  EXPECT_EQ(second, (*shelf.Kv(3, 4096, 2))->id);
  const uint64_t third = (*shelf.Kv(3, 4096, 1))->id;
  EXPECT_NE(first, third);
  EXPECT_NE(second, third);
}

std::string Token() { return absl::StrCat("memory-test-", ::getpid()); }
bool NameExists() { return ::access(absl::StrCat("/dev/shm/shoal-", Token()).c_str(), F_OK) == 0; }

TEST(Channels, NamedSegmentIsSharedUntilUnlinked) {
  auto made = Channels::CreateNamed(Token(), 4096);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(NameExists());
  EXPECT_FALSE(Channels::CreateNamed(Token(), 4096).ok());
  EXPECT_TRUE(NameExists());  // the failure took nothing away
  const auto opened = Channels::OpenNamed(Token(), 4096);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(4096u, opened->size());
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, Channels::OpenNamed(Token(), 8192).status().code());
  Channels moved = *std::move(made);
  EXPECT_TRUE(NameExists());
  moved.Unlink();
  EXPECT_FALSE(NameExists());
  EXPECT_FALSE(Channels::OpenNamed(Token(), 4096).ok());
}

TEST(Channels, EndRemovesTheName) {
  {
    Channels holder;
    auto made = Channels::CreateNamed(Token(), 4096);
    ASSERT_TRUE(made.ok());
    holder = *std::move(made);
    EXPECT_TRUE(NameExists());
  }
  EXPECT_FALSE(NameExists());
}

TEST(Channels, NameGoesWithWhoeverEndsFirst) {
  const auto made = Channels::CreateNamed(Token(), 4096);
  ASSERT_TRUE(made.ok());
  EXPECT_FALSE(Channels::OpenNamed(Token(), 8192).ok());
  EXPECT_TRUE(NameExists());
  EXPECT_TRUE(Channels::OpenNamed(Token(), 4096).ok());  // and ends at once
  EXPECT_FALSE(NameExists());
}

TEST(Channels, AnonymousHasADescriptorAndNoName) {
  const auto made = Channels::Anonymous(4096);
  ASSERT_TRUE(made.ok());
  EXPECT_GE(made->fd(), 0);
  EXPECT_EQ(4096u, made->size());
}

}  // namespace
}  // namespace shoal::agent

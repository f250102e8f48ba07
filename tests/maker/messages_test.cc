#include "worker/maker/messages.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

namespace shoal::maker {
namespace {

class Pair {
 public:
  Pair() { EXPECT_EQ(0, ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends_.data())); }
  ~Pair() {
    for (const int end : ends_) {
      if (end >= 0) ::close(end);
    }
  }
  int a() const { return ends_[0]; }
  int b() const { return ends_[1]; }
  void CloseA() { ::close(std::exchange(ends_[0], -1)); }

 private:
  std::array<int, 2> ends_{-1, -1};
};

TEST(Messages, RequestsComeOutAsTheyWentIn) {
  const Request sent = {.kind = Request::Kind::kWeights,
                        .device = 3,
                        .bytes = int64_t{5} << 40,
                        .numerics = ops::Numerics::kFast,
                        .threads = 12,
                        .setup = std::string("a\0b", 3),
                        .model = "/models/m",
                        .revision = "r"};
  const auto got = DecodeRequest(Encode(sent));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->kind, sent.kind);
  EXPECT_EQ(got->device, 3);
  EXPECT_EQ(got->bytes, sent.bytes);
  EXPECT_EQ(got->numerics, ops::Numerics::kFast);
  EXPECT_EQ(got->threads, 12);
  EXPECT_EQ(got->setup, sent.setup);
  EXPECT_EQ(got->model, sent.model);
  EXPECT_EQ(got->revision, sent.revision);
}

TEST(Messages, AnswersComeOutAsTheyWentIn) {
  Answer sent;
  sent.kind = Answer::Kind::kFailed;
  sent.bytes = 1;
  sent.total = 2;
  sent.bytes_read = 3;
  sent.load_ns = 4;
  sent.code = 8;
  sent.text = "asked for 10, free 5";
  const auto got = DecodeAnswer(Encode(sent));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->kind, sent.kind);
  EXPECT_EQ(got->bytes, 1);
  EXPECT_EQ(got->total, 2);
  EXPECT_EQ(got->bytes_read, 3);
  EXPECT_EQ(got->load_ns, 4);
  EXPECT_EQ(got->code, 8);
  EXPECT_EQ(got->text, sent.text);
}

TEST(Messages, EveryShorterOrLongerPacketIsMalformed) {
  const std::string request = Encode(Request{.kind = Request::Kind::kKvCache, .bytes = 7, .model = "m"});
  const std::string answer = Encode(Answer());
  for (size_t n = 0; n < request.size(); ++n) EXPECT_FALSE(DecodeRequest(request.substr(0, n)).ok()) << n;
  for (size_t n = 0; n < answer.size(); ++n) EXPECT_FALSE(DecodeAnswer(answer.substr(0, n)).ok()) << n;
  EXPECT_FALSE(DecodeRequest(request + "x").ok());
  EXPECT_FALSE(DecodeAnswer(answer + "x").ok());
  EXPECT_FALSE(DecodeRequest(Encode(Request{.kind = static_cast<Request::Kind>(9)})).ok());
  EXPECT_FALSE(DecodeRequest(Encode(Request{.device = -1})).ok());
  EXPECT_FALSE(DecodeRequest(Encode(Request{.threads = 0})).ok());
}

TEST(Messages, APacketCarriesADescriptor) {
  const Pair pair;
  const int sent = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(sent, 0);
  ASSERT_TRUE(Send(pair.a(), "with", sent).ok());
  ASSERT_TRUE(Send(pair.a(), "without", -1).ok());
  int fd = -1;
  EXPECT_EQ(Receive(pair.b(), &fd).value(), "with");
  ASSERT_GE(fd, 0);
  EXPECT_NE(fd, sent);
  EXPECT_NE(0, ::fcntl(fd, F_GETFD) & FD_CLOEXEC);
  char byte = 0;
  EXPECT_EQ(1, ::read(fd, &byte, 1));
  EXPECT_EQ(0x7f, byte);  // of an ELF file
  ::close(fd);
  ::close(sent);
  EXPECT_EQ(Receive(pair.b(), &fd).value(), "without");
  EXPECT_EQ(-1, fd);
}

TEST(Messages, AnOtherEndThatIsGoneIsUnavailable) {
  Pair pair;
  pair.CloseA();
  int fd = -1;
  EXPECT_TRUE(absl::IsUnavailable(Receive(pair.b(), &fd).status()));
  EXPECT_TRUE(absl::IsUnavailable(Send(pair.b(), "x", -1)));
}

}  // namespace
}  // namespace shoal::maker

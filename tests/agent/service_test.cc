#include "worker/agent/service.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/plan/wire_grpc.h"
#include "worker.grpc.pb.h"

namespace shoal::agent {
namespace {

// The coordinator takes UNAVAILABLE and DEADLINE_EXCEEDED for the connection's: an agent must not answer with them.
TEST(Endpoint, AnAgentThatIsStartingAnswersAborted) {
  const auto endpoint = Endpoint::Listen("127.0.0.1:0");
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  const auto stub = proto::Worker::NewStub(plan::Connect(absl::StrCat("127.0.0.1:", (*endpoint)->port())));
  {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    proto::JoinGroupRequest request;
    request.set_tp(1);
    request.set_pp(1);
    request.add_ranks();
    proto::JoinGroupReply reply;
    EXPECT_EQ(grpc::StatusCode::ABORTED, stub->JoinGroup(&context, request, &reply).error_code());
  }
  {
    grpc::ClientContext context;
    proto::AbortReply reply;
    EXPECT_EQ(grpc::StatusCode::ABORTED, stub->Abort(&context, {}, &reply).error_code());
  }
  {
    grpc::ClientContext context;
    proto::DrainReply reply;
    EXPECT_EQ(grpc::StatusCode::ABORTED, stub->Drain(&context, {}, &reply).error_code());
  }
  {
    grpc::ClientContext context;
    proto::LoadModelProgress progress;
    const auto stream = stub->LoadModel(&context, {});
    EXPECT_FALSE(stream->Read(&progress));
    EXPECT_EQ(grpc::StatusCode::ABORTED, stream->Finish().error_code());
  }
  {
    grpc::ClientContext context;
    EXPECT_EQ(grpc::StatusCode::ABORTED, stub->Execute(&context)->Finish().error_code());
  }
}

}  // namespace
}  // namespace shoal::agent

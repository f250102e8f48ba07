#include "coordinator/server/stall_report.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <filesystem>

#include "coordinator/server/report_writer.h"
#include "tests/testing/temp_dir.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::server {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

// A report that the core made of a group in which a rank died under a request.
std::shared_ptr<const core::StallReport> RealReport() {
  core::CoreOptions options = sim::TestOptions();
  options.tp = 2;
  sim::VirtualCluster cluster(options, {}, 1);
  cluster.AddAgent({.id = "a", .slots = 2});
  EXPECT_TRUE(cluster.RunUntilReady());
  core::GenerateRequest request;
  request.id = 1;
  request.prompt = {91, 92, 93, 94};
  request.max_tokens = 40;
  cluster.Submit(request);
  cluster.RunUntil(cluster.now() + 30 * kMillisecond);
  cluster.KillRank(1, "killed by signal 9");
  EXPECT_TRUE(cluster.RunUntil([&] { return !cluster.reports().empty(); }));
  return cluster.reports().empty() ? std::make_shared<core::StallReport>() : cluster.reports()[0];
}

std::vector<std::string> Files(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(StallReportTest, TellsWhoWasWhere) {
  const auto report = RealReport();
  const json::value v = json::parse(ReportJson(*report, 1790000000123));
  EXPECT_EQ(v.at("time").as_string(), "2026-09-21T14:13:20.123Z");
  EXPECT_EQ(v.at("detection").as_string(), "exited");
  EXPECT_EQ(v.at("culprit").at("rank").as_int64(), 1);
  EXPECT_EQ(v.at("culprit").at("agent").as_string(), "a");
  EXPECT_NE(v.at("reason").as_string().find("killed by signal 9"), std::string::npos);
  EXPECT_NE(v.at("next").as_string().find("epoch 2"), std::string::npos);
  EXPECT_EQ(v.at("epoch").as_int64(), 1);
  ASSERT_EQ(v.at("ranks").as_array().size(), 2u);
  const json::value& rank = v.at("ranks").at(1);
  EXPECT_EQ(rank.at("rank").as_int64(), 1);
  EXPECT_TRUE(rank.at("waiting_for").is_null());
  EXPECT_TRUE(rank.at("heartbeat_age_ms").is_int64());
  for (const char* key : {"pid", "epoch", "step", "answered", "progress", "own_step_us"}) {
    EXPECT_TRUE(rank.at(key).is_number()) << key;
  }
  const json::array& plans = v.at("plans").as_array();
  ASSERT_FALSE(plans.empty());
  size_t unanswered = 0;
  for (const json::value& plan : plans) {
    EXPECT_GE(plan.at("tokens").as_int64(), plan.at("rows").as_int64());
    if (!plan.at("answered").as_bool()) ++unanswered;
  }
  EXPECT_GE(unanswered, 1u);
  EXPECT_EQ(v.at("unanswered").as_array().size(), unanswered);
  EXPECT_EQ(v.at("counters").at("running").as_int64(), 1);
}

TEST(StallReportTest, SaysForWhomARankWaits) {
  core::StallReport report = *RealReport();
  report.culprit = {core::Detection::kDeadline, -1, {}};
  report.state.ranks[0].status.waiting_for = 1;
  report.state.ranks[1].status.waiting_for = plan::RankStatus::kAgent;
  const json::value v = json::parse(ReportJson(report, 0));
  EXPECT_EQ(v.at("time").as_string(), "1970-01-01T00:00:00.000Z");
  EXPECT_TRUE(v.at("culprit").at("rank").is_null());
  EXPECT_EQ(v.at("ranks").at(0).at("waiting_for").as_int64(), 1);
  EXPECT_EQ(v.at("ranks").at(1).at("waiting_for").as_string(), "agent");
}

TEST(ReportWriterTest, WritesWholeFilesAndKeepsTheLatest) {
  testing::TempDir dir;
  const std::string path = dir / "state/reports";
  const auto report = RealReport();
  {
    ReportWriter writer(path);
    EXPECT_FALSE(fs::exists(path)) << "made when there is something to write";
    writer.Post(report);
  }
  ASSERT_EQ(Files(path).size(), 1u);
  const std::string oldest = Files(path)[0];
  EXPECT_TRUE(oldest.starts_with("stall-2") && oldest.ends_with(".json")) << oldest;
  const json::value v = json::parse(testing::ReadFile(path + "/" + oldest));
  EXPECT_EQ(v.at("detection").as_string(), "exited");
  struct stat info = {};
  ASSERT_EQ(::stat((path + "/" + oldest).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);

  // What a process that died had begun counts; files of others are left alone.
  testing::WriteFile(path + "/stall-1999-01-01.json.tmp", "{");
  testing::WriteFile(path + "/notes.txt", "mine");
  for (size_t i = 0; i < ReportWriter::kKept; ++i) {
    ReportWriter writer(path);
    writer.Post(report);
  }
  const std::vector<std::string> files = Files(path);
  EXPECT_EQ(files.size(), ReportWriter::kKept + 1);
  EXPECT_EQ(files[0], "notes.txt");
  EXPECT_EQ(std::count(files.begin(), files.end(), oldest), 0);
  EXPECT_FALSE(fs::exists(path + "/stall-1999-01-01.json.tmp"));
}

TEST(ReportWriterTest, ADirectoryThatCannotBeMadeHarmsNobody) {
  testing::TempDir dir;
  testing::WriteFile(dir / "file", "");
  for (const std::string& path : {dir / "file/reports", std::string()}) {
    ReportWriter writer(path);
    writer.Post(RealReport());
  }
  EXPECT_EQ(Files(dir.path()).size(), 1u);
}

}  // namespace
}  // namespace shoal::server

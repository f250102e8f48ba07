#include "tools/cli/options.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

namespace shoal::cli {
namespace {

absl::StatusOr<CommandLine> Parse(std::vector<const char*> words) {
  words.insert(words.begin(), "shoal");
  return ParseCommandLine(static_cast<int>(words.size()), words.data());
}

std::string WriteFile(const std::string& text) {
  std::string path = ::testing::TempDir() + "/shoal_options_test.yaml";
  std::ofstream(path) << text;
  return path;
}

struct Environment {
  Environment(const char* name, const char* value) : name(name) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name); }
  const char* name;
};

TEST(CommandLine, FlagsOfServe) {
  const auto line = Parse({"serve", "m.gguf", "--tensor-parallel-size", "3", "-p", "2", "--served-model-name", "a", "b",
                           "--max-model-len", "512", "--workers", "external"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->verb, Verb::kServe);
  EXPECT_EQ(line->serve.model, "m.gguf");
  EXPECT_EQ(line->serve.tensor_parallel_size, 3);
  EXPECT_EQ(line->serve.pipeline_parallel_size, 2);
  EXPECT_EQ(line->serve.served_model_name, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(line->serve.max_model_len, 512);
  EXPECT_EQ(line->serve.workers, "external");
}

TEST(CommandLine, DevicesAreNamedByOneWord) {
  const std::vector<int> named = {0, 1, 0};
  const auto line = Parse({"serve", "--device-ids", "0,1,0", "m.gguf"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->serve.device_ids, named);
  EXPECT_EQ(line->serve.model, "m.gguf");
  const std::string file = WriteFile(ToYaml(line->serve));
  EXPECT_EQ(Parse({"coordinator", "--config", file.c_str()})->serve.device_ids, named);
  const Environment environment("SHOAL_DEVICE_IDS", "0,1,0");
  EXPECT_EQ(Parse({"worker", "--master-port", "1"})->worker.device_ids, named);
  EXPECT_FALSE(Parse({"serve", "m", "--device-ids", "0,x"}).ok());
}

TEST(CommandLine, CommandLineBeatsEnvironmentBeatsFileBeatsDefault) {
  const std::string file = WriteFile("max-num-seqs: 5\nmax-model-len: 6\nthreads: 7\n");
  const Environment seqs("SHOAL_MAX_NUM_SEQS", "15"), len("SHOAL_MAX_MODEL_LEN", "16");
  const auto line = Parse({"serve", "m", "--config", file.c_str(), "--max-num-seqs", "25"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->serve.max_num_seqs, 25);
  EXPECT_EQ(line->serve.max_model_len, 16);
  EXPECT_EQ(line->serve.threads, 7);
  EXPECT_EQ(line->serve.max_num_batched_tokens, 512);
}

TEST(CommandLine, TheCoordinatorReadsOnlyWhatTheLauncherWrote) {
  const std::string file = WriteFile("model: m\nmax-num-seqs: 5\nmax-model-len: 6\n");
  const Environment seqs("SHOAL_MAX_NUM_SEQS", "15"), threads("SHOAL_THREADS", "7"), config("SHOAL_CONFIG", "/none");
  const auto line = Parse({"coordinator", "--config", file.c_str()});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->serve.max_num_seqs, 5);
  EXPECT_EQ(line->serve.max_model_len, 6);
  EXPECT_EQ(line->serve.threads, 0);
}

TEST(CommandLine, TheEnvironmentFillsOnlyTheVerbThatIsNamed) {
  const Environment url("SHOAL_URL", "http://a"), key("SHOAL_API_KEY", "k"), model("SHOAL_MODEL", "e");
  const Environment bad("SHOAL_MASTER_PORT", "many"), config("SHOAL_CONFIG", "/none.yaml");
  const auto chat = Parse({"chat", "--url", "http://b", "--model", "serve"});
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->client.url, "http://b");
  EXPECT_EQ(chat->client.model, "serve");
  EXPECT_EQ(chat->client.api_key, "k");
  EXPECT_EQ(Parse({"status"})->client.url, "http://a");
  EXPECT_EQ(Parse({"inspect"})->inspect.model, "e");
  EXPECT_FALSE(Parse({"worker"}).ok()) << "its own are read, and checked";
}

TEST(CommandLine, AFileThatIsNamedBeatsTheOneOfTheEnvironment) {
  const Environment config("SHOAL_CONFIG", "/none.yaml");
  const std::string file = WriteFile("threads: 7\n");
  const auto line = Parse({"serve", "m", "--config", file.c_str()});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->serve.threads, 7);
}

TEST(CommandLine, YamlCarriesEveryOptionOfServe) {
  ServeOptions o;
  o.model = "/models/a b.gguf";
  o.served_model_name = {"x", "y"};
  o.api_key = {"secret: 1"};
  o.admin_api_key = {"secret: 2", "3"};
  o.port = 1234, o.tensor_parallel_size = 3, o.pipeline_parallel_size = 2, o.nnodes = 2, o.workers = "external";
  o.master_port = 999, o.insecure = true, o.device = "null", o.load_format = "dummy", o.seed = 77;
  o.quantization = "int4", o.numerics = "fast";
  o.compute_dtype = "f32", o.kv_cache_dtype = "bf16", o.transport = "shm", o.all_reduce = "nccl", o.threads = 4,
  o.gpu_memory_utilization = 0.5, o.block_size = 32;
  o.kv_cache_blocks = 100, o.kv_cache_memory_bytes = 1ll << 40, o.max_model_len = 100, o.max_num_seqs = 3;
  o.max_num_batched_tokens = 99, o.max_queued_requests = 17, o.shutdown_timeout = 1.5, o.orphan_timeout = 2.5;
  o.report_dir = "/reports";
  o.canary_interval = 0.5, o.checksum_interval = 7, o.enforce_eager = true;
  const std::string file = WriteFile(ToYaml(o));
  const auto line = Parse({"coordinator", "--config", file.c_str()});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(ToYaml(line->serve), ToYaml(o));
  EXPECT_EQ(line->serve.api_key, o.api_key);
  EXPECT_EQ(line->serve.admin_api_key, o.admin_api_key);
  EXPECT_EQ(line->serve.model, o.model);
}

TEST(CommandLine, AnEmptyReportDirectoryStaysEmpty) {
  EXPECT_EQ(Parse({"serve", "m"})->serve.report_dir, "auto");
  const auto line = Parse({"serve", "m", "--report-dir", ""});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->serve.report_dir, "");
  const auto carried = Parse({"coordinator", "--config", WriteFile(ToYaml(line->serve)).c_str()});
  ASSERT_TRUE(carried.ok()) << carried.status();
  EXPECT_EQ(carried->serve.report_dir, "");
}

TEST(CommandLine, TheAgentIsReachedWhereItListensUnlessToldOtherwise) {
  EXPECT_EQ(Parse({"worker", "--master-port", "1"})->worker.advertise_address, "");
  const auto line = Parse({"worker", "--master-port", "1", "--advertise-address", "worker-3.ns:7001"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->worker.advertise_address, "worker-3.ns:7001");
  EXPECT_EQ(line->worker.listen, "127.0.0.1:0");
  const Environment address("SHOAL_ADVERTISE_ADDRESS", "10.0.0.9:7002");
  EXPECT_EQ(Parse({"worker", "--master-port", "1"})->worker.advertise_address, "10.0.0.9:7002");
}

TEST(CommandLine, ErrorsSayWhatToDo) {
  EXPECT_NE(Parse({"serve", "m", "--tensor-paralel-size", "2"}).status().message().find("--tensor-parallel-size"),
            absl::string_view::npos);
  EXPECT_NE(Parse({"serv"}).status().message().find("unknown verb serv"), absl::string_view::npos);
  EXPECT_NE(Parse({"serve"}).status().message().find("no model given"), absl::string_view::npos);
  EXPECT_NE(Parse({"worker"}).status().message().find("--master-port"), absl::string_view::npos);
  const std::string file = WriteFile("max-num-seq: 5\n");
  EXPECT_NE(Parse({"serve", "m", "--config", file.c_str()}).status().message().find("Did you mean --max-num-seqs"),
            absl::string_view::npos);
}

TEST(CommandLine, Drain) {
  const auto line = Parse({"drain", "abc", "--cluster", "http://h:1"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->verb, Verb::kDrain);
  EXPECT_EQ(line->client.agent, "abc");
  EXPECT_EQ(line->client.url, "http://h:1");
  EXPECT_TRUE(line->client.wait);
  EXPECT_FALSE(Parse({"drain", "abc", "--no-wait"})->client.wait);
  EXPECT_NE(Parse({"drain"}).status().message().find("no agent given"), absl::string_view::npos);
}

TEST(CommandLine, ValuesAreChecked) {
  EXPECT_FALSE(Parse({"serve", "m", "--replace-timeout", "-1"}).ok());

  EXPECT_FALSE(Parse({"serve", "m", "--tensor-parallel-size", "0"}).ok());
  EXPECT_FALSE(Parse({"serve", "m", "--port", "70000"}).ok());
  EXPECT_FALSE(Parse({"serve", "m", "--max-num-seqs", "many"}).ok());
  EXPECT_FALSE(Parse({"serve", "m", "--load-format", "guess"}).ok());
  EXPECT_FALSE(Parse({"serve", "m", "--transport", "pigeon"}).ok());
  EXPECT_FALSE(Parse({"serve", "m", "--all-reduce", "abacus"}).ok());
  for (const char* transport : {"auto", "shm", "gloo"}) {
    EXPECT_EQ(Parse({"serve", "m", "--transport", transport})->serve.transport, transport);
  }
  EXPECT_FALSE(Parse({"serve", "m", "--config", "/does/not/exist.yaml"}).ok());
  EXPECT_FALSE(Parse({"serve", "m", "--config", WriteFile("max-num-seqs: many\n").c_str()}).ok());
  EXPECT_FALSE(Parse({"serve", "m", "--config", WriteFile("[1, 2").c_str()}).ok());
}

TEST(CommandLine, HelpOfEachVerb) {
  EXPECT_NE(Parse({"--help"})->help.find("serve"), std::string::npos);
  EXPECT_NE(Parse({"serve", "--help"})->help.find("--tensor-parallel-size"), std::string::npos);
  EXPECT_EQ(Parse({"--help"})->help.find("\n  coordinator"), std::string::npos);
}

}  // namespace
}  // namespace shoal::cli

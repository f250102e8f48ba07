#include "kernels/ops/backends.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "kernels/cpu/cpu.h"

namespace shoal::ops {
namespace {

class Isa {
 public:
  explicit Isa(const char* value) { setenv("SHOAL_CPU_ISA", value, 1); }
  ~Isa() { unsetenv("SHOAL_CPU_ISA"); }
};

TEST(Backends, EveryRunnableTableIsCompleteAndFoundByItsName) {
  std::set<std::string_view> names;
  for (const OpTable* t : RunnableOpTables()) {
    EXPECT_TRUE(names.insert(t->name).second) << t->name << " twice";
    EXPECT_EQ(FindOpTable(t->name).value(), t);
    EXPECT_TRUE(t->supports && t->packed_bytes && t->pack_rows && t->embed && t->rms_norm && t->layer_norm &&
                t->quantise && t->matmul && t->rope_kv && t->attention && t->attention_workspace && t->glu &&
                t->sample && t->clear_counts && t->count_tokens && t->copy_blocks && t->sum_ranks && t->place_columns &&
                t->dummy_matrix)
        << t->name;
  }
  EXPECT_TRUE(names.contains("ref") && names.contains("null") && names.contains("cpu-scalar"));
}

TEST(Backends, CpuIsTheBestThatRuns) { EXPECT_EQ(FindOpTable("cpu").value(), RunnableOpTables().back()); }

TEST(Backends, EnvironmentOverridesTheChoice) {
  {
    const Isa isa("scalar");
    EXPECT_EQ(FindOpTable("cpu").value()->name, "cpu-scalar");
  }
  {
    const Isa isa("");
    EXPECT_EQ(FindOpTable("cpu").value(), RunnableOpTables().back());
  }
  const Isa isa("sse9");
  EXPECT_EQ(FindOpTable("cpu").status().code(), absl::StatusCode::kNotFound);
}

TEST(Backends, UnknownNameListsWhatThereIs) {
  const absl::Status status = FindOpTable("tpu").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("cpu-scalar"), std::string_view::npos);
  EXPECT_NE(status.message().find("null"), std::string_view::npos);
}

TEST(Backends, WhatTheMachineLacksIsRefused) {
  for (const cpu::Choice& c : cpu::Choices()) {
    const auto found = FindOpTable(c.table->name);
    EXPECT_EQ(found.status().code(), c.runnable() ? absl::StatusCode::kOk : absl::StatusCode::kFailedPrecondition);
  }
}

}  // namespace
}  // namespace shoal::ops

#include "kernels/ops/backends.h"

#include <cstdlib>
#include <string>

#include "common/base/status_macros.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/cpu_stream.h"
#include "kernels/null/null.h"
#include "kernels/ref/ref.h"

namespace shoal::ops {
namespace {

std::string Known() {
  std::string names = "ref, null, cpu";
  for (const cpu::Choice& c : cpu::Choices()) names.append(", ").append(c.table->name);
  return names;
}

absl::StatusOr<const OpTable*> FindCpu(std::string_view name) {
  for (const cpu::Choice& c : cpu::Choices()) {
    if (c.table->name != name) continue;
    if (c.runnable()) return c.table;
    return absl::FailedPreconditionError("this machine lacks the instructions of kernel backend " + std::string(name));
  }
  return absl::NotFoundError("no kernel backend is called '" + std::string(name) + "'; there are: " + Known());
}

const OpTable* BestCpu() {
  const OpTable* best = nullptr;
  for (const cpu::Choice& c : cpu::Choices()) {
    if (c.runnable()) best = c.table;
  }
  return best;
}

}  // namespace

absl::StatusOr<const OpTable*> FindOpTable(std::string_view name) {
  if (name == "ref") return &ref::Table();
  if (name == "null") return &null::Table();
  if (name != "cpu") return FindCpu(name);
  const char* isa = std::getenv("SHOAL_CPU_ISA");
  if (isa == nullptr || *isa == '\0') return BestCpu();
  return FindCpu(std::string("cpu-") + isa);
}

std::vector<const OpTable*> RunnableOpTables() {
  std::vector<const OpTable*> tables = {&ref::Table(), &null::Table()};
  for (const cpu::Choice& c : cpu::Choices()) {
    if (c.runnable()) tables.push_back(c.table);
  }
  return tables;
}

std::unique_ptr<Stream> MakeCpuStream(int threads) { return std::make_unique<cpu::CpuStream>(threads); }

}  // namespace shoal::ops

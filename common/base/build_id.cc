#include "common/base/build_id.h"

#include <elf.h>
#include <link.h>

#include <cstring>

namespace shoal {
namespace {

// Finds NT_GNU_BUILD_ID in the notes of the main program (the first object that is reported).
int FindNote(dl_phdr_info* info, size_t, void* out) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const char* at = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
    const char* const end = at + segment.p_memsz;
    while (at + sizeof(ElfW(Nhdr)) <= end) {
      ElfW(Nhdr) note;
      std::memcpy(&note, at, sizeof note);
      const char* name = at + sizeof note;
      const char* desc = name + (note.n_namesz + 3) / 4 * 4;
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(name, "GNU", 4) == 0) {
        static_cast<std::string*>(out)->assign(desc, note.n_descsz);
        return 1;
      }
      at = desc + (note.n_descsz + 3) / 4 * 4;
    }
  }
  return 1;  // only the main program
}

}  // namespace

std::string BuildId() {
  std::string raw;
  dl_iterate_phdr(FindNote, &raw);
  constexpr char kHex[] = "0123456789abcdef";
  std::string id = std::string(kVersion) + "+";
  for (size_t i = 0; i < raw.size() && i < 6; ++i) {
    const auto byte = static_cast<unsigned char>(raw[i]);
    id += kHex[byte >> 4];
    id += kHex[byte & 15];
  }
  return id;
}

}  // namespace shoal

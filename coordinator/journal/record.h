// One record of the journal as bytes: [u32 payload bytes][u32 CRC32C of the payload][payload]. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace shoal::journal {

using Digest = std::array<uint8_t, 32>;

enum class RecordType : uint8_t { kAccepted = 1, kFinished = 2, kDropped = 3 };

struct Record {
  RecordType type = RecordType::kDropped;
  Digest id{};
  // All but kDropped:
  Digest fingerprint{};
  int64_t time_s = 0;    // when it was written, seconds since 1970
  uint8_t suspects = 0;  // of kAccepted: how often it was begun again after a crash that it may have caused
  std::string_view bytes;
};

inline constexpr size_t kRecordHeadBytes = 8;
// Above any request or answer; a longer one on disk is damage.
inline constexpr size_t kMaxPayloadBytes = 64 << 20;

// Where Record::bytes begin, from the start of the record.
inline constexpr size_t kBytesOffset = kRecordHeadBytes + 1 + 32 + 32 + 8 + 1;

// The whole record, head included.
std::string EncodeRecord(const Record& record);

// The size and checksum that a record's head announces; nothing when the size cannot be.
struct RecordHead {
  uint32_t payload_bytes;
  uint32_t crc;
};
std::optional<RecordHead> DecodeHead(std::string_view head);
// Nothing when the payload is not what `head` announced or not a record. The result points into `payload`.
std::optional<Record> DecodePayload(const RecordHead& head, std::string_view payload);

// Castagnoli's polynomial, as in RFC 3720 B.4.
uint32_t Crc32c(std::string_view bytes);

}  // namespace shoal::journal

// Tested by: tests/journal/store_test.cc
#include "coordinator/journal/record.h"

#include <algorithm>
#include <boost/crc.hpp>

namespace shoal::journal {
namespace {

constexpr size_t kDroppedBytes = 1 + 32;

template <typename T>
void AppendLittle(T value, std::string* out) {
  for (size_t i = 0; i < sizeof value; ++i) out->push_back(static_cast<char>(static_cast<uint64_t>(value) >> (8 * i)));
}

template <typename T>
T ReadLittle(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  return static_cast<T>(value);
}

Digest ReadDigest(std::string_view bytes) {
  Digest digest;
  std::copy_n(bytes.begin(), digest.size(), digest.begin());
  return digest;
}

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(bytes.data(), bytes.size());
  return crc.checksum();
}

std::string EncodeRecord(const Record& record) {
  std::string payload;
  payload.reserve(kBytesOffset + record.bytes.size());
  payload.push_back(static_cast<char>(record.type));
  payload.append(record.id.begin(), record.id.end());
  if (record.type != RecordType::kDropped) {
    payload.append(record.fingerprint.begin(), record.fingerprint.end());
    AppendLittle(record.time_s, &payload);
    AppendLittle(record.suspects, &payload);
    payload.append(record.bytes);
  }
  std::string out;
  out.reserve(kRecordHeadBytes + payload.size());
  AppendLittle(static_cast<uint32_t>(payload.size()), &out);
  AppendLittle(Crc32c(payload), &out);
  return out += payload;
}

std::optional<RecordHead> DecodeHead(std::string_view head) {
  if (head.size() != kRecordHeadBytes) return std::nullopt;
  const RecordHead decoded{ReadLittle<uint32_t>(head), ReadLittle<uint32_t>(head.substr(4))};
  if (decoded.payload_bytes < kDroppedBytes || decoded.payload_bytes > kMaxPayloadBytes) return std::nullopt;
  return decoded;
}

std::optional<Record> DecodePayload(const RecordHead& head, std::string_view payload) {
  if (payload.size() != head.payload_bytes || Crc32c(payload) != head.crc) return std::nullopt;
  Record record;
  const auto type = static_cast<uint8_t>(payload[0]);
  record.type = static_cast<RecordType>(type);
  record.id = ReadDigest(payload.substr(1));
  if (record.type == RecordType::kDropped) {
    return payload.size() == kDroppedBytes ? std::optional(record) : std::nullopt;
  }
  if (record.type != RecordType::kAccepted && record.type != RecordType::kFinished) return std::nullopt;
  if (payload.size() < kBytesOffset - kRecordHeadBytes) return std::nullopt;
  record.fingerprint = ReadDigest(payload.substr(33));
  record.time_s = ReadLittle<int64_t>(payload.substr(65));
  record.suspects = ReadLittle<uint8_t>(payload.substr(73));
  record.bytes = payload.substr(kBytesOffset - kRecordHeadBytes);
  return record;
}

}  // namespace shoal::journal

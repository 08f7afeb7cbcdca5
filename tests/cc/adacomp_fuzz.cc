// Fuzzing of AdaComp's decoder, and of the encoder against it: tools/fuzz.sh. A libFuzzer target;
// with LOWPREC_FUZZ_MAIN a program that mutates its corpus itself, for compilers without libFuzzer.
//
// An input is a byte that says what to do, and words:
//   0  a packet, as it is
//   1  a packet whose checksum is set right, so that what lies behind it is reached
//   2  the same, with the magic number, version, known flags and the segment table repaired too
//   3  gradients and residues (any bit pattern): encoded, and decoded again
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "cc/kernels/adacomp_codec.h"
#include "cc/numerics/adacomp_codes.h"
#include "cc/numerics/adacomp_packet.h"

namespace tf_lowprec {
namespace {

// Enough for two segments, in few inputs, and small tensors in most: they are faster.
int64_t MostElements(int bin_size) { return bin_size % 1024 == 0 ? 9 << 14 : 1 << 11; }

void InOneThread(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
  work(0, total);
}

const AdaCompLoops& Loops() {
  static const AdaCompLoops loops = ChooseAdaComp();
  return loops;
}

void Require(bool condition) {
  if (!condition) abort();
}

// A packet that is found sound changes as many elements of the output as it sends, by its scale.
void Decode(const uint32_t* packet, int64_t num_words, int64_t num_elements) {
  const char* problem = CheckAdaCompPacket(packet, num_words, num_elements, Loops(), InOneThread);
  if (problem != nullptr) return;
  // Of the exact size, so that the address sanitizer sees one element too far.
  std::unique_ptr<float[]> y(new float[num_elements]);
  AddAdaCompPacket(packet, true, y.get(), Loops(), InOneThread);
  const PacketHeader header = ParsePacketHeader(packet);
  int64_t changed = 0;
  for (int64_t i = 0; i < num_elements; ++i) {
    if (header.skip) {
      Require(std::isnan(y[i]));
    } else if (y[i] != 0) {
      Require(fabsf(y[i]) == header.scale);
      ++changed;
    }
  }
  if (!header.skip && header.scale != 0) Require(changed == header.sent);
}

// Lets the segments' lengths add up, by cutting the last ones short or filling them up.
void RepairTable(std::vector<uint32_t>* packet) {
  const PacketHeader header = ParsePacketHeader(packet->data());
  const BinLayout layout(header.num_elements, header.bin_size);
  const int64_t size = static_cast<int64_t>(packet->size());
  if (header.skip || layout.num_segments == 0 || header.num_words() + layout.num_segments > size) {
    return;
  }
  int64_t left = size - header.num_words() - layout.num_segments;
  for (int64_t i = 0; i < layout.num_segments; ++i) {
    uint32_t* entry = &(*packet)[header.num_words() + i];
    const int64_t words = i + 1 == layout.num_segments ? left : SegmentWords(*entry);
    const int64_t kept = words < left ? words : left;
    *entry = SegmentEntry(kept, header.entropy ? SegmentRiceBits(*entry) & kMaxRiceBits : 0);
    left -= kept;
  }
}

// The number of elements that the segments of a packet with a sound header send.
int64_t CountSent(const std::vector<uint32_t>& packet) {
  const PacketHeader header = ParsePacketHeader(packet.data());
  const BinLayout layout(header.num_elements, header.bin_size);
  const uint32_t* table = packet.data() + header.num_words();
  const uint32_t* words = table + layout.num_segments;
  int64_t sent = 0;
  for (int64_t i = 0; i < layout.num_segments && !header.skip; ++i) {
    const int64_t count = CheckSegment(header, table[i], words, layout.SegmentElements(i));
    sent += count < 0 ? 0 : count;
    words += SegmentWords(table[i]);
  }
  return sent;
}

void Packet(int mode, std::vector<uint32_t> packet) {
  if (packet.size() < static_cast<size_t>(kWideHeaderWords)) {
    Decode(packet.data(), static_cast<int64_t>(packet.size()), 100);
    return;
  }
  if (mode == 2) {
    packet[0] = kPacketMagic << 24 | kPacketVersion << 20 | (packet[0] & 0x3FFFF);
    packet[0] = (packet[0] & ~0xFFFFu) | ((packet[0] & 0x3FFF) + 1);
    packet[2] %= MostElements(packet[0] & 0xFFFF);
    packet[3] &= 0x7F7FFFFF;
    packet[4] = 0;
    RepairTable(&packet);
  }
  const int64_t size = static_cast<int64_t>(packet.size());
  if (mode > 0) packet[1] = PacketChecksum(packet.data(), size);
  const int64_t elements = packet[2] % MostElements(packet[0] & 0xFFFF);
  Decode(packet.data(), size, elements);
  if (mode == 2 && CheckPacketHeader(packet.data(), size) == nullptr) {
    // Once more with the number that it sends, the one thing not yet repaired.
    packet[4] = static_cast<uint32_t>(CountSent(packet));
    packet[1] = PacketChecksum(packet.data(), size);
    Decode(packet.data(), size, elements);
  }
}

void Encode(const std::vector<uint32_t>& words) {
  if (words.size() < 4) return;
  AdaCompTask task;
  task.bin_size = 1 + static_cast<int>(words[0] % (words[0] & 1 << 20 ? 128 : kMaxBinSize));
  task.entropy = words[0] >> 31;
  task.soft_threshold = words[0] & 1 << 21 ? 2.0f : 1.5f;
  const int64_t n = (static_cast<int64_t>(words.size()) - 1) / 2;
  std::unique_ptr<float[]> dw(new float[n]), residue(new float[n]), after(new float[n]);
  memcpy(dw.get(), words.data() + 1, n * sizeof(float));
  memcpy(residue.get(), words.data() + 1 + n, n * sizeof(float));
  task.gradient = dw.get();
  task.residue = residue.get();
  task.new_residue = after.get();
  task.num_elements = n;
  AdaCompEncoder encoder(task, Loops(), InOneThread);
  const int64_t size = encoder.Select();
  std::unique_ptr<uint32_t[]> packet(new uint32_t[size]);
  encoder.Write(packet.get());
  Require(CheckAdaCompPacket(packet.get(), size, n, Loops(), InOneThread) == nullptr);
  Decode(packet.get(), size, n);
  const bool skip = ParsePacketHeader(packet.get()).skip;
  if (skip) Require(memcmp(after.get(), residue.get(), n * sizeof(float)) == 0);
  for (int64_t i = 0; i < n; ++i) Require(skip || std::isfinite(after[i]));
}

}  // namespace
}  // namespace tf_lowprec

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const int mode = data[0] % 4;
  std::vector<uint32_t> words((size - 1) / 4);
  if (!words.empty()) memcpy(words.data(), data + 1, words.size() * 4);
  if (mode == 3) {
    tf_lowprec::Encode(words);
  } else {
    tf_lowprec::Packet(mode, words);
  }
  return 0;
}

#if defined(LOWPREC_FUZZ_MAIN)

#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

// usage: fuzz RUNS CORPUS_FILE...: mutated copies of the files, without coverage to guide it.
int main(int argc, char** argv) {
  std::vector<std::vector<uint8_t>> corpus;
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  const long runs = argc > 1 ? strtol(argv[1], nullptr, 10) : 0;
  if (runs <= 0 || corpus.empty()) {
    fprintf(stderr, "usage: %s RUNS CORPUS_FILE...\n", argv[0]);
    return 2;
  }
  std::mt19937 random(1);
  for (long run = 0; run < runs; ++run) {
    std::vector<uint8_t> input = corpus[random() % corpus.size()];
    for (unsigned int change = random() % 8; change > 0 && !input.empty(); --change) {
      const size_t at = random() % input.size();
      switch (random() % 6) {
        case 0:
          input[at] = static_cast<uint8_t>(random());
          break;
        case 1:
          input[at] ^= static_cast<uint8_t>(1u << random() % 8);
          break;
        case 2:
          input[at] = random() % 2 ? 0xFF : 0;
          break;
        case 3:
          input.resize(at + 1);
          break;
        case 4:
          input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), random() % 9, 0);
          break;
        default:
          input[0] = static_cast<uint8_t>(random() % 4);
      }
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  printf("%ld inputs, no failure\n", runs);
  return 0;
}

#endif

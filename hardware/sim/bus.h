// Access to the ports of a Verilated model as arrays of lanes, whatever C++ type Verilator gave
// them.
#ifndef TF_LOWPREC_HARDWARE_SIM_BUS_H_
#define TF_LOWPREC_HARDWARE_SIM_BUS_H_

#include <cstdint>
#include <cstring>

namespace lowprec {

// Bits [low, low + width) of a port, width <= 32. Ports up to 64 bits are integers, wider ones
// arrays of 32-bit words; in memory both are little-endian.
template <typename Port>
uint32_t GetBits(const Port& port, int low, int width) {
  uint32_t words[sizeof(Port) / 4 + 2] = {};
  std::memcpy(words, &port, sizeof(Port));
  const uint64_t pair = words[low / 32] | static_cast<uint64_t>(words[low / 32 + 1]) << 32;
  return static_cast<uint32_t>(pair >> (low % 32) & ((uint64_t{1} << width) - 1));
}

// The same bits as a signed number.
template <typename Port>
int32_t GetSigned(const Port& port, int low, int width) {
  const uint32_t bits = GetBits(port, low, width);
  return static_cast<int32_t>(bits << (32 - width)) >> (32 - width);
}

// Packs `count` lanes of `width` bits into a port.
template <typename Port>
void SetLanes(Port* port, const int32_t* lanes, int count, int width) {
  uint32_t words[sizeof(Port) / 4 + 2] = {};
  const uint64_t mask = (uint64_t{1} << width) - 1;
  for (int i = 0; i < count; ++i) {
    const int low = i * width;
    const uint64_t bits = (static_cast<uint32_t>(lanes[i]) & mask) << (low % 32);
    words[low / 32] |= static_cast<uint32_t>(bits);
    words[low / 32 + 1] |= static_cast<uint32_t>(bits >> 32);
  }
  std::memcpy(port, words, sizeof(Port));
}

}  // namespace lowprec

#endif  // TF_LOWPREC_HARDWARE_SIM_BUS_H_

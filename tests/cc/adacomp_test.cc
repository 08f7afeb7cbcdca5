// AdaComp's codec: the same bits for any split of the work and any instruction set; every defect of
// a packet is found before anything is written.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cc/kernels/adacomp_codec.h"
#include "cc/numerics/adacomp_codes.h"
#include "cc/numerics/adacomp_packet.h"
#include "cc/numerics/adacomp_select.h"
#include "gtest/gtest.h"
#include "tests/cc/adacomp_packet_cases.h"
#include "tests/cc/adacomp_problem.h"

namespace tf_lowprec {

AdaCompLoops AdaCompPortable();

namespace {

// Backwards, a unit at a time.
void Scattered(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
  for (int64_t i = total; i-- > 0;) work(i, i + 1);
}

void InThreeThreads(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&work, total, i] { work(total * i / 3, total * (i + 1) / 3); });
  }
  for (std::thread& thread : threads) thread.join();
}

// Also: every instruction set finds the same.
std::string Problem(const Words& packet, int64_t n) {
  const Words copy(packet);  // of the exact size
  const int64_t size = static_cast<int64_t>(copy.size());
  const char* problem = CheckAdaCompPacket(copy.data(), size, n, AdaCompPortable(), InOneThread);
  EXPECT_STREQ(CheckAdaCompPacket(copy.data(), size, n, ChooseAdaComp(), InOneThread), problem);
  return problem == nullptr ? "" : problem;
}

std::vector<float> Decode(const Words& packet, int64_t n, const AdaCompRun& run = InOneThread,
                          const AdaCompLoops& loops = ChooseAdaComp()) {
  std::vector<float> y(n, -1);
  EXPECT_EQ(Problem(packet, n), "");
  AddAdaCompPacket(packet.data(), true, y.data(), loops, run);
  return y;
}

std::vector<float> DecodeAlone(const Words& packet, int64_t n) { return Decode(packet, n); }

TEST(AdaComp, AnySplitOfTheWorkGivesTheSameBits) {
  const Tensors t = Normal(5 * kSegmentElements + 4321, 0.05f);
  for (const int bin_size : {1, 50, 500, 16384}) {
    for (const bool entropy : {false, true}) {
      const Encoded want = Encode(t, bin_size, entropy);
      const std::vector<float> sent = Decode(want.packet, t.dw.size());
      for (const AdaCompRun& run : {AdaCompRun(Scattered), AdaCompRun(InThreeThreads)}) {
        const Encoded got = Encode(t, bin_size, entropy, run);
        EXPECT_EQ(got.packet, want.packet);
        EXPECT_TRUE(SameBits(got.residue, want.residue));
        EXPECT_TRUE(SameBits(Decode(got.packet, t.dw.size(), run), sent));
      }
    }
  }
}

TEST(AdaComp, EveryInstructionSetGivesTheSameBits) {
  for (const int64_t n : {1, 7, 8, 15, 16, 17, 63, 1000, 200000}) {
    for (const float spread : {0.01f, 1.0f}) {
      const Tensors t = Normal(n, spread);
      for (const int bin_size : {1, 5, 16, 50, 64, 65, 500}) {
        for (const bool entropy : {false, true}) {
          const Encoded want = Encode(t, bin_size, entropy, InOneThread, AdaCompPortable());
          const Encoded got = Encode(t, bin_size, entropy);
          ASSERT_EQ(got.packet, want.packet) << n << " elements, bins of " << bin_size;
          ASSERT_TRUE(SameBits(got.residue, want.residue));
          ASSERT_TRUE(SameBits(Decode(got.packet, n),
                               Decode(got.packet, n, InOneThread, AdaCompPortable())));
        }
      }
    }
  }
}

// Wide ranges, where the order of additions counts, and narrow ones.
TEST(AdaComp, MaximaAreSummedInOrder) {
  std::mt19937 random(1);
  for (int range = 0; range < 100; ++range) {
    for (const int least : {-149, -126, -20, 127 - range}) {
      for (const int64_t n : {1, 15, 16, 17, 1000, 1 << 16}) {
        std::vector<float> maxima(n);
        double want = 0;
        for (float& x : maxima) {
          const int exponent = least + static_cast<int>(random() % (range + 1));
          const uint32_t mantissa = random() % 8 == 0 ? 0 : random() & 0x7FFFFF;
          x = random() % 16 == 0 ? 0 : std::ldexp(1 + std::ldexp(mantissa, -23), exponent);
          want += x;
        }
        for (const AdaCompLoops& loops : {AdaCompPortable(), ChooseAdaComp()}) {
          ASSERT_EQ(loops.sum(maxima.data(), n), want)
              << n << " from 2^" << least << " on, " << range;
        }
      }
    }
  }
}

// The last additions round, once there are 2^53 of the small ones' last places: one after another
// they lose two of these, which lanes would keep.
TEST(AdaComp, MaximaAreSummedInOrderNextToTheBound) {
  std::vector<float> maxima(1 << 16, 2 - std::ldexp(1.0f, -23));
  for (const int apart : {12, 13, 14, 15}) {
    const float least = std::ldexp(1 + std::ldexp(1.0f, -23), -apart);
    maxima[maxima.size() - 17] = maxima.back() = least;  // in one lane
    double want = 0;
    for (const float x : maxima) want += x;
    for (const AdaCompLoops& loops : {AdaCompPortable(), ChooseAdaComp()}) {
      EXPECT_EQ(loops.sum(maxima.data(), static_cast<int64_t>(maxima.size())), want) << apart;
    }
  }
}

TEST(AdaComp, BothEncodingsSendTheSame) {
  for (const int bin_size : {3, 50, 64, 65, 500}) {
    const Tensors t = Normal(150000, 0.1f);
    const Encoded plain = Encode(t, bin_size, false), entropy = Encode(t, bin_size, true);
    EXPECT_TRUE(SameBits(Decode(plain.packet, 150000), Decode(entropy.packet, 150000)));
    EXPECT_TRUE(SameBits(plain.residue, entropy.residue));
  }
}

// The one way of several that a decoder takes.
TEST(AdaComp, FirstCodesSayAsManyEmptyBinsAsTheyCan) {
  Tensors t = {std::vector<float>(90), std::vector<float>(90)};
  t.dw[53] = t.dw[75] = 1;  // bins of 10: five are empty, one is, one is at the end
  const Words packet = Encode(t, 10, false).packet;
  const uint32_t first = 0x80 | 3 << 4 | 3, second = 0x80 | 1 << 4 | 5;
  EXPECT_EQ(Words(packet.begin() + 6, packet.end()),
            (Words{Bytes(0x40, 0, first, second), Bytes(0, 0, 0, 0)}));
  t.dw[85] = 1;
  EXPECT_EQ(Encode(t, 10, false).packet.back(), Bytes(Byte(5, false, true), 0, 0, 0));
  t.dw[43] = 1;  // four before the first one
  EXPECT_EQ(Encode(t, 10, false).packet[6], Bytes(0, first, Byte(3, false, true), second));
}

TEST(AdaComp, SecondPacketIsAdded) {
  const Tensors t = Normal(1000);
  const Words packet = Encode(t, 50, false).packet;
  std::vector<float> y = Decode(packet, 1000), twice = y;
  AddAdaCompPacket(packet.data(), false, y.data(), ChooseAdaComp(), InOneThread);
  for (float& x : twice) x += x;
  EXPECT_TRUE(SameBits(y, twice));
}

TEST(AdaComp, OneNanAmongManySegmentsSkipsAll) {
  Tensors t = Normal(3 * kSegmentElements);
  t.dw[2 * kSegmentElements + 5] = std::numeric_limits<float>::quiet_NaN();
  const Encoded e = Encode(t, 50, false, InThreeThreads);
  EXPECT_EQ(e.packet.size(), 5u);
  EXPECT_TRUE(SameBits(e.residue, t.residue));
  for (const float y : Decode(e.packet, 3 * kSegmentElements)) ASSERT_TRUE(std::isnan(y));
}

TEST(AdaCompSelect, LookAheadIsRoundedOnce) {
  // 1.5 * (1 + 2^-23) + 2^-24 is a tie when the product is rounded first.
  const float dw = 1 + std::ldexp(1.0f, -23), residue = std::ldexp(1.0f, -25);
  const double exact = 1.5 * static_cast<double>(dw) + residue;
  EXPECT_EQ(LookAhead<false>(0, dw, residue, 1.5f), static_cast<float>(exact));
}

}  // namespace
}  // namespace tf_lowprec

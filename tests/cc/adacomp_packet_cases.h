// Packets with one defect each, for the decoder that the including test defines before, in the same
// namespace:
//   std::string Problem(const Words& packet, int64_t n);            what is wrong with it, or ""
//   std::vector<float> DecodeAlone(const Words& packet, int64_t n); what a sound one sends
#ifndef TF_LOWPREC_TESTS_CC_ADACOMP_PACKET_CASES_H_
#define TF_LOWPREC_TESTS_CC_ADACOMP_PACKET_CASES_H_

#include <algorithm>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cc/adacomp_problem.h"

namespace tf_lowprec {
namespace {

std::string Problem(const Words& packet, int64_t n);
std::vector<float> DecodeAlone(const Words& packet, int64_t n);

TEST(AdaCompPacket, EveryTruncationIsFound) {
  for (const bool entropy : {false, true}) {
    const Words whole = Encode(Normal(700), 50, entropy).packet;
    for (size_t size = 0; size < whole.size(); ++size) {
      Words part(whole.begin(), whole.begin() + size);
      EXPECT_NE(Problem(part, 700), "") << size;
      if (size > 1) {
        EXPECT_NE(Problem(Sealed(part), 700), "") << size << ", sealed";
      }
    }
    Words longer = whole;
    longer.push_back(0);
    EXPECT_NE(Problem(longer, 700), "");
    EXPECT_NE(Problem(Sealed(longer), 700), "");
  }
}

TEST(AdaCompPacket, EveryFlippedBitIsFound) {
  for (const bool entropy : {false, true}) {
    Words packet = Encode(Normal(300), 50, entropy).packet;
    for (size_t i = 0; i < 32 * packet.size(); ++i) {
      packet[i / 32] ^= 1u << i % 32;
      EXPECT_NE(Problem(packet, 300), "") << "bit " << i;
      packet[i / 32] ^= 1u << i % 32;
    }
    EXPECT_EQ(Problem(packet, 300), "");
  }
}

void ExpectProblem(const Words& packet, int64_t n, const std::string& text) {
  EXPECT_NE(Problem(packet, n).find(text), std::string::npos)
      << "'" << Problem(packet, n) << "' has no '" << text << "'";
}

Words With(Words packet, int word, uint32_t value) {
  packet[word] = value;
  return Sealed(packet);
}

TEST(AdaCompPacket, HeadersThatMakeNoSense) {
  const Words plain = Encode(Normal(300), 50, false).packet;
  const uint32_t first = plain[0];
  ExpectProblem({}, 300, "shorter than a header");
  ExpectProblem(With(plain, 0, first ^ 1u << 31), 300, "magic");
  ExpectProblem(With(plain, 0, first ^ 3u << 20), 300, "version");
  ExpectProblem(With(plain, 0, first | 8u << 16), 300, "flags");
  ExpectProblem(With(plain, 0, first & ~0xFFFFu), 300, "bin size");
  ExpectProblem(With(plain, 0, (first & ~0xFFFFu) | 16385), 300, "bin size");
  ExpectProblem(Sealed({0xAC140032, 0, 300, 0, 0, 0, 0}), 300, "room");
  ExpectProblem(With(plain, 3, 0x7F800000), 300, "scale");
  ExpectProblem(With(plain, 3, 0x80000001), 300, "scale");
  ExpectProblem(With(plain, 4, 301), 300, "more elements");
  ExpectProblem(With(plain, 4, plain[4] + 1), 300, "another number of elements than it claims");
  ExpectProblem(With(plain, 2, 301), 301, "make no sense");
  ExpectProblem(plain, 301, "for another number of elements");
  ExpectProblem(With(plain, 0, first | 2u << 16), 300, "skip packet with a body");
  ExpectProblem(With(plain, 5, plain[5] + 1), 300, "do not add up");
  ExpectProblem(With(plain, 5, plain[5] | 1u << 24), 300, "Rice");
  Words skip = {0xAC120032, 0, 300, 0, 0};
  EXPECT_EQ(Problem(Sealed(skip), 300), "");
  ExpectProblem(With(skip, 4, 1), 300, "skip packet that sends");
  ExpectProblem(With(skip, 3, 1), 300, "skip packet that sends");
  // A tensor of 2^63 elements or more, in a packet of 7 words.
  ExpectProblem(Sealed({0xAC140032, 0, 0, 0, 0, 0x80000000, 0}), 300, "room");
  ExpectProblem(Sealed({0xAC140032, 0, 0, 0, 0, 0x7FFFFFFF, 0}), 300, "segment table");
}

// A packet of one segment for n elements.
Words Body(int bin_size, int64_t n, uint32_t sent, bool entropy, int rice_bits, Words body) {
  Words packet = {0xAC100000u | (entropy ? 1u << 16 : 0) | static_cast<uint32_t>(bin_size),
                  0,
                  static_cast<uint32_t>(n),
                  0x3F800000,
                  sent,
                  SegmentEntry(static_cast<int64_t>(body.size()), rice_bits)};
  packet.insert(packet.end(), body.begin(), body.end());
  return Sealed(packet);
}

constexpr uint32_t Byte(int field, bool negative, bool first) {
  return static_cast<uint32_t>(field | (negative ? 0x40 : 0) | (first ? 0x80 : 0));
}

constexpr uint32_t Bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return a | b << 8 | c << 16 | d << 24;
}

TEST(AdaCompPacket, PlainCodes) {
  const auto body = [](uint32_t sent, const Words& words) {
    return Body(10, 25, sent, false, 0, words);  // bins of 10, 10 and 5
  };
  const uint32_t a = Byte(3, false, true), b = Byte(7, true, false);
  const Words good = body(3, {Bytes(a, b, 0, Byte(4, true, true))});
  const std::vector<float> y = DecodeAlone(good, 25);
  for (int i = 0; i < 25; ++i) EXPECT_EQ(y[i], i == 3 ? 1 : i == 7 || i == 24 ? -1 : 0) << i;
  // Three empty bins: 0 0 0 and filling, or a run.
  EXPECT_EQ(Problem(body(0, {0}), 25), "");
  EXPECT_EQ(Problem(body(0, {Bytes(0x40, 1, 0, 0)}), 25), "");
  const std::string nonsense = "make no sense";
  ExpectProblem(body(0, {Bytes(0x40, 2, 0, 0)}), 25, nonsense);            // a run too long
  ExpectProblem(body(0, {Bytes(0, 0, 0, 0x40)}), 25, nonsense);            // a run at the end
  ExpectProblem(body(0, {Bytes(0, 0, 0, 0), 0}), 25, nonsense);            // a word too many
  ExpectProblem(body(1, {Bytes(0, 0, Byte(5, 0, 1), 0)}), 25, nonsense);   // beyond the end
  ExpectProblem(body(1, {Bytes(Byte(10, 0, 1), 0, 0, 0)}), 25, nonsense);  // beyond the bin
  ExpectProblem(body(2, {Bytes(a, Byte(3, 0, 0), 0, 0)}), 25, nonsense);   // twice the same
  ExpectProblem(body(2, {Bytes(a, Byte(2, 0, 0), 0, 0)}), 25, nonsense);   // out of order
  ExpectProblem(body(1, {Bytes(Byte(1, 0, 0), 0, 0, 0)}), 25, nonsense);   // no first
  ExpectProblem(body(1, {Bytes(0, Byte(1, 0, 0), 0, 0)}), 25, nonsense);   // in an empty bin
  ExpectProblem(body(3, {Bytes(a, a, a, a)}), 25, nonsense);               // a bin too many
  ExpectProblem(body(2, {Bytes(0, a, a, 1)}), 25, nonsense);               // bad filling
  ExpectProblem(body(4, {Bytes(a, b, Byte(8, 0, 0), Byte(9, 0, 0))}), 25,
                nonsense);  // bins missing
  ExpectProblem(body(0, {}), 25, nonsense);
}

// Elements `plus` and `minus` are sent, and no others.
void ExpectSent(const Words& packet, int64_t n, int64_t plus, int64_t minus) {
  const std::vector<float> y = DecodeAlone(packet, n);
  for (int64_t i = 0; i < n; ++i) EXPECT_EQ(y[i], i == plus ? 1 : i == minus ? -1 : 0) << i;
}

TEST(AdaCompPacket, EmptyBinsBeforeAFirstCode) {
  const auto body = [](uint32_t sent, const Words& words) {
    return Body(10, 45, sent, false, 0, words);  // indices of 4 bits: up to 3 empty bins
  };
  const auto skip = [](int bins, int index) { return Byte(index | bins << 4, false, true); };
  const uint32_t minus = Byte(2 | 1 << 4, true, true);  // after one empty bin
  ExpectSent(body(2, {Bytes(skip(2, 9), minus, 0, 0)}), 45, 29, 42);
  ExpectSent(body(2, {Bytes(0, skip(1, 9), minus, 0)}), 45, 29, 42);
  ExpectSent(body(2, {Bytes(0x40, 0, skip(0, 9), minus)}), 45, 29, 42);
  EXPECT_EQ(Problem(body(1, {Bytes(0, skip(3, 4), 0, 0)}), 45), "");
  const std::string nonsense = "make no sense";
  ExpectProblem(body(1, {Bytes(0, skip(3, 5), 0, 0)}), 45, nonsense);     // beyond the end
  ExpectProblem(body(1, {Bytes(0, 0, skip(3, 0), 0)}), 45, nonsense);     // a bin too many
  ExpectProblem(body(1, {Bytes(skip(3, 10), 0, 0, 0)}), 45, nonsense);    // beyond the bin
  ExpectProblem(body(1, {Bytes(skip(2, 0), 0, 0, 1)}), 45, nonsense);     // in an empty bin
  ExpectProblem(body(1, {Bytes(skip(2, 1), 0, 0x40, 0)}), 45, nonsense);  // a run at the end
  ExpectProblem(body(1, {Bytes(skip(3, 1), 0x40, 0, 0)}), 45, nonsense);  // a run too long
  ExpectProblem(body(1, {Bytes(skip(2, 1), 0, 0, 0), 0}), 45, nonsense);  // a word too many
  ExpectProblem(body(1, {Bytes(0, 0, 0, skip(0, 1))}), 45, nonsense);     // a bin missing
  ExpectProblem(body(2, {Bytes(skip(3, 1), Byte(2 | 1 << 4, false, false), 0, 0)}), 45,
                nonsense);  // in a code that is not first
}

TEST(AdaCompPacket, EmptyBinsBeforeAFirstCodeOfOtherSizes) {
  const auto one = [](uint32_t sent, const Words& words) {
    return Body(1, 66, sent, false, 0, words);  // no bits of index: up to 63 empty bins
  };
  ExpectSent(one(2, {Bytes(Byte(63, false, true), Byte(1, true, true), 0, 0)}), 66, 63, 65);
  ExpectProblem(one(2, {Bytes(Byte(63, false, true), Byte(1, true, false), 0, 0)}), 66,
                "make no sense");
  // 9 bits of index: up to 31 empty bins; then as many bits as an index has.
  const auto halves = [](uint32_t a, uint32_t b) { return a | b << 16; };
  ExpectSent(Body(500, 33 * 500, 2, false, 0, {halves(0x8000 | 31 << 9 | 499, 0xC000)}), 33 * 500,
             31 * 500 + 499, 32 * 500);
  ExpectProblem(Body(500, 33 * 500, 2, false, 0, {halves(0x8000 | 31 << 9, 0xC000 | 1 << 9)}),
                33 * 500, "make no sense");
  ExpectSent(Body(16384, 32768, 2, false, 0, {halves(0xBFFF, 0xE000)}), 32768, 16383, 16384 + 8192);
}

TEST(AdaCompPacket, RiceCodes) {
  const auto body = [](uint32_t sent, int k, const Words& words) {
    return Body(10, 25, sent, true, k, words);
  };
  // k = 1: gap 4 = 2 zeros, a one, the sign, a 0; then gap 1 = a one, the sign, a 1.
  const std::vector<float> y = DecodeAlone(body(2, 1, {0b111'00100}), 25);
  EXPECT_EQ(y[4], 1);
  EXPECT_EQ(y[6], -1);
  EXPECT_EQ(std::count(y.begin(), y.end(), 0.0f), 23);
  EXPECT_EQ(Problem(body(0, 0, {}), 25), "");
  const std::string nonsense = "make no sense";
  ExpectProblem(body(0, 0, {0}), 25, nonsense);           // a word of nothing
  ExpectProblem(body(1, 0, {1u << 25}), 25, nonsense);    // beyond the end
  ExpectProblem(body(1, 1, {0x80000000}), 25, nonsense);  // a code cut short
  EXPECT_EQ(Problem(body(1, 15, {1}), 25), "");
  ExpectProblem(body(1, 15, {1u << 16 | 1}), 25, nonsense);  // a gap of 2^14
  ExpectProblem(body(1, 0, Words(999, 0)), 25, nonsense);
  ExpectProblem(body(1, 16, {1}), 25, "Rice");
}

TEST(AdaCompPacket, MoreThanFourGigaElements) {
  // 2^32 + 100 elements, all bins empty: a wide header, and runs of empty bins.
  const int64_t n = (int64_t{1} << 32) + 100;
  const BinLayout layout(n, 16384);
  EXPECT_EQ(layout.num_segments, 32769);
  PacketHeader header;
  header.num_elements = n;
  header.bin_size = 16384;
  Words packet(header.num_words());
  WritePacketHeader(header, packet.data());
  EXPECT_EQ(packet.size(), 7u);
  const Words full = {0x00064000}, last = {0};  // a run of 8 bins, one bin
  packet.insert(packet.end(), layout.num_segments, SegmentEntry(1, 0));
  for (int64_t i = 0; i < layout.num_segments; ++i) {
    packet.push_back(i + 1 < layout.num_segments ? full[0] : last[0]);
  }
  EXPECT_EQ(Problem(Sealed(packet), n), "");
  EXPECT_EQ(ParsePacketHeader(packet.data()).num_elements, n);
  ExpectProblem(Sealed(packet), 100, "for another number of elements");
}

}  // namespace
}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_ADACOMP_PACKET_CASES_H_

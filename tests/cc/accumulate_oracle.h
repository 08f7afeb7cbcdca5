// An oracle of narrow accumulation, written from the contract alone and in integers alone: one
// step round(s + a b) of the exact sum, and a whole dot product in chunks. Floats are their bits.
#ifndef TF_LOWPREC_TESTS_CC_ACCUMULATE_ORACLE_H_
#define TF_LOWPREC_TESTS_CC_ACCUMULATE_ORACLE_H_

#include <cstdint>
#include <cstdlib>

#include "cc/numerics/format.h"

namespace tf_lowprec {
namespace oracle {

using Wide = unsigned __int128;

constexpr uint32_t kNan = 0x7FC00000u, kInf = 0x7F800000u, kSign = 0x80000000u;
constexpr uint32_t kOne = 0x3F800000u;
constexpr int kRandomBits = 16;
constexpr FloatFormat kFloat32 = {8, 23, Specials::kIeee, false, true};

inline void Require(bool condition) {
  if (!condition) std::abort();  // the oracle is wrong
}

// units * 2^exponent, and `more`: something above 0 and below one unit besides.
struct Magnitude {
  Wide units;
  int exponent;
  bool more;
};

inline int Top(Wide x) {  // index of the leading bit, x > 0
  const uint64_t high = static_cast<uint64_t>(x >> 64), low = static_cast<uint64_t>(x);
  return high != 0 ? 127 - __builtin_clzll(high) : 63 - __builtin_clzll(low);
}

inline int LeadingExponent(const Magnitude& x) { return Top(x.units) + x.exponent; }

// The same magnitude with its leading bit at `top`, or lower units if bits are lost.
inline Magnitude WithTopAt(const Magnitude& x, int top) {
  const int shift = top - Top(x.units);
  if (shift >= 0) return {x.units << shift, x.exponent - shift, x.more};
  const bool lost = (x.units & ((Wide{1} << -shift) - 1)) != 0;
  return {x.units >> -shift, x.exponent - shift, x.more || lost};
}

// The same magnitude in units of 2^exponent, which are not smaller.
inline Magnitude InUnitsOf(const Magnitude& x, int exponent) {
  const int shift = exponent - x.exponent;
  Require(shift >= 0);
  if (shift >= 128) return {0, exponent, x.more || x.units != 0};
  const bool lost = (x.units & ((Wide{1} << shift) - 1)) != 0;
  return {x.units >> shift, exponent, x.more || lost};
}

// -1, 0 or 1 as x is below, equal to or above y, which has no `more`. Both are positive.
inline int Compare(const Magnitude& x, const Magnitude& y) {
  if (LeadingExponent(x) != LeadingExponent(y)) {
    return LeadingExponent(x) < LeadingExponent(y) ? -1 : 1;
  }
  const Wide a = WithTopAt(x, 127).units, b = WithTopAt(y, 127).units;
  if (a != b) return a < b ? -1 : 1;
  return x.more ? 1 : 0;
}

struct Signed {
  bool negative;
  Magnitude magnitude;  // units may be 0
};

// x + y, exact, with `more` where they are too far apart for 128 bits. A sum of 0 from numbers
// that are not both negative zeros is +0. x and y have at most 48 bits.
inline Signed Add(const Signed& x, const Signed& y) {
  const bool x_zero = x.magnitude.units == 0, y_zero = y.magnitude.units == 0;
  if (x_zero && y_zero) return {x.negative && y.negative, {0, 0, false}};
  if (y_zero) return x;
  if (x_zero) return y;
  const bool swap = LeadingExponent(x.magnitude) < LeadingExponent(y.magnitude);
  const Signed& large = swap ? y : x;
  const Signed& small = swap ? x : y;
  const Magnitude a = WithTopAt(large.magnitude, 110);
  Require(!a.more);
  Magnitude b = small.magnitude;
  if (b.exponent >= a.exponent) {
    b = {b.units << (b.exponent - a.exponent), a.exponent, false};  // up to bit 110
  } else {
    b = InUnitsOf(b, a.exponent);
  }
  if (large.negative == small.negative) {
    return {large.negative, {a.units + b.units, a.exponent, b.more}};
  }
  if (a.units >= b.units + (b.more ? 1 : 0)) {  // a - (b + more) = (a - b - 1) + (1 - more)
    const Wide units = a.units - b.units - (b.more ? 1 : 0);
    return {units != 0 && large.negative, {units, a.exponent, b.more}};
  }
  return {small.negative, {b.units - a.units, a.exponent, false}};  // the leading bits are equal
}

// n * 2^exponent as a float32, which holds it.
inline uint32_t Assemble(bool negative, uint64_t n, int exponent) {
  const uint32_t sign = negative ? kSign : 0;
  if (n == 0) return sign;
  while (n >= (1u << 24)) {
    Require((n & 1) == 0);
    n >>= 1, ++exponent;
  }
  while (n < (1u << 23) && exponent > -149) n <<= 1, --exponent;
  while (exponent < -149) {
    Require((n & 1) == 0);
    n >>= 1, ++exponent;
  }
  if (n < (1u << 23)) return sign | static_cast<uint32_t>(n);
  Require(exponent + 150 < 255);
  return sign | static_cast<uint32_t>(exponent + 150) << 23 | (n & 0x7FFFFFu);
}

// ---- A format, read from docs/formats.md. ----

inline int LowestExponent(const FloatFormat& f) {  // of the lowest normal binade
  const int bias = (1 << (f.exponent_bits - 1)) - 1;
  return f.specials == Specials::kDlfloat ? -bias : 1 - bias;
}

inline Magnitude Largest(const FloatFormat& f) {  // its units have m + 1 bits
  const int bias = (1 << (f.exponent_bits - 1)) - 1;
  int field = (1 << f.exponent_bits) - 1;
  uint64_t fraction = (uint64_t{1} << f.mantissa_bits) - 1;
  if (f.specials == Specials::kIeee) {
    --field;
  } else if (f.specials != Specials::kFinite) {
    if (fraction == 0) {
      --field;
    } else {
      --fraction;
    }
  }
  return {fraction + (uint64_t{1} << f.mantissa_bits), field - bias - f.mantissa_bits, false};
}

inline bool HasGap(const FloatFormat& f) {
  return !f.subnormals || f.specials == Specials::kDlfloat;
}

inline Magnitude SmallestAboveGap(const FloatFormat& f) {
  const uint64_t hidden = uint64_t{1} << f.mantissa_bits;
  return {f.specials == Specials::kDlfloat ? hidden + 1 : hidden,
          LowestExponent(f) - f.mantissa_bits, false};
}

inline uint32_t LargestBits(const FloatFormat& f, bool negative) {
  const Magnitude largest = Largest(f);
  return Assemble(negative, static_cast<uint64_t>(largest.units), largest.exponent);
}

// What infinity becomes, and what overflows unless it is rounded toward zero.
inline uint32_t InfinityBits(const FloatFormat& f, bool negative) {
  if (f.saturate || f.specials == Specials::kFinite) return LargestBits(f, negative);
  return f.specials == Specials::kIeee ? kInf | (negative ? kSign : 0) : kNan;
}

// ---- Rounding. ----

// x > 0 in units of 2^exponent, rounded to an integer. r has 16 bits.
inline uint64_t RoundToUnits(Magnitude x, int exponent, Rounding rounding, bool negative,
                             uint32_t r) {
  if (exponent <= x.exponent) {
    Require(!x.more);
    return static_cast<uint64_t>(x.units << (x.exponent - exponent));
  }
  // 100 bits below the unit at most, so that none is lost above.
  if (exponent - x.exponent > 100) x = InUnitsOf(x, exponent - 100);
  int cut = exponent - x.exponent;
  if (cut < kRandomBits) {
    Require(!x.more);
    x.units <<= kRandomBits - cut;
    cut = kRandomBits;
  }
  const uint64_t below = static_cast<uint64_t>(x.units >> cut);
  const Wide rest = x.units & ((Wide{1} << cut) - 1), half = Wide{1} << (cut - 1);
  switch (rounding) {
    case Rounding::kTowardZero:
      return below;
    case Rounding::kStochastic:  // r is a multiple of the units: `more` cannot carry
      return static_cast<uint64_t>((x.units + (Wide{r} << (cut - kRandomBits))) >> cut);
    default:
      break;
  }
  if (rest != half || x.more) return below + (rest >= half ? 1 : 0);
  return below + (rounding == Rounding::kNearestEven ? below & 1 : (negative ? 0 : 1));
}

// Whether x, between 0 and the smallest value, goes up to it.
inline bool LeavesGap(const Magnitude& x, const Magnitude& smallest, Rounding rounding,
                      bool negative, uint32_t r) {
  switch (rounding) {
    case Rounding::kTowardZero:
      return false;
    case Rounding::kStochastic:  // x / smallest + r 2^-16 >= 1
      return Compare({x.units, x.exponent + kRandomBits, x.more},
                     {smallest.units * ((1u << kRandomBits) - r), smallest.exponent, false}) >= 0;
    default:
      break;
  }
  const int compared = Compare({x.units, x.exponent + 1, x.more}, smallest);
  return compared > 0 || (compared == 0 && rounding == Rounding::kNearestUp && !negative);
}

inline uint32_t Round(const Signed& x, const FloatFormat& f, Rounding rounding, uint32_t r) {
  const uint32_t sign = x.negative ? kSign : 0;
  const Magnitude& magnitude = x.magnitude;
  if (magnitude.units == 0) {
    Require(!magnitude.more);
    return sign;
  }
  const Magnitude smallest = SmallestAboveGap(f);
  if (HasGap(f) && Compare(magnitude, smallest) < 0) {
    if (!LeavesGap(magnitude, smallest, rounding, x.negative, r)) return sign;
    return Assemble(x.negative, static_cast<uint64_t>(smallest.units), smallest.exponent);
  }
  const int leading = LeadingExponent(magnitude), lowest = LowestExponent(f);
  const int unit = (leading > lowest ? leading : lowest) - f.mantissa_bits;
  const uint64_t whole = RoundToUnits(magnitude, unit, rounding, x.negative, r);
  const Magnitude largest = Largest(f);
  if (whole != 0 && Compare({whole, unit, false}, largest) > 0) {
    return rounding == Rounding::kTowardZero ? LargestBits(f, x.negative)
                                             : InfinityBits(f, x.negative);
  }
  return Assemble(x.negative, whole, unit);
}

inline bool IsNan(uint32_t x) { return (x & ~kSign) > kInf; }
inline bool IsInf(uint32_t x) { return (x & ~kSign) == kInf; }
inline bool IsZero(uint32_t x) { return (x & ~kSign) == 0; }

inline Signed Decode(uint32_t x) {
  const uint32_t field = (x >> 23) & 0xFFu, fraction = x & 0x7FFFFFu;
  const uint32_t significand = field == 0 ? fraction : fraction | 0x800000u;
  return {(x & kSign) != 0,
          {significand, field == 0 ? -149 : static_cast<int>(field) - 150, false}};
}

// round(s + a b).
inline uint32_t Step(uint32_t s, uint32_t a, uint32_t b, const FloatFormat& f, Rounding rounding,
                     uint32_t r) {
  if (IsNan(s) || IsNan(a) || IsNan(b)) return kNan;
  const bool negative = ((a ^ b) & kSign) != 0;
  if (IsInf(a) || IsInf(b)) {
    if (IsZero(a) || IsZero(b)) return kNan;
    if (IsInf(s) && ((s & kSign) != 0) != negative) return kNan;
    return InfinityBits(f, negative);
  }
  if (IsInf(s)) return InfinityBits(f, (s & kSign) != 0);
  const Magnitude x = Decode(a).magnitude, y = Decode(b).magnitude;
  const Signed product = {negative, {x.units * y.units, x.exponent + y.exponent, false}};
  return Round(Add(Decode(s), product), f, rounding, r);
}

// ---- Random bits. ----

inline uint32_t PhiloxWord(uint64_t index, uint64_t stream, uint32_t key0, uint32_t key1) {
  uint32_t x[4] = {static_cast<uint32_t>(index / 4), static_cast<uint32_t>(index / 4 >> 32),
                   static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  for (uint32_t round = 0; round < 10; ++round) {
    const uint64_t p = uint64_t{x[0]} * 0xD2511F53u, q = uint64_t{x[2]} * 0xCD9E8D57u;
    const uint32_t k0 = key0 + round * 0x9E3779B9u, k1 = key1 + round * 0xBB67AE85u;
    const uint32_t y[4] = {static_cast<uint32_t>(q >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(q),
                           static_cast<uint32_t>(p >> 32) ^ x[3] ^ k1, static_cast<uint32_t>(p)};
    for (int i = 0; i < 4; ++i) x[i] = y[i];
  }
  return x[index % 4];
}

// The r of an output element's roundings, one after the other.
class RandomSource {
 public:
  RandomSource(uint64_t element, uint64_t stream, uint32_t key0, uint32_t key1)
      : state_(PhiloxWord(element, stream, key0, key1)) {
    if (state_ == 0) state_ = 1;
  }
  explicit RandomSource(const int32_t* given) : given_(given) {}

  uint32_t Next() {
    if (given_ != nullptr) return static_cast<uint32_t>(*given_++);
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    state_ ^= state_ << 5;
    return state_ >> 16;
  }

 private:
  uint32_t state_ = 0;
  const int32_t* given_ = nullptr;
};

// ---- A dot product: a[k * a_step] b[k * b_step] over k, in chunks if chunk > 0. ----
struct Dot {
  FloatFormat format;
  Rounding rounding;
  int64_t chunk;

  uint32_t operator()(const uint32_t* a, int64_t a_step, const uint32_t* b, int64_t b_step,
                      int64_t k, RandomSource random) const {
    const auto step = [&](uint32_t s, uint32_t x, uint32_t y) {
      const uint32_t r = rounding == Rounding::kStochastic ? random.Next() : 0;
      return Step(s, x, y, format, rounding, r);
    };
    uint32_t total = 0, sum = 0;
    for (int64_t i = 0; i < k; ++i) {
      sum = step(sum, a[i * a_step], b[i * b_step]);
      if (chunk > 0 && ((i + 1) % chunk == 0 || i + 1 == k)) {
        total = step(total, sum, kOne);
        sum = 0;
      }
    }
    return chunk > 0 ? total : sum;
  }
};

}  // namespace oracle
}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_ACCUMULATE_ORACLE_H_

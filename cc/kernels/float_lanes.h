// Registers of floats with the few operations that accumulation needs, for the instruction set that
// the including file is compiled for. FloatLanes hold float32, DoubleLanes float64.
#ifndef TF_LOWPREC_CC_KERNELS_FLOAT_LANES_H_
#define TF_LOWPREC_CC_KERNELS_FLOAT_LANES_H_

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

#if defined(__AVX2__)
constexpr bool kHasFma = true;
#else
constexpr bool kHasFma = false;
#endif

#if defined(__AVX512F__)

struct FloatLanes {
  using Vector = __m512;
  using Bits = uint32_t;
  static constexpr int kLanes = 16, kMantissaBits = 23;
  static Vector Set(float x) { return _mm512_set1_ps(x); }
  static Vector SetBits(Bits x) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(x)));
  }
  static Vector Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static Vector Fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector Product(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector ProductMinus(Vector a, Vector b, Vector c) { return _mm512_fmsub_ps(a, b, c); }
  static Vector Add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector Sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector Max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static Vector And(Vector a, Vector b) { return _mm512_and_ps(a, b); }
  static Vector Or(Vector a, Vector b) { return _mm512_or_ps(a, b); }
  static Vector AddBits(Vector a, Vector b) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  }
  // For a b that is the same all through a loop.
  static Vector AddFixedBits(Vector a, const Vector& b) { return AddBits(a, b); }
  static Vector OrAnd(Vector a, Vector b, Vector c) {  // a | (b & c)
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
        _mm512_castps_si512(a), _mm512_castps_si512(b), _mm512_castps_si512(c), 0xF8));
  }
  static Vector IfLess(Vector x, Vector y, Vector yes, Vector no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), no, yes);
  }
  static Vector IfNan(Vector x, Vector yes, Vector no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), no, yes);
  }
  // a b + c rounded to odd: where it is inexact, the neighbour toward zero with its last bit set.
  static Vector FmaToOdd(Vector a, Vector b, Vector c) {
    const Vector down = _mm512_fmadd_round_ps(a, b, c, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    const Vector up = _mm512_fmadd_round_ps(a, b, c, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
    // The smaller magnitude, with up's sign: an exact zero is -0 only when rounding down.
    const Vector inner = _mm512_range_ps(up, down, 2);
    return OrAnd(inner, _mm512_xor_ps(down, up), SetBits(1));
  }
  static bool AllEqual(Vector a, Vector b, Vector c, Vector d) {  // a and b, c and d, in all lanes
    return (_mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ) | _mm512_cmp_ps_mask(c, d, _CMP_NEQ_UQ)) == 0;
  }
  static Vector LoadBits(const uint32_t* p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
  static void StoreBits(uint32_t* p, Vector v) { _mm512_storeu_si512(p, _mm512_castps_si512(v)); }
  static Vector Xor(Vector a, Vector b) { return _mm512_xor_ps(a, b); }
  static Vector Xor(Vector a, Vector b, Vector c) {
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
        _mm512_castps_si512(a), _mm512_castps_si512(b), _mm512_castps_si512(c), 0x96));
  }
  static Vector MaxBits(Vector a, Vector b) {  // as unsigned integers
    return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  }
  static Vector ShiftLeft(Vector a, int count) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), count));
  }
  static Vector ShiftRight(Vector a, int count) {
    return _mm512_castsi512_ps(_mm512_srli_epi32(_mm512_castps_si512(a), count));
  }
  static Vector ShiftRightBy(Vector a, Vector counts) {
    return _mm512_castsi512_ps(
        _mm512_srlv_epi32(_mm512_castps_si512(a), _mm512_castps_si512(counts)));
  }
  // The upper 16 bits of the product of the lower halves, which for the upper halves' is 0 as b's.
  static Vector LowHalfProduct(Vector a, Vector b) {
    return _mm512_castsi512_ps(_mm512_mulhi_epu16(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  }
  static bool AnyBits(Vector a) {
    return _mm512_test_epi32_mask(_mm512_castps_si512(a), _mm512_castps_si512(a)) != 0;
  }
  static bool AnyZeroBits(Vector a, Vector b) {  // whether (a & b) == 0 in some lane
    return _mm512_testn_epi32_mask(_mm512_castps_si512(a), _mm512_castps_si512(b)) != 0;
  }
};

struct DoubleLanes {
  using Vector = __m512d;
  using Bits = uint64_t;
  static constexpr int kLanes = 8, kMantissaBits = 52;
  static Vector Set(double x) { return _mm512_set1_pd(x); }
  static Vector SetBits(Bits x) {
    return _mm512_castsi512_pd(_mm512_set1_epi64(static_cast<int64_t>(x)));
  }
  static Vector Load(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
  static void Store(float* p, Vector v) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(v)); }
  static Vector Fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_pd(a, b, c); }
  static Vector Product(Vector a, Vector b) { return _mm512_mul_pd(a, b); }
  static Vector ProductMinus(Vector a, Vector b, Vector c) { return _mm512_fmsub_pd(a, b, c); }
  static Vector Add(Vector a, Vector b) { return _mm512_add_pd(a, b); }
  static Vector Sub(Vector a, Vector b) { return _mm512_sub_pd(a, b); }
  static Vector Max(Vector a, Vector b) { return _mm512_max_pd(a, b); }
  static Vector And(Vector a, Vector b) { return _mm512_and_pd(a, b); }
  static Vector AddBits(Vector a, Vector b) {
    return _mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(a), _mm512_castpd_si512(b)));
  }
  static Vector AddFixedBits(Vector a, const Vector& b) { return AddBits(a, b); }
  static Vector OrAnd(Vector a, Vector b, Vector c) {
    return _mm512_castsi512_pd(_mm512_ternarylogic_epi64(
        _mm512_castpd_si512(a), _mm512_castpd_si512(b), _mm512_castpd_si512(c), 0xF8));
  }
  static Vector IfNan(Vector x, Vector yes, Vector no) {
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(x, x, _CMP_UNORD_Q), no, yes);
  }
};

#elif defined(__AVX2__)

struct FloatLanes {
  using Vector = __m256;
  using Bits = uint32_t;
  static constexpr int kLanes = 8, kMantissaBits = 23;
  static Vector Set(float x) { return _mm256_set1_ps(x); }
  static Vector SetBits(Bits x) {
    return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(x)));
  }
  static Vector Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  static Vector Fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Vector Product(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector ProductMinus(Vector a, Vector b, Vector c) { return _mm256_fmsub_ps(a, b, c); }
  static Vector Add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector Sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector Max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static Vector And(Vector a, Vector b) { return _mm256_and_ps(a, b); }
  static Vector Or(Vector a, Vector b) {
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_castps_si256(a), _mm256_castps_si256(b)));
  }
  static Vector AddBits(Vector a, Vector b) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
  }
  // From memory: a loop's 16 registers are taken, and to keep b in one would cost a sum its own.
  static Vector AddFixedBits(Vector a, const Vector& b) {
    Vector sum;
    __asm__("vpaddd %2, %1, %0" : "=x"(sum) : "x"(a), "m"(b));
    return sum;
  }
  static Vector OrAnd(Vector a, Vector b, Vector c) { return _mm256_or_ps(a, _mm256_and_ps(b, c)); }
  static Vector IfLess(Vector x, Vector y, Vector yes, Vector no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
  }
  static Vector IfNan(Vector x, Vector yes, Vector no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
  static bool AllEqual(Vector a, Vector b, Vector c, Vector d) {  // a and b, c and d, in all lanes
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ),
                                           _mm256_cmp_ps(c, d, _CMP_NEQ_UQ))) == 0;
  }
  static Vector LoadBits(const uint32_t* p) {
    return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void StoreBits(uint32_t* p, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_castps_si256(v));
  }
  static Vector Xor(Vector a, Vector b) {
    return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_castps_si256(a), _mm256_castps_si256(b)));
  }
  static Vector Xor(Vector a, Vector b, Vector c) { return Xor(Xor(a, b), c); }
  static Vector MaxBits(Vector a, Vector b) {  // as unsigned integers
    return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
  }
  static Vector MinBits(Vector a, Vector b) {  // as signed integers
    return _mm256_castsi256_ps(_mm256_min_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
  }
  static bool AnyLess(Vector a, Vector b) {  // in some lane, as signed integers
    return _mm256_movemask_ps(_mm256_castsi256_ps(
               _mm256_cmpgt_epi32(_mm256_castps_si256(b), _mm256_castps_si256(a)))) != 0;
  }
  static bool AnyBits(Vector a) {
    return _mm256_testz_si256(_mm256_castps_si256(a), _mm256_castps_si256(a)) == 0;
  }
  static Vector ShiftLeft(Vector a, int count) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), count));
  }
  static Vector ShiftRight(Vector a, int count) {
    return _mm256_castsi256_ps(_mm256_srli_epi32(_mm256_castps_si256(a), count));
  }
  static Vector ShiftRightBy(Vector a, Vector counts) {
    return _mm256_castsi256_ps(
        _mm256_srlv_epi32(_mm256_castps_si256(a), _mm256_castps_si256(counts)));
  }
  static Vector LowHalfProduct(Vector a, Vector b) {
    return _mm256_castsi256_ps(_mm256_mulhi_epu16(_mm256_castps_si256(a), _mm256_castps_si256(b)));
  }
  static bool AnyZeroBits(Vector a, Vector b) {
    const __m256i both = _mm256_castps_si256(_mm256_and_ps(a, b));
    const __m256i zero = _mm256_cmpeq_epi32(both, _mm256_setzero_si256());
    return _mm256_movemask_ps(_mm256_castsi256_ps(zero)) != 0;
  }
};

struct DoubleLanes {
  using Vector = __m256d;
  using Bits = uint64_t;
  static constexpr int kLanes = 4, kMantissaBits = 52;
  static Vector Set(double x) { return _mm256_set1_pd(x); }
  static Vector SetBits(Bits x) {
    return _mm256_castsi256_pd(_mm256_set1_epi64x(static_cast<int64_t>(x)));
  }
  static Vector Load(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
  static void Store(float* p, Vector v) { _mm_storeu_ps(p, _mm256_cvtpd_ps(v)); }
  // The halves of a FloatLanes::Vector, and back.
  static Vector Low(__m256 v) { return _mm256_cvtps_pd(_mm256_castps256_ps128(v)); }
  static Vector High(__m256 v) { return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)); }
  static __m256 Join(Vector low, Vector high) {
    return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low));
  }
  static Vector Fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_pd(a, b, c); }
  static Vector Product(Vector a, Vector b) { return _mm256_mul_pd(a, b); }
  static Vector ProductMinus(Vector a, Vector b, Vector c) { return _mm256_fmsub_pd(a, b, c); }
  static Vector Add(Vector a, Vector b) { return _mm256_add_pd(a, b); }
  static Vector Sub(Vector a, Vector b) { return _mm256_sub_pd(a, b); }
  static Vector Max(Vector a, Vector b) { return _mm256_max_pd(a, b); }
  static Vector And(Vector a, Vector b) { return _mm256_and_pd(a, b); }
  static Vector ShiftLeft(Vector a, int count) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(a), count));
  }
  // As signed integers, by the high half alone: AVX2 compares 32 bits faster. The rest is noise.
  static Vector MinBits(Vector a, Vector b) {
    return _mm256_castsi256_pd(_mm256_min_epi32(_mm256_castpd_si256(a), _mm256_castpd_si256(b)));
  }
  static bool AnyLess(Vector a, Vector b) {
    return _mm256_movemask_pd(_mm256_castsi256_pd(
               _mm256_cmpgt_epi32(_mm256_castpd_si256(b), _mm256_castpd_si256(a)))) != 0;
  }
  static Vector AddBits(Vector a, Vector b) {
    return _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(a), _mm256_castpd_si256(b)));
  }
  static Vector AddFixedBits(Vector a, const Vector& b) {
    Vector sum;
    __asm__("vpaddq %2, %1, %0" : "=x"(sum) : "x"(a), "m"(b));
    return sum;
  }
  static Vector OrAnd(Vector a, Vector b, Vector c) { return _mm256_or_pd(a, _mm256_and_pd(b, c)); }
  static Vector IfNan(Vector x, Vector yes, Vector no) {
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(x, x, _CMP_UNORD_Q));
  }
  // As AddToOdd of cc/numerics/accumulate.h; the product is exact.
  static Vector FmaToOdd(Vector a, Vector b, Vector c) {
    const Vector p = _mm256_mul_pd(a, b), t = Add(c, p), back = Sub(t, c);
    const Vector error = Add(Sub(c, Sub(t, back)), Sub(p, back));
    const Vector inexact = _mm256_cmp_pd(error, _mm256_setzero_pd(), _CMP_NEQ_OQ);
    const Vector beyond = _mm256_castsi256_pd(
        _mm256_cmpgt_epi64(_mm256_setzero_si256(), _mm256_castpd_si256(_mm256_xor_pd(error, t))));
    return OrAnd(AddBits(t, And(inexact, beyond)), inexact, SetBits(1));
  }
};

#else

// GCC's and Clang's own vectors, whatever the machine has. No FMA: a product has to be exact.
template <typename T, typename Int, typename UInt, int kCount>
struct PortableLanes {
  typedef T Vector __attribute__((vector_size(kCount * sizeof(T))));
  typedef Int Integers __attribute__((vector_size(kCount * sizeof(T))));
  typedef UInt Unsigned __attribute__((vector_size(kCount * sizeof(T))));
  using Bits = UInt;
  static constexpr int kLanes = kCount, kMantissaBits = sizeof(T) == 4 ? 23 : 52;
  static Vector Set(T x) { return x - Vector{}; }
  static Vector SetBits(Bits x) {
    return reinterpret_cast<Vector>(static_cast<Int>(x) - Integers{});
  }
  static Vector Load(const float* p) {
    Vector v = {};
    for (int i = 0; i < kCount; ++i) v[i] = static_cast<T>(p[i]);
    return v;
  }
  static void Store(float* p, Vector v) {
    for (int i = 0; i < kCount; ++i) p[i] = static_cast<float>(v[i]);
  }
  static Vector Fma(Vector a, Vector b, Vector c) { return a * b + c; }
  static Vector Product(Vector a, Vector b) { return a * b; }
  static Vector ProductMinus(Vector a, Vector b, Vector c) { return a * b - c; }
  static Vector Add(Vector a, Vector b) { return a + b; }
  static Vector Sub(Vector a, Vector b) { return a - b; }
  static Vector Max(Vector a, Vector b) { return a > b ? a : b; }
  static Vector And(Vector a, Vector b) {
    return reinterpret_cast<Vector>(reinterpret_cast<Integers>(a) & reinterpret_cast<Integers>(b));
  }
  static Vector Or(Vector a, Vector b) {
    return reinterpret_cast<Vector>(reinterpret_cast<Integers>(a) | reinterpret_cast<Integers>(b));
  }
  static Vector MaxBits(Vector a, Vector b) {
    const Unsigned x = reinterpret_cast<Unsigned>(a), y = reinterpret_cast<Unsigned>(b);
    return reinterpret_cast<Vector>(x > y ? x : y);
  }
  static Vector MinBits(Vector a, Vector b) {
    const Integers x = reinterpret_cast<Integers>(a), y = reinterpret_cast<Integers>(b);
    return reinterpret_cast<Vector>(x < y ? x : y);
  }
  static bool AllEqual(Vector a, Vector b, Vector c, Vector d) {
    const Integers differ = reinterpret_cast<Integers>(a != b) | reinterpret_cast<Integers>(c != d);
    Int any = 0;
    for (int i = 0; i < kCount; ++i) any |= differ[i];
    return any == 0;
  }
  static bool AnyLess(Vector a, Vector b) {
    const Integers less = reinterpret_cast<Integers>(a) < reinterpret_cast<Integers>(b);
    Int any = 0;
    for (int i = 0; i < kCount; ++i) any |= less[i];
    return any != 0;
  }
  static Vector AddBits(Vector a, Vector b) {
    return reinterpret_cast<Vector>(reinterpret_cast<Unsigned>(a) + reinterpret_cast<Unsigned>(b));
  }
  static Vector AddFixedBits(Vector a, const Vector& b) { return AddBits(a, b); }
  static Vector OrAnd(Vector a, Vector b, Vector c) {
    return reinterpret_cast<Vector>(
        reinterpret_cast<Integers>(a) |
        (reinterpret_cast<Integers>(b) & reinterpret_cast<Integers>(c)));
  }
  static Vector IfLess(Vector x, Vector y, Vector yes, Vector no) { return x < y ? yes : no; }
  static Vector IfNan(Vector x, Vector yes, Vector no) { return x == x ? no : yes; }
  static Vector FmaToOdd(Vector a, Vector b, Vector c) {
    const Vector p = a * b, t = c + p, back = t - c;
    const Vector error = (c - (t - back)) + (p - back);
    const Vector inexact = reinterpret_cast<Vector>(error != 0);
    const Vector beyond = reinterpret_cast<Vector>(
        (reinterpret_cast<Integers>(error) ^ reinterpret_cast<Integers>(t)) < 0);
    return OrAnd(AddBits(t, And(inexact, beyond)), inexact, SetBits(1));
  }
  static Vector LoadBits(const UInt* p) {
    Vector v = {};
    memcpy(&v, p, sizeof(v));
    return v;
  }
  static void StoreBits(UInt* p, Vector v) { memcpy(p, &v, sizeof(v)); }
  static Vector Xor(Vector a, Vector b) {
    return reinterpret_cast<Vector>(reinterpret_cast<Integers>(a) ^ reinterpret_cast<Integers>(b));
  }
  static Vector Xor(Vector a, Vector b, Vector c) { return Xor(Xor(a, b), c); }
  static Vector ShiftLeft(Vector a, int count) {
    return reinterpret_cast<Vector>(reinterpret_cast<Unsigned>(a) << static_cast<UInt>(count));
  }
  static Vector ShiftRight(Vector a, int count) {
    return reinterpret_cast<Vector>(reinterpret_cast<Unsigned>(a) >> static_cast<UInt>(count));
  }
  static Vector ShiftRightBy(Vector a, Vector counts) {
    return reinterpret_cast<Vector>(reinterpret_cast<Unsigned>(a) >>
                                    reinterpret_cast<Unsigned>(counts));
  }
  static Vector LowHalfProduct(Vector a, Vector b) {
    const UInt low = 0xFFFF;
    return reinterpret_cast<Vector>(
        ((reinterpret_cast<Unsigned>(a) & low) * reinterpret_cast<Unsigned>(b)) >> UInt{16});
  }
  static bool AnyZeroBits(Vector a, Vector b) {
    const Integers both = reinterpret_cast<Integers>(And(a, b));
    bool any = false;
    for (int i = 0; i < kCount; ++i) any |= both[i] == 0;
    return any;
  }
};
using FloatLanes = PortableLanes<float, int32_t, uint32_t, 4>;
using DoubleLanes = PortableLanes<double, int64_t, uint64_t, 2>;

#endif

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_FLOAT_LANES_H_

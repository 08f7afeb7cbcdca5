// The loops of AlignedMatMul, compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_ALIGNED_MATMUL_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_ALIGNED_MATMUL_LOOPS_H_

#include "cc/kernels/aligned_matmul.h"
#include "cc/kernels/aligned_spec.h"

LOWPREC_BEGIN_NAMESPACE

constexpr int kLanes = AlignedMatMulTask::kLanes;
// Of a zero operand: no sum of two with it is as large as one of two others.
constexpr int kZeroExponent = -64;

LOWPREC_HD bool IsSpecial(float x) { return x - x != 0.0f; }

LOWPREC_HD int8_t PackedExponent(float x, const AlignedOperand& format) {
  const int exponent = ExponentOf(x, format.min_exponent);
  return static_cast<int8_t>(x == 0.0f ? kZeroExponent : exponent < 63 ? exponent : 63);
}

inline void PackA(const AlignedMatMulTask& task, int64_t begin, int64_t end) {
  const int64_t row_step = task.transpose_a ? 1 : task.k;
  const int64_t k_step = task.transpose_a ? task.m : 1;
  for (int64_t i = begin; i < end; ++i) {
    const float* x = task.a + i * row_step;
    float* out = task.packed_a + i * task.k;
    int8_t* exponents = task.a_exponents + i * task.k;
    bool special = false;
    for (int64_t k = 0; k < task.k; ++k) {
      out[k] = x[k * k_step];
      exponents[k] = PackedExponent(out[k], task.a_format);
      special |= IsSpecial(out[k]);
    }
    task.a_is_special[i] = special;
  }
}

inline void PackB(const AlignedMatMulTask& task, int64_t begin, int64_t end) {
  const int64_t k_step = task.transpose_b ? 1 : task.n;
  const int64_t column_step = task.transpose_b ? task.k : 1;
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t column = panel * kLanes, left = task.n - column;
    const int width = static_cast<int>(left < kLanes ? left : kLanes);
    float* out = task.packed_b + panel * task.k * kLanes;
    int8_t* exponents = task.b_exponents + panel * task.k * kLanes;
    bool special = false;
    for (int64_t k = 0; k < task.k; ++k, out += kLanes, exponents += kLanes) {
      const float* x = task.b + k * k_step + column * column_step;
      for (int j = 0; j < kLanes; ++j) out[j] = j < width ? x[j * column_step] : 0.0f;
      for (int j = 0; j < kLanes; ++j) {
        exponents[j] = PackedExponent(out[j], task.b_format);
        special |= IsSpecial(out[j]);
      }
    }
    task.b_is_special[panel] = special;
  }
}

// Sums of one row and a panel's columns. A group's terms in units of 2^(e - fraction bits), e the
// largest exponent, are cut by the conversion to integers.
inline void MultiplyRow(const AlignedMatMulTask& task, const float* a, const int8_t* a_exponents,
                        const float* b, const int8_t* b_exponents, float* c) {
  alignas(64) float sum[kLanes] = {}, total[kLanes] = {}, scale[kLanes], unit[kLanes];
  alignas(64) int32_t units[kLanes];
  alignas(64) int8_t top[kLanes];
  const uint32_t keep = ~((1u << (23 - task.mantissa_bits)) - 1);
  int64_t since = 0;  // terms since the sum was last promoted
  for (int64_t first = 0; first < task.k; first += task.group) {
    const int64_t left = task.k - first;
    const int64_t count = left < task.group ? left : task.group;
    const float* bk = b + first * kLanes;
    const int8_t* ek = b_exponents + first * kLanes;
    for (int j = 0; j < kLanes; ++j) top[j] = 2 * kZeroExponent;
    for (int64_t k = 0; k < count; ++k) {
      const int8_t ea = a_exponents[first + k];
      for (int j = 0; j < kLanes; ++j) {
        const int8_t exponent = static_cast<int8_t>(ea + ek[k * kLanes + j]);
        top[j] = exponent > top[j] ? exponent : top[j];
      }
    }
    for (int j = 0; j < kLanes; ++j) {
      const int32_t of_sum = static_cast<int32_t>((ToBits<float>(sum[j]) >> 23) & 0xFFu) - 127;
      int32_t e = of_sum > top[j] ? of_sum : top[j];
      e = e > -100 ? e : -100;  // all zeros: any will do
      scale[j] = FromBits<float>(static_cast<uint32_t>(127 + task.fraction_bits - e) << 23);
      unit[j] = FromBits<float>(static_cast<uint32_t>(127 - task.fraction_bits + e) << 23);
      units[j] = static_cast<int32_t>(sum[j] * scale[j]);
    }
    for (int64_t k = 0; k < count; ++k) {
      const float x = a[first + k];
      for (int j = 0; j < kLanes; ++j) {
        units[j] += static_cast<int32_t>(x * bk[k * kLanes + j] * scale[j]);
      }
    }
    for (int j = 0; j < kLanes; ++j) {
      const float exact = static_cast<float>(units[j]);
      sum[j] = FromBits<float>(ToBits<float>(exact) & keep) * unit[j];
    }
    since += count;
    if (since == task.promote) {
      for (int j = 0; j < kLanes; ++j) total[j] += sum[j];
      for (int j = 0; j < kLanes; ++j) sum[j] = 0.0f;
      since = 0;
    }
  }
  for (int j = 0; j < kLanes; ++j) c[j] = task.promote > 0 ? total[j] + sum[j] : sum[j];
}

// The same for one column, from operands of any kind.
inline float MultiplyOne(const AlignedMatMulTask& task, const float* a, const float* b) {
  const AlignedSpec spec = SpecOf(task);
  AlignedSum sum(task.promote);
  for (int64_t first = 0; first < task.k; first += task.group) {
    const int64_t left = task.k - first;
    const int count = static_cast<int>(left < task.group ? left : task.group);
    sum.AddGroup(spec, a + first, 1, b + first * kLanes, kLanes, count);
  }
  return sum.Result();
}

inline void Multiply(const AlignedMatMulTask& task, int64_t begin, int64_t end) {
  constexpr int64_t kRows = AlignedMatMul::kTileRows;
  const int64_t blocks = (task.m + kRows - 1) / kRows;
  const bool is_fast = task.IsFast();
  alignas(64) float row[kLanes];
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t panel = tile / blocks, top = tile % blocks * kRows;
    const int64_t bottom = top + kRows < task.m ? top + kRows : task.m;
    const int64_t column = panel * kLanes, left = task.n - column;
    const int width = static_cast<int>(left < kLanes ? left : kLanes);
    const float* b = task.packed_b + panel * task.k * kLanes;
    for (int64_t i = top; i < bottom; ++i) {
      const float* a = task.packed_a + i * task.k;
      if (is_fast && !task.a_is_special[i] && !task.b_is_special[panel]) {
        MultiplyRow(task, a, task.a_exponents + i * task.k, b,
                    task.b_exponents + panel * task.k * kLanes, row);
      } else {
        for (int j = 0; j < width; ++j) row[j] = MultiplyOne(task, a, b + j);
      }
      float* c = task.c + i * task.n + column;
      for (int j = 0; j < width; ++j) c[j] = row[j];
    }
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_ALIGNED_MATMUL_LOOPS_H_

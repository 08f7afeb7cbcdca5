// Packing of operands into panels, rounded on the way; compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_PACK_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_PACK_LOOPS_H_

#include <cstring>

#include "cc/kernels/matmul.h"
#include "cc/kernels/step_bounds.h"
#include "cc/kernels/tile_shape.h"

LOWPREC_BEGIN_NAMESPACE

inline void RoundStages(const PackTask& task, const float* x, int64_t index, int64_t count,
                        float* y, QuantizeFn quantize) {
  for (int stage = 0; stage < task.num_stages; ++stage) {
    QuantizeTask q = task.stages[stage];
    q.x32 = stage == 0 ? x : y;
    q.y = y;
    q.index = index;
    quantize(q, 0, count);
  }
}

LOWPREC_HD void Include(PanelRange& range, float value) {
  const uint32_t magnitude = ToBits<float>(value) & 0x7FFFFFFFu;
  range.max_bits = Max(range.max_bits, magnitude);
  range.min_bits_minus_1 = Min(range.min_bits_minus_1, magnitude - 1);
}

// x[index, index + count) of the operand, rounded, in `room` if that takes any work.
inline const float* Rounded(const PackTask& task, int64_t index, int64_t count, float* room,
                            QuantizeFn quantize) {
  if (task.num_stages == 0) return task.x + index;
  RoundStages(task, task.x + index, task.index + index, count, room, quantize);
  return room;
}

// Threads that pack different k of one panel meet here.
inline void Merge(PanelRange& into, const PanelRange& range) {
  uint32_t seen = __atomic_load_n(&into.max_bits, __ATOMIC_RELAXED);
  while (seen < range.max_bits &&
         !__atomic_compare_exchange_n(&into.max_bits, &seen, range.max_bits, true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  seen = __atomic_load_n(&into.min_bits_minus_1, __ATOMIC_RELAXED);
  while (seen > range.min_bits_minus_1 &&
         !__atomic_compare_exchange_n(&into.min_bits_minus_1, &seen, range.min_bits_minus_1, true,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

// Four lanes' next four floats, turned into four k's of four lanes.
typedef float Quad __attribute__((vector_size(16)));
typedef int32_t QuadIndex __attribute__((vector_size(16)));

LOWPREC_HD Quad LoadQuad(const float* p) {
  Quad q = {};
  memcpy(&q, p, sizeof(q));
  return q;
}

LOWPREC_HD void TransposeQuads(const Quad in[4], float* out, int64_t step) {
  const QuadIndex low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5},
                  second = {2, 3, 6, 7};
  const Quad a = __builtin_shuffle(in[0], in[1], low), b = __builtin_shuffle(in[0], in[1], high);
  const Quad c = __builtin_shuffle(in[2], in[3], low), d = __builtin_shuffle(in[2], in[3], high);
  const Quad rows[4] = {__builtin_shuffle(a, c, first), __builtin_shuffle(a, c, second),
                        __builtin_shuffle(b, d, first), __builtin_shuffle(b, d, second)};
  for (int i = 0; i < 4; ++i) memcpy(out + i * step, &rows[i], sizeof(Quad));
}

// Rows of x are lanes: transposes a panel, in blocks that fit the first-level cache. Short rows are
// rounded together.
template <int kWidth>
inline void PackRows(const PackTask& task, int64_t panel, QuantizeFn quantize) {
  constexpr int64_t kBlock = 256;
  alignas(64) static constexpr float kZeros[kBlock] = {};
  alignas(64) float room[kWidth * kBlock];
  const int64_t first = panel * kWidth;
  const int width = static_cast<int>(Min(task.lanes - first, kWidth));
  const int together = task.k <= kBlock ? width : 1;
  float* out = task.packed + first * task.k;
  PanelRange range;
  for (int64_t k0 = 0; k0 < task.k; k0 += kBlock) {
    const int64_t count = Min(kBlock, task.k - k0);
    const float* rows[kWidth];
    for (int lane = 0; lane < width; lane += together) {
      const int64_t size = together * count;
      const float* from =
          Rounded(task, (first + lane) * task.k + k0, size, room + lane * count, quantize);
      for (int64_t i = 0; i < size; ++i) Include(range, from[i]);
      for (int row = 0; row < together; ++row) rows[lane + row] = from + row * count;
    }
    for (int lane = width; lane < kWidth; ++lane) rows[lane] = kZeros;
    int64_t done = 0;
    for (; done + 4 <= count; done += 4) {
      for (int lane = 0; lane < kWidth; lane += 4) {
        Quad in[4];
        for (int q = 0; q < 4; ++q) in[q] = LoadQuad(rows[lane + q] + done);
        TransposeQuads(in, out + (k0 + done) * kWidth + lane, kWidth);
      }
    }
    for (; done < count; ++done) {
      for (int lane = 0; lane < kWidth; ++lane) out[(k0 + done) * kWidth + lane] = rows[lane][done];
    }
  }
  Merge(task.range[panel], range);
  if (task.bounds != nullptr) {
    FindStepBounds<kWidth>(out, task.k, task.spec, BoundsOfPanel(task.bounds, panel, task.k));
  }
}

// Rows of x are k: cuts rows [k0, k1), kPackRows at most, into panels.
template <int kWidth>
inline void PackColumns(const PackTask& task, int64_t k0, int64_t k1, QuantizeFn quantize) {
  constexpr int64_t kBlock = 256 / kWidth * kWidth;
  alignas(64) float room[MatMul::kPackRows * kBlock];
  const float* rows[MatMul::kPackRows];
  const int count = static_cast<int>(k1 - k0);
  for (int64_t lane0 = 0; lane0 < task.lanes; lane0 += kBlock) {
    const int64_t lanes = Min(kBlock, task.lanes - lane0);
    const int together = lanes == task.lanes ? count : 1;  // rows without a gap between them
    for (int row = 0; row < count; row += together) {
      const float* from = Rounded(task, (k0 + row) * task.lanes + lane0, together * lanes,
                                  room + row * lanes, quantize);
      for (int i = 0; i < together; ++i) rows[row + i] = from + i * lanes;
    }
    for (int64_t lane = 0; lane < lanes; lane += kWidth) {
      float* out = task.packed + (lane0 + lane) * task.k + k0 * kWidth;
      const int width = static_cast<int>(Min(lanes - lane, kWidth));
      for (int row = 0; row < count; ++row) {
        const float* from = rows[row] + lane;
        float* to = out + row * kWidth;
        if (width == kWidth) {
          memcpy(to, from, kWidth * sizeof(float));
        } else {
          for (int i = 0; i < kWidth; ++i) to[i] = i < width ? from[i] : 0;
        }
      }
      PanelRange range;
      for (int i = 0; i < count * kWidth; ++i) Include(range, out[i]);
      const int64_t panel = (lane0 + lane) / kWidth;
      Merge(task.range[panel], range);
      if (task.bounds != nullptr) {
        FindStepBounds<kWidth>(out, count, task.spec,
                               BoundsOfPanel(task.bounds, panel, task.k).From(k0));
      }
    }
  }
}

template <int kWidth>
inline void PackPanels(const PackTask& task, int64_t begin, int64_t end, QuantizeFn quantize) {
  if (task.lanes_last) {
    for (int64_t k = begin * MatMul::kPackRows; begin < end; ++begin, k += MatMul::kPackRows) {
      PackColumns<kWidth>(task, k, Min(k + MatMul::kPackRows, task.k), quantize);
    }
  } else {
    for (int64_t panel = begin; panel < end; ++panel) PackRows<kWidth>(task, panel, quantize);
  }
}

inline void Pack(const PackTask& task, int64_t begin, int64_t end, QuantizeFn quantize) {
  if (task.width == kRows) {
    PackPanels<kRows>(task, begin, end, quantize);
  } else {
    PackPanels<kColumns>(task, begin, end, quantize);
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_PACK_LOOPS_H_

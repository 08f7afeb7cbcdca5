// Packing of operands into panels, rounded on the way; compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_PACK_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_PACK_LOOPS_H_

#include <cstring>

#include "cc/kernels/matmul.h"
#include "cc/kernels/tile_shape.h"

LOWPREC_BEGIN_NAMESPACE

// Elements that are rounded at a time, when lanes are not the rows of x.
constexpr int64_t kSegment = 1024;

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

// Rows of x are lanes: transposes a panel, in blocks that fit the first-level cache.
template <int kWidth>
inline void PackRows(const PackTask& task, int64_t panel, QuantizeFn quantize) {
  constexpr int64_t kBlock = 256;
  alignas(64) float rounded[kWidth][kBlock];
  const int64_t first = panel * kWidth;
  const int width = static_cast<int>(Min(task.lanes - first, kWidth));
  float* out = task.packed + first * task.k;
  PanelRange range;
  for (int64_t k0 = 0; k0 < task.k; k0 += kBlock) {
    const int64_t count = Min(kBlock, task.k - k0);
    const float* rows[kWidth];
    for (int lane = 0; lane < width; ++lane) {
      const int64_t offset = (first + lane) * task.k + k0;
      rows[lane] = task.x + offset;
      if (task.num_stages > 0) {
        RoundStages(task, rows[lane], task.index + offset, count, rounded[lane], quantize);
        rows[lane] = rounded[lane];
      }
      for (int64_t i = 0; i < count; ++i) Include(range, rows[lane][i]);
    }
    int64_t done = 0;
    for (; width == kWidth && done + 4 <= count; done += 4) {
      for (int lane = 0; lane < kWidth; lane += 4) {
        Quad in[4];
        for (int q = 0; q < 4; ++q) in[q] = LoadQuad(rows[lane + q] + done);
        TransposeQuads(in, out + (k0 + done) * kWidth + lane, kWidth);
      }
    }
    for (int64_t i = done; i < count; ++i) {
      float* to = out + (k0 + i) * kWidth;
      for (int lane = 0; lane < width; ++lane) to[lane] = rows[lane][i];
      for (int lane = width; lane < kWidth; ++lane) to[lane] = 0;
    }
  }
  Merge(task.range[panel], range);
}

// Rows of x are k: cuts rows [k0, k1) into panels.
template <int kWidth>
inline void PackColumns(const PackTask& task, int64_t k0, int64_t k1, QuantizeFn quantize) {
  constexpr int64_t kLanesAtATime = kSegment / kWidth * kWidth;
  alignas(64) float rounded[kLanesAtATime];
  for (int64_t lane0 = 0; lane0 < task.lanes; lane0 += kLanesAtATime) {
    const int64_t count = Min(kLanesAtATime, task.lanes - lane0);
    const int64_t panels = (count + kWidth - 1) / kWidth;
    PanelRange ranges[kLanesAtATime / kWidth];
    for (int64_t k = k0; k < k1; ++k) {
      const int64_t offset = k * task.lanes + lane0;
      const float* row = task.x + offset;
      if (task.num_stages > 0) {
        RoundStages(task, row, task.index + offset, count, rounded, quantize);
        row = rounded;
      }
      for (int64_t panel = 0; panel < panels; ++panel) {
        const float* from = row + panel * kWidth;
        float* to = task.packed + (lane0 + panel * kWidth) * task.k + k * kWidth;
        const int width = static_cast<int>(Min(count - panel * kWidth, kWidth));
        if (width == kWidth) {
          for (int lane = 0; lane < kWidth; ++lane) to[lane] = from[lane];
        } else {
          for (int lane = 0; lane < kWidth; ++lane) to[lane] = lane < width ? from[lane] : 0;
        }
        PanelRange range = ranges[panel];
        for (int lane = 0; lane < kWidth; ++lane) Include(range, to[lane]);
        ranges[panel] = range;
      }
    }
    for (int64_t panel = 0; panel < panels; ++panel) {
      Merge(task.range[lane0 / kWidth + panel], ranges[panel]);
    }
  }
}

template <int kWidth>
inline void PackPanels(const PackTask& task, int64_t begin, int64_t end, QuantizeFn quantize) {
  if (task.lanes_last) {
    PackColumns<kWidth>(task, begin * MatMul::kPackRows, Min(end * MatMul::kPackRows, task.k),
                        quantize);
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

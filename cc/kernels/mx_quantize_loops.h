// The loops of QuantizeMx, compiled once per instruction set: the compiler vectorizes the scalar
// functions of cc/numerics.
#ifndef TF_LOWPREC_CC_KERNELS_MX_QUANTIZE_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_MX_QUANTIZE_LOOPS_H_

#include "cc/kernels/mx_rounding.h"
#include "cc/kernels/random_words.h"

LOWPREC_BEGIN_NAMESPACE

// The 24 random bits of consecutive elements, made in blocks that are aligned in the tensor.
class MxRandomBits {
 public:
  static constexpr int kBlock = 256;

  explicit MxRandomBits(const QuantizeTask& task)
      : key_{task.seed[0], task.seed[1]}, stream_(task.stream) {}

  // Those of element `index` on, up to the block's end; `left` is how many.
  const uint32_t* From(int64_t index, int64_t* left) {
    const int64_t skip = index % kBlock;
    if (index - skip != first_) {
      first_ = index - skip;
      RandomWords<kBlock>(static_cast<uint64_t>(first_), stream_, key_, words_);
      for (uint32_t& word : words_) word >>= 32 - kRandomBits;
    }
    *left = kBlock - skip;
    return words_ + skip;
  }

 private:
  const PhiloxKey key_;
  const uint64_t stream_;
  int64_t first_ = -1;
  alignas(64) uint32_t words_[kBlock];
};

template <typename T>
LOWPREC_HD uint32_t Larger(uint32_t field, T x) {
  const uint32_t other = ExponentField<T>(x);
  return field > other ? field : other;
}

// Elements [index, index + count) of the tensor, whose scales are scale(0), scale(1), ...
template <Rounding kRounding, bool kGapAtZero, typename T, typename Scale>
inline void RoundElements(const T* x, float* y, int64_t index, int64_t count,
                          const FloatRounder<T>& element, MxRandomBits& random, Scale scale) {
  x += index;
  y += index;
  if constexpr (kRounding != Rounding::kStochastic) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      y[i] = RoundMx<kRounding, kGapAtZero>(x[i], scale(i), element, 0u);
    }
    return;
  }
  for (int64_t done = 0; done < count;) {
    int64_t left = 0;
    const uint32_t* const words = random.From(index + done, &left);
    if (left > count - done) left = count - done;
#pragma GCC ivdep
    for (int64_t i = 0; i < left; ++i) {
      y[done + i] = RoundMx<kRounding, kGapAtZero>(x[done + i], scale(done + i), element, words[i]);
    }
    done += left;
  }
}

template <Rounding kRounding, bool kGapAtZero, typename T>
inline void QuantizeBlocks(const MxTask& task, const MxRoom& room, const T* x,
                           const MxElement<T>& element, int64_t begin, int64_t end) {
  MxRandomBits random(task.element);
  const FloatRounder<T> rounder = element.rounder;
  const int64_t blocks = task.Blocks(), inner = task.inner;
  uint32_t* const largest = room.largest;
  float *const scale = room.scale, *const inverse = room.inverse;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit % blocks * task.block, left = task.length - first;
    const int64_t rows = left < task.block ? left : task.block;
    const int64_t start = (unit / blocks * task.length + first) * inner;
    uint8_t* const codes = task.scales + unit * inner;
    if (inner == 1) {  // one block, side by side in memory
      uint32_t field = 0;
      for (int64_t i = 0; i < rows; ++i) field = Larger(field, x[start + i]);
      codes[0] = MxScaleCode<T>(field, element.max_exponent);
      const MxScale of = MakeMxScale(codes[0]);
      RoundElements<kRounding, kGapAtZero>(x, task.element.y, start, rows, rounder, random,
                                           [of](int64_t) { return of; });
      continue;
    }
    for (int64_t i = 0; i < inner; ++i) largest[i] = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const T* const from = x + start + row * inner;
      for (int64_t i = 0; i < inner; ++i) largest[i] = Larger(largest[i], from[i]);
    }
    for (int64_t i = 0; i < inner; ++i) {
      codes[i] = MxScaleCode<T>(largest[i], element.max_exponent);
      const MxScale of = MakeMxScale(codes[i]);
      scale[i] = of.scale;
      inverse[i] = of.inverse;
    }
    for (int64_t row = 0; row < rows; ++row) {
      RoundElements<kRounding, kGapAtZero>(
          x, task.element.y, start + row * inner, inner, rounder, random,
          [=](int64_t i) { return MxScale{scale[i], inverse[i]}; });
    }
  }
}

inline void QuantizeMx(const MxTask& task, const MxRoom& room, int64_t begin, int64_t end) {
  WithMxRounding(task, [&](const auto* x, const auto& element, auto rounding, auto gap) {
    QuantizeBlocks<decltype(rounding)::value, decltype(gap)::value>(task, room, x, element, begin,
                                                                    end);
  });
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_MX_QUANTIZE_LOOPS_H_

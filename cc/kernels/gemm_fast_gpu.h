// Products of matrices on a GPU where float32 arithmetic gives the right bits: how that is found
// out, and the kernel. Included by gemm_gpu.h.
//
// A thread owns 4 x 4 output elements of a block's tile of 64 x 64, and takes k in order.
#ifndef TF_LOWPREC_CC_KERNELS_GEMM_FAST_GPU_H_
#define TF_LOWPREC_CC_KERNELS_GEMM_FAST_GPU_H_

#include <type_traits>

#include "cc/kernels/gemm_steps_gpu.h"
#include "cc/kernels/gemm_tiles_gpu.h"
#include "cc/kernels/gpu_block.h"

LOWPREC_BEGIN_NAMESPACE

// ---- the operands' ranges, and what follows from them
// ---------------------------------------------

// Templates, since several objects have them.
template <typename Scratch>
__global__ void StartRangesKernel(Scratch* scratch) {
  scratch->a = scratch->b = {0, 0xFFFFFFFFu};
}

template <typename T>
__global__ void RangeKernel(const T* x, int64_t n, PanelRange* range) {
  uint32_t highest = 0, lowest = 0xFFFFFFFFu;
  for (int64_t i = int64_t{blockIdx.x} * kGpuThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kGpuThreads) {
    const uint32_t magnitude = ToBits<T>(x[i]) & 0x7FFFFFFFu;
    highest = GreatestOf()(highest, magnitude);
    lowest = LeastOf()(lowest, magnitude - 1);
  }
  highest = ScanBlock<GreatestOf>(highest).total;
  lowest = ScanBlock<LeastOf>(lowest).total;
  if (threadIdx.x == 0) {
    atomicMax(&range->max_bits, highest);
    atomicMin(&range->min_bits_minus_1, lowest);
  }
}

template <typename Task>
__global__ void ChoosePathKernel(Task task, int64_t length) {
  GpuGemmScratch& scratch = *task.scratch;
  const PathChoice choice =
      ChoosePath(task.accumulator, task.a_spec, task.b_spec, scratch.a, scratch.b, length,
                 PathSupport{/*fma=*/true, /*rounding_modes=*/true});
  scratch.path = static_cast<int>(choice.path);
  scratch.may_underflow = choice.may_underflow;
}

template <typename Product>
void LaunchChoosePath(const Product& product, void* stream) {
  GpuGemmScratch* const scratch = product.task.scratch;
  LOWPREC_LAUNCH(StartRangesKernel<GpuGemmScratch>, 1u, 1u, stream, scratch);
  const auto range = [stream](const float* x, int64_t n, PanelRange* of) {
    constexpr int64_t kOfThread = 8;
    LOWPREC_LAUNCH_SYNCHRONIZED(RangeKernel<float>, GpuBlocksFor(n / kOfThread + 1), kGpuThreads,
                                stream, x, n, of);
  };
  range(product.task.a, product.LeftSize(), &scratch->a);
  range(product.task.b, product.RightSize(), &scratch->b);
  const GpuGemmTask& task = product.task;
  LOWPREC_LAUNCH(ChoosePathKernel<GpuGemmTask>, 1u, 1u, stream, task, product.Length());
}

// ---- the product
// ----------------------------------------------------------------------------------

constexpr int kFastTile = 64;    // rows and columns of a block's tile
constexpr int kFastLength = 16;  // k's brought in at a time
constexpr int kOfThread = 4;     // rows and columns of a thread, and elements that it brings in
static_assert(kFastTile * kFastTile == kOfThread * kOfThread * kGpuThreads);
static_assert(kFastTile * kFastLength == kOfThread * kGpuThreads);

// The elements of an operand that a thread brings in: of one lane, at `step` k's from one another.
struct BroughtIn {
  int lane, k, step;

  LOWPREC_DEVICE explicit BroughtIn(bool lanes_last) {
    const int thread = static_cast<int>(threadIdx.x);
    lane = lanes_last ? thread % kFastTile : thread / (kFastLength / kOfThread);
    k = lanes_last ? thread / kFastTile : thread % (kFastLength / kOfThread) * kOfThread;
    step = lanes_last ? kGpuThreads / kFastTile : 1;
  }
};

// Whether a term is left out by a NaN of its own, or by a 0: a rounded sum plus 0 is itself, where
// no sum is -0.
template <typename Step, typename Product>
constexpr bool kSkipsTerms = Product::kLeavesOut && Step::kUnderflow;

struct alignas(16) FastRow {
  float x[kFastTile + kOfThread];
};

template <typename Step, typename Product>
LOWPREC_DEVICE void MultiplyFast(const Product& product, FastRow* a, FastRow* b) {
  const Step step(product.task.accumulator);
  const GpuTiles tiles = product.Tiles(kFastTile);
  const int64_t length = product.Length();
  const int64_t chunk = product.task.accumulator.chunk;
  const BroughtIn left_part(product.LeftLanesLast()), right_part(product.RightLanesLast());
  const int top = static_cast<int>(threadIdx.x) / (kFastTile / kOfThread) * kOfThread;
  const int begin = static_cast<int>(threadIdx.x) % (kFastTile / kOfThread) * kOfThread;
  for (int64_t index = blockIdx.x; index < tiles.Count(); index += gridDim.x) {
    const GpuTile tile(tiles, index);
    const auto left = product.Left(tile.batch, tile.row + left_part.lane);
    const auto right = product.Right(tile.batch, tile.column + right_part.lane);
    float sums[kOfThread][kOfThread] = {}, totals[kOfThread][kOfThread] = {};
    typename Step::State states[kOfThread][kOfThread];
    if constexpr (std::is_same_v<typename Step::State, uint32_t>) {
      const GpuGemmTask& task = product.task;
      for (int i = 0; i < kOfThread; ++i) {
        for (int j = 0; j < kOfThread; ++j) {
          const int64_t element =
              product.Element(tile.batch, tile.row + top + i, tile.column + begin + j);
          states[i][j] = FirstRandomState(static_cast<uint64_t>(task.index + element), task.stream,
                                          PhiloxKey{task.seed[0], task.seed[1]});
        }
      }
    }
    const auto each = [&](const auto& f) {
      LOWPREC_UNROLL
      for (int i = 0; i < kOfThread; ++i) {
        LOWPREC_UNROLL
        for (int j = 0; j < kOfThread; ++j) f(i, j);
      }
    };
    const auto add_chunk = [&] {
      each([&](int i, int j) {
        totals[i][j] = step.AddChunk(totals[i][j], sums[i][j], states[i][j]);
        sums[i][j] = 0;
      });
    };

    float left_next[kOfThread], right_next[kOfThread];
    const auto read = [&](int64_t first) {
      LOWPREC_UNROLL
      for (int i = 0; i < kOfThread; ++i) {
        const int64_t k = first + left_part.k + i * left_part.step;
        float x = left.inside && k < length ? left.At(k) : 0.0f;
        if (Product::kLeavesOut && !kSkipsTerms<Step, Product> && ToBits<float>(x) == kLeftOut) {
          x = 0.0f;
        }
        left_next[i] = x;
      }
      LOWPREC_UNROLL
      for (int i = 0; i < kOfThread; ++i) {
        const int64_t k = first + right_part.k + i * right_part.step;
        right_next[i] = right.inside && k < length ? right.At(k) : 0.0f;
      }
    };
    int64_t until_chunk = chunk > 0 ? chunk : length;
    read(0);
    for (int64_t first = 0; first < length; first += kFastLength) {
      LOWPREC_UNROLL
      for (int i = 0; i < kOfThread; ++i) {
        a[left_part.k + i * left_part.step].x[left_part.lane] = left_next[i];
        b[right_part.k + i * right_part.step].x[right_part.lane] = right_next[i];
      }
      __syncthreads();
      if (first + kFastLength < length) read(first + kFastLength);
      const int count = static_cast<int>(LeastOf()(length - first, int64_t{kFastLength}));
      for (int k = 0; k < count;) {
        const int stop = static_cast<int>(LeastOf()(int64_t{count}, k + until_chunk));
        until_chunk -= stop - k;
        LOWPREC_UNROLL
        for (; k < stop; ++k) {
          float x[kOfThread], y[kOfThread];
          LOWPREC_UNROLL
          for (int i = 0; i < kOfThread; ++i) {
            x[i] = a[k].x[top + i];
            y[i] = b[k].x[begin + i];
          }
          each([&](int i, int j) {
            if (kSkipsTerms<Step, Product> && ToBits<float>(x[i]) == kLeftOut) return;
            sums[i][j] = step.Round(sums[i][j], x[i], y[j], states[i][j]);
          });
        }
        if (until_chunk == 0 && chunk > 0) {
          add_chunk();
          until_chunk = chunk;
        }
      }
      __syncthreads();
    }
    if (chunk > 0 && until_chunk < chunk) add_chunk();
    each([&](int i, int j) {
      const int64_t row = tile.row + top + i, column = tile.column + begin + j;
      if (row < tiles.rows && column < tiles.columns) {
        product.task.c[product.Element(tile.batch, row, column)] =
            chunk > 0 ? totals[i][j] : sums[i][j];
      }
    });
  }
}

// Does nothing if the path is none of this rounding's fast ones.
template <Rounding kRounding, typename Product>
__global__ void __launch_bounds__(kGpuThreads) FastProductKernel(Product product) {
  LOWPREC_SHARED FastRow a[kFastLength], b[kFastLength];
  const GpuGemmScratch choice = *product.task.scratch;
  const AccumulationPath path = static_cast<AccumulationPath>(choice.path);
  if (path == AccumulationPath::kExact) return;
  if constexpr (kRounding == Rounding::kNearestEven) {
    if (path == AccumulationPath::kFma) return MultiplyFast<GpuFmaStep>(product, a, b);
    // Rounding to odd in float32 is always right up to m = 21: ChoosePath admits no more.
    if (path == AccumulationPath::kNearest) {
      return choice.may_underflow ? MultiplyFast<GpuNearestStep<true, false>>(product, a, b)
                                  : MultiplyFast<GpuNearestStep<false, false>>(product, a, b);
    }
    return choice.may_underflow ? MultiplyFast<GpuNearestStep<true, true>>(product, a, b)
                                : MultiplyFast<GpuNearestStep<false, true>>(product, a, b);
  }
  if constexpr (kRounding == Rounding::kTowardZero) {
    return choice.may_underflow ? MultiplyFast<GpuTruncateStep<true>>(product, a, b)
                                : MultiplyFast<GpuTruncateStep<false>>(product, a, b);
  }
  if constexpr (kRounding == Rounding::kStochastic) {
    return product.task.accumulator.mantissa_bits > 23 - kAccumulatorRandomBits
               ? MultiplyFast<GpuStochasticStep<true>>(product, a, b)
               : MultiplyFast<GpuStochasticStep<false>>(product, a, b);
  }
}

template <Rounding kRounding, typename Product>
void LaunchFastProduct(const Product& product, void* stream) {
  LaunchChoosePath(product, stream);
  LOWPREC_LAUNCH_SYNCHRONIZED((FastProductKernel<kRounding, Product>),
                              GpuBlocks(product.Tiles(kFastTile).Count()), kGpuThreads, stream,
                              product);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_GEMM_FAST_GPU_H_

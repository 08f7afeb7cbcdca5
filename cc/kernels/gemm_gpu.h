// The CUDA kernel of products of matrices under a narrow accumulator that takes any operands, and
// the choice between it and the fast one. Included for nvcc, and by the tests for the host, against
// gpu_shim.h.
//
// A thread owns an output element and takes k in order; a block's threads bring the operands' tiles
// into shared memory together.
#ifndef TF_LOWPREC_CC_KERNELS_GEMM_GPU_H_
#define TF_LOWPREC_CC_KERNELS_GEMM_GPU_H_

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/gemm_fast_gpu.h"
#include "cc/kernels/gemm_tiles_gpu.h"
#include "cc/kernels/gpu_shim.h"
#include "cc/kernels/matmul.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

// The sums of one output element under a narrow accumulator.
template <Rounding kRounding, bool kGapAtZero>
struct NarrowSum {
  const FloatRounder<double>& rounder;
  bool chunked;
  int64_t chunk, left;                   // terms of a chunk, and those it still takes
  const int32_t* random_bits = nullptr;  // r of the next rounding, or none: `state` gives it
  uint32_t state = 0;
  float sum = 0, total = 0;

  LOWPREC_DEVICE NarrowSum(const GpuGemmTask& task, int64_t length, int64_t element,
                           const FloatRounder<double>& rounder_of)
      : rounder(rounder_of),
        chunked(task.accumulator.chunk > 0),
        chunk(chunked ? task.accumulator.chunk : length),
        left(chunk) {
    if (kRounding != Rounding::kStochastic) return;
    if (task.random_bits != nullptr) {
      const int64_t chunks = chunked ? (length + chunk - 1) / chunk : 0;
      random_bits = task.random_bits + element * (length + chunks);
    } else {
      state = FirstRandomState(static_cast<uint64_t>(task.index + element), task.stream,
                               PhiloxKey{task.seed[0], task.seed[1]});
    }
  }

  LOWPREC_DEVICE uint32_t Draw() {
    if (kRounding != Rounding::kStochastic) return 0;
    if (random_bits != nullptr) {
      return static_cast<uint32_t>(*random_bits++) & ((1u << kAccumulatorRandomBits) - 1);
    }
    state = NextRandomState(state);
    return state >> (32 - kAccumulatorRandomBits);
  }
  // A term that is left out keeps its place in the chunk, and its r.
  LOWPREC_DEVICE void Add(float a, float b, bool left_out) {
    const uint32_t r = Draw();
    if (!left_out) sum = AccumulateStep<kRounding, kGapAtZero>(sum, a, b, rounder, r);
    if (--left == 0 && chunked) AddChunk();
  }
  LOWPREC_DEVICE void AddChunk() {
    total = AccumulateStep<kRounding, kGapAtZero>(total, sum, 1.0f, rounder, Draw());
    sum = 0;
    left = chunk;
  }
  LOWPREC_DEVICE float Result() {
    if (!chunked) return sum;
    if (left < chunk) AddChunk();
    return total;
  }
};

// A Product describes what is multiplied: its `task` (a GpuGemmTask), Tiles(size), Length(),
// LeftSize() and RightSize(), the operands' elements; Left(batch, lane) and Right(batch, lane),
// which LeftLanesLast() or RightLanesLast(); Element(batch, row, column), the index in c; and
// kLeavesOut, whether the left operand may be kLeftOut.
template <Rounding kRounding, bool kGapAtZero, typename Product>
__global__ void NarrowProductKernel(Product product, FloatRounder<double> rounder) {
  const GpuGemmScratch* const chosen = product.task.scratch;
  if (chosen != nullptr && chosen->path != static_cast<int>(AccumulationPath::kExact)) return;
  const GpuTiles tiles = product.Tiles(kGpuTile);
  const int64_t length = product.Length();
  const bool left_last = product.LeftLanesLast(), right_last = product.RightLanesLast();
  for (int64_t index = blockIdx.x; index < tiles.Count(); index += gridDim.x) {
    const GpuTile tile(tiles, index);
    const int64_t row = tile.row + TileY(), column = tile.column + TileX();
    const bool inside = row < tiles.rows && column < tiles.columns;
    const int64_t element = inside ? product.Element(tile.batch, row, column) : 0;
    NarrowSum<kRounding, kGapAtZero> sum(product.task, length, element, rounder);
    ForEachTerm<float>(product.Left(tile.batch, tile.row + TileLane(left_last)), left_last,
                       product.Right(tile.batch, tile.column + TileLane(right_last)), right_last,
                       length, [&](float a, float b) {
                         if (!inside) return;
                         sum.Add(a, b, Product::kLeavesOut && ToBits<float>(a) == kLeftOut);
                       });
    if (inside) product.task.c[element] = sum.Result();
  }
}

template <Rounding kRounding, typename Product>
void LaunchNarrowProductAs(Product product, void* stream) {
  // Which kernel computes it shows on the device; the other one ends at once.
  if (kRounding == Rounding::kNearestUp || product.task.random_bits != nullptr) {
    product.task.scratch = nullptr;
  }
  if (product.task.scratch != nullptr) LaunchFastProduct<kRounding>(product, stream);
  const FloatFormat format = AccumulatorFormat(product.task.accumulator);
  const FloatRounder<double> rounder = MakeFloatRounder<double>(format, kRounding);
  const unsigned int blocks = GpuBlocks(product.Tiles(kGpuTile).Count());
  if (HasGapAtZero(format)) {
    LOWPREC_LAUNCH_SYNCHRONIZED((NarrowProductKernel<kRounding, true, Product>), blocks,
                                kGpuThreads, stream, product, rounder);
  } else {
    LOWPREC_LAUNCH_SYNCHRONIZED((NarrowProductKernel<kRounding, false, Product>), blocks,
                                kGpuThreads, stream, product, rounder);
  }
}

template <typename Product>
void LaunchNarrowProduct(const Product& product, void* stream) {
  switch (static_cast<Rounding>(product.task.accumulator.rounding)) {
    case Rounding::kNearestEven:
      return LaunchNarrowProductAs<Rounding::kNearestEven>(product, stream);
    case Rounding::kNearestUp:
      return LaunchNarrowProductAs<Rounding::kNearestUp>(product, stream);
    case Rounding::kStochastic:
      return LaunchNarrowProductAs<Rounding::kStochastic>(product, stream);
    case Rounding::kTowardZero:
      return LaunchNarrowProductAs<Rounding::kTowardZero>(product, stream);
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_GEMM_GPU_H_

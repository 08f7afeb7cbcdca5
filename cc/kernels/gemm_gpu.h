// What the CUDA kernels of products of matrices share: the tiles of the output, how a block walks
// through k, and an output element's sums. Included for nvcc, and by the tests for the host,
// against gpu_shim.h.
//
// A thread owns an output element and takes k in order; a block's threads bring the operands' tiles
// into shared memory together. A lane is a row of the left operand or a column of the right one.
#ifndef TF_LOWPREC_CC_KERNELS_GEMM_GPU_H_
#define TF_LOWPREC_CC_KERNELS_GEMM_GPU_H_

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/gpu_shim.h"
#include "cc/kernels/matmul.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

constexpr int kGpuTile = 16;  // rows and columns of a block's tile, and k's brought in at a time
static_assert(kGpuTile * kGpuTile == kGpuThreads, "one output element to a thread");

// A thread's place in its block's tile. Threads that differ in X read neighbours in memory.
LOWPREC_DEVICE int TileX() { return static_cast<int>(threadIdx.x) % kGpuTile; }
LOWPREC_DEVICE int TileY() { return static_cast<int>(threadIdx.x) / kGpuTile; }

// The tiles of `batches` matrices of [rows, columns], one matrix after the other.
struct GpuTiles {
  int64_t rows, columns, batches;

  LOWPREC_HD int64_t Across() const { return (columns + kGpuTile - 1) / kGpuTile; }
  LOWPREC_HD int64_t InMatrix() const { return (rows + kGpuTile - 1) / kGpuTile * Across(); }
  LOWPREC_HD int64_t Count() const { return InMatrix() * batches; }
};

// One of them; its first row and column.
struct GpuTile {
  int64_t batch, row, column;

  LOWPREC_HD GpuTile(const GpuTiles& tiles, int64_t index)
      : batch(index / tiles.InMatrix()),
        row(index % tiles.InMatrix() / tiles.Across() * kGpuTile),
        column(index % tiles.Across() * kGpuTile) {}
};

// The lane of a matrix that a thread reads. Others like it have `lanes_last`, which says whether
// neighbours in memory belong to neighbouring lanes or to one lane; `inside`; and At(k).
struct MatrixLane {
  bool lanes_last, inside;
  const float* x;
  int64_t step;  // from one k to the next

  LOWPREC_DEVICE MatrixLane(const float* matrix, bool last, int64_t first, int64_t lanes,
                            int64_t length)
      : lanes_last(last), x(matrix), step(last ? lanes : 1) {
    const int64_t lane = first + (last ? TileX() : TileY());
    inside = lane < lanes;
    x += lane * (last ? 1 : length);
  }
  LOWPREC_DEVICE float At(int64_t k) const { return x[k * step]; }
};

// step(left, right) of the thread's output element for k = 0, ..., length - 1; all threads of a
// block call this. Value: what lanes' At gives.
template <typename Value, typename Left, typename Right, typename Step>
LOWPREC_DEVICE void ForEachTerm(const Left& left, const Right& right, int64_t length,
                                const Step& step) {
  LOWPREC_SHARED Value a[kGpuTile][kGpuTile + 1];  // [k][row]
  LOWPREC_SHARED Value b[kGpuTile][kGpuTile + 1];  // [k][column]
  const auto bring = [&](const auto& lane, int64_t first, Value(*tile)[kGpuTile + 1]) {
    const int k = lane.lanes_last ? TileY() : TileX();
    const int at = lane.lanes_last ? TileX() : TileY();
    tile[k][at] = lane.inside && first + k < length ? lane.At(first + k) : Value{0};
  };
  for (int64_t first = 0; first < length; first += kGpuTile) {
    bring(left, first, a);
    bring(right, first, b);
    __syncthreads();
    const int count = length - first < kGpuTile ? static_cast<int>(length - first) : kGpuTile;
    for (int k = 0; k < count; ++k) step(a[k][TileY()], b[k][TileX()]);
    __syncthreads();
  }
}

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

// A Product describes what is multiplied: its `task` (a GpuGemmTask), Tiles(), Length(), Left(tile)
// and Right(tile), the lanes that this thread reads; Element(batch, row, column), the index in c;
// and kLeavesOut, whether the left operand may be kLeftOut.
template <Rounding kRounding, bool kGapAtZero, typename Product>
__global__ void NarrowProductKernel(Product product, FloatRounder<double> rounder) {
  const GpuTiles tiles = product.Tiles();
  const int64_t length = product.Length();
  for (int64_t index = blockIdx.x; index < tiles.Count(); index += gridDim.x) {
    const GpuTile tile(tiles, index);
    const int64_t row = tile.row + TileY(), column = tile.column + TileX();
    const bool inside = row < tiles.rows && column < tiles.columns;
    const int64_t element = inside ? product.Element(tile.batch, row, column) : 0;
    NarrowSum<kRounding, kGapAtZero> sum(product.task, length, element, rounder);
    ForEachTerm<float>(product.Left(tile), product.Right(tile), length, [&](float a, float b) {
      if (inside) sum.Add(a, b, Product::kLeavesOut && ToBits<float>(a) == kLeftOut);
    });
    if (inside) product.task.c[element] = sum.Result();
  }
}

template <Rounding kRounding, typename Product>
void LaunchNarrowProductAs(const Product& product, void* stream) {
  const FloatFormat format = AccumulatorFormat(product.task.accumulator);
  const FloatRounder<double> rounder = MakeFloatRounder<double>(format, kRounding);
  const unsigned int blocks = GpuBlocks(product.Tiles().Count());
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

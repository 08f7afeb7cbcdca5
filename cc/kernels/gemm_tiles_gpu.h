// What the CUDA kernels of products of matrices share: the tiles of the output, and the lanes of
// the operands. A lane is a row of the left operand or a column of the right one.
#ifndef TF_LOWPREC_CC_KERNELS_GEMM_TILES_GPU_H_
#define TF_LOWPREC_CC_KERNELS_GEMM_TILES_GPU_H_

#include "cc/kernels/gpu_shim.h"
#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

// The tiles, of `size` rows and columns, of `batches` matrices of [rows, columns], one matrix after
// the other.
struct GpuTiles {
  int64_t rows, columns, batches;
  int size;

  LOWPREC_HD int64_t Across() const { return (columns + size - 1) / size; }
  LOWPREC_HD int64_t InMatrix() const { return (rows + size - 1) / size * Across(); }
  LOWPREC_HD int64_t Count() const { return InMatrix() * batches; }
};

// One of them; its first row and column.
struct GpuTile {
  int64_t batch, row, column;

  LOWPREC_HD GpuTile(const GpuTiles& tiles, int64_t index)
      : batch(index / tiles.InMatrix()),
        row(index % tiles.InMatrix() / tiles.Across() * tiles.size),
        column(index % tiles.Across() * tiles.size) {}
};

// A lane of a matrix. Others like it have `inside`, whether there is such a lane, and At(k).
// Whoever makes them knows whether they are last: whether neighbours in memory belong to
// neighbouring lanes, or to one lane.
struct MatrixLane {
  bool inside;
  const float* x;
  int64_t step;  // from one k to the next

  LOWPREC_DEVICE MatrixLane(const float* matrix, bool last, int64_t lane, int64_t lanes,
                            int64_t length)
      : inside(lane < lanes), x(matrix + lane * (last ? 1 : length)), step(last ? lanes : 1) {}
  LOWPREC_DEVICE float At(int64_t k) const { return x[k * step]; }
};

// ---- one output element to a thread
// ----------------------------------------------------------------

constexpr int kGpuTile = 16;  // rows and columns of a block's tile, and k's brought in at a time
static_assert(kGpuTile * kGpuTile == kGpuThreads, "one output element to a thread");

// A thread's place in its block's tile. Threads that differ in X read neighbours in memory.
LOWPREC_DEVICE int TileX() { return static_cast<int>(threadIdx.x) % kGpuTile; }
LOWPREC_DEVICE int TileY() { return static_cast<int>(threadIdx.x) / kGpuTile; }
// The lane of a tile that the thread reads.
LOWPREC_DEVICE int TileLane(bool lanes_last) { return lanes_last ? TileX() : TileY(); }

// step(left, right) of the thread's output element for k = 0, ..., length - 1; all threads of a
// block call this. Value: what lanes' At gives; left and right are the thread's TileLanes.
template <typename Value, typename Left, typename Right, typename Step>
LOWPREC_DEVICE void ForEachTerm(const Left& left, bool left_last, const Right& right,
                                bool right_last, int64_t length, const Step& step) {
  LOWPREC_SHARED Value a[kGpuTile][kGpuTile + 1];  // [k][row]
  LOWPREC_SHARED Value b[kGpuTile][kGpuTile + 1];  // [k][column]
  const auto bring = [&](const auto& lane, bool last, int64_t first, Value(*tile)[kGpuTile + 1]) {
    const int k = last ? TileY() : TileX();
    tile[k][TileLane(last)] = lane.inside && first + k < length ? lane.At(first + k) : Value{0};
  };
  for (int64_t first = 0; first < length; first += kGpuTile) {
    bring(left, left_last, first, a);
    bring(right, right_last, first, b);
    __syncthreads();
    const int count = length - first < kGpuTile ? static_cast<int>(length - first) : kGpuTile;
    for (int k = 0; k < count; ++k) step(a[k][TileY()], b[k][TileX()]);
    __syncthreads();
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_GEMM_TILES_GPU_H_

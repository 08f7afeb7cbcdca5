// Runs matrix instructions of a real NVIDIA GPU on tiles read from a file and writes the result's
// bits: the measurement behind docs/hardware_formats.md. make_tests.py writes the tiles, report.py
// compares the bits with the model.
//
// usage: probe TESTS RESULTS
//
// A tile is D[64][8] = C[64][8] + sum over `steps` of A[64][32 bytes] . B[8][32 bytes]^T: each step
// is one instruction of 32 FP8 or 16 16-bit terms, all steps issued back to back into the same
// registers. TESTS: "TCPROBE1", int32 batches; each batch: int32 kind, steps, tiles; then each
// tile: A, B (steps times each), C as float32. RESULTS: each tile's D as float32 bits, in order.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

constexpr int kMaxSteps = 8;
constexpr int kABytes = 64 * 32, kBBytes = 8 * 32, kC = 64 * 8;

enum Kind : int {
  kWgmmaE4E4 = 0,
  kWgmmaE5E5 = 1,
  kWgmmaE4E5 = 2,
  kWgmmaE5E4 = 3,
  kWgmmaBF16 = 4,
  kWgmmaF16 = 5,
  kWgmmaE4E4IntoF16 = 6,
  kWgmmaF16IntoF16 = 7,
  kMmaE4E4 = 8,
  kMmaE5E5 = 9,
  kMmaBF16 = 10,
  kMmaF16 = 11,
  kNumKinds = 12,
};

#define CHECK(call)                                                  \
  do {                                                               \
    const cudaError_t error = (call);                                \
    if (error != cudaSuccess) {                                      \
      fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error)); \
      exit(1);                                                       \
    }                                                                \
  } while (0)

// Without swizzling, a matrix lies in shared memory as blocks of 8 rows by 16 bytes; `leading` is
// the distance of blocks along k and `stride` along the rows, in bytes.
__device__ uint64_t Descriptor(const void* p, uint32_t leading, uint32_t stride) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(p));
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) |
         (static_cast<uint64_t>(leading >> 4) << 16) | (static_cast<uint64_t>(stride >> 4) << 32);
}

#define WGMMA_F32(name, flags)                                                                  \
  asm volatile("wgmma.mma_async.sync.aligned." name " {%0,%1,%2,%3}, %4, %5, 1, 1, 1" flags ";" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                 \
               : "l"(da), "l"(db))
#define WGMMA_F16(name, flags)                                                            \
  asm volatile("wgmma.mma_async.sync.aligned." name " {%0,%1}, %2, %3, 1, 1, 1" flags ";" \
               : "+r"(h[0]), "+r"(h[1])                                                   \
               : "l"(da), "l"(db))
#define MMA_F32(name)                                                                            \
  asm volatile("mma.sync.aligned." name " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                  \
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))

__device__ uint32_t Word(const uint8_t* p) { return *reinterpret_cast<const uint32_t*>(p); }

template <int kKind>
__global__ void __launch_bounds__(128) Probe(const uint8_t* tiles, int64_t tile_bytes, int steps,
                                             uint32_t leading, uint32_t stride, float* out) {
  __shared__ __align__(1024) uint8_t a[kMaxSteps * kABytes];
  __shared__ __align__(1024) uint8_t b[kMaxSteps * kBBytes];
  constexpr bool kIsWgmma = kKind < kMmaE4E4;
  constexpr bool kInto16 = kKind == kWgmmaE4E4IntoF16 || kKind == kWgmmaF16IntoF16;
  const uint8_t* tile = tiles + blockIdx.x * tile_bytes;
  const float* c = reinterpret_cast<const float*>(tile + steps * (kABytes + kBBytes));
  const int thread = threadIdx.x;
  const auto place = [](int i) {  // of byte i of a row-major matrix of 32-byte rows
    const int row = i / 32, byte = i % 32;
    return kIsWgmma ? row / 8 * 256 + byte / 16 * 128 + row % 8 * 16 + byte % 16 : i;
  };
  for (int s = 0; s < steps; ++s) {
    for (int i = thread; i < kABytes; i += 128) a[s * kABytes + place(i)] = tile[s * kABytes + i];
    const uint8_t* from = tile + steps * kABytes + s * kBBytes;
    for (int i = thread; i < kBBytes; i += 128) b[s * kBBytes + place(i)] = from[i];
  }
  const int row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = c[(row + i / 2 * 8) * 8 + column + i % 2];
  if constexpr (kIsWgmma) {
    uint32_t h[2];
    for (int i = 0; i < 2; ++i) {
      const __half2 pair = __floats2half2_rn(d[2 * i], d[2 * i + 1]);
      memcpy(&h[i], &pair, 4);
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int s = 0; s < steps; ++s) {
      const uint64_t da = Descriptor(a + s * kABytes, leading, stride);
      const uint64_t db = Descriptor(b + s * kBBytes, leading, stride);
      if constexpr (kKind == kWgmmaE4E4) WGMMA_F32("m64n8k32.f32.e4m3.e4m3", "");
      if constexpr (kKind == kWgmmaE5E5) WGMMA_F32("m64n8k32.f32.e5m2.e5m2", "");
      if constexpr (kKind == kWgmmaE4E5) WGMMA_F32("m64n8k32.f32.e4m3.e5m2", "");
      if constexpr (kKind == kWgmmaE5E4) WGMMA_F32("m64n8k32.f32.e5m2.e4m3", "");
      if constexpr (kKind == kWgmmaBF16) WGMMA_F32("m64n8k16.f32.bf16.bf16", ", 0, 0");
      if constexpr (kKind == kWgmmaF16) WGMMA_F32("m64n8k16.f32.f16.f16", ", 0, 0");
      if constexpr (kKind == kWgmmaE4E4IntoF16) WGMMA_F16("m64n8k32.f16.e4m3.e4m3", "");
      if constexpr (kKind == kWgmmaF16IntoF16) WGMMA_F16("m64n8k16.f16.f16.f16", ", 0, 0");
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+r"(h[0]),
                   "+r"(h[1])::"memory");
    if constexpr (kInto16) {
      for (int i = 0; i < 2; ++i) {
        __half2 pair;
        memcpy(&pair, &h[i], 4);
        d[2 * i] = __low2float(pair);
        d[2 * i + 1] = __high2float(pair);
      }
    }
  } else {
    __syncthreads();
    for (int s = 0; s < steps; ++s) {
      const uint8_t* pa = a + s * kABytes + row * 32 + thread % 4 * 4;
      const uint8_t* pb = b + s * kBBytes + thread % 32 / 4 * 32 + thread % 4 * 4;
      const uint32_t a0 = Word(pa), a1 = Word(pa + 8 * 32), a2 = Word(pa + 16),
                     a3 = Word(pa + 8 * 32 + 16), b0 = Word(pb), b1 = Word(pb + 16);
      if constexpr (kKind == kMmaE4E4) MMA_F32("m16n8k32.row.col.f32.e4m3.e4m3.f32");
      if constexpr (kKind == kMmaE5E5) MMA_F32("m16n8k32.row.col.f32.e5m2.e5m2.f32");
      if constexpr (kKind == kMmaBF16) MMA_F32("m16n8k16.row.col.f32.bf16.bf16.f32");
      if constexpr (kKind == kMmaF16) MMA_F32("m16n8k16.row.col.f32.f16.f16.f32");
    }
  }
  float* result = out + static_cast<int64_t>(blockIdx.x) * kC;
  for (int i = 0; i < 4; ++i) result[(row + i / 2 * 8) * 8 + column + i % 2] = d[i];
}

template <int kKind>
void Launch(int kind, const uint8_t* tiles, int count, int64_t tile_bytes, int steps,
            uint32_t leading, uint32_t stride, float* out) {
  if constexpr (kKind < kNumKinds) {
    if (kind != kKind) {
      return Launch<kKind + 1>(kind, tiles, count, tile_bytes, steps, leading, stride, out);
    }
    Probe<kKind><<<count, 128>>>(tiles, tile_bytes, steps, leading, stride, out);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
  } else {
    fprintf(stderr, "kind %d is unknown\n", kind);
    exit(1);
  }
}

std::vector<float> Run(int kind, const uint8_t* tiles, int count, int steps, uint32_t leading,
                       uint32_t stride) {
  const int64_t tile_bytes = static_cast<int64_t>(steps) * (kABytes + kBBytes) + kC * 4;
  uint8_t* device_tiles;
  float* device_out;
  CHECK(cudaMalloc(&device_tiles, tile_bytes * count));
  CHECK(cudaMalloc(&device_out, static_cast<int64_t>(count) * kC * 4));
  CHECK(cudaMemcpy(device_tiles, tiles, tile_bytes * count, cudaMemcpyHostToDevice));
  Launch<0>(kind, device_tiles, count, tile_bytes, steps, leading, stride, device_out);
  std::vector<float> out(static_cast<size_t>(count) * kC);
  CHECK(cudaMemcpy(out.data(), device_out, out.size() * 4, cudaMemcpyDeviceToHost));
  CHECK(cudaFree(device_tiles));
  CHECK(cudaFree(device_out));
  return out;
}

// Small integers, whose sums are exact whatever the accumulator: is the tiles' layout right?
int LayoutErrors(int kind, uint32_t leading, uint32_t stride) {
  const int steps = 2;
  const bool is16 = kind == kWgmmaBF16 || kind == kWgmmaF16 || kind == kWgmmaF16IntoF16 ||
                    kind == kMmaBF16 || kind == kMmaF16;
  const int terms = is16 ? 16 : 32;
  std::vector<uint8_t> tile(steps * (kABytes + kBBytes) + kC * 4);
  std::vector<int> value(steps * (kABytes + kBBytes));
  uint32_t state = 1;
  const auto draw = [&] { return (state = state * 1664525u + 1013904223u) >> 24; };
  const auto encode = [&](int v, bool b_side) {  // of -1, 0, 1
    const int magnitude = v == 0 ? 0 : 1;
    int code = 0;
    if (kind == kWgmmaBF16 || kind == kMmaBF16)
      code = 0x3F80;
    else if (is16)
      code = 0x3C00;
    else if (kind == kWgmmaE5E5 || kind == kMmaE5E5 || (kind == kWgmmaE4E5 && b_side) ||
             (kind == kWgmmaE5E4 && !b_side))
      code = 0x3C;
    else
      code = 0x38;
    return (magnitude ? code : 0) | (v < 0 ? (is16 ? 0x8000 : 0x80) : 0);
  };
  for (int side = 0; side < 2; ++side) {
    const int first = side == 0 ? 0 : steps * kABytes, rows = steps * (side == 0 ? 64 : 8);
    for (int i = 0; i < rows * terms; ++i) {
      const int v = static_cast<int>(draw() % 3) - 1, code = encode(v, side == 1);
      value[first + i] = v;
      if (is16) {
        tile[first + 2 * i] = code & 255;
        tile[first + 2 * i + 1] = code >> 8;
      } else {
        tile[first + i] = code;
      }
    }
  }
  float c[kC];
  for (float& x : c) x = static_cast<float>(static_cast<int>(draw() % 7) - 3);
  memcpy(tile.data() + steps * (kABytes + kBBytes), c, sizeof(c));
  const std::vector<float> d = Run(kind, tile.data(), 1, steps, leading, stride);
  int errors = 0;
  for (int m = 0; m < 64; ++m) {
    for (int n = 0; n < 8; ++n) {
      float sum = c[m * 8 + n];
      for (int s = 0; s < steps; ++s) {
        for (int k = 0; k < terms; ++k) {
          sum += static_cast<float>(value[(s * 64 + m) * terms + k] *
                                    value[steps * kABytes + (s * 8 + n) * terms + k]);
        }
      }
      errors += sum != d[m * 8 + n];
    }
  }
  return errors;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: probe TESTS RESULTS\n");
    return 2;
  }
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  int driver, runtime;
  CHECK(cudaDriverGetVersion(&driver));
  CHECK(cudaRuntimeGetVersion(&runtime));
  printf("device %s, compute capability %d.%d, driver %d, runtime %d\n", device.name, device.major,
         device.minor, driver, runtime);
  uint32_t leading = 128, stride = 256;
  if (LayoutErrors(kWgmmaE4E4, leading, stride) != 0) {
    leading = 256;
    stride = 128;
  }
  printf("descriptor: leading %u, stride %u\n", leading, stride);
  for (int kind = 0; kind < kNumKinds; ++kind) {
    printf("kind %d: layout errors %d of %d\n", kind, LayoutErrors(kind, leading, stride), kC);
  }
  FILE* in = fopen(argv[1], "rb");
  FILE* out = fopen(argv[2], "wb");
  if (in == nullptr || out == nullptr) {
    fprintf(stderr, "cannot open %s or %s\n", argv[1], argv[2]);
    return 1;
  }
  char magic[8];
  int32_t batches;
  if (fread(magic, 1, 8, in) != 8 || memcmp(magic, "TCPROBE1", 8) != 0 ||
      fread(&batches, 4, 1, in) != 1) {
    fprintf(stderr, "%s does not begin with TCPROBE1\n", argv[1]);
    return 1;
  }
  for (int32_t i = 0; i < batches; ++i) {
    int32_t head[3];
    if (fread(head, 4, 3, in) != 3 || head[1] < 1 || head[1] > kMaxSteps || head[2] < 1) {
      fprintf(stderr, "%s: batch %d is damaged\n", argv[1], i);
      return 1;
    }
    std::vector<uint8_t> tiles((head[1] * (kABytes + kBBytes) + kC * 4) *
                               static_cast<size_t>(head[2]));
    if (fread(tiles.data(), 1, tiles.size(), in) != tiles.size()) {
      fprintf(stderr, "%s: batch %d is cut short\n", argv[1], i);
      return 1;
    }
    const std::vector<float> d = Run(head[0], tiles.data(), head[2], head[1], leading, stride);
    fwrite(d.data(), 4, d.size(), out);
    uint64_t sum = 1469598103934665603ull;
    for (const float& x : d) {
      uint32_t bits;
      memcpy(&bits, &x, 4);
      sum = (sum ^ bits) * 1099511628211ull;
    }
    printf("batch %d: kind %d, steps %d, tiles %d, FNV-1a %016llx\n", i, head[0], head[1], head[2],
           static_cast<unsigned long long>(sum));
  }
  fclose(in);
  if (fclose(out) != 0) return 1;
  printf("done\n");
  return 0;
}
